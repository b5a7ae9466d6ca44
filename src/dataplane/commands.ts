/** Messages between control plane and data plane through the worker's message port. */
import type { DeviceMemoryRegion, DeviceRing, DirtyLog } from '../vhost/device';
import type { StreamEnd } from '../stream/device';
import type {
  Adoption,
  BypassSetup,
  FileAnswer,
  FileRequest,
  ForwardChange,
  ForwardListener,
  StackConfig,
} from '../stack/config';
import type { Look } from '../stack/kit/flow-rows';
import type { LinkRates } from '../stack/config';
import type { PolicySetup } from '../stack/policy/types';

/**
 * How the guest's frames come: by virtqueues in its memory, by a socket with QEMU's stream protocol, or by a tap device in a
 * namespace.
 */
export type LinkKind = 'vhost-user' | 'stream' | 'tap';

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
  /** Null: everything passes the link. */
  readonly bypass: BypassSetup | null;
  readonly listeners: readonly ForwardListener[];
  /** How many listeners there may be besides, at most, of each protocol. */
  readonly moreListeners: number;
  readonly counters: SharedArrayBuffer;
  /** File that takes a record for every frame; -1: none. */
  readonly captureFd: number;
  /** A line in the log for every frame: `traced[0]` counts those that are there (LineQueue). Null: none. */
  readonly traced: Int32Array | null;
  /** Ring that takes the ends of flows (stack/kit/flow-ends.ts); null: there is no flow log. */
  readonly ends: SharedArrayBuffer | null;
  /** `logged[0]` counts the other lines of the worker's that are in the log (LineQueue). */
  readonly logged: Int32Array;
  /** `named[0]` counts the names that the control plane has taken note of (LineQueue); null: it wants none. */
  readonly named: Int32Array | null;
  /** `addressed[0]` counts the addresses of the guest's that the control plane has taken note of; null: it wants none. */
  readonly addressed: Int32Array | null;
  /** How long to look for work before sleeping, at most, in µs. With virtqueues only. */
  readonly pollUs: number;
  /** With virtqueues only. */
  readonly moderation: ModerationLevel;
  /** eventfd that the control plane signals after it has posted a command. */
  readonly wakeFd: number;
  /** Whom the guest may talk to. */
  readonly policy: PolicySetup;
  readonly rates: LinkRates;
  /** The filter that the thread gives itself before it serves; null: it is told later (`confine`). */
  readonly filter: Int32Array | null;
}

/** What is counted of a capture, in an array of CAPTURE_COUNTS Float64: frames and bytes written, frames left out. */
export const CAPTURE_FRAMES = 0;
export const CAPTURE_BYTES = 1;
export const CAPTURE_LEFT_OUT = 2;
export const CAPTURE_COUNTS = 3;

/** A capture that begins while the data plane runs. */
export interface CaptureStart {
  /** Above 0; no two captures have one. */
  readonly id: number;
  /** A socket, without waiting; the control plane owns it: open until `captureStop` is answered with 1. */
  readonly fd: number;
  /** Bytes that are kept of a frame. */
  readonly snap: number;
  /** Frames, and bytes of the file, after which it is done; null: no limit. */
  readonly frames: number | null;
  readonly bytes: number | null;
  /** What is written first: the answer's and the file's headers. */
  readonly head: Uint8Array;
  /** What is counted of it: CAPTURE_COUNTS Float64 elements. */
  readonly counts: SharedArrayBuffer;
}

/** Why a capture is over: a limit was reached or it was told to stop, its client left, or it cannot be written. */
export type CaptureEnd = 'done' | 'left' | 'failed';

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
  /**
   * The namespace's tap device, which the control plane owns: open until `stop` or `streamEnded`. `offloads`: TUN_F_*, or
   * -1 without virtio_net_hdr.
   */
  | { readonly kind: 'tapOpen'; readonly fd: number; readonly offloads: number }
  | { readonly kind: 'streamClose' }
  /** Answered with 1 if the stream client is still there, else 0, after `streamEnded`. */
  | { readonly kind: 'streamProbe' }
  /** The host's network changed: the stack's new configuration. */
  | { readonly kind: 'config'; readonly config: StackConfig }
  /** Whom the guest may talk to from now on. */
  | { readonly kind: 'policy'; readonly setup: PolicySetup }
  /** How much may pass from now on. */
  | { readonly kind: 'rates'; readonly rates: LinkRates }
  /** Forwarded ports that come and go. */
  | { readonly kind: 'forward'; readonly change: ForwardChange }
  /** The socket to who makes sockets in the namespace, which the control plane owns. */
  | { readonly kind: 'bypass'; readonly fd: number }
  /** Answered with 1 if it was taken, else 0. */
  | { readonly kind: 'adopt'; readonly adoption: Adoption }
  /** The host's addresses or routes changed, but nothing that concerns the guest's configuration. */
  | { readonly kind: 'moved' }
  /** The host's neighbours, all of them: NEIGHBOUR_WORDS int32 each (src/stack/link/neighbours.ts). */
  | { readonly kind: 'neighbours'; readonly entries: Int32Array }
  /** NET_SET_MTU of the front-end; 0: it left. */
  | { readonly kind: 'mtu'; readonly mtu: number }
  /** The start is over: system calls that only it needed go (src/sandbox). Answered with 0 if they are gone. */
  | { readonly kind: 'confine'; readonly program: Int32Array }
  /** Somebody looks: what is known of the guest goes to `out`, which is shared (src/stack/link/seen.ts). */
  | { readonly kind: 'describeGuest'; readonly out: Int32Array }
  /**
   * Describes flows in `into` (`lookAt` of stack/kit/flow-rows.ts). Answered with where the next look begins, LOOK_END, or,
   * for a worker that died of whatever, LOOK_GONE.
   */
  | ({ readonly kind: 'flows'; readonly into: SharedArrayBuffer } & Look)
  /** Closes one: `protocol` is a FLOW_… Answered with 1 if it was there, else 0. */
  | { readonly kind: 'closeFlow'; readonly protocol: number; readonly slot: number; readonly generation: number }
  /** A capture of the guest's frames begins. Answered with 1 if it does, else 0. */
  | ({ readonly kind: 'captureStart' } & CaptureStart)
  /**
   * One ends: it takes no more frames, and `captureEnded` follows when all it has is written; `now`: it is over. Answered with 1 if
   * its descriptor is not used any more, else 0.
   */
  | { readonly kind: 'captureStop'; readonly id: number; readonly now: boolean }
  /** A piece of a file that the data plane asked for (`file`). */
  | { readonly kind: 'file'; readonly answer: FileAnswer }
  | { readonly kind: 'reset' }
  | { readonly kind: 'stop' };

export interface CommandMessage {
  readonly seq: number;
  readonly command: Command;
}

/** An address of the guest's, as it was learnt. */
export interface AddressNews {
  /** HOW_… of stack/link/stations.ts. */
  readonly how: number;
  /** Four words, IPv4 as v4-mapped. */
  readonly address: Int32Array;
  /** High 16 and low 32 bits of the Ethernet address that has it. */
  readonly mac: readonly [number, number];
  /** How many before this one were not told. */
  readonly leftOut: number;
}

/** Worker to control plane. `done` answers one command; the others are events. */
export type WorkerMessage =
  | { readonly kind: 'ready' }
  /** The ring of `ends` has rows, and had none. */
  | { readonly kind: 'ended' }
  | { readonly kind: 'done'; readonly seq: number; readonly value: number }
  | { readonly kind: 'fault'; readonly index: number; readonly reason: string }
  /** The guest's firmware wants a piece of a file: one at a time for each transfer. Answered by a command. */
  | { readonly kind: 'file'; readonly request: FileRequest }
  /** The stream's socket, or the tap device, is not used any more. */
  | { readonly kind: 'streamEnded'; readonly end: StreamEnd }
  /** The guest has found the address (four words) by this name. */
  | { readonly kind: 'name'; readonly name: string; readonly address: Int32Array }
  /** A capture is over; `captureStop` lets go of its descriptor. */
  | { readonly kind: 'captureEnded'; readonly id: number; readonly end: CaptureEnd }
  /** The guest uses this address. */
  | { readonly kind: 'address'; readonly news: AddressNews }
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
 * started ring, one `streamEnded` an opened stream, one `captureEnded` a capture, all of which only a command brings about; MAX_WAITING_LOG lines of
 * `log`, MAX_WAITING_TRACE of `trace` and MAX_WAITING_NAMES of `name`; one `ended` until the ring was emptied. So neither
 * guest nor front-end can make them pile up.
 */

/** `base` of a ring that a new data plane takes over: the used index in guest memory says how far the old one came. */
export const BASE_FROM_USED_INDEX = -1;

/** Answer to `flows` in place of a worker that is gone. */
export const LOOK_GONE = -2;

/** Answers to `confine`. */
export const CONFINED = 0;
export const NOT_CONFINED = 1;
