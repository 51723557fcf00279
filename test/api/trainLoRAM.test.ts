import { createHash } from 'node:crypto'
import { existsSync, readdirSync, readFileSync, rmSync } from 'node:fs'
import path from 'node:path'
import { align, evaluate, loadModel, merge, prune, type RunEvent, recover, report, trainLoRAM } from 'loram'
import { describe, expect, test } from 'vitest'
import { fingerprint, openCheckpoint } from '../../src/formats/huggingFace.ts'
import { readAdapter } from '../../src/formats/peft.ts'
import { readPruning } from '../../src/formats/pruningJson.ts'
import { writeTinyModel } from '../cli/support.ts'
import { abortAfter, collect, data, folder, long, model, options, text } from './support.ts'

/** Mean loss of the original model on the answers. */
async function answerLoss(over: object): Promise<number> {
  return (await evaluate({ model, data, sequenceLength: 48, device: 'cpu', ...over })).loss
}

const digest = (dir: string) =>
  createHash('sha256')
    .update(readFileSync(path.join(dir, 'adapter_model.safetensors')))
    .digest('hex')

describe('trainLoRAM', () => {
  test('gives events in order, a result, and an adapter with the original dimensions', async () => {
    const align = { data: text, steps: 3, batchSize: 2, microBatchSize: 2, sequenceLength: 32 }
    const given = options({ align, train: { ...options().train, saveSteps: 5 } })
    const run = trainLoRAM(given)
    const events = await collect(run)
    const { adapter, metrics } = await run
    expect(events.filter((e) => e.type === 'stage').map((e) => `${e.stage} ${e.status}`)).toEqual([
      'prune started',
      'prune finished',
      'align started',
      'align finished',
      'train started',
      'train finished',
      'recover started',
      'recover finished',
    ])
    expect(events.filter((e) => e.type === 'step' && e.stage === 'train')).toHaveLength(10)
    const saved = events.flatMap((e) => (e.type === 'checkpoint' && e.stage === 'train' ? [e.step] : []))
    expect(saved).toEqual([5, 10])
    expect(metrics.steps).toBe(10)
    expect(metrics.evaluation!.perplexity).toBeCloseTo(Math.exp(metrics.evaluation!.loss))
    const { modules } = readAdapter(adapter)
    expect(modules.get('model.layers.1.mlp.gate_proj')!.b.shape).toEqual([176, 4])
    const lines = readFileSync(path.join(given.output, 'run/events.jsonl'), 'utf8').trim().split('\n')
    const logged = lines.map((line) => JSON.parse(line))
    for (const { time } of logged) expect(Date.now() - Date.parse(time)).toBeLessThan(60_000)
    expect(logged.map(({ time: _, ...event }) => event)).toEqual(JSON.parse(JSON.stringify(events)))
  })

  test('learns: the recovered model predicts the answers better than the original', async () => {
    const { adapter } = await trainLoRAM(options({ train: { ...options().train, maxSteps: 30, epochs: 10 } }))
    expect(await answerLoss({ adapter })).toBeLessThan((await answerLoss({})) - 0.2)
  })

  test.each([
    { method: 'semi-structured', pattern: '2:4', criterion: 'wanda', calibration: { samples: 4, sequenceLength: 32 } },
    { method: 'unstructured', ratio: 0.5, calibration: { data: text, samples: 8, sequenceLength: 32 } },
  ] as const)('$method: the adapter is that of the masked model, for the original', async (prune) => {
    const align = { data: text, steps: 2, batchSize: 2, sequenceLength: 32, distill: {}, lora: { rank: 2 } }
    const given = options({ prune, align })
    const { adapter } = await trainLoRAM(given)
    const trained = readAdapter(path.join(given.output, 'run/prunedAdapter'))
    const recovered = readAdapter(adapter)
    expect(recovered.modules).toEqual(trained.modules)
    expect(recovered.base).toBe(fingerprint(openCheckpoint(model)))
    expect(trained.base).toBe(fingerprint(openCheckpoint(path.join(given.output, 'run/aligned'))))
    expect(await answerLoss({ adapter })).toBeLessThan(await answerLoss({}))
  })

  test('a pruned and aligned model is all that others need: the original is not read', async () => {
    const original = path.join(folder, 'original')
    const published = path.join(folder, 'published')
    writeTinyModel(original)
    const magnitude = { ...options().prune, criterion: 'magnitude' as const }
    await prune({ ...magnitude, model: original, output: `${published}.pruned`, device: 'cpu' })
    await align({ model: `${published}.pruned`, output: published, data: text, steps: 2, batchSize: 2, device: 'cpu' })
    for (const dir of [original, `${published}.pruned`]) rmSync(dir, { recursive: true })
    const { model: _original, prune: _pruning, ...rest } = options()
    const { adapter } = await trainLoRAM({ ...rest, model: published })
    const recovered = path.join(folder, 'recovered')
    await recover({ adapter: path.join(adapter, 'run/prunedAdapter'), pruning: published, output: recovered })
    expect(readAdapter(recovered)).toEqual(readAdapter(adapter))
    expect(await answerLoss({ adapter: recovered })).toBeLessThan(await answerLoss({}))
  })

  test('recover.scale auto takes the factors with which the large model is best on held-out data', async () => {
    const plain = await trainLoRAM(options())
    const run = trainLoRAM(options({ quantize: 'none', recover: { scale: 'auto' } }))
    const trials = (await collect(run)).filter((e) => e.type === 'notice' && e.message.startsWith('recovered update'))
    const { adapter, metrics } = await run
    expect(trials).toHaveLength(8)
    const { scale, loss } = metrics.recovery!
    expect(await answerLoss({ adapter })).toBeCloseTo(loss, 4)
    const unscaled = trials
      .map((e) => (e.type === 'notice' ? e.message : ''))
      .find((text) => text.includes('attention times 1, mlp times 1:'))!
    expect(loss).toBeLessThanOrEqual(Number(unscaled.split(' ').at(-1)) + 1e-4)
    expect(Math.min(scale.attention, scale.mlp)).toBeGreaterThan(0)
    expect(plain.metrics).not.toHaveProperty('recovery')
  })

  test('recover.finish trains the recovered adapter on the original for some steps more', async () => {
    const plain = await trainLoRAM(options())
    const run = trainLoRAM(options({ recover: { finish: { steps: 4, learningRate: 1e-2 } } }))
    const finishing = (await collect(run)).filter((event) => event.type === 'step' && event.stage === 'recover')
    expect(finishing).toHaveLength(4)
    const { adapter } = await run
    const [before, after] = [plain.adapter, adapter].map((folder) => readAdapter(folder))
    expect(after).toMatchObject({ base: before!.base, rank: before!.rank })
    const [start] = finishing as Extract<RunEvent, { type: 'step' }>[]
    const lossBefore = await answerLoss({ adapter: plain.adapter })
    expect(await answerLoss({ adapter })).toBeLessThan(lossBefore)
    expect(start!.loss).toBeCloseTo(lossBefore, 0)
  })

  test('rotating slices train an adapter of the original, which learns; stopped and resumed it is the same', async () => {
    const prune = { ...options().prune, rotate: { every: 2, core: 0.25 } }
    const train = { ...long, maxSteps: 20, preserve: { data: text, weight: 0.1, batchSize: 1 } }
    const whole = options({ prune, train })
    const { adapter } = await trainLoRAM(whole)
    const { modules, base } = readAdapter(adapter)
    expect(modules.get('model.layers.1.mlp.gate_proj')!.b.shape).toEqual([176, 4])
    expect(base).toBe(fingerprint(openCheckpoint(model)))
    expect(existsSync(path.join(whole.output, 'run/prunedAdapter'))).toBe(false)
    expect(await answerLoss({ adapter })).toBeLessThan((await answerLoss({})) - 0.1)
    const { output } = options()
    await abortAfter(3, { prune, train, output })
    await trainLoRAM(options({ prune, train, output, resume: true }))
    expect(digest(output)).toBe(digest(whole.output))
    const answers = async () => {
      const all = await collect(trainLoRAM(options({ prune, train, output, resume: true, log: { samples: 2 } })))
      return all.flatMap((event) => (event.type === 'sample' && event.step === 20 ? [event.answer] : []))
    }
    const [first, again] = [await answers(), await answers()]
    expect(first).toHaveLength(2)
    expect(again).toEqual(first)
  })

  test('memory picks the pruning ratio where none is given', async () => {
    const train = { ...options().train, recompute: 'full' as const }
    const { metrics } = await trainLoRAM(options({ train, prune: undefined }))
    const memory = Math.round(0.95 * metrics.plan.bytes.total)
    const given = options({ train, prune: { layers: [1, 3] }, quantizeTables: false, memory })
    const run = trainLoRAM(given)
    const notices = (await collect(run)).flatMap((e) => (e.type === 'notice' ? [e.message] : []))
    expect(notices).toContainEqual(expect.stringMatching(/^pruning ratio 0\.\d+, /))
    const { ratio } = readPruning(path.join(given.output, 'run/pruned/pruning.json'))
    expect(ratio).toBeGreaterThan(0)
    expect((await run).metrics.plan.bytes.total).toBeLessThanOrEqual(memory)
  })

  test.each([1, 5])(
    'stopped after step %i and resumed, it ends with the same bytes as without a stop',
    async (steps) => {
      const whole = options({ train: long })
      await trainLoRAM(whole)
      const { output } = options()
      await abortAfter(steps, { output })
      const saved = readdirSync(path.join(output, 'run/checkpoints')).filter((name) => name.startsWith('step-'))
      const stopped = Number(saved.at(-1)!.slice('step-'.length))
      expect(stopped).toBeGreaterThanOrEqual(steps)
      expect(existsSync(path.join(output, 'run/lock'))).toBe(false)
      const run = trainLoRAM(options({ output, train: long, resume: true }))
      const events = await collect(run)
      const numbers = events.flatMap((e) => (e.type === 'step' ? [e.step] : []))
      expect(numbers.at(0)).toBe(stopped + 1)
      expect(numbers.at(-1)).toBe(60)
      expect(digest(output)).toBe(digest(whole.output))
    },
  )

  test('the same seed gives the same bytes, another one others', async () => {
    const [a, b, c] = [options(), options(), options({ seed: 7 })]
    for (const given of [a, b, c]) await trainLoRAM(given)
    expect(digest(a.output)).toBe(digest(b.output))
    expect(digest(a.output)).not.toBe(digest(c.output))
  })

  test('recompute, which a memory budget takes, changes nothing in the result', async () => {
    const plain = options()
    const { metrics } = await trainLoRAM(plain)
    const tight = options({ memory: metrics.plan.bytes.total - 1 })
    const { metrics: other } = await trainLoRAM(tight)
    expect(other.plan.recompute).toMatchObject({ cheap: 1, full: 0 })
    expect(other.plan.bytes.total).toBeLessThan(metrics.plan.bytes.total)
    expect(digest(tight.output)).toBe(digest(plain.output))
  })

  test('embedding and head go to NF4 where the budget fits no other way, and stay in it when resumed', async () => {
    const { metrics } = await trainLoRAM(options({ train: { ...options().train, maxSteps: 1, recompute: 'full' } }))
    const memory = metrics.plan.bytes.total - 1
    const { output } = options()
    await abortAfter(1, { output, memory })
    const events = await collect(trainLoRAM(options({ output, train: long, memory, resume: true })))
    expect(events.find((e) => e.type === 'plan')).toMatchObject({ plan: { quantizeTables: true } })
    expect(events.some((e) => e.type === 'notice' && /^loaded .*iB of weights in/.test(e.message))).toBe(true)
  })

  test('a model that bitsandbytes quantised is pruned, trained on, and used with the recovered adapter', async () => {
    const quantized = path.join(folder, 'quantized')
    writeTinyModel(quantized, ['nf4', 'checkpoint'])
    const { adapter, metrics } = await trainLoRAM(options({ model: quantized, prune: { ratio: 0.5, layers: [1, 2] } }))
    const large = await loadModel(quantized, { adapter, quantizeTables: true, device: 'cpu' })
    const { loss } = await large.evaluate({ data, sequenceLength: 48 })
    await large.close()
    expect(Math.abs(loss / metrics.evaluation!.loss - 1)).toBeLessThan(0.5)
    const merging = { model: quantized, adapter, output: `${adapter} merged` }
    await expect(merge(merging)).rejects.toMatchObject({ code: 'E_MODEL' })
    const { logitDifference } = await merge({ ...merging, force: true })
    expect(logitDifference!.mean).toBeGreaterThan(0)
    const whole = await trainLoRAM(options({ model: quantized, prune: undefined }))
    expect(whole.metrics.plan.parameters.trained).toBe(whole.metrics.plan.parameters.original)
  })

  test('early stopping ends after evaluations without progress and keeps the best', async () => {
    const train = { ...options().train, learningRate: 5, evalSteps: 1, patience: 2, maxSteps: 50, epochs: 50 }
    const run = trainLoRAM(options({ train }))
    const evaluations = (await collect(run)).flatMap((e) => (e.type === 'evaluation' ? [e] : []))
    const { metrics } = await run
    expect(metrics.steps).toBeLessThan(50)
    const best = evaluations.reduce((a, b) => (b.loss < a.loss ? b : a))
    expect(metrics.evaluation).toMatchObject({ step: best.step, loss: best.loss })
    expect(metrics.steps - best.step).toBe(2)
  })
})

test('evaluates on a split, and records what log asks for', async () => {
  const prometheus = path.join(folder, 'loram.prom')
  const given = options({
    data: { train: data, evalSplit: 0.3, sequenceLength: 48 },
    prune: undefined,
    log: { samples: 2, tensorboard: true, prometheus },
  })
  const run = trainLoRAM(given)
  const events = await collect(run)
  await run
  const samples = events.filter((event) => event.type === 'sample')
  expect(samples.map(({ step }) => step)).toEqual([0, 0, 10, 10])
  for (const { prompt, expected } of samples) {
    const [, number] = /^(\d+) plus \1 is$/.exec(prompt)!
    expect(expected).toBe(` ${2 * Number(number)}.`)
  }
  // the untrained adapter changes nothing
  const original = await loadModel(model, { quantize: 'nf4' })
  const { text: before } = await original.complete(samples[0]!.prompt, { maxNewTokens: 64 })
  await original.close()
  expect(samples[0]!.answer).toBe(before)
  expect(readdirSync(path.join(given.output, 'run/tensorboard/train'))).toHaveLength(1)
  expect(readFileSync(prometheus, 'utf8')).toMatch(/^loram_step\{.*stage="train"\} 10$/m)
  const { output } = report({ runs: [given.output] })
  expect(readFileSync(output, 'utf8')).toContain('Before training')
  // where and how it is recorded may change
  await trainLoRAM({ ...given, resume: true, log: {} })
})

test('refuses evaluation data beside a split, and a split that holds out nothing', async () => {
  const refused = { code: 'E_CONFIG', details: { field: 'data.evalSplit' } }
  await expect(trainLoRAM(options({ data: { train: data, eval: data, evalSplit: 0.1 } }))).rejects.toMatchObject(
    refused,
  )
  await expect(trainLoRAM(options({ data: { train: data, evalSplit: 1e-6 } }))).rejects.toMatchObject({
    ...refused,
  })
})

// Whatever else the machine does delays timers too, so one quiet run of three is enough
test("the caller's event loop stays free while a model trains", { retry: 2 }, async () => {
  let last = performance.now()
  let lag = 0
  const timer = setInterval(() => {
    const now = performance.now()
    lag = Math.max(lag, now - last - 10)
    last = now
  }, 10)
  const train = { ...options().train, batchSize: 24, microBatchSize: 24, maxSteps: 30, epochs: 30 }
  await trainLoRAM(options({ train }))
  clearInterval(timer)
  expect(lag).toBeLessThan(50)
})
