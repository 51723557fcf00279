import { ConfigError } from './errors.ts'

/** One process of several that work on one run, as its launcher numbers it. */
export interface Ranks {
  /** From 0; rank 0 is the leader, which writes files and tells people. */
  rank: number
  /** Processes in all. */
  size: number
  /** Number among those of this machine: which GPU it takes. */
  localRank: number
  /** Where the leader listens. */
  address: string
  port: number
}

type Environment = Readonly<Record<string, string | undefined>>

/** The variables of a launcher, and what it says of the leader's machine where MASTER_ADDR is not set. */
interface Launcher {
  rank: string
  size: string
  localRank: string
  address(environment: Environment, size: number): string | undefined
}

const thisMachine = '127.0.0.1'

/** torchrun and Kubernetes' training operator, mpirun, srun. In a job of Slurm's the others have variables of srun's too. */
const launchers: readonly Launcher[] = [
  { rank: 'RANK', size: 'WORLD_SIZE', localRank: 'LOCAL_RANK', address: () => undefined },
  {
    ...{ rank: 'OMPI_COMM_WORLD_RANK', size: 'OMPI_COMM_WORLD_SIZE', localRank: 'OMPI_COMM_WORLD_LOCAL_RANK' },
    address: ({ OMPI_COMM_WORLD_LOCAL_SIZE: here }, size) => (Number(here) === size ? thisMachine : undefined),
  },
  {
    // A batch script by itself, which is no rank of anything, has SLURM_PROCID, but not the second of these
    ...{ rank: 'SLURM_PROCID', size: 'SLURM_STEP_NUM_TASKS', localRank: 'SLURM_LOCALID' },
    address: ({ SLURM_STEP_NODELIST: list }) => list && firstHost(list),
  },
]

const defaultPort = 29500

/**
 * What the environment says of this process and the others; `undefined` where it is the only one.
 * @throws {ConfigError} `E_CONFIG`: a variable is missing or no number
 */
export function ranksOf(environment: Environment = process.env): Ranks | undefined {
  const launcher = launchers.find(({ size }) => environment[size] !== undefined)
  const size = launcher ? numberOf(environment, launcher.size, 1) : 1
  // Named on purpose, it is used by one process too: that checks an installation
  if (!launcher || (size === 1 && environment.LORAM_NCCL === undefined)) return undefined
  const rank = numberOf(environment, launcher.rank, 0, size - 1)
  const localRank = environment[launcher.localRank] === undefined ? 0 : numberOf(environment, launcher.localRank, 0)
  const address = environment.MASTER_ADDR ?? launcher.address(environment, size) ?? (size === 1 && thisMachine)
  if (!address) throw nowhereToMeet()
  return { rank, size, localRank, address, port: portOf(environment) }
}

/** Whether this process is the one of its run that tells people. */
export const isLeader = (): boolean => (ranksOf()?.rank ?? 0) === 0

const nowhereToMeet = () =>
  new ConfigError('E_CONFIG', 'the ranks do not know where to meet', {
    field: 'MASTER_ADDR',
    expected: 'the host name or address of the machine of rank 0',
    found: 'not set',
    remedy: 'give it to all ranks, as in: mpirun -x MASTER_ADDR=node-a',
  })

/** The one after MASTER_PORT, where torchrun itself listens. */
function portOf(environment: Environment): number {
  const { MASTER_PORT, SLURM_JOB_ID } = environment
  if (MASTER_PORT !== undefined) return numberOf(environment, 'MASTER_PORT', 1, 65534) + 1
  // Jobs of one machine get different ports
  return SLURM_JOB_ID === undefined ? defaultPort : 15000 + (numberOf(environment, 'SLURM_JOB_ID', 0) % 10000)
}

/** The first of Slurm's list of hosts: `node[03-05,9],other` begins with `node03`. */
const firstHost = (list: string): string => list.replace(/^([^,[]*)(?:\[([^\],-]*).*|,.*)?$/, '$1$2')

function numberOf(environment: Environment, name: string, least: number, most = Number.MAX_SAFE_INTEGER): number {
  const text = environment[name]
  const number = text?.trim() ? Number(text) : Number.NaN
  if (Number.isInteger(number) && number >= least && number <= most) return number
  throw new ConfigError('E_CONFIG', 'the environment does not number the ranks', {
    field: name,
    expected: most === Number.MAX_SAFE_INTEGER ? `an integer from ${least} on` : `an integer from ${least} to ${most}`,
    found: text ?? 'not set',
    remedy: 'start loram by torchrun, srun or mpirun, or set the variables as they do',
  })
}
