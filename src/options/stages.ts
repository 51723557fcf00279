import { z } from 'zod'
import { consumers } from '../export/adapterRules.ts'
import { type ExportType, exportTypes } from '../export/encode.ts'
import { count, dataSource, encoding, fill, index, path, paths, scale } from './common.ts'

export const recoverCommandOptions = z.strictObject({
  adapter: path.describe('PEFT folder of an adapter that was trained on a pruned model'),
  pruning: path.describe("the pruned model's pruning.json, or its folder"),
  output: path.describe('folder for the recovered adapter'),
  fill,
  scale: scale.default(1).describe('factor by which the recovered update is multiplied'),
})

export const mergeCommandOptions = z.strictObject({
  model: path.describe('a Hugging Face folder with safetensors, or a GGUF file'),
  adapter: path.describe('PEFT folder of an adapter for this model'),
  output: path.describe('new folder for the merged model'),
  force: z
    .boolean()
    .default(false)
    .describe('merge even into weights in NF4, which are quantised again, and report how far that moves the logits'),
})

/** What `export` writes: one model, a model and an adapter beside it, or an adapter alone. */
export const exportContents = ['merged', 'both', 'adapter'] as const

export const exportCommandOptions = z.strictObject({
  model: path.describe('a Hugging Face folder with safetensors, or a GGUF file'),
  adapter: path.optional().describe('PEFT folder of an adapter for this model'),
  content: z
    .enum(exportContents)
    .default('merged')
    .describe(
      'merged: one model with the adapter in its weights; both: the model and the adapter as separate files; adapter: the adapter alone',
    ),
  type: z
    .enum(Object.keys(exportTypes) as [ExportType, ...ExportType[]])
    .default('f16')
    .describe("type of the model's weights; an adapter is always f32"),
  output: path.describe('new folder for the GGUF files and the Modelfile'),
})

export const checkAdapterOptions = z.strictObject({
  adapter: path.describe('PEFT folder of the adapter to check'),
  for: z.enum(consumers).describe('the program that will load it'),
  model: path.optional().describe('the base model; with it, modules and shapes are compared too'),
  maxRank: count.default(16).describe('for vllm: the value of its --max-lora-rank'),
})

export const previewOptions = z.strictObject({
  model: path.describe('a folder with a tokenizer; weights are not read'),
  data: paths.describe(dataSource),
  ...encoding,
  samples: index.default(3).describe('how many examples to show, from the start of the data'),
})

export const reportOptions = z.strictObject({
  runs: z.array(path).nonempty().describe('output folders of the runs to draw, together on one page'),
  output: path.optional().describe('the HTML file to write; default: report.html in the first folder'),
})

export const buildCommandOptions = z.strictObject({
  cuda: z.boolean().default(false).describe('build the CUDA library too, with the nvcc of CUDA_HOME or PATH'),
  installNvcc: path
    .optional()
    .describe('build the CUDA library too; where there is no nvcc, install it by pip into this folder (270 MB)'),
})

export type RecoverOptions = z.input<typeof recoverCommandOptions>
export type MergeOptions = z.input<typeof mergeCommandOptions>
export type ExportOptions = z.input<typeof exportCommandOptions>
export type CheckAdapterOptions = z.input<typeof checkAdapterOptions>
export type PreviewOptions = z.input<typeof previewOptions>
export type ReportOptions = z.input<typeof reportOptions>
