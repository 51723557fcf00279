import { scaleLinear } from 'd3-scale'
import { line } from 'd3-shape'
import { escapeHtml } from './html.ts'

export type Point = readonly [x: number, y: number]

export interface Series {
  label: string
  points: readonly Point[]
  /** Which of the page's colours, from 0. */
  colour: number
}

const width = 560
const height = 260
const margin = { top: 12, right: 16, bottom: 36, left: 64 }
const ticks = 6
/** More points than these are averaged in groups: a chart has no more columns to show them in. */
const mostPoints = 400
/** So few points are marked. */
const fewPoints = 40

/** Lines over steps as an SVG element. Colours are CSS variables of the page, so that they follow light and dark. */
export function lineChart(title: string, series: readonly Series[]): string {
  const drawn = series.map((one) => ({ ...one, points: thinned(one.points) }))
  const all = drawn.flatMap(({ points }) => points)
  const x = scaleLinear(extent(all.map(([step]) => step)), [margin.left, width - margin.right])
  const y = scaleLinear(extent(all.map(([, value]) => value)), [height - margin.bottom, margin.top]).nice(ticks)
  const path = line<Point>(
    ([step]) => x(step),
    ([, value]) => y(value),
  )
  const [yTicks, yFormat] = [y.ticks(ticks), y.tickFormat(ticks)]
  const xTicks = x.ticks(ticks).filter(Number.isInteger)
  return `<svg viewBox="0 0 ${width} ${height}" role="img" aria-label="${escapeHtml(title)}">
${yTicks.map((tick) => `<line class="grid" x1="${margin.left}" x2="${width - margin.right}" y1="${round(y(tick))}" y2="${round(y(tick))}"/><text x="${margin.left - 8}" y="${round(y(tick))}" dy=".32em" text-anchor="end">${yFormat(tick)}</text>`).join('\n')}
${xTicks.map((tick) => `<text x="${round(x(tick))}" y="${height - margin.bottom + 18}" text-anchor="middle">${tick}</text>`).join('\n')}
<text x="${width - margin.right}" y="${height - 4}" text-anchor="end">step</text>
${drawn.map((one) => drawSeries(one, path(one.points) ?? '', ([step, value]) => [x(step), y(value)])).join('\n')}
</svg>`
}

function drawSeries({ label, points, colour }: Series, path: string, place: (point: Point) => Point): string {
  const stroke = `var(--series-${colour})`
  const marks = points.map((point) => {
    const [cx, cy] = place(point).map(round)
    const [step, value] = point
    return `<circle cx="${cx}" cy="${cy}" r="3" fill="${stroke}"><title>${escapeHtml(label)}, step ${step}: ${Number(value.toPrecision(5))}</title></circle>`
  })
  return `<path d="${path}" stroke="${stroke}"/>${points.length <= fewPoints ? marks.join('') : ''}`
}

/** Means of as many neighbours as leave at most `mostPoints`. */
function thinned(points: readonly Point[]): Point[] {
  const group = Math.ceil(points.length / mostPoints)
  return Array.from({ length: Math.ceil(points.length / group) || 0 }, (_, i) => {
    const members = points.slice(i * group, (i + 1) * group)
    return [mean(members.map(([step]) => step)), mean(members.map(([, value]) => value))]
  })
}

const mean = (values: readonly number[]) => values.reduce((sum, value) => sum + value, 0) / values.length

/** With room around a single value. */
function extent(values: readonly number[]): [number, number] {
  const [least, most] = values.reduce(
    ([low, high], value) => [Math.min(low, value), Math.max(high, value)],
    [Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY],
  )
  return least < most ? [least, most] : [least - (Math.abs(least) || 1) / 2, most + (Math.abs(most) || 1) / 2]
}

const round = (value: number) => Math.round(10 * value) / 10

export interface Bar {
  label: string
  parts: readonly number[]
}

const barHeight = 22
const rowHeight = 34
const labelWidth = 180
const longestLabel = 22

/** Stacked bars, one a row, on a common scale. `format` writes a total. */
export function stackedBars(
  title: string,
  names: readonly string[],
  bars: readonly Bar[],
  format: (value: number) => string,
): string {
  const total = ({ parts }: Bar) => parts.reduce((sum, part) => sum + part, 0)
  const scale = scaleLinear([0, Math.max(...bars.map(total))], [0, 2 * width - labelWidth - 90])
  const rows = bars.map((bar, row) => {
    const top = row * rowHeight + (rowHeight - barHeight) / 2
    let left = labelWidth
    const rects = bar.parts.map((part, i) => {
      const rect = `<rect x="${round(left)}" y="${top}" width="${round(scale(part))}" height="${barHeight}" fill="var(--series-${i})"><title>${escapeHtml(`${names[i]}: ${format(part)}`)}</title></rect>`
      left += scale(part)
      return rect
    })
    const middle = top + barHeight / 2
    return `<text x="${labelWidth - 12}" y="${middle}" dy=".32em" text-anchor="end">${escapeHtml(shortened(bar.label))}</text>${rects.join('')}<text x="${round(left) + 8}" y="${middle}" dy=".32em">${format(total(bar))}</text>`
  })
  return `<svg viewBox="0 0 ${2 * width} ${bars.length * rowHeight}" role="img" aria-label="${escapeHtml(title)}">
${rows.join('\n')}
</svg>`
}

/** Folders differ at their ends. */
const shortened = (name: string) => (name.length > longestLabel ? `…${name.slice(1 - longestLabel)}` : name)
