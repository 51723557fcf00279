import { type AdapterCheck, checkAdapterFolder } from '../export/checkAdapter.ts'
import { type CheckAdapterOptions, checkAdapterOptions } from '../options/index.ts'
import { validate } from '../validate.ts'

/**
 * Says what PEFT, vLLM, llama.cpp or Ollama would refuse of an adapter, and what they would compute differently. Reads its
 * configuration and the headers of its weights, and of the model's where one is named.
 * @throws {FileError} `E_FILE`: the adapter has no configuration, or no safetensors
 */
export function checkAdapter(options: CheckAdapterOptions): AdapterCheck {
  return checkAdapterFolder(validate(checkAdapterOptions, options))
}
