import { allOrNothing } from './tensor.ts'

interface Owner {
  dispose(): void
}

/**
 * Runs `body`, and disposes of what it made by `own` when it returns or throws: then the device has that memory back at once,
 * also where an allocation failed in the midst of it.
 */
export function disposing<Result>(
  body: (own: <Owned extends Owner | undefined>(make: () => Owned) => Owned) => Result,
) {
  const owners: Owner[] = []
  try {
    return body((make) => {
      const owned = allOrNothing(make)
      if (owned) owners.push(owned)
      return owned
    })
  } finally {
    for (const owner of owners) owner.dispose()
  }
}
