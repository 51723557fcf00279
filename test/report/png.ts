import { inflateSync } from 'node:zlib'

/** How many pixels of a PNG (8-bit RGB or RGBA) have a colour. */
export function countColours(png: Buffer): (colour: number[]) => number {
  const [width, height, channels] = [png.readUInt32BE(16), png.readUInt32BE(20), png[25] === 6 ? 4 : 3]
  const parts: Buffer[] = []
  for (let at = 8; at < png.length; at += 12 + png.readUInt32BE(at)) {
    if (png.toString('latin1', at + 4, at + 8) === 'IDAT')
      parts.push(png.subarray(at + 8, at + 8 + png.readUInt32BE(at)))
  }
  const rows = inflateSync(Buffer.concat(parts))
  const stride = width * channels
  const counts = new Map<number, number>()
  let above = new Uint8Array(stride)
  for (let y = 0; y < height; y++) {
    const filter = rows[y * (stride + 1)]!
    const row = Uint8Array.from(rows.subarray(y * (stride + 1) + 1, (y + 1) * (stride + 1)))
    for (let i = 0; i < stride; i++) {
      const [left, up, upLeft] = [row[i - channels] ?? 0, above[i]!, above[i - channels] ?? 0]
      row[i]! += [0, left, up, (left + up) >> 1, paeth(left, up, upLeft)][filter]!
    }
    for (let i = 0; i < stride; i += channels) {
      const colour = (row[i]! << 16) | (row[i + 1]! << 8) | row[i + 2]!
      counts.set(colour, (counts.get(colour) ?? 0) + 1)
    }
    above = row
  }
  return ([red = 0, green = 0, blue = 0]) => counts.get((red << 16) | (green << 8) | blue) ?? 0
}

function paeth(left: number, up: number, upLeft: number): number {
  const [a, b, c] = [Math.abs(up - upLeft), Math.abs(left - upLeft), Math.abs(left + up - 2 * upLeft)]
  return a <= b && a <= c ? left : b <= c ? up : upLeft
}
