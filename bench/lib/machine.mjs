import { spawn, spawnSync } from 'node:child_process'
import { mkdtempSync, openSync, readFileSync, rmSync } from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { setTimeout } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { addon } from '../../dist/native/load.js'
import { gpu } from '../../dist/tensor/device.js'

/** What a result was measured on and with. */
export function machine(device) {
  const found = device.kind === 'cuda' ? { gpu: gpu().name, driver: gpu().driver } : {}
  const host = { cpu: os.cpus()[0].model, threads: addon().threads(), node: process.version }
  return { ...found, ...host, commit: commit(), date: new Date().toISOString() }
}

/** A machine that has the files without git is told by LORAM_COMMIT what it runs. */
function commit() {
  const cwd = path.dirname(fileURLToPath(import.meta.url))
  const git = spawnSync('git', ['rev-parse', '--short', 'HEAD'], { cwd, encoding: 'utf8' })
  return process.env.LORAM_COMMIT ?? (git.status === 0 ? git.stdout.trim() : 'unknown')
}

/**
 * The GPU's clocks in MHz, its power in W and temperature in °C as they are now, and in which percentage of the time that
 * nvidia-smi looks back on a kernel ran; nothing where nvidia-smi is not.
 */
export function clocks(device) {
  if (device.kind !== 'cuda') return {}
  const query = [
    '--query-gpu=clocks.sm,clocks.mem,power.draw,temperature.gpu,utilization.gpu',
    '--format=csv,noheader,nounits',
    '-i',
    '0',
  ]
  const { status, stdout } = spawnSync('nvidia-smi', query, { encoding: 'utf8' })
  if (status !== 0) return {}
  const [sm, memory, watts, celsius, busy] = stdout.split(',').map(Number)
  return { clocks: { sm, memory, watts, celsius, busy } }
}

/** Of this process where nvidia-smi tells processes apart, else of the whole GPU, on which nothing else may run then. */
const memoryQueries = [
  ['--query-compute-apps=pid,used_memory', ([pid, mebibytes]) => (pid === process.pid ? mebibytes : undefined)],
  ['--query-gpu=memory.used', ([mebibytes]) => mebibytes],
]

/**
 * Watches how much GPU memory this process takes as nvidia-smi sees it, also while JavaScript waits for the GPU.
 * @returns {Promise<() => Promise<number | undefined>>} stops, and gives the most that was seen, in bytes, if nvidia-smi is there
 */
export async function watchGpuMemory() {
  const folder = mkdtempSync(path.join(os.tmpdir(), 'loram-bench-'))
  const watchers = memoryQueries.map(([query, mebibytesOf], i) => {
    const log = path.join(folder, String(i))
    const options = [query, '--format=csv,noheader,nounits', '-i', '0', '--loop-ms=50']
    const child = spawn('nvidia-smi', options, { stdio: ['ignore', openSync(log, 'w'), 'ignore'] })
    return {
      child,
      ended: new Promise((resolve) => child.once('error', resolve).once('close', resolve)),
      log,
      mebibytesOf,
    }
  })
  await setTimeout(1000) // until they have begun to print
  return async () => {
    const peaks = []
    for (const { child, ended, log, mebibytesOf } of watchers) {
      child.kill()
      await ended
      const lines = readFileSync(log, 'utf8').trim().split('\n')
      const seen = lines.map((line) => mebibytesOf(line.split(',').map(Number))).filter((value) => value > 0)
      if (seen.length > 0) peaks.push(2 ** 20 * Math.max(...seen))
    }
    rmSync(folder, { recursive: true })
    return peaks[0]
  }
}
