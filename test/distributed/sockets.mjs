// Carries collectives between processes without a GPU, over sockets of this machine: `node --import` puts it in NCCL's place.
// LORAM_FAULT="<rank> <n>" has a rank hang in the n-th sum.
import { once } from 'node:events'
import { MessageChannel, receiveMessageOnPort, Worker, workerData } from 'node:worker_threads'

const threadFile = new URL('socketThread.mjs', import.meta.url)
const startThread = (workerData, transferList = []) => new Worker(threadFile, { workerData, transferList })

let hub

const standIn = {
  version: () => 'sockets',
  async createId() {
    const { ranksOf } = await import('../../dist/ranks.js')
    hub = startThread({ hubFor: ranksOf().size })
    const [port] = await once(hub, 'message')
    return String(port)
  },
  async open({ rank, size }, id, isStopped) {
    const arrived = new Int32Array(new SharedArrayBuffer(4))
    const { port1, port2 } = new MessageChannel()
    const client = startThread({ rank, size, port: Number(id), answers: port2, arrived: arrived.buffer }, [port2])
    const exchange = (bytes) => {
      client.postMessage(bytes)
      // The flag alone tells: a wait may end by the notice of the answer before, which was already seen in its flag
      while (Atomics.exchange(arrived, 0, 0) === 0) {
        Atomics.wait(arrived, 0, 0, 10)
        if (isStopped()) throw new Error('another rank is gone')
      }
      return receiveMessageOnPort(port1).message
    }
    return collectives(rank, size, exchange, () => {
      for (const thread of [client, hub]) thread?.terminate()
    })
  },
}

// The thread that trains asks for it; those that are given data, here and in loram, are others
if (!workerData) {
  const { nccl } = await import('../../dist/distributed/nccl.js')
  Object.assign(nccl, standIn)
}

/** @param exchange gives the bytes of all ranks, one after another */
function collectives(rank, size, exchange, close) {
  let sums = 0
  const summed = (x) => {
    if (process.env.LORAM_FAULT === `${rank} ${++sums}`) hang()
    const all = new Float32Array(exchange(bytesOf(x.read())).buffer)
    // In the order of the ranks, so that all come to the same bits
    return Float32Array.from({ length: x.elements }, (_, i) => {
      let sum = 0
      for (let r = 0; r < size; r++) sum = Math.fround(sum + all[r * x.elements + i])
      return sum
    })
  }
  return {
    allReduce: (x) => void x.write(summed(x)),
    reduceScatter: (whole, part) =>
      void part.write(summed(whole).subarray(rank * part.elements, (rank + 1) * part.elements)),
    allGather: (part, whole) => void whole.write(exchange(bytesOf(part.read()))),
    settle() {},
    close,
  }
}

const bytesOf = ({ buffer, byteOffset, byteLength }) => new Uint8Array(buffer, byteOffset, byteLength)

const hang = () => Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0)
