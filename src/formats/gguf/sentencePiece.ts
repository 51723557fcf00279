import type { JsonObject } from '../json.ts'

/** A blank, in SentencePiece's vocabularies. */
const blank = '\u2581'

const replaceBlanks = { type: 'Replace', pattern: { String: ' ' }, content: blank }
const prependBlank = { type: 'Prepend', prepend: blank }

/**
 * The parts of tokenizer.json that are the same for all SentencePiece vocabularies of the BPE kind with bytes to fall back to,
 * as those of Llama 1 and 2, TinyLlama and Mistral 7B are.
 * @param opens a blank is put before each text
 */
export const sentencePieceParts = (opens: boolean) => ({
  normalizer: opens ? { type: 'Sequence', normalizers: [prependBlank, replaceBlanks] } : replaceBlanks,
  pre_tokenizer: null,
  decoder: {
    type: 'Sequence',
    decoders: [
      { type: 'Replace', pattern: { String: blank }, content: ' ' },
      { type: 'ByteFallback' },
      { type: 'Fuse' },
      ...(opens ? [{ type: 'Strip', content: ' ', start: 1, stop: 0 }] : []),
    ],
  },
})

/** Whether a tokenizer.json puts a blank before each text; `undefined` where it changes texts in any other way too. */
export function opensWithBlank({ normalizer, pre_tokenizer: cut }: JsonObject): boolean | undefined {
  const { type, replacement, split, prepend_scheme } = (cut ?? {}) as JsonObject
  if (normalizer == null && type === 'Metaspace' && replacement === blank && split === false) {
    return prepend_scheme !== 'never'
  }
  if (cut != null) return undefined
  const steps = JSON.stringify((normalizer as JsonObject | null)?.normalizers ?? [normalizer])
  if (steps === JSON.stringify([prependBlank, replaceBlanks])) return true
  return steps === JSON.stringify([replaceBlanks]) ? false : undefined
}

/** Two tokens that are joined to one. */
export type Merge = readonly [left: string, right: string]

/**
 * SentencePiece joins the neighbours whose union has the highest score; tokenizer.json lists what is joined, the first first.
 * So the list has every way to cut a token into two.
 * @param scores of all tokens that text may become
 */
export function mergesOf(scores: ReadonlyMap<string, number>): Merge[] {
  const byScore = Array.from(scores).sort(([, a], [, b]) => b - a)
  return byScore.flatMap(([token]) =>
    Array.from({ length: token.length - 1 }, (_, i): Merge => [token.slice(0, i + 1), token.slice(i + 1)]).filter(
      ([left, right]) => scores.has(left) && scores.has(right),
    ),
  )
}

/** The inverse of {@link mergesOf}: scores of `tokens`, or `undefined` where no scores have the effect of these merges. */
export function scoresOf(tokens: ReadonlySet<string>, merges: readonly Merge[]): Map<string, number> | undefined {
  const joined = new Map<string, number>()
  for (const [left, right] of merges) if (!joined.has(left + right)) joined.set(left + right, -joined.size)
  const scores = new Map(Array.from(tokens, (token) => [token, joined.get(token) ?? -joined.size]))
  const ordered = (list: readonly Merge[]) =>
    JSON.stringify(
      list.map(([left, right]) => [joined.get(left + right), left.length]).sort(([a, m], [b, n]) => a! - b! || m! - n!),
    )
  const inOrder = merges.every(
    ([left, right], i) => i === 0 || joined.get(left + right)! <= joined.get(merges[i - 1]!.join(''))!,
  )
  return inOrder && ordered(merges) === ordered(mergesOf(scores)) ? scores : undefined
}
