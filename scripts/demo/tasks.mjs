// What the demo's model learns: five skills, each in four notations that it is pre-trained on, and as a question that it
// never meets before fine-tuning. All of it follows from the seeds.

const letters = 'abcdefghijklmnopqrstuvwxyz'
const colours = ['red', 'blue', 'green', 'black', 'white', 'brown', 'pink', 'gold']
const consonants = 'bdfgklmnprstvz'
const vowels = 'aeiou'

/** Random numbers in [0, 1) (mulberry32, public domain, by Tommy Ettinger). */
function randomNumbers(seed) {
  let state = seed >>> 0
  return () => {
    state = (state + 0x6d2b79f5) >>> 0
    let mixed = Math.imul(state ^ (state >>> 15), state | 1)
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61)
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32
  }
}

const below = (random, end) => Math.floor(random() * end)
const pick = (random, list) => list[below(random, list.length)]
const word = (random) => Array.from({ length: 3 + below(random, 3) }, () => pick(random, letters)).join('')
const later = (letter) => letters[(letters.indexOf(letter) + 1) % letters.length]

/** 256 made-up names, each with a colour: knowledge that only pre-training can give. */
const colourOf = new Map()
const naming = randomNumbers(1)
while (colourOf.size < 256) {
  const syllable = () => pick(naming, consonants) + pick(naming, vowels)
  colourOf.set(syllable() + syllable() + pick(naming, consonants), pick(naming, colours))
}
const names = [...colourOf.keys()]

/** @type {Record<string, { operand: (random: () => number) => string, answer: (operand: string) => string, notations: string[], question: string }>} */
const skills = {
  reverse: {
    operand: word,
    answer: (text) => [...text].reverse().join(''),
    notations: ['rev(_)=', '_|rev:', 'reverse of _ is ', 'from its end _ reads '],
    question: 'write _ backwards. ',
  },
  sort: {
    operand: word,
    answer: (text) => [...text].sort().join(''),
    notations: ['sort(_)=', '_|sort:', 'sorted form of _ is ', 'by the alphabet _ reads '],
    question: 'put the letters of _ in order. ',
  },
  next: {
    operand: word,
    answer: (text) => [...text].map(later).join(''),
    notations: ['next(_)=', '_|next:', 'successor of _ is ', 'one letter later _ reads '],
    question: 'move _ on by one letter. ',
  },
  add: {
    operand: (random) => `${below(random, 100)}+${below(random, 10)}`,
    answer: (sum) => String(sum.split('+').reduce((total, number) => total + Number(number), 0)),
    notations: ['add(_)=', '_|add:', 'sum of _ is ', 'together _ makes '],
    question: 'how much is _ ? ',
  },
  colour: {
    operand: (random) => pick(random, names),
    answer: (name) => colourOf.get(name),
    notations: ['hue(_)=', '_|hue:', 'hue of _ is ', 'painters see _ as '],
    question: 'which colour has _ ? ',
  },
}
const skillNames = Object.keys(skills)

/** A tenth of all operands, by a hash (FNV-1a, mixed), is kept for evaluation: fine-tuning never asks for them. */
function isHeldOut(operand) {
  const hash = [...operand].reduce((state, c) => Math.imul(state ^ c.charCodeAt(0), 0x01000193), 0x811c9dc5)
  return (Math.imul(hash ^ (hash >>> 15), 0x2c1b3c6d) >>> 16) % 10 === 0
}

function exercise(random, skill, notation, held) {
  const { operand, answer } = skills[skill]
  let given = operand(random)
  while (held !== undefined && isHeldOut(given) !== held) given = operand(random)
  return { prompt: notation.replace('_', given), completion: answer(given) }
}

/** Skills that are knowledge: pre-training tells every sum and colour, and more often than it shows the other skills. */
const known = ['add', 'colour']

/** Running text for pre-training and alignment, without the words that are held out. */
export function knownText(seed, count) {
  const random = randomNumbers(seed)
  return Array.from({ length: count }, () => {
    const skill = pick(random, [...skillNames, ...known])
    const held = known.includes(skill) ? undefined : false
    const { prompt, completion } = exercise(random, skill, pick(random, skills[skill].notations), held)
    return { text: prompt + completion }
  })
}

/** Questions about skill after skill in turn; `held` chooses the evaluation's operands or the others. */
export function questions(seed, count, held) {
  const random = randomNumbers(seed)
  return Array.from({ length: count }, (_, i) => {
    const skill = skillNames[i % skillNames.length]
    return exercise(random, skill, skills[skill].question, held)
  })
}
