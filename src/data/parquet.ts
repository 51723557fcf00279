import { asyncBufferFromFile, parquetMetadataAsync, parquetReadObjects } from 'hyparquet'
import { compressors } from 'hyparquet-compressors'

/** Reads a Parquet file a row group at a time, in any of the usual compressions. Columns that are null are left out. */
export async function* parquetRows(path: string): AsyncGenerator<Record<string, unknown>> {
  const file = await asyncBufferFromFile(path)
  const metadata = await parquetMetadataAsync(file)
  let rowStart = 0
  for (const { num_rows: rows } of metadata.row_groups) {
    const rowEnd = rowStart + Number(rows)
    const group = await parquetReadObjects({ file, metadata, compressors, rowStart, rowEnd })
    for (const row of group) yield asJson(row) as Record<string, unknown>
    rowStart = rowEnd
  }
}

/** A value as JSON would have it: numbers for 64-bit integers, and no key for what a record of another kind lacks. */
function asJson(value: unknown): unknown {
  if (typeof value === 'bigint') return Number(value)
  if (Array.isArray(value)) return value.map(asJson)
  if (typeof value !== 'object' || value === null) return value
  const entries = Object.entries(value).filter(([, inner]) => inner !== null && inner !== undefined)
  return Object.fromEntries(entries.map(([key, inner]) => [key, asJson(inner)]))
}
