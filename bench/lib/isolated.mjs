import { fork } from 'node:child_process'
import { fileURLToPath } from 'node:url'

const child = fileURLToPath(new URL('isolatedChild.mjs', import.meta.url))

/**
 * Runs a function of a module in a process of its own: its peaks of memory are its own, and all of it is given back.
 * @param {string} module its import.meta.url
 * @param {string} name of the exported function
 * @param {object} argument goes there as JSON, as the result comes back
 * @param {NodeJS.ProcessEnv} env variables besides those of this process
 * @returns {Promise<object>} what the function gives, or `{ failure }`
 */
export function isolated(module, name, argument, env = {}) {
  return new Promise((resolve) => {
    const options = { stdio: ['ignore', 2, 2, 'ipc'], env: { ...process.env, ...env } }
    const running = fork(child, [module, name, JSON.stringify(argument)], options)
    let result
    running.once('message', (message) => {
      result = message
    })
    // Not before it is gone: until then it holds memory
    running.once('exit', (code, signal) =>
      resolve(result ?? { failure: `${name} ended with ${signal ?? `exit code ${code}`}` }),
    )
  })
}
