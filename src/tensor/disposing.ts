interface Owner {
  dispose(): void
}

/**
 * Runs `body`, and disposes of what it gave to `own` when it returns or throws: then the device has that memory back at once,
 * also where a later allocation failed.
 */
export function disposing<Result>(body: (own: <Owned extends Owner | undefined>(owned: Owned) => Owned) => Result) {
  const owners: Owner[] = []
  try {
    return body((owned) => {
      if (owned) owners.push(owned)
      return owned
    })
  } finally {
    for (const owner of owners) owner.dispose()
  }
}
