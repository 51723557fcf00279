/** Events of one piece of work, kept so that whoever starts to iterate late misses none. */
export class EventLog<Event> implements AsyncIterable<Event> {
  private readonly events: Event[] = []
  private ended = false
  private waiting: (() => void)[] = []

  push(event: Event): void {
    this.events.push(event)
    this.notify()
  }

  end(): void {
    this.ended = true
    this.notify()
  }

  private notify(): void {
    for (const wake of this.waiting.splice(0)) wake()
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<Event, void> {
    for (let at = 0; ; at++) {
      while (at === this.events.length) {
        if (this.ended) return
        await new Promise<void>((wake) => this.waiting.push(wake))
      }
      yield this.events[at]!
    }
  }
}
