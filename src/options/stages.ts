import { z } from 'zod'
import { consumers } from '../export/adapterRules.ts'
import { type ExportType, exportTypes } from '../export/encode.ts'
import { count, dataSource, encoding, fill, index, path, paths, scale } from './common.ts'

export const recoverCommandOptions = z.strictObject({
  adapter: path.describe('a PEFT folder, trained on a pruned model'),
  pruning: path.describe('pruning.json of that model, or its folder'),
  output: path.describe('folder for the recovered adapter'),
  fill,
  scale: scale.default(1).describe('factor on the recovered update'),
})

export const mergeCommandOptions = z.strictObject({
  model: path.describe('a Hugging Face folder with safetensors, or a GGUF file'),
  adapter: path.describe('a PEFT folder for this model'),
  output: path.describe('new folder for the merged model'),
  force: z
    .boolean()
    .default(false)
    .describe('merges into weights in NF4 too, which are quantised again, and says how far that moves the logits'),
})

/** What `export` writes: one model, a model and an adapter beside it, or an adapter alone. */
export const exportContents = ['merged', 'both', 'adapter'] as const

export const exportCommandOptions = z.strictObject({
  model: path.describe('a Hugging Face folder with safetensors, or a GGUF file'),
  adapter: path.optional().describe('a PEFT folder for this model'),
  content: z
    .enum(exportContents)
    .default('merged')
    .describe('merged: one model, with the adapter in its weights; both: model and adapter apart; adapter: it alone'),
  type: z
    .enum(Object.keys(exportTypes) as [ExportType, ...ExportType[]])
    .default('f16')
    .describe('of the weights of the model; an adapter is always f32'),
  output: path.describe('new folder for the GGUF files and the Modelfile'),
})

export const checkAdapterOptions = z.strictObject({
  adapter: path.describe('a PEFT folder'),
  for: z.enum(consumers).describe('the program that shall load it'),
  model: path.optional().describe('its base model, whose modules and shapes are compared too'),
  maxRank: count.default(16).describe('of vllm: its --max-lora-rank'),
})

export const previewOptions = z.strictObject({
  model: path.describe('a folder with the tokenizer; weights are not read'),
  data: paths.describe(dataSource),
  ...encoding,
  samples: index.default(3).describe('examples to show, from the start'),
})

export const reportOptions = z.strictObject({
  runs: z.array(path).nonempty().describe('folders of runs, what they had as output; drawn together'),
  output: path.optional().describe('the HTML file; default report.html in the first of them'),
})

export const buildCommandOptions = z.strictObject({
  cuda: z.boolean().default(false).describe('the CUDA library as well, with the nvcc of CUDA_HOME or PATH'),
  installNvcc: path
    .optional()
    .describe('implies cuda; where there is no nvcc, a folder for the one that pip brings (270 MB)'),
})

export type RecoverOptions = z.input<typeof recoverCommandOptions>
export type MergeOptions = z.input<typeof mergeCommandOptions>
export type ExportOptions = z.input<typeof exportCommandOptions>
export type CheckAdapterOptions = z.input<typeof checkAdapterOptions>
export type PreviewOptions = z.input<typeof previewOptions>
export type ReportOptions = z.input<typeof reportOptions>
