import { describe, expect, test } from 'vitest'
import { ranksOf } from '../../src/ranks.ts'

describe('the ranks that', () => {
  test.each([
    [
      'torchrun',
      { RANK: '3', WORLD_SIZE: '8', LOCAL_RANK: '1', MASTER_ADDR: 'node-a', MASTER_PORT: '29400' },
      { rank: 3, size: 8, localRank: 1, address: 'node-a', port: 29401 },
    ],
    [
      'the training operator',
      { RANK: '1', WORLD_SIZE: '2', MASTER_ADDR: 'run-master-0', MASTER_PORT: '23456' },
      { rank: 1, size: 2, localRank: 0, address: 'run-master-0', port: 23457 },
    ],
    [
      'srun',
      {
        ...{ SLURM_PROCID: '5', SLURM_STEP_NUM_TASKS: '8', SLURM_LOCALID: '1', SLURM_JOB_ID: '4321098' },
        SLURM_STEP_NODELIST: 'gpu[03-04,9],other',
      },
      { rank: 5, size: 8, localRank: 1, address: 'gpu03', port: 16098 },
    ],
    [
      'mpirun',
      {
        ...{ OMPI_COMM_WORLD_RANK: '1', OMPI_COMM_WORLD_SIZE: '2', OMPI_COMM_WORLD_LOCAL_RANK: '1' },
        ...{ OMPI_COMM_WORLD_LOCAL_SIZE: '2', SLURM_PROCID: '0', SLURM_STEP_NUM_TASKS: '1' },
      },
      { rank: 1, size: 2, localRank: 1, address: '127.0.0.1', port: 29500 },
    ],
  ])('%s names', (_launcher, environment, ranks) => {
    expect(ranksOf(environment)).toEqual(ranks)
  })

  test.each([
    ['gpu7,gpu9', 'gpu7'],
    ['gpu7', 'gpu7'],
    ['gpu[7,9-11]', 'gpu7'],
    ['rack2-gpu[007-009]', 'rack2-gpu007'],
  ])('Slurm lists as %s begin with %s', (list, host) => {
    const environment = { SLURM_PROCID: '0', SLURM_STEP_NUM_TASKS: '2', SLURM_STEP_NODELIST: list }
    expect(ranksOf(environment)?.address).toBe(host)
  })
})

test('one process is alone, unless NCCL is named', () => {
  expect(ranksOf({})).toBeUndefined()
  // a batch script of several tasks, not started by srun
  expect(ranksOf({ SLURM_PROCID: '0', SLURM_NTASKS: '4' })).toBeUndefined()
  const one = { RANK: '0', WORLD_SIZE: '1' }
  expect(ranksOf(one)).toBeUndefined()
  expect(ranksOf({ ...one, LORAM_NCCL: '/opt/libnccl.so.2' })).toMatchObject({ rank: 0, size: 1 })
})

test.each([
  [{ WORLD_SIZE: '2' }, 'RANK'],
  [{ WORLD_SIZE: 'two', RANK: '0' }, 'WORLD_SIZE'],
  [{ WORLD_SIZE: '2', RANK: '2' }, 'RANK'],
  [{ WORLD_SIZE: '2', RANK: '0', LOCAL_RANK: '-1' }, 'LOCAL_RANK'],
  [{ WORLD_SIZE: '2', RANK: '0' }, 'MASTER_ADDR'],
  [{ OMPI_COMM_WORLD_SIZE: '4', OMPI_COMM_WORLD_RANK: '0', OMPI_COMM_WORLD_LOCAL_SIZE: '2' }, 'MASTER_ADDR'],
  [{ WORLD_SIZE: '2', RANK: '0', MASTER_ADDR: 'a', MASTER_PORT: '65535' }, 'MASTER_PORT'],
])('%j names the variable that is wrong', (environment, field) => {
  expect(() => ranksOf(environment)).toThrow(
    expect.objectContaining({ code: 'E_CONFIG', details: expect.objectContaining({ field }) }),
  )
})
