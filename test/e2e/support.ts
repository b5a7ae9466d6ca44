/** What every end-to-end file begins with: a world, the service in it, and whether this machine has what is needed. */
import { HostWorld, whyNoNamespaces } from '../support/rig/host-world';
import { whyNoGuest, type GuestKind } from '../support/rig/image';
import { scratchDirectory } from '../support/rig/paths';
import { Service } from '../support/rig/service';

/** A world and what runs in it, taken down as a whole. */
export interface Bench {
  readonly world: HostWorld;
  readonly scratch: string;
  readonly socketPath: string;
  /** The service that runs now; {@link restart} replaces it. */
  service: Service;
  readonly restart: () => Promise<void>;
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
 * `describe`, or `describe.skip` with the reason in its title where something is missing. In CI nothing may be missing:
 * there it throws, and the file fails.
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
