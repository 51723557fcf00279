/**
 * Random numbers from Philox4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"). What is drawn
 * depends on `seed` (an integer from 0 to 2^53 - 1) and `stream` (from 0 to 2^32 - 1) alone: give each use, and each epoch,
 * a stream of its own.
 */

/** `count` numbers in [0, 1), multiples of 2^-32. */
export function uniform(count: number, seed: number, stream = 0): Float64Array {
  const next = words(seed, stream)
  return Float64Array.from({ length: count }, () => next() / 2 ** 32)
}

/** `count` integers in [0, bound), each as likely as any other. */
export function randomIntegers(count: number, bound: number, seed: number, stream = 0): Uint32Array {
  const next = words(seed, stream)
  return Uint32Array.from({ length: count }, () => below(bound, next))
}

/** The integers from 0 to `length` - 1 in random order (Fisher-Yates). */
export function permutation(length: number, seed: number, stream = 0): Uint32Array {
  const next = words(seed, stream)
  const order = Uint32Array.from({ length }, (_, i) => i)
  for (let i = length - 1; i > 0; i--) {
    const j = below(i + 1, next)
    const swapped = order[i]!
    order[i] = order[j]!
    order[j] = swapped
  }
  return order
}

/** Draws again where the remainder of a division would favour small numbers. */
function below(bound: number, next: () => number): number {
  const limit = 2 ** 32 - (2 ** 32 % bound)
  let word = next()
  while (word >= limit) word = next()
  return word % bound
}

function words(seed: number, stream: number): () => number {
  const key = [seed >>> 0, Math.floor(seed / 2 ** 32)] as const
  let block = 0
  let buffer: number[] = []
  return () => {
    if (buffer.length === 0) buffer = philox4x32([block++, 0, stream, 0], key).reverse()
    return buffer.pop()!
  }
}

/** Ten rounds over a counter of four 32-bit words, under a key of two. */
export function philox4x32(
  counter: readonly [number, number, number, number],
  key: readonly [number, number],
): [number, number, number, number] {
  let [c0, c1, c2, c3] = counter
  let [k0, k1] = key
  for (let round = 0; round < 10; round++) {
    const high0 = multiplyHigh(c0, 0xd2511f53)
    const low0 = Math.imul(c0, 0xd2511f53)
    const high1 = multiplyHigh(c2, 0xcd9e8d57)
    const low1 = Math.imul(c2, 0xcd9e8d57)
    c0 = (high1 ^ c1 ^ k0) >>> 0
    c1 = low1 >>> 0
    c2 = (high0 ^ c3 ^ k1) >>> 0
    c3 = low0 >>> 0
    k0 = (k0 + 0x9e3779b9) >>> 0
    k1 = (k1 + 0xbb67ae85) >>> 0
  }
  return [c0, c1, c2, c3]
}

/** The upper half of a 64-bit product, from 16-bit parts: doubles hold 53 bits. */
function multiplyHigh(a: number, b: number): number {
  const [aHigh, aLow, bHigh, bLow] = [a >>> 16, a & 0xffff, b >>> 16, b & 0xffff]
  const middle = aHigh * bLow + ((aLow * bLow) >>> 16)
  const carry = aLow * bHigh + (middle % 65536)
  return aHigh * bHigh + Math.floor(middle / 65536) + Math.floor(carry / 65536)
}
