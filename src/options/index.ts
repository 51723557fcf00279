// Every option there is, once: these schemas are the types of the API, the keys of configuration files, the flags of the
// command and the tables of the documentation.
export * from './align.ts'
export * from './inference.ts'
export * from './prune.ts'
export * from './stages.ts'
export * from './training.ts'
