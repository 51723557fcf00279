// Saves checkpoint after checkpoint into the folder given, until it is killed. Prints its number once it is complete.
import { cpu } from '../../dist/tensor/device.js'
import { AdamW, adamWDefaults } from '../../dist/train/adamW.js'
import { saveCheckpoint } from '../../dist/train/checkpoint.js'
import { ParameterSet } from '../../dist/train/parameters.js'

const parameters = new ParameterSet(cpu, new Map([['weight', [256, 256]]]))
const optimizer = new AdamW(parameters, adamWDefaults)
for (let step = 1; ; step++) {
  parameters.values.write(new Float32Array(parameters.values.elements).fill(step))
  optimizer.step = step
  const progress = { step, batches: { epoch: 0, position: step }, evaluatedStep: 0, evaluationsSinceBest: 0 }
  saveCheckpoint(process.argv[2], parameters, optimizer, progress, 2)
  console.log(step)
}
