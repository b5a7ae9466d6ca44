/**
 * QEMU as a guest, emulating (TCG) unless told otherwise: no KVM is needed. `vectors=0` (no MSI-X) is for TCG on QEMU 7.2,
 * which dies in its own vector notifiers otherwise, whatever the back-end.
 */
import { createConnection, type Socket } from 'node:net';
import { join } from 'node:path';
import { Guest } from './guest';
import { guestImage, type GuestImage } from './image';
import { ManagedProcess, dieWithParent, poll } from './processes';

export type Accelerator = 'tcg' | 'kvm';

export interface QemuOptions {
  /** Default: tcg. */
  readonly accel?: Accelerator;
  readonly socketPath: string;
  readonly scratch: string;
  readonly memoryMiB?: number;
  /** False: the memory's file is private to QEMU (`share=off`), so that the back-end sees nothing of what the guest writes. */
  readonly sharedMemory?: boolean;
  /** Another kernel or initramfs than the tests' own. */
  readonly image?: GuestImage;
  /** QEMU's own user-mode stack instead of a vhost-user back-end; run it where it shall find the network. */
  readonly userNetwork?: { readonly run: (argv: readonly string[]) => string[] };
  /** Seconds between attempts to reach a back-end that went away; absent: the link stays down. */
  readonly reconnectSeconds?: number;
  /** QEMU listens and waits for the back-end (`server=on`). */
  readonly listen?: boolean;
  /** Frames over a stream socket (`-netdev stream`) and not vhost-user. */
  readonly stream?: boolean;
  /** A connected socket of ours that QEMU inherits (`-netdev socket,fd=`), with the same framing as `stream`. */
  readonly fd?: number;
  /** More properties of virtio-net-pci, e.g. `mrg_rxbuf=off`. */
  readonly deviceProperties?: readonly string[];
  readonly cpus?: number;
  readonly kernelArguments?: readonly string[];
  readonly extraArguments?: readonly string[];
  readonly macAddress?: string;
  readonly bootTimeoutMs?: number;
}

export class QemuGuest extends Guest {
  readonly qmp: Qmp;

  constructor(process: ManagedProcess, qmp: Qmp) {
    super('qemu', process);
    this.qmp = qmp;
  }

  override reset(): Promise<void> {
    return this.restart(() => {
      this.qmp.execute('system_reset').catch(() => undefined);
    });
  }
}

let instances = 0;

/** The network's options: its back-end is called n0. */
function netdev(options: QemuOptions): string[] {
  const { socketPath, listen } = options;
  if (options.userNetwork !== undefined) {
    // libslirp's own prefix is site-local: not of global scope, and nothing that a guest should still use (RFC 3879).
    return ['-netdev', 'user,id=n0,ipv6-prefix=fd00:6e65:7400::,ipv6-prefixlen=64'];
  }
  if (options.fd !== undefined) return ['-netdev', 'socket,id=n0,fd=3'];
  if (options.stream === true) {
    const server = listen === true ? 'on' : 'off';
    return ['-netdev', `stream,id=n0,server=${server},addr.type=unix,addr.path=${socketPath}`];
  }
  const reconnect = options.reconnectSeconds === undefined ? '' : `,reconnect=${String(options.reconnectSeconds)}`;
  return [
    ...['-chardev', `socket,id=c0,path=${socketPath}${listen === true ? ',server=on' : reconnect}`],
    ...['-netdev', 'vhost-user,id=n0,chardev=c0'],
  ];
}

/** Boots and waits for the shell. @throws Error with the console's tail. */
export async function bootQemu(options: QemuOptions): Promise<QemuGuest> {
  const { kernel, initrd } = options.image ?? guestImage('qemu');
  const memory = `${String(options.memoryMiB ?? 1024)}M`;
  const share = options.sharedMemory === false ? 'off' : 'on';
  const kvm = options.accel === 'kvm';
  const qmpPath = join(options.scratch, `qmp${String(++instances)}`);
  const device = [
    'virtio-net-pci',
    'netdev=n0',
    `mac=${options.macAddress ?? '52:54:00:12:34:56'}`,
    ...(kvm ? [] : ['vectors=0']),
    'romfile=',
    ...(options.deviceProperties ?? []),
  ];
  const argv = [
    'qemu-system-x86_64',
    ...['-nodefaults', '-no-user-config', '-display', 'none'],
    ...[
      '-M',
      'q35',
      '-accel',
      kvm ? 'kvm' : 'tcg,thread=multi',
      '-cpu',
      kvm ? 'host' : 'max',
      '-m',
      memory,
      '-smp',
      String(options.cpus ?? 1),
    ],
    ...['-object', `memory-backend-memfd,id=mem,size=${memory},share=${share}`, '-numa', 'node,memdev=mem'],
    ...netdev(options),
    ...['-device', device.join(',')],
    ...['-chardev', 'stdio,id=console,signal=off', '-serial', 'chardev:console'],
    ...['-qmp', `unix:${qmpPath},server=on,wait=off`],
    ...['-kernel', kernel, '-initrd', initrd],
    '-append',
    ['console=ttyS0 quiet loglevel=3 panic=-1', ...(options.kernelArguments ?? [])].join(' '),
    ...(options.extraArguments ?? []),
  ];
  const fds = options.fd === undefined ? [] : [options.fd];
  const managed = new ManagedProcess('qemu', (options.userNetwork?.run ?? dieWithParent)(argv), { fds });
  try {
    const guest = new QemuGuest(managed, await Qmp.connect(qmpPath));
    await guest.ready(options.bootTimeoutMs);
    return guest;
  } catch (error) {
    await managed.stop('SIGKILL');
    throw error;
  }
}

interface QmpMessage {
  readonly QMP?: unknown;
  readonly return?: unknown;
  readonly error?: { readonly desc: string };
  readonly event?: string;
  readonly data?: unknown;
}

/** QEMU's machine protocol: one JSON object a line (docs/interop/qmp-spec). */
export class Qmp {
  private readonly socket: Socket;
  private waiting: ((message: QmpMessage) => void)[] = [];
  /** Events in the order they came. */
  readonly events: QmpMessage[] = [];

  private constructor(socket: Socket) {
    this.socket = socket;
    let partial = '';
    socket.setEncoding('utf8');
    socket.on('error', () => undefined);
    socket.on('data', (text: string) => {
      const lines = (partial + text).split('\n');
      partial = lines.pop() ?? '';
      for (const line of lines) this.take(JSON.parse(line) as QmpMessage);
    });
    socket.on('close', () => {
      for (const settle of this.waiting.splice(0)) settle({ error: { desc: 'QEMU closed the monitor' } });
    });
    socket.unref();
  }

  static async connect(path: string, timeoutMs = 10_000): Promise<Qmp> {
    const socket = await poll('the QMP socket', () => tryConnect(path), timeoutMs);
    const qmp = new Qmp(socket);
    await qmp.execute('qmp_capabilities');
    return qmp;
  }

  /** Runs a command. @throws Error with QEMU's description of what went wrong. */
  async execute(name: string, args: Readonly<Record<string, unknown>> = {}): Promise<unknown> {
    const answer = new Promise<QmpMessage>((settle) => this.waiting.push(settle));
    this.socket.write(`${JSON.stringify({ execute: name, arguments: args })}\n`);
    const message = await answer;
    if (message.error !== undefined) throw new Error(`QMP ${name}: ${message.error.desc}`);
    return message.return;
  }

  private take(message: QmpMessage): void {
    if (message.QMP !== undefined) return;
    if (message.event !== undefined) this.events.push(message);
    else this.waiting.shift()?.(message);
  }
}

/** A connected socket, or null when nobody answers there yet. */
function tryConnect(path: string): Promise<Socket | null> {
  return new Promise((settle) => {
    const socket = createConnection(path);
    socket.once('connect', () => {
      settle(socket);
    });
    socket.once('error', () => {
      settle(null);
    });
  });
}
