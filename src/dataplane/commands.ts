/** Messages between control plane and data plane through the worker's message port. */
import type { DeviceMemoryRegion, DeviceRing, DirtyLog } from '../vhost/device';
import type { StreamEnd } from '../stream/device';
import type { SandboxMode } from '../sandbox/layer';
import type { ForwardListener, StackConfig } from '../stack/config';

/** How the guest's frames come: by virtqueues in its memory, or by a socket with QEMU's stream protocol. */
export type LinkKind = 'vhost-user' | 'stream';

/** What is done about notifications to and from the guest beyond the protocol itself (moderation/moderation.ts). */
export const MODERATION_LEVELS = ['off', 'standard', 'adaptive'] as const;
export type ModerationLevel = (typeof MODERATION_LEVELS)[number];

/**
 * `workerData` of a worker. It boots while the control plane still reads the host, and waits for `gate[0]` to become 1:
 * by then its `WorkerSetup` is the first message of its port.
 */
export interface WorkerGate {
  readonly gate: Int32Array;
}

/** The first message to a worker. */
export interface WorkerSetup {
  /** Number of the worker, by which the watchdog knows it. */
  readonly id: number;
  readonly link: LinkKind;
  readonly config: StackConfig;
  readonly listeners: readonly ForwardListener[];
  readonly counters: SharedArrayBuffer;
  /** File that takes a record for every frame; -1: none. */
  readonly captureFd: number;
  /** A line in the log for every frame: `traced[0]` counts those that are there (LineQueue). Null: none. */
  readonly traced: Int32Array | null;
  /** `logged[0]` counts the other lines of the worker's that are in the log (LineQueue). */
  readonly logged: Int32Array;
  /** How long to look for work before sleeping, at most, in µs. With virtqueues only. */
  readonly pollUs: number;
  /** With virtqueues only. */
  readonly moderation: ModerationLevel;
  /** eventfd that the control plane signals after it has posted a command. */
  readonly wakeFd: number;
  /** What the thread does before it serves; null: it is told later (`confine`). */
  readonly sandbox: SandboxMode | null;
}

export type Command =
  | { readonly kind: 'features'; readonly features: bigint }
  | { readonly kind: 'memory'; readonly regions: readonly DeviceMemoryRegion[] }
  | { readonly kind: 'startRing'; readonly ring: DeviceRing }
  | { readonly kind: 'stopRing'; readonly index: number }
  | { readonly kind: 'enable'; readonly index: number; readonly enabled: boolean }
  | { readonly kind: 'call'; readonly index: number; readonly fd: number }
  | { readonly kind: 'kick'; readonly index: number; readonly fd: number }
  | { readonly kind: 'logRing'; readonly index: number; readonly logAddr: number }
  | { readonly kind: 'log'; readonly log: DirtyLog | null }
  /** A stream client's connected socket, which the control plane owns: open until `streamClose` or `streamEnded`. */
  | { readonly kind: 'streamOpen'; readonly fd: number }
  | { readonly kind: 'streamClose' }
  /** Answered with 1 if the stream client is still there, else 0, after `streamEnded`. */
  | { readonly kind: 'streamProbe' }
  /** The host's network changed: the stack's new configuration. */
  | { readonly kind: 'config'; readonly config: StackConfig }
  /** The host's addresses or routes changed, but nothing that concerns the guest's configuration. */
  | { readonly kind: 'moved' }
  /** The host's neighbours, all of them: NEIGHBOUR_WORDS int32 each (src/stack/link/neighbours.ts). */
  | { readonly kind: 'neighbours'; readonly entries: Int32Array }
  /** NET_SET_MTU of the front-end; 0: it left. */
  | { readonly kind: 'mtu'; readonly mtu: number }
  /** The start is over: system calls that only it needed go (src/sandbox). Answered with 0 if they are gone. */
  | { readonly kind: 'confine'; readonly mode: SandboxMode }
  | { readonly kind: 'reset' }
  | { readonly kind: 'stop' };

export interface CommandMessage {
  readonly seq: number;
  readonly command: Command;
}

/** Worker to control plane. `done` answers one command; the others are events. */
export type WorkerMessage =
  | { readonly kind: 'ready' }
  | { readonly kind: 'done'; readonly seq: number; readonly value: number }
  | { readonly kind: 'fault'; readonly index: number; readonly reason: string }
  /** The stream's socket is not used any more. */
  | { readonly kind: 'streamEnded'; readonly end: StreamEnd }
  /** Lines of `trace`, one a frame. `leftOut`: how many before them were dropped because the log was too slow. */
  | { readonly kind: 'trace'; readonly lines: readonly string[]; readonly leftOut: number }
  | {
      readonly kind: 'log';
      readonly level: 'debug' | 'info' | 'warn';
      readonly message: string;
      readonly leftOut: number;
    };

/*
 * How many messages of a worker can wait while the control plane is busy: one `done` a command, and one `fault` a
 * started ring, one `streamEnded` an opened stream, both of which only a command brings about; MAX_WAITING_LOG lines of
 * `log` and MAX_WAITING_TRACE of `trace`. So neither guest nor front-end can make them pile up.
 */

/** `base` of a ring that a new data plane takes over: the used index in guest memory says how far the old one came. */
export const BASE_FROM_USED_INDEX = -1;

/** Answers to `confine`. */
export const CONFINED = 0;
export const NOT_CONFINED = 1;
