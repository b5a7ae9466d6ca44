/** What every end-to-end file begins with: a world, the service in it, and whether this machine has what is needed. */
import type { Guest } from '../support/world/guest';
import { HostWorld, whyNoNamespaces } from '../support/world/host-world';
import { whyNoGuest, type GuestKind } from '../support/world/image';
import { scratchDirectory } from '../support/world/paths';
import { Service } from '../support/world/service';

/** A world and what runs in it, taken down as a whole. */
export interface Bench {
  readonly world: HostWorld;
  readonly scratch: string;
  readonly socketPath: string;
  /** The service that runs now; {@link restart} replaces it. */
  service: Service;
  readonly restart: () => Promise<void>;
  /** The same with more arguments. */
  readonly restartWith: (more: readonly string[]) => Promise<void>;
  readonly destroy: () => Promise<void>;
}

export async function setUpBench(
  serviceArgs: readonly string[] = [],
  connect = false,
  env: Readonly<Record<string, string>> = {},
): Promise<Bench> {
  const scratch = scratchDirectory();
  const world = await HostWorld.create(scratch.path);
  const options = { world, socketPath: `${scratch.path}/vu.sock`, args: serviceArgs, connect, env };
  try {
    const bench: Bench = {
      world,
      scratch: scratch.path,
      socketPath: options.socketPath,
      service: await Service.start(options),
      restart: async () => {
        bench.service = await Service.start(options);
      },
      restartWith: async (more) => {
        bench.service = await Service.start({ ...options, args: [...serviceArgs, ...more] });
      },
      destroy: async () => {
        await bench.service.stop('SIGKILL');
        await world.destroy();
        scratch.remove();
      },
    };
    return bench;
  } catch (error) {
    await world.destroy();
    scratch.remove();
    throw error;
  }
}

/**
 * `describe`, or `describe.skip` with the reason in its title where something is missing. In CI nothing may be missing: there it
 * throws, and the file fails.
 */
export function describeWith(title: string, missing: string | null, body: () => void): void {
  if (missing === null) {
    describe(title, body);
  } else if (process.env.CI === 'true') {
    throw new Error(`${title}: ${missing}, and in CI nothing is skipped`);
  } else {
    describe.skip(`${title} [${missing}]`, body);
  }
}

export function whyNotGuest(kind: GuestKind): string | null {
  return whyNoNamespaces() ?? whyNoGuest(kind);
}

/** What tests of a guest work with. */
export interface Booted {
  readonly bench: Bench;
  readonly guest: Guest;
}

/**
 * For the body of a `describe`: before its tests a bench is set up, a guest is booted on it, and `prepare` makes of both
 * what the tests work with, which `stage` returns; after them guest and bench are taken down, however far that came.
 */
export function withGuest<S extends Booted>(
  setUp: () => Promise<Bench>,
  boot: (bench: Bench) => Promise<Guest>,
  prepare: (bench: Bench, guest: Guest) => Promise<S>,
): { stage: () => S; test: (title: string, body: () => Promise<void>) => void } {
  let bench: Bench | undefined;
  let guest: Guest | undefined;
  let made: S | undefined;
  const stage = (): S => {
    if (made === undefined) throw new Error('the guest did not boot');
    return made;
  };

  beforeAll(async () => {
    bench = await setUp();
    guest = await boot(bench);
    made = await prepare(bench, guest);
  });

  afterAll(async () => {
    await guest?.powerOff();
    await bench?.destroy();
  });

  const test = itShowing(
    () => stage().bench,
    () => guest?.process.tail(40) ?? '',
  );
  return { stage, test };
}

/** A test that shows the guest's console and the service's log when it fails. */
export function itShowing(bench: () => Bench, consoleTail: () => string) {
  return (title: string, body: () => Promise<void>): void => {
    it(title, async () => {
      try {
        await body();
      } catch (error) {
        const log = bench().service.process.tail(30);
        if (error instanceof Error) error.message += `\n--- console\n${consoleTail()}\n--- service\n${log}`;
        throw error;
      }
    });
  };
}
