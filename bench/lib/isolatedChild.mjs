// What `isolated` starts: calls one function and sends what it gives.
const [module, name, argument] = process.argv.slice(2)
const functions = await import(module)
try {
  process.send(await functions[name](JSON.parse(argument)))
} catch (error) {
  process.send({ failure: error.message })
}
