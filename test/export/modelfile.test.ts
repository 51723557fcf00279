import { expect, test } from 'vitest'
import { formatModelfile } from '../../src/export/modelfile.ts'
import { byteLevelTokenizer, templates } from '../tokenizer/tokenizers.ts'

const modelfile = (chat_template?: string, bos_token = '<s>') =>
  formatModelfile(
    byteLevelTokenizer({ bos_token, ...(chat_template && { chat_template }) }),
    'model-f16.gguf',
    undefined,
  )

test('ChatML in the language of Ollama', () => {
  expect(modelfile(templates.chatml)).toBe(
    [
      'FROM ./model-f16.gguf',
      'TEMPLATE """{{- range .Messages }}<|im_start|>{{ .Role }}',
      '{{ .Content }}<|im_end|>',
      '{{ end }}<|im_start|>assistant',
      '"""',
      'PARAMETER stop "<|im_end|>"',
      '',
    ].join('\n'),
  )
})

test('a system message that the template adds by itself', () => {
  const withDefault = `{% if messages[0].role != 'system' %}{{ '<|im_start|>system\nBe kind.<|im_end|>\n' }}{% endif %}${templates.chatml}`
  expect(modelfile(withDefault)).toContain('\nSYSTEM """Be kind."""\n')
})

test("Llama 3's, whose bos is left to Ollama", () => {
  const text = modelfile(templates.llama3, '<|begin_of_text|>')
  expect(text).toContain(
    'TEMPLATE """{{- range .Messages }}<|start_header_id|>{{ .Role }}<|end_header_id|>\n\n{{ .Content }}',
  )
  expect(text).not.toContain('begin_of_text')
  expect(text).toContain('PARAMETER stop "<|eot_id|>"')
})

test.each([
  ['no template', undefined],
  ['one without a counterpart', templates.llama2],
  ['one that alters contents', templates.chatml.replace("message['content']", "message['content'] | upper")],
  ['one that fails', "{{ raise_exception('no') }}"],
])('%s: none is written, and it says so', (_, template) => {
  const text = modelfile(template)
  expect(text).toMatch(/^FROM .+\n# No TEMPLATE/)
  expect(text).not.toContain('"""')
})
