import { readdirSync, readFileSync } from 'node:fs'
import path from 'node:path'
import { fileURLToPath } from 'node:url'

export const root = fileURLToPath(new URL('../..', import.meta.url))

/** A fenced block of a Markdown file. */
export interface Block {
  file: string
  /** Of its first line, from 1. */
  line: number
  language: string
  text: string
}

export const documents = [
  'README.md',
  'CONTRIBUTING.md',
  ...readdirSync(path.join(root, 'docs'))
    .filter((name) => name.endsWith('.md'))
    .map((name) => `docs/${name}`),
]

export const blocks: Block[] = documents.flatMap((file) => {
  const text = readFileSync(path.join(root, file), 'utf8')
  return Array.from(text.matchAll(/^```(\w*)\n(.*?)^```$/gms), ({ 1: language, 2: body, index }) => ({
    file,
    line: text.slice(0, index).split('\n').length + 1,
    language: language!,
    text: body!,
  }))
})

/** The commands of a shell block, with continued lines joined and comments taken off. */
export function commandsOf({ text }: Block): string[] {
  return text
    .replaceAll('\\\n', ' ')
    .split('\n')
    .map((line) => line.replace(/\s+#.*$/, '').trim())
    .filter((line) => line !== '' && !line.startsWith('#'))
}
