import { readdirSync, readFileSync, truncateSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import fc from 'fast-check'
import { SafeTensor } from 'safetensors'
import { describe, expect, test } from 'vitest'
import { openSafetensors, type TensorEntry, writeSafetensors } from '../../src/formats/safetensors.ts'
import { bytesPerElement, dtypes, elements } from '../../src/tensor/dtype.ts'
import { goldenPath } from '../golden.ts'
import { expectError, scratchFolder } from './scratch.ts'

const dir = scratchFolder()
const file = path.join(dir, 'file.safetensors')
const golden = goldenPath('models', 'llama3', 'model.safetensors')

/** Any bytes behind a header of any text. */
function withHeader(header: string | Uint8Array, data = new Uint8Array(0)): Uint8Array {
  const text = Buffer.from(header as string)
  const length = Buffer.alloc(8)
  length.writeBigUInt64LE(BigInt(text.length))
  return Buffer.concat([length, text, data])
}

const open = (bytes: Uint8Array) => {
  writeFileSync(file, bytes)
  return openSafetensors(file)
}

describe('what was written is read', () => {
  const names = fc
    .string({ unit: 'grapheme', minLength: 1 })
    .filter((name) => !['__metadata__', '__proto__'].includes(name))
  const shapes = fc.array(fc.nat(5), { maxLength: 4 })
  const tensorSets = fc
    .uniqueArray(fc.record({ name: names, dtype: fc.constantFrom(...dtypes), shape: shapes }), {
      selector: ({ name }) => name,
    })
    .chain((entries) => fc.tuple(fc.constant(entries), fc.tuple(...entries.map(anyData))))
  const anyData = ({ dtype, shape }: TensorEntry) => {
    const bytes = elements(shape) * bytesPerElement[dtype]
    return fc.uint8Array({ minLength: bytes, maxLength: bytes })
  }

  test('any names, dtypes, shapes and metadata', () => {
    fc.assert(
      fc.property(
        tensorSets,
        fc.dictionary(fc.string({ unit: 'grapheme' }), fc.string()),
        ([entries, values], metadata) => {
          const data = new Map(entries.map(({ name }, i) => [name, values[i]!]))
          writeSafetensors(file, entries, (name) => data.get(name)!, metadata)
          const opened = openSafetensors(file)
          expect(opened.metadata).toEqual(metadata)
          expect([...opened.tensors.keys()].sort()).toEqual([...data.keys()].sort())
          for (const { name, dtype, shape } of entries) {
            const bytes = data.get(name)!
            expect(opened.tensors.get(name)).toMatchObject({ dtype, shape, bytes: bytes.length })
            expect(opened.read(name)).toEqual(new Uint8Array(bytes))
          }
          opened.close()
        },
      ),
      { numRuns: 100 },
    )
  })

  test('in pieces, from any byte on', () => {
    const bytes = Uint8Array.from({ length: 1000 }, (_, i) => i)
    const pieces = function* () {
      for (let at = 0; at < bytes.length; at += 300) yield bytes.subarray(at, at + 300)
    }
    writeSafetensors(file, [{ name: 'x', dtype: 'u8', shape: [1000] }], pieces)
    const opened = openSafetensors(file)
    const target = new Uint8Array(17)
    opened.readInto('x', target, 983)
    expect(target).toEqual(bytes.slice(983))
    expect(() => opened.readInto('x', target, 984)).toThrow(RangeError)
    expectError(() => opened.read('y'), 'E_SHAPE', { tensor: 'y' })
    opened.close()
  })

  test('by another reader too, with aligned data', () => {
    const values = { half: new Uint8Array([1, 2, 3]), float: new Uint8Array(new Float32Array([1, -2]).buffer) }
    const entries = [
      { name: 'half', dtype: 'u8', shape: [3] },
      { name: 'float', dtype: 'f32', shape: [2, 1] },
    ] as const
    writeSafetensors(file, entries, (name) => values[name as keyof typeof values], {})
    const other = new SafeTensor(new Uint8Array(readFileSync(file)))
    expect(new Uint8Array(other.getTensor('half'))).toEqual(values.half)
    expect(new Uint8Array(other.getTensor('float'))).toEqual(values.float)
    expect(other.metadata.get('float')).toMatchObject({ dtype: 'F32', shape: [2, 1] })
    expect(other.metadata.get('float')!.data_offsets[0] % 8).toBe(0)
  })

  test('and what transformers wrote is read as another reader does', () => {
    const opened = openSafetensors(golden)
    const metadata = '"__metadata__":{"format":"pt"},'
    const withoutMetadata = readFileSync(golden, 'latin1').replace(metadata, ' '.repeat(metadata.length))
    const other = new SafeTensor(new Uint8Array(Buffer.from(withoutMetadata, 'latin1')))
    expect(opened.metadata).toEqual({ format: 'pt' })
    expect(opened.tensors.size).toBe(21)
    for (const name of opened.tensors.keys()) expect(Buffer.compare(opened.read(name), other.getTensor(name))).toBe(0)
    opened.close()
  })
})

describe('a file cut short', () => {
  const whole = readFileSync(golden)

  test.each(Array.from({ length: 64 }, (_, i) => i))(
    'at %d/64 of its length is refused before any data is read',
    (part) => {
      writeFileSync(file, whole)
      const actual = Math.floor((whole.length * part) / 64)
      truncateSync(file, actual)
      expectError(() => openSafetensors(file), 'E_TRUNCATED', { file, found: `${actual} bytes` })
    },
  )

  test('names the bytes it should have', () => {
    expectError(() => open(whole.subarray(0, -1)), 'E_TRUNCATED', { expected: `${whole.length} bytes` })
  })

  test('while it is open', () => {
    const opened = open(whole)
    truncateSync(file, whole.length / 2)
    expectError(() => opened.read('model.norm.weight'), 'E_TRUNCATED', { file })
    opened.close()
  })
})

describe('a damaged header', () => {
  const u8 = (name: string, begin: number, end: number) =>
    `${JSON.stringify(name)}:{"dtype":"U8","shape":[${end - begin}],"data_offsets":[${begin},${end}]}`
  const length = (n: bigint) => {
    const bytes = Buffer.alloc(4096, ' ')
    bytes.writeBigUInt64LE(n)
    return bytes
  }

  test.each<[string, Uint8Array]>([
    ['of 2^63 bytes', length(2n ** 63n)],
    ['of 100 MB + 1', length(100_000_001n)],
    ['of 0 bytes', length(0n)],
    ['that does not begin with {', withHeader(' {}')],
    ['that is an array', withHeader('[]')],
    [
      'that is not UTF-8',
      withHeader(Buffer.concat([Buffer.from('{"'), Buffer.from([0xc3, 0x28]), Buffer.from(`":1}`)])),
    ],
    ['that is nested deep where a tensor should be', withHeader(`{"x":${'['.repeat(1_000_000)}`)],
    ['that is nested deep in a key nobody knows', withHeader(`{"x":{"y":${'{"a":'.repeat(200_000)}`)],
    ['with two equal names', withHeader(`{${u8('x', 0, 1)},${u8('x', 1, 2)}}`, new Uint8Array(2))],
    [
      'with two equal names, one escaped',
      withHeader(`{${u8('x', 0, 1)},${u8('x', 1, 2).replace('x', '\\u0078')}}`, new Uint8Array(2)),
    ],
    ['with two dtypes', withHeader('{"x":{"dtype":"U8","dtype":"I8","shape":[0],"data_offsets":[0,0]}}')],
    ['with the name __proto__', withHeader(`{${u8('__proto__', 0, 0)}}`)],
    ['with metadata that is no text', withHeader('{"__metadata__":{"format":1}}')],
    ['with a tensor that lacks its shape', withHeader('{"x":{"dtype":"U8","data_offsets":[0,1]}}', new Uint8Array(1))],
    [
      'with a fraction for a size',
      withHeader('{"x":{"dtype":"U8","shape":[1.5],"data_offsets":[0,1]}}', new Uint8Array(1)),
    ],
    [
      'with a million dimensions',
      withHeader(`{"x":{"dtype":"U8","shape":[${'1,'.repeat(1e6)}1],"data_offsets":[0,1]}}`),
    ],
    ['with three offsets', withHeader('{"x":{"dtype":"U8","shape":[1],"data_offsets":[0,1,1]}}', new Uint8Array(1))],
    ['that stops in a string', withHeader(`{"x${'a'.repeat(1000)}`)],
    ['with more behind its end', withHeader('{}}')],
    ['with a comma too many', withHeader(`{${u8('x', 0, 0)},}`)],
  ])('%s is refused', (_, bytes) => {
    expectError(() => open(bytes), 'E_HEADER', { file })
  })

  test.each<[string, (header: Buffer) => void]>([
    ['blanks', (header) => header.fill(' ', 1)],
    ['one string', (header) => header.fill('a', 2)],
    ['one number', (header) => header.write('{"x":{"shape":[', 0) && header.fill('1', 15)],
    ['brackets', (header) => header.write('{"x":{"y":', 0) && header.fill('[', 10)],
    // a second of processor time is less where others use the processor's other half: up to three tries
  ])('of 100 MB of %s is refused in a second and in 200 MB', { retry: 2 }, (_, fill) => {
    const header = Buffer.alloc(100_000_000, '{"')
    fill(header)
    writeFileSync(file, withHeader(header))
    const [rss, start] = [process.memoryUsage.rss(), process.cpuUsage()]
    expectError(() => openSafetensors(file), 'E_HEADER')
    const { user, system } = process.cpuUsage(start)
    expect(process.memoryUsage.rss() - rss).toBeLessThan(200e6)
    expect(user + system).toBeLessThan(1e6)
  })

  test('left by Git LFS says how to get the file', () => {
    const pointer = Buffer.from('version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n')
    expectError(() => open(pointer), 'E_HEADER', { remedy: expect.stringContaining('git lfs pull') })
  })

  test('with keys nobody knows is read, as the reference implementation does', () => {
    const opened = open(
      withHeader('{"x":{"dtype":"U8","new":[{"a":null}],"shape":[],"data_offsets":[0,1]}}  ', new Uint8Array([7])),
    )
    expect(opened.read('x')).toEqual(new Uint8Array([7]))
    opened.close()
  })
})

describe('wrong offsets', () => {
  const tensor = (shape: string, begin: string, end: string) =>
    `{"dtype":"F32","shape":${shape},"data_offsets":[${begin},${end}]}`

  test.each([
    ['overlap', `{"a":${tensor('[2]', '0', '8')},"b":${tensor('[2]', '4', '12')}}`, 12],
    ['leave a hole', `{"a":${tensor('[1]', '0', '4')},"b":${tensor('[1]', '8', '12')}}`, 12],
    ['begin behind 0', `{"a":${tensor('[1]', '4', '8')}}`, 8],
    ['are negative', `{"a":${tensor('[1]', '-4', '0')}}`, 4],
    ['run backwards', `{"a":${tensor('[1]', '4', '0')}}`, 4],
    ['go beyond the file', `{"a":${tensor('[1]', '0', '400')}}`, 4],
    ['go beyond 2^64', `{"a":${tensor('[1]', '0', '18446744073709551620')}}`, 4],
    ['do not fit the shape', `{"a":${tensor('[1]', '0', '8')}}`, 8],
    ['belong to a shape whose product wraps to 4 bytes', `{"a":${tensor('[4611686018427387905]', '0', '4')}}`, 4],
    ['belong to a shape whose product wraps to 0', `{"a":${tensor('[4294967296, 4294967296]', '0', '0')}}`, 0],
    ['belong to a negative shape', `{"a":${tensor('[-1, -1]', '0', '4')}}`, 4],
    ['leave bytes at the end', `{"a":${tensor('[1]', '0', '4')}}`, 5],
  ])('that %s are refused', (_, header, bytes) => {
    expectError(() => open(withHeader(header, new Uint8Array(bytes))), 'E_OFFSETS', { file })
  })
})

test.each(['I8', 'F8_E4M3', 'F64', 'f32', 'toString'])('dtype %s is refused by name', (dtype) => {
  const header = JSON.stringify({ x: { dtype, shape: [0], data_offsets: [0, 0] } })
  expectError(() => open(withHeader(header)), 'E_DTYPE', { tensor: 'x', found: dtype })
})

test('no change of one byte makes a header crash the reader or read outside of the file', () => {
  const whole = readFileSync(goldenPath('lora', 'adapter', 'adapter_model.safetensors'))
  const headerEnd = 8 + Number(whole.readBigUInt64LE())
  fc.assert(
    fc.property(fc.nat(headerEnd - 1), fc.nat(255), (at, value) => {
      const changed = Buffer.from(whole)
      changed[at] = value
      try {
        const opened = open(changed)
        const total = [...opened.tensors.values()].reduce((sum, { bytes }) => sum + bytes, 0)
        expect(total).toBe(whole.length - headerEnd)
        opened.close()
      } catch (error) {
        expect(error).toMatchObject({ code: expect.stringMatching(/^E_(HEADER|OFFSETS|TRUNCATED|DTYPE)$/) })
      }
    }),
    { numRuns: 1000 },
  )
})

test.each([
  ['a folder', () => dir, 'not a regular file'],
  ['a missing file', () => path.join(dir, 'none'), 'cannot be read'],
])('%s is refused', (_, where, message) => {
  expect(() => openSafetensors(where())).toThrow(
    expect.objectContaining({ code: 'E_FILE', message: expect.stringContaining(message) }),
  )
})

describe('a writer that fails', () => {
  const entries = [
    { name: 'a', dtype: 'u8', shape: [4] },
    { name: 'b', dtype: 'u8', shape: [4] },
  ] as const
  const ones = () => new Uint8Array(4).fill(1)

  test.each<[string, string, readonly TensorEntry[], (name: string) => Uint8Array]>([
    ['too little data', 'E_OFFSETS', entries, (name) => ones().subarray(name === 'b' ? 1 : 0)],
    ['too much data', 'E_OFFSETS', entries, () => new Uint8Array(5)],
    ['one name twice', 'E_HEADER', [entries[0], entries[0]], ones],
    ['a reserved name', 'E_HEADER', [{ ...entries[0], name: '__metadata__' }], ones],
  ])('at %s leaves the old file and no other', (_, code, wrong, data) => {
    writeSafetensors(file, entries, ones)
    const old = readFileSync(file)
    expectError(() => writeSafetensors(file, wrong, data), code)
    expect(readFileSync(file)).toEqual(old)
    expect(readdirSync(dir)).toEqual(['file.safetensors'])
  })

  test('in the middle passes on what its data threw', () => {
    writeSafetensors(file, entries, ones)
    const failing = (name: string) => {
      if (name === 'b') throw new Error('no more')
      return ones().fill(2)
    }
    expect(() => writeSafetensors(file, entries, failing)).toThrow('no more')
    const opened = openSafetensors(file)
    expect(opened.read('a')).toEqual(ones())
    opened.close()
    expect(readdirSync(dir)).toEqual(['file.safetensors'])
  })
})
