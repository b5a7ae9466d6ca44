/** What the data plane is given, and by whom it is heard. */
import type { AddressNews, Command, LinkKind, ModerationLevel } from '../dataplane/commands';
import type { BypassSetup, FileAnswer, FileRequest, ForwardListener, LinkRates, StackConfig } from '../stack/config';
import { C_DATA_PLANE_EXITS, C_DATA_PLANE_HANGS, C_DATA_PLANE_HEAPS } from '../stack/counters';
import { NO_REACH, type PolicySetup } from '../stack/policy/types';
import type { WorkerEnd } from './worker-handle';

/** What a look at flows is to show. */
export type Look = Omit<Extract<Command, { kind: 'flows' }>, 'kind' | 'into'>;

/** The reader of the rings that data planes write ends of flows to (stack/kit/flow-ends.ts). */
export interface FlowEndsReader {
  /** A ring for worker number `worker`, which begins: each has one of its own. */
  open(worker: number): SharedArrayBuffer;
  /** There are rows in the latest ring. */
  filled(): void;
  /** The worker that had it is gone, and with it this many flows. */
  lost(flows: number): void;
}

/** Parameters of a worker, sent before it begins. */
export interface DataPlaneSetup {
  readonly config: StackConfig;
  /** Default: everything passes the link. */
  readonly bypass?: BypassSetup | null;
  readonly listeners: readonly ForwardListener[];
  /** How many may be added later, of each protocol. Default: none. */
  readonly moreListeners?: number;
  /** COUNTERS Float64 elements. */
  readonly counters: SharedArrayBuffer;
  /** File with a capture's header, which takes a record for every frame; it stays the caller's. Default: none. */
  readonly captureFd?: number;
  /** Default: the guest may talk to everybody. */
  readonly policy?: PolicySetup;
  /** Default: no limits. */
  readonly rates?: LinkRates;
  /** A line in the log, at its level `trace`, for every frame. Default: no. */
  readonly trace?: boolean;
  /** Takes the ends of flows for the flow log. Default: there is none. */
  readonly flowEnds?: FlowEndsReader;
  /** Hears by which name the guest has found an address (four words). Default: nobody does. */
  readonly onName?: (name: string, address: Int32Array) => void;
  /** Hears which addresses the guest uses. Default: nobody does. */
  readonly onAddress?: (news: AddressNews) => void;
  /** How long to look for work before sleeping, at most, in µs. Default: not at all. With virtqueues only. */
  readonly pollUs?: number;
  /** Default: adaptive. With virtqueues only. */
  readonly moderation?: ModerationLevel;
}

export interface DataPlaneOptions {
  /** Default: vhost-user. */
  readonly link?: LinkKind;
  /** With a `site` where a front-end or guest may provoke the line: it is limited then (src/log.ts). */
  readonly log: (level: 'trace' | 'debug' | 'info' | 'warn' | 'error', message: string, site?: string) => void;
  /** Another worker takes the place of one that has died. */
  readonly onReplaced?: () => void;
  /** Called once if the data plane cannot be kept alive. */
  readonly onFatal?: (error: Error) => void;
  /** Reads a piece of a file for the guest; never rejects. Default: it gets none. */
  readonly readFile?: (request: FileRequest) => Promise<FileAnswer>;
  /** The worker's script; another one in tests. */
  readonly workerFile?: string;
}

/** Commands that have nothing to do with the front-end. */
export const OF_HOST: ReadonlySet<Command['kind']> = new Set([
  'config',
  'policy',
  'rates',
  'forward',
  'bypass',
  'neighbours',
  'confine',
  'flows',
  'closeFlow',
  'file',
  'captureStart',
  'captureStop',
] as const);

/** The guest may talk to everybody. */
export const NO_POLICY: PolicySetup = { policy: null, reach: NO_REACH, verdicts: new SharedArrayBuffer(0) };

/** Counters of workers that died. */
export const RESTARTS: Readonly<Record<WorkerEnd, number>> = {
  exit: C_DATA_PLANE_EXITS,
  hung: C_DATA_PLANE_HANGS,
  heap: C_DATA_PLANE_HEAPS,
};

/** The same for people. */
export const DEATHS: Readonly<Record<WorkerEnd, string>> = {
  exit: 'data plane failed',
  hung: 'data plane hangs',
  heap: 'data plane is out of memory',
};
