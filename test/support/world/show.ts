/** The demonstration with a Linux guest (scripts/demo.mjs): what it got, how far it can ping, what it can carry. */
import type { Guest } from './guest';
import { GATEWAY_4, HOST_ADDRESS_4, HOST_NETWORK_6, HostWorld, REMOTE_ADDRESS_4, REMOTE_ADDRESS_6 } from './host-world';
import type { GuestKind } from './image';
import { scratchDirectory } from './paths';
import { bootQemu } from './qemu';
import { Service } from './service';
import { bootUml } from './uml';

export interface Row {
  readonly what: string;
  readonly seen: string;
  readonly ok: boolean;
}

export interface ShowOptions {
  /** How much to send each way. */
  readonly bytes: number;
  readonly progress: (line: string) => void;
}

const TRANSFER_TIMEOUT_MS = 600_000;

/** @throws Error, from the returned function, when the guest or the service does not start. */
export function showLinux(kind: GuestKind): (options: ShowOptions) => Promise<Row[]> {
  return async (options) => {
    const scratch = scratchDirectory();
    process.on('exit', scratch.remove);
    const undo: (() => unknown)[] = [scratch.remove];
    try {
      options.progress('a network namespace for the service, another for the world beyond its gateway');
      const world = await HostWorld.create(scratch.path);
      undo.push(() => world.destroy());
      const socketPath = `${scratch.path}/vu.sock`;
      options.progress(`tubetti --socket ${socketPath}`);
      const service = await Service.start({ world, socketPath });
      undo.push(() => service.stop());
      options.progress(kind === 'uml' ? 'booting User Mode Linux' : 'booting Linux in QEMU (emulated, no KVM)');
      const place = { socketPath, scratch: scratch.path };
      const guest = kind === 'uml' ? await bootUml(place) : await bootQemu(place);
      undo.push(() => guest.powerOff());
      return await look(guest, world, options);
    } finally {
      for (const step of undo.reverse()) await step();
      process.off('exit', scratch.remove);
    }
  };
}

async function look(guest: Guest, world: HostWorld, { bytes, progress }: ShowOptions): Promise<Row[]> {
  const rows: Row[] = [];
  const kernel = await guest.sh('uname -sr');
  rows.push({ what: 'guest', seen: kernel.trim(), ok: true });

  progress('DHCP and SLAAC');
  const lease = await guest.result('net-up 4', 'dhcp', { timeoutMs: 60_000 });
  const same = lease.ip === HOST_ADDRESS_4;
  rows.push({
    what: 'IPv4 address (DHCP)',
    seen: `${lease.ip}/${lease.prefix}, ${same ? "the host's own" : `not the host's ${HOST_ADDRESS_4}`}; MTU ${lease.mtu}`,
    ok: same,
  });
  rows.push({ what: 'router', seen: lease.router, ok: lease.router === GATEWAY_4 });
  const slaac = await guest.result('net-up 6', 'slaac', { timeoutMs: 60_000 });
  rows.push({ what: 'IPv6 address (SLAAC)', seen: slaac.ip, ok: slaac.ip.startsWith(HOST_NETWORK_6) });

  progress('ping');
  for (const [what, address] of [
    ['ping the gateway', GATEWAY_4],
    ['ping beyond it', REMOTE_ADDRESS_4],
    ['ping beyond it, IPv6', REMOTE_ADDRESS_6],
  ]) {
    const { output } = await guest.run(`ping -c 3 -W 3 ${address}`);
    const received = /(\d+) packets received/.exec(output)?.[1] ?? '0';
    const average = /= [\d.]+\/([\d.]+)\//.exec(output)?.[1] ?? '–';
    rows.push({ what, seen: `${received} of 3 answers, ${average} ms`, ok: received === '3' });
  }

  const size = `${bytes >> 20} MiB`;
  // Memory the guest uses for the first time has to be found by the host, page by page: the first transfer would show
  // how fast that goes.
  progress("touching the guest's memory");
  await guest.sh(`dd if=/dev/zero of=/tmp/blob bs=1M count=${String(bytes >> 20)} 2>&1`, {
    timeoutMs: TRANSFER_TIMEOUT_MS,
  });

  const { sha256 } = await world.remote.call('setBlob', { bytes, seed: Date.now() | 0 });
  for (const [family, address] of [
    ['IPv4', REMOTE_ADDRESS_4],
    ['IPv6', REMOTE_ADDRESS_6],
  ]) {
    progress(`${size} down, ${family}`);
    const { blob, sink } = world.remote.ports;
    const down = await guest.result(
      `up() { cut -d ' ' -f 1 /proc/uptime; }
      begin=$(up); guest-net tcp-receive ${address} ${blob} >/tmp/blob || exit 1; end=$(up)
      echo "RESULT down begin=$begin end=$end sha256=$(sha256sum </tmp/blob | cut -c 1-64)"`,
      'down',
      { timeoutMs: TRANSFER_TIMEOUT_MS },
    );
    const seconds = Number(down.end) - Number(down.begin);
    rows.push(transferRow(`${size} down, ${family}`, bytes, seconds, down.sha256 === sha256));

    progress(`${size} up, ${family}`);
    await guest.sh(`guest-net tcp-send ${address} ${sink} </tmp/blob`, { timeoutMs: TRANSFER_TIMEOUT_MS });
    const up = await world.remote.call('lastSink', {});
    rows.push(transferRow(`${size} up, ${family}`, bytes, (up?.milliseconds ?? 0) / 1000, up?.sha256 === sha256));
  }
  return rows;
}

export function transferRow(what: string, bytes: number, seconds: number, ok: boolean): Row {
  const rate = (bytes / 1e6 / Math.max(seconds, 0.001)).toFixed(0);
  return { what, seen: `${rate} MB/s, sha256 ${ok ? 'matches' : 'DIFFERS'}`, ok };
}
