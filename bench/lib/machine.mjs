import { execFileSync, spawn, spawnSync } from 'node:child_process'
import { mkdtempSync, openSync, readFileSync, rmSync } from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { addon } from '../../dist/native/load.js'
import { gpu } from '../../dist/tensor/device.js'

/** What a result was measured on and with. Without git, LORAM_COMMIT names the commit. */
export function machine(device) {
  const cpu = os.cpus()[0].model
  const threads = addon().threads()
  const commit =
    process.env.LORAM_COMMIT ?? execFileSync('git', ['rev-parse', '--short', 'HEAD'], { encoding: 'utf8' }).trim()
  const found = device.kind === 'cuda' ? { gpu: gpu().name, driver: gpu().driver } : {}
  return { ...found, cpu, threads, node: process.version, commit, date: new Date().toISOString() }
}

/** The GPU's clocks in MHz, its power in W and temperature in °C as they are now; nothing where nvidia-smi is not. */
export function clocks(device) {
  if (device.kind !== 'cuda') return {}
  const query = [
    '--query-gpu=clocks.sm,clocks.mem,power.draw,temperature.gpu',
    '--format=csv,noheader,nounits',
    '-i',
    '0',
  ]
  const { status, stdout } = spawnSync('nvidia-smi', query, { encoding: 'utf8' })
  if (status !== 0) return {}
  const [sm, memory, watts, celsius] = stdout.split(',').map(Number)
  return { clocks: { sm, memory, watts, celsius } }
}

/** Of this process where nvidia-smi tells processes apart, else of the whole GPU, on which nothing else may run then. */
const memoryQueries = [
  ['--query-compute-apps=pid,used_memory', ([pid, mebibytes]) => (pid === process.pid ? mebibytes : undefined)],
  ['--query-gpu=memory.used', ([mebibytes]) => mebibytes],
]

/**
 * Watches how much GPU memory this process takes as nvidia-smi sees it, also while JavaScript waits for the GPU.
 * @returns {() => Promise<number>} stops, and gives the most that was seen, in bytes
 */
export function watchGpuMemory() {
  const folder = mkdtempSync(path.join(os.tmpdir(), 'loram-bench-'))
  const watchers = memoryQueries.map(([query, mebibytesOf], i) => {
    const log = path.join(folder, String(i))
    const options = [query, '--format=csv,noheader,nounits', '-i', '0', '--loop-ms=50']
    const child = spawn('nvidia-smi', options, { stdio: ['ignore', openSync(log, 'w'), 'ignore'] })
    return { child, ended: new Promise((resolve) => child.once('close', resolve)), log, mebibytesOf }
  })
  return async () => {
    await new Promise((resolve) => setTimeout(resolve, 500))
    const peaks = []
    for (const { child, ended, log, mebibytesOf } of watchers) {
      child.kill()
      await ended
      const lines = readFileSync(log, 'utf8').trim().split('\n')
      const seen = lines.map((line) => mebibytesOf(line.split(',').map(Number))).filter((value) => value > 0)
      peaks.push(Math.max(0, ...seen))
    }
    rmSync(folder, { recursive: true })
    return 2 ** 20 * (peaks.find((peak) => peak > 0) ?? 0)
  }
}
