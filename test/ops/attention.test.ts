import fc from 'fast-check'
import { afterEach, describe, expect, test } from 'vitest'
import { attention, attentionBackward } from '../../src/native/attention.ts'
import { metaDevice } from '../../src/tensor/device.ts'
import { type Tensor, tensorFrom } from '../../src/tensor/tensor.ts'
import { attentionInDoubles, boundsOf, type Heads } from './attentionInDoubles.ts'
import { guarded } from './guarded.ts'
import { adding } from './product.ts'
import { expectWithin, floatTensor, onEveryDevice, random, readGolden, storing, toArray } from './support.ts'

/** The golden case's heads. */
const heads = { query: 4, keyValue: 2, dim: 16 }

onEveryDevice('attention', (plain) => {
  const device = guarded(plain)
  afterEach(() => device.expectIntact())

  const dtype = device.activations
  const u = adding(device, 1)
  const stored = storing(dtype)

  const inputs = (heads: Heads, queryLengths: number[], keyLengths: number[]) => {
    const queryBounds = boundsOf(queryLengths)
    const keyBounds = boundsOf(keyLengths)
    const [queries, keys] = [queryBounds.at(-1)!, keyBounds.at(-1)!]
    const q = random(device, [queries, heads.query * heads.dim], dtype, 1)
    const k = random(device, [keys, heads.keyValue * heads.dim], dtype, 2)
    const v = random(device, [keys, heads.keyValue * heads.dim], dtype, 3)
    const dy = random(device, q.shape as number[], dtype, 4)
    return { q, k, v, dy, queryBounds: tensorFrom(device, queryBounds), keyBounds: tensorFrom(device, keyBounds) }
  }

  /** Bounds on every element, judged by the sums of absolute values behind it; `terms` is the longest sequence's keys. */
  const boundsFrom = (want: ReturnType<typeof attentionInDoubles>, heads: Heads, terms: number) => {
    // A score is a sum of `dim` products: a rounding for each, and four around them. exp(score - lse) turns the errors of
    // both into a relative one; exp itself is within 2 u, its argument rounded.
    const score = (heads.dim + 4) * u * want.scoreMagnitude
    // The tensor cores take probabilities and d loss / d score in the dtype of activations.
    const probability = 2 * score + 8 * u + stored
    // Two probabilities (one inside y), two inner sums over dim, one over keys inside y and one over the queries that read
    // a key.
    const readers = heads.query / heads.keyValue
    const gradient = 2 * probability + (2 * heads.dim + terms * (1 + readers) + 8) * u + 2 * stored
    return {
      y: (value: number, i: number) =>
        (probability + (terms + 2) * u) * want.y.magnitude[i]! + stored * Math.abs(value),
      lse: (value: number) => score + 8 * u + 2 * u * Math.abs(value),
      dq: (value: number, i: number) => gradient * want.dq.magnitude[i]! + stored * Math.abs(value),
      dk: (value: number, i: number) => gradient * want.dk.magnitude[i]! + stored * Math.abs(value),
      dv: (value: number, i: number) => gradient * want.dv.magnitude[i]! + stored * Math.abs(value),
    }
  }

  // Windows shorter than a tile, its length, longer, and longer than any sequence; lengths that Hopper's kernels take too.
  const cases = [
    { heads: { query: 1, keyValue: 1, dim: 1 }, queries: [1, 7], keys: [1, 7], windows: [0, 1, 3] },
    { heads: { query: 4, keyValue: 2, dim: 16 }, queries: [1, 7, 129], keys: [1, 7, 129], windows: [0, 1, 5, 48, 65] },
    { heads: { query: 9, keyValue: 3, dim: 64 }, queries: [48, 0, 49, 16], keys: [48, 0, 49, 16], windows: [0, 20] },
    { heads: { query: 6, keyValue: 6, dim: 61 }, queries: [97], keys: [97], windows: [0, 50, 97, 98] },
    { heads: { query: 8, keyValue: 1, dim: 128 }, queries: [33, 20], keys: [33, 20], windows: [0, 7, 2 ** 40] },
    { heads: { query: 9, keyValue: 3, dim: 64 }, queries: [1, 1, 5], keys: [1, 200, 96], windows: [0, 1, 64, 130] },
    { heads: { query: 2, keyValue: 1, dim: 64 }, queries: [300, 150], keys: [300, 150], windows: [0, 5, 64, 128, 200] },
  ].flatMap(({ windows, ...rest }) => windows.map((window) => ({ ...rest, window })))
  // On the GPU a head is read 16 bytes at a time.
  const fitting = cases.filter(({ heads }) => dtype === 'f32' || heads.dim % 8 === 0)
  describe.each(fitting)('$heads.query/$heads.keyValue heads of $heads.dim, $queries on $keys, window $window', (c) => {
    const { heads, window } = c
    const { q, k, v, dy, queryBounds, keyBounds } = inputs(heads, c.queries, c.keys)
    const arrays = { q: toArray(q), k: toArray(k), v: toArray(v), dy: toArray(dy) }
    const want = attentionInDoubles(arrays, boundsOf(c.queries), boundsOf(c.keys), heads, window || undefined)

    const bounds = boundsFrom(want, heads, Math.max(...c.keys))

    test('forward', () => {
      const { y, lse } = attention(q, k, v, queryBounds, keyBounds, heads.dim, window)
      expectWithin(y, want.y.value, bounds.y)
      expectWithin(lse, want.lse, bounds.lse)
    })

    test.runIf(String(c.queries) === String(c.keys))('backward', () => {
      const { y, lse } = attention(q, k, v, queryBounds, keyBounds, heads.dim, window)
      const { dq, dk, dv } = attentionBackward(dy, q, k, v, y, lse, queryBounds, heads.dim, window)
      expectWithin(dq, want.dq.value, bounds.dq)
      expectWithin(dk, want.dk.value, bounds.dk)
      expectWithin(dv, want.dv.value, bounds.dv)
    })
  })

  describe.runIf(dtype === 'f32')('golden', () => {
    const golden = readGolden('ops', 'golden.safetensors')
    /** [batch, heads, length, dim] to packed rows [tokens, heads * dim], keeping the first lengths[b] of every batch row. */
    const packed = (name: string, lengths: number[]): Float32Array => {
      const { data, shape } = golden(name)
      const [, heads, length, dim = 1] = shape as [number, number, number, number?]
      const rows = lengths.flatMap((kept, b) =>
        Array.from({ length: kept * heads * dim }, (_, at) => {
          const [t, h, j] = [Math.floor(at / (heads * dim)), Math.floor(at / dim) % heads, at % dim]
          return data[((b * heads + h) * length + t) * dim + j]!
        }),
      )
      return Float32Array.from(rows)
    }

    test.each([
      { name: 'attention', queries: [9, 9], keys: [9, 9], window: 0, backward: true },
      { name: 'attention_padded', queries: [9, 5], keys: [9, 5], window: 0, backward: false }, // padded queries pull on keys there
      { name: 'attention_window', queries: [11, 11], keys: [11, 11], window: 4, backward: true },
      { name: 'attention_cached', queries: [1, 1], keys: [10, 7], window: 0, backward: false },
    ])('$name', ({ name, queries, keys, window, backward }) => {
      const tensor = (part: string, lengths: number[]): Tensor => {
        const data = packed(`${name}.${part}`, lengths)
        const rows = boundsOf(lengths).at(-1)!
        return tensorFrom(device, data, [rows, data.length / rows])
      }
      const [q, k, v, dy] = [tensor('q', queries), tensor('k', keys), tensor('v', keys), tensor('dy', queries)]
      const [queryBounds, keyBounds] = [boundsOf(queries), boundsOf(keys)]
      const arrays = { q: toArray(q), k: toArray(k), v: toArray(v), dy: toArray(dy) }
      const want = attentionInDoubles(arrays, queryBounds, keyBounds, heads, window || undefined)
      const bounds = boundsFrom(want, heads, Math.max(...keys))
      const near = (got: Tensor, part: keyof typeof bounds, lengths: number[]) => {
        // The golden number is rounded too.
        expectWithin(got, packed(`${name}.${part}`, lengths), (want, i) => bounds[part](want, i) + u * Math.abs(want))
      }
      const packedBounds = [tensorFrom(device, queryBounds), tensorFrom(device, keyBounds)] as const
      const { y, lse } = attention(q, k, v, ...packedBounds, heads.dim, window)
      near(y, 'y', queries)
      near(lse, 'lse', queries)
      if (!backward) return
      const gradients = attentionBackward(dy, q, k, v, y, lse, packedBounds[0], heads.dim, window)
      near(gradients.dq, 'dq', queries)
      near(gradients.dk, 'dk', keys)
      near(gradients.dv, 'dv', keys)
    })
  })

  const lengths = fc.array(fc.integer({ min: 0, max: 70 }), { minLength: 1, maxLength: 5 })

  test('packed sequences give the same bits as one by one', () => {
    fc.assert(
      fc.property(lengths, fc.nat(70), (packedLengths, window) => {
        const { q, k, v, dy, queryBounds } = inputs(heads, packedLengths, packedLengths)
        const run = (bounds: Tensor, from: number, to: number) => {
          const rows = [dy, q, k, v].map((x) => x.rows(from, to)) as [Tensor, Tensor, Tensor, Tensor]
          const { y, lse } = attention(rows[1], rows[2], rows[3], bounds, bounds, heads.dim, window)
          const { dq, dk, dv } = attentionBackward(...rows, y, lse, bounds, heads.dim, window)
          return [y, lse, dq, dk, dv]
        }
        const all = run(queryBounds, 0, q.shape[0]!)
        boundsOf(packedLengths).forEach((from, s) => {
          const length = packedLengths[s] ?? 0
          const alone = run(tensorFrom(device, Int32Array.of(0, length)), from, from + length)
          alone.forEach((x, i) => {
            expect(x.read()).toEqual(all[i]!.rows(from, from + length).read())
          })
        })
      }),
      { numRuns: 20 },
    )
  })

  test.each([
    { what: 'a query sees no later key of its sequence', poison: 1e4, ownSequence: true, window: 0 },
    { what: 'a query sees no key before its window', poison: 1e4, ownSequence: true, window: 9 },
    {
      what: 'a query sees nothing of another sequence, not even NaN',
      poison: Number.NaN,
      ownSequence: false,
      window: 0,
    },
  ])('$what', ({ poison, ownSequence, window }) => {
    fc.assert(
      fc.property(lengths, fc.nat(), (packedLengths, pick) => {
        const { q, k, v, queryBounds } = inputs(heads, packedLengths, packedLengths)
        const tokens = q.shape[0]!
        fc.pre(tokens > 0)
        const changed = pick % tokens
        const before = attention(q, k, v, queryBounds, queryBounds, heads.dim, window).y
        const poisonedRow = floatTensor(
          device,
          new Float32Array(k.shape[1]!).fill(poison),
          [1, k.shape[1]!],
          dtype,
        ).read()
        for (const x of [k, v]) x.rows(changed, changed + 1).write(poisonedRow)
        const after = attention(q, k, v, queryBounds, queryBounds, heads.dim, window).y
        const bounds = boundsOf(packedLengths)
        const start = bounds.findLast((bound) => bound <= changed)!
        const end = Math.min(bounds.find((bound) => bound > changed)!, changed + (window || tokens))
        const blindUntil = ownSequence ? changed : start
        expect(after.rows(0, blindUntil).read()).toEqual(before.rows(0, blindUntil).read())
        expect(after.rows(end, tokens).read()).toEqual(before.rows(end, tokens).read())
        expect(after.rows(changed, end).read()).not.toEqual(before.rows(changed, end).read())
      }),
      { numRuns: 20 },
    )
  })

  test.each([[[]], [[0]], [[0, 0, 0]]])('of sequences of %j tokens there is nothing to compute', (none) => {
    const { q, k, v, dy, queryBounds } = inputs(heads, none, none)
    const { y, lse } = attention(q, k, v, queryBounds, queryBounds, heads.dim)
    const { dq, dk, dv } = attentionBackward(dy, q, k, v, y, lse, queryBounds, heads.dim)
    for (const x of [y, lse, dq, dk, dv]) expect(toArray(x)).toHaveLength(0)
  })

  test.each([
    { width: 0, kvWidth: 16, headDim: 16 },
    { width: 30, kvWidth: 16, headDim: 16 },
    { width: 48, kvWidth: 32, headDim: 16 },
    { width: 48, kvWidth: 24, headDim: 16 },
  ])('refuses widths $width and $kvWidth for heads of $headDim', ({ width, kvWidth, headDim }) => {
    const [q, k] = [random(device, [2, width]), random(device, [2, kvWidth])]
    const bounds = tensorFrom(device, Int32Array.of(0, 2))
    expect(() => attention(q, k, k, bounds, bounds, headDim)).toThrow(/attention: the heads do not fit/)
  })
})

test.each([12, 136])('the GPU refuses heads of %i, which its kernels do not take', (headDim) => {
  const device = metaDevice('cuda')
  const q = device.empty([2, headDim], 'bf16')
  const bounds = device.empty([2], 'i32')
  expect(() => attention(q, q, q, bounds, bounds, headDim)).toThrow(/do not fit the GPU[\s\S]*at most 128/)
})
