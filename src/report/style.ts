const light = `--text: #1c2430; --muted: #5d6b7d; --line: #dde3ea; --card: #fff; --page: #f5f7fa;
  --series-0: #2563eb; --series-1: #d97706; --series-2: #059669; --series-3: #9333ea; --series-4: #dc2626; --series-5: #0891b2`
const dark = `--text: #e6ebf2; --muted: #9aa7b8; --line: #2c3644; --card: #171d26; --page: #0f141b;
  --series-0: #6ea0ff; --series-1: #f0a545; --series-2: #34d399; --series-3: #c084fc; --series-4: #f87171; --series-5: #22d3ee`

/** The style of reports, light or dark as the reader's system is. */
export const style = `
:root { color-scheme: light dark; ${light} }
@media (prefers-color-scheme: dark) { :root { ${dark} } }
* { box-sizing: border-box }
body { margin: 0; background: var(--page); color: var(--text); font: 16px/1.5 system-ui, sans-serif }
main { max-width: 76rem; margin: 2rem auto; padding: 0 1.25rem }
h1 { margin: 0 0 1rem; font-size: 1.6rem; letter-spacing: -.01em; overflow-wrap: anywhere }
h2 { margin: 2rem 0 .75rem; font-size: 1.1rem }
.card, figure { margin: 0 0 1.25rem; background: var(--card); border: 1px solid var(--line); border-radius: .5rem }
.card { overflow-x: auto }
figure { padding: .75rem 1rem }
figcaption { margin-bottom: .5rem; font-weight: 600 }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 26rem), 1fr)); gap: 0 1.25rem }
svg { display: block; width: 100%; height: auto }
svg text { fill: var(--muted); font-size: 12px; font-variant-numeric: tabular-nums }
svg path { fill: none; stroke-width: 1.75; stroke-linejoin: round }
svg .grid { stroke: var(--line) }
table { width: 100%; border-collapse: collapse }
th, td { padding: .5rem 1rem; text-align: left; vertical-align: top }
thead th { color: var(--muted); font-weight: 500; white-space: nowrap }
tbody tr { border-top: 1px solid var(--line) }
.numbers { font-variant-numeric: tabular-nums }
.numbers :is(th, td):not(:first-child) { text-align: right; white-space: nowrap }
.texts td { white-space: pre-wrap; overflow-wrap: anywhere; font: 13px/1.5 ui-monospace, monospace }
.legend { display: flex; flex-wrap: wrap; gap: .25rem 1.5rem; margin: 0 0 1rem; padding: 0; list-style: none; color: var(--muted) }
figure .legend { margin: .75rem 0 0 }
.legend span { display: inline-block; width: .8rem; height: .8rem; margin-right: .5rem; border-radius: .2rem }
summary { padding: .75rem 1rem; cursor: pointer }
pre { margin: 0; padding: .25rem 1rem; overflow-x: auto; font-size: 13px }
details ul { margin: .5rem 0 1rem; color: var(--muted) }
`
