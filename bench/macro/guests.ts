/** Guests of the bench: booted on a back-end or on QEMU's own stack, with their network up. */
import type { Guest } from '../../test/support/world/guest';
import { bootQemu } from '../../test/support/world/qemu';
import { bootUml } from '../../test/support/world/uml';
import type { Family } from './cases';
import type { Lab } from './lab';
import type { RunOptions } from './options';

const BOOT_TIMEOUT_MS = 60_000;
const SETUP_TIMEOUT_MS = 60_000;

/** `socketPath`: the back-end's; null: QEMU's own stack. @throws Error with the console's tail. */
export async function bootGuest(run: RunOptions, lab: Lab, socketPath: string | null): Promise<Guest> {
  const { scratch, image } = lab;
  if (image === null) throw new Error(`--guest ${run.guest} boots nothing`);
  const common = { scratch, image, bootTimeoutMs: BOOT_TIMEOUT_MS };
  if (socketPath !== null && run.guest === 'uml') return bootUml({ ...common, socketPath });
  if (socketPath !== null) return bootQemu({ ...common, socketPath });
  const userNetwork = { run: (argv: readonly string[]) => lab.world.inHost(argv) };
  return bootQemu({ ...common, socketPath: '', userNetwork });
}

/** Addresses by DHCP and router advertisements. @returns the families that work, with the reason for each that does not */
export async function bringUp(guest: Guest, families: readonly Family[]): Promise<Map<Family, string | null>> {
  const states = new Map<Family, string | null>();
  for (const family of families) {
    const { status, output } = await guest.run(`net-up ${String(family)}`, { timeoutMs: SETUP_TIMEOUT_MS });
    states.set(family, status === 0 ? null : `no IPv${String(family)} in the guest: ${output}`);
  }
  return states;
}
