/**
 * Set-up of every test of the project `unit`: with `PROPERTY_TIMES=n` each property of fast-check runs n times as often,
 * or n times as long where it is limited by time. Properties are synchronous, so that jest's time limits do not end them.
 */
/** What is changed of fast-check's parameters. */
interface Limits {
  readonly numRuns?: number;
  readonly interruptAfterTimeLimit?: number;
}

interface FastCheck {
  readonly assert: (property: unknown, parameters?: Limits) => unknown;
}

const times = Number(process.env.PROPERTY_TIMES ?? 1);
/** fast-check's own. */
const DEFAULT_RUNS = 100;

if (times !== 1) {
  jest.mock('fast-check', () => {
    const { default: fc } = jest.requireActual<{ default: FastCheck }>('fast-check');
    const assert: FastCheck['assert'] = (property, parameters = {}) => {
      const { numRuns = DEFAULT_RUNS, interruptAfterTimeLimit: ms } = parameters;
      const limit = ms === undefined ? {} : { interruptAfterTimeLimit: ms * times };
      return fc.assert(property, { ...parameters, ...limit, numRuns: numRuns * times });
    };
    const longer = { ...fc, assert };
    return { __esModule: true, ...longer, default: longer };
  });
}
