// Names and numbers as the demo prints them.

/** What is measured, in the order of the table. */
export const titles = {
  base: 'large',
  pruned: 'pruned',
  aligned: 'pruned, aligned',
  trainedSmall: 'pruned, aligned, LoRA',
  recovered: 'large, LoRA recovered from pruned',
  fullLora: 'large, LoRA trained on it',
}

/** The parts of the demo, in the order of its work. */
export const parts = {
  base: 'Measure the large model',
  loram: 'LoRAM: prune, align, train the small model, recover',
  pruned: 'Measure the pruned model',
  aligned: 'Measure the aligned model',
  trainedSmall: 'Measure the small model with its adapter',
  recovered: 'Measure the large model with the recovered adapter',
  full: 'For comparison: train LoRA on the large model itself',
  fullLora: 'Measure the large model with that adapter',
}

export const formatCount = (count) => `${(count / 1e6).toFixed(2)} M`
export const formatSize = (bytes) => `${(bytes / 1e6).toFixed(2)} MB`
export const formatPercent = (part) => `${(100 * part).toFixed(0)} %`

/** Rows of cells as aligned columns, the first to the left. */
function columns(rows) {
  const widths = rows[0].map((_, i) => Math.max(...rows.map((row) => row[i].length)))
  const cells = (row) => row.map((cell, i) => (i === 0 ? cell.padEnd(widths[i]) : cell.padStart(widths[i])))
  return rows.map((row) => cells(row).join('   ')).join('\n')
}

/** @param {ReturnType<typeof import('./run.mjs').demoPlan>} plan */
export function formatPlan({ large, small }) {
  const row = (title, { parameters, bytes }) => [
    title,
    formatCount(parameters.trained),
    formatSize(bytes.projections),
    formatSize(bytes.tables + bytes.norms),
    formatSize(bytes.adapter),
    formatSize(bytes.activations),
    formatSize(bytes.total),
  ]
  return columns([
    ['LoRA training in NF4', 'parameters', 'projections', 'tables', 'adapter', 'activations', 'total'],
    row('on the large model', large.training),
    row('on the pruned model', small.training),
  ])
}

/** @param {Record<string, import('./run.mjs').Row>} rows */
export const formatRows = (rows) =>
  columns([
    ['model', 'perplexity', 'exact match', 'parameters', 'on disk'],
    ...Object.entries(rows).map(([name, { perplexity, exactMatch, parameters, bytes }]) => [
      titles[name],
      perplexity.toFixed(2),
      formatPercent(exactMatch),
      formatCount(parameters),
      formatSize(bytes),
    ]),
  ])
