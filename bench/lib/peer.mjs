import { spawn } from 'node:child_process'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import { addon } from '../../dist/native/load.js'

/**
 * A program of bench/peers that measures what others take for the same work: a line of JSON asks, a line answers.
 * `undefined` where there is no Python to run it.
 */
export function startPeer(python, script, ...args) {
  if (python === undefined) return undefined
  const file = fileURLToPath(new URL(`../peers/${script}`, import.meta.url))
  const env = { ...process.env, OMP_NUM_THREADS: String(addon().threads()), PYTHONUNBUFFERED: '1' }
  const child = spawn(python, [file, ...args], { env, stdio: ['pipe', 'pipe', 'inherit'] })
  const failed = new Promise((resolve) => {
    child.once('error', ({ message }) => resolve({ error: message }))
    child.once('close', (code) => resolve({ error: `${script} ended with exit code ${code}` }))
  })
  child.stdin.on('error', () => {}) // `failed` says it
  const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]()
  const name = [script, ...args].join(' ')
  return {
    name,
    /** @returns {Promise<object | undefined>} the answer; `undefined`, and a note on stderr, where it could not be measured */
    async ask(question) {
      child.stdin.write(`${JSON.stringify(question)}\n`)
      const line = await lines.next()
      const answer = line.done ? await failed : JSON.parse(line.value)
      if (answer.error === undefined) return answer
      console.error(`no peer for ${question.case}: ${name}: ${answer.error}`)
      return undefined
    },
    async close() {
      child.stdin.end()
      await failed
    },
  }
}

/** The fields of a result line that tell of its peers: `best` by name, and all of them where there are several. */
export function peerFields(peers, best, fieldsOf) {
  const names = Object.keys(peers)
  if (best === undefined) return {}
  return { peer: best, ...fieldsOf(peers[best]), ...(names.length > 1 && { peers }) }
}
