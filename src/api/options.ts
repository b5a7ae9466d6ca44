/** What `startBackend` takes: checked, and as words of a command line. */
import type { Forward, PolicyFile, Rates } from '../control/types';

export interface BackendOptions {
  /** Where the hypervisor connects. */
  readonly socket: string;
  /** Ports that are forwarded from the start. */
  readonly forwards?: readonly Forward[];
  /** Whom the guest may talk to, from the start (docs/policy.md). Default: everybody. */
  readonly policy?: PolicyFile;
  /** Limits from the start, bit/s. Default: none. */
  readonly rates?: Rates;
  /** More options, as on a command line: `['--no-map-gw']`. */
  readonly args?: readonly string[];
  /** The control socket's path. Default: one in a temporary directory that is removed at the end. */
  readonly control?: string;
  /** Gets each line of the service's log. Default: nobody does. */
  readonly onLog?: (line: string) => void;
  /** The program. Default: that of this package. */
  readonly program?: string;
}

/** The service has ended, or cannot start, and says why. */
export class BackendError extends Error {
  constructor(message: string) {
    super(message);
    this.name = 'BackendError';
  }
}

const isText = (value: unknown): boolean => typeof value === 'string' && value !== '';
const isObject = (value: unknown): value is Readonly<Record<string, unknown>> =>
  typeof value === 'object' && value !== null && !Array.isArray(value);
const isForward = (value: unknown): boolean =>
  isObject(value) && (value.protocol === 'tcp' || value.protocol === 'udp') && isText(value.spec);
const isRate = (value: unknown): boolean => typeof value === 'number' && Number.isSafeInteger(value) && value >= 0;

/** Of each option, whether a value can be one, and what is to be given. */
const CHECKS: Readonly<Record<keyof BackendOptions, readonly [fits: (value: unknown) => boolean, give: string]>> = {
  socket: [isText, 'a path'],
  forwards: [
    (value) => Array.isArray(value) && value.every(isForward),
    "a list like [{ protocol: 'tcp', spec: '8080:80' }]",
  ],
  policy: [isObject, "an object like { rules: [{ allow: 'github.com:443' }] }"],
  rates: [(value) => isObject(value) && isRate(value.in) && isRate(value.out), 'bit/s like { in: 50e6, out: 10e6 }'],
  args: [
    (value) => Array.isArray(value) && value.every((word) => typeof word === 'string'),
    "a list of words like ['--no-map-gw']",
  ],
  control: [isText, 'a path'],
  onLog: [(value) => typeof value === 'function', 'a function'],
  program: [isText, 'a path'],
};

/** Throws BackendError for the first thing that is wrong: an option that is not known would silently not hold. */
export function checkOptions(options: unknown): asserts options is BackendOptions {
  if (!isObject(options)) throw new BackendError("startBackend: give options like { socket: '/tmp/vm.sock' }");
  for (const name of Object.keys(options)) {
    if (!Object.hasOwn(CHECKS, name))
      throw new BackendError(
        `startBackend: ${name}: there is no such option, give ${Object.keys(CHECKS).join(', ')}; other options of the command line in args`,
      );
  }
  for (const [name, [fits, give]] of Object.entries(CHECKS)) {
    const value = options[name];
    if (value === undefined ? name === 'socket' : !fits(value))
      throw new BackendError(`startBackend: ${name}: give ${give}`);
  }
}

/** The words that say the same on a command line; the policy is in a file. */
export function wordsOf(
  { socket, forwards = [], rates, args = [] }: BackendOptions,
  policyFile: string | null,
): string[] {
  return [
    '--foreground',
    ...['--socket', socket],
    ...forwards.flatMap(({ protocol, spec }) => [protocol === 'tcp' ? '-t' : '-u', spec]),
    ...(policyFile === null ? [] : ['--policy', policyFile]),
    ...(rates === undefined ? [] : ['--rate-in', `${rates.in}`, '--rate-out', `${rates.out}`]),
    ...args,
  ];
}
