/** One row of `added_tokens` in tokenizer.json. */
export interface AddedToken {
  id: number
  content: string
  special?: boolean
  /** The token swallows white space before (after) it. */
  lstrip?: boolean
  rstrip?: boolean
}

/** Cuts text at the tokens that were added to a vocabulary: `[text, token, text, ..., text]`, the longest token first. */
export class AddedTokenSplitter {
  readonly #ids: Map<string, number>
  readonly #pattern: RegExp | undefined

  constructor(tokens: readonly AddedToken[]) {
    this.#ids = new Map(tokens.map(({ content, id }) => [content, id]))
    const longestFirst = [...tokens].sort((a, b) => b.content.length - a.content.length)
    const alternatives = longestFirst.map(
      ({ content, lstrip, rstrip }) => (lstrip ? '\\s*' : '') + escapeRegExp(content) + (rstrip ? '\\s*' : ''),
    )
    this.#pattern = alternatives.length > 0 ? new RegExp(`(${alternatives.join('|')})`, 'u') : undefined
  }

  /** Even places of the result are text, possibly empty, odd ones are tokens. */
  split(text: string): string[] {
    return this.#pattern === undefined ? [text] : text.split(this.#pattern)
  }

  idOf(token: string): number {
    return (this.#ids.get(token) ?? this.#ids.get(token.trim()))!
  }
}

function escapeRegExp(text: string): string {
  return text.replace(/[\\^$.*+?()[\]{}|/]/g, '\\$&')
}
