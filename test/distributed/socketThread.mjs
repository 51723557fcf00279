// The threads of sockets.mjs, since what waits there cannot read from a socket: rank 0's hub, and a client of every rank. A
// message is the rank, the length and the bytes; once all ranks have sent theirs, the hub answers each with all of them.
import { createConnection, createServer } from 'node:net'
import { parentPort, workerData } from 'node:worker_threads'

const headBytes = 8

if (workerData.hubFor) serve(workerData.hubFor)
else connect(workerData)

function serve(size) {
  const sockets = []
  let parts = []
  const server = createServer((socket) => {
    socket.setNoDelay(true).on('error', () => {})
    sockets.push(socket)
    let pending = Buffer.alloc(0)
    socket.on('data', (data) => {
      pending = Buffer.concat([pending, data])
      if (pending.length < headBytes) return
      const [rank, length] = [pending.readUInt32LE(0), pending.readUInt32LE(4)]
      if (pending.length < headBytes + length) return
      parts[rank] = pending.subarray(headBytes)
      pending = Buffer.alloc(0)
      if (Object.keys(parts).length < size) return
      const all = Buffer.concat(parts)
      parts = []
      for (const each of sockets) each.write(all)
    })
  })
  server.listen(0, '127.0.0.1', () => parentPort.postMessage(server.address().port))
}

function connect({ rank, size, port, answers, arrived }) {
  const socket = createConnection(port, '127.0.0.1')
  socket.setNoDelay(true).on('error', () => {})
  let expected = 0
  let received = []
  parentPort.on('message', (bytes) => {
    expected = size * bytes.length
    const head = Buffer.alloc(headBytes)
    head.writeUInt32LE(rank, 0)
    head.writeUInt32LE(bytes.length, 4)
    socket.write(Buffer.concat([head, bytes]))
  })
  socket.on('data', (data) => {
    received.push(data)
    if (received.reduce((sum, { length }) => sum + length, 0) < expected) return
    answers.postMessage(new Uint8Array(Buffer.concat(received)))
    received = []
    Atomics.store(new Int32Array(arrived), 0, 1)
    Atomics.notify(new Int32Array(arrived), 0)
  })
}
