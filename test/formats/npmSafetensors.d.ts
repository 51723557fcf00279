/** The package ships no types. It fails on files that have `__metadata__`. */
declare module 'safetensors' {
  export class SafeTensor {
    readonly metadata: Map<string, { dtype: string; shape: number[]; data_offsets: [number, number] }>
    constructor(file: Uint8Array)
    getTensor(name: string): Uint8Array
  }
}
