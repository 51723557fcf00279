const signals = ['SIGINT', 'SIGTERM'] as const

/**
 * A signal that the first SIGINT or SIGTERM aborts. The second one meets the system's default and kills the process at once,
 * whatever the worker thread is at.
 * @param say tells people what happens
 * @param stopping what that is
 */
export function abortOnSignal(
  say: (message: string) => void,
  stopping = 'stopping at the end of this step',
): AbortSignal {
  const controller = new AbortController()
  const stop = () => {
    for (const signal of signals) process.off(signal, stop)
    say(`${stopping}; interrupt again to stop at once`)
    controller.abort()
  }
  for (const signal of signals) process.on(signal, stop)
  return controller.signal
}
