export { checkAdapter } from './api/checkAdapter.ts'
export { type EvaluationOf, type LargeModel, loadModel } from './api/loadModel.ts'
export { type ModelPlan, plan } from './api/plan.ts'
export { report } from './api/report.ts'
export { type RunningServer, serve } from './api/serve.ts'
export { align, evaluate, exportModel, merge, previewData, prune, recover } from './api/stages.ts'
export { type TrainingRun, trainLoRAM } from './api/trainLoRAM.ts'
export type { DataPreview, Sample } from './data/preview.ts'
export type { DataStatistics } from './data/statistics.ts'
export {
  AbortError,
  AdapterError,
  ConfigError,
  DataError,
  DeviceError,
  type ErrorDetails,
  FileError,
  LoramError,
  MemoryError,
  ModelError,
  OpError,
  PlanError,
  RunError,
} from './errors.ts'
export type { AdapterCheck, Finding } from './export/checkAdapter.ts'
export type { Generation } from './infer/loadedModel.ts'
export type { Evaluation } from './infer/perplexity.ts'
export type { TaskScore } from './infer/tasks/index.ts'
export type { LogitDifference, MergeResult } from './lora/difference.ts'
export type { AlignmentPlan } from './memory/alignment.ts'
export type { MemoryPlan } from './memory/planner.ts'
export type { Loading } from './model/open.ts'
export type {
  AlignOptions,
  ChatMessage,
  CheckAdapterOptions,
  EvaluateOptions,
  ExportOptions,
  GenerateOptions,
  InferenceOptions,
  MergeOptions,
  PlanOptions,
  PreviewOptions,
  PruneOptions,
  RecoverOptions,
  ReportOptions,
  SamplingOptions,
  ServeOptions,
  TaskOptions,
  TrainLoRAMOptions,
} from './options/index.ts'
export type { RunEvent } from './train/events.ts'
export type { TrainResult } from './train/run.ts'
