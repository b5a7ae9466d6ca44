/** What the command line asks of a namespace. */
import type { PortRule } from '../config/port-spec';

/** The namespace: new ones for a command, those of a process, or one that a path names. */
export type NamespaceTarget =
  /** `first`: where the command begins among the arguments; null: a shell. */
  | { readonly kind: 'command'; readonly first: number | null; readonly name: string }
  | { readonly kind: 'process'; readonly pid: number }
  | { readonly kind: 'path'; readonly path: string };

/** One `-T` or `-U`, or their default. */
export interface OutwardRequest {
  readonly protocol: 'tcp' | 'udp';
  /** As it was given. */
  readonly spec: string;
  readonly rules: readonly PortRule[];
  /** The ports are forwarded while something listens on them on the host. */
  readonly auto: boolean;
}

export interface NamespaceRequest {
  readonly target: NamespaceTarget;
  /** `--userns`; null: the process's, or none with a path. */
  readonly userns: string | null;
  readonly netnsOnly: boolean;
  readonly pidns: boolean;
  readonly quit: boolean;
  readonly configNet: boolean;
  readonly noCopyRoutes: boolean;
  readonly noCopyAddrs: boolean;
  readonly nsMac: Uint8Array | null;
  /** `--ns-ifname`; null: the template interface's name. */
  readonly ifname: string | null;
  /** `--hostname`; null: of the host's name. */
  readonly hostname: string | null;
  /** Ports that are forwarded while something listens on them in there. */
  readonly auto: readonly PortRule[];
  /** `-T`, `-U`: ports inside that lead to the host. */
  readonly outward: readonly OutwardRequest[];
  /** What comes from the host's loopback goes to the namespace past the interface. */
  readonly splice: boolean;
  /** There is no interface. */
  readonly spliceOnly: boolean;
  /** Connections to the host's loopback keep their destination. */
  readonly hostLoToNsLo: boolean;
  /** `--gateway` was given: routes of that family are not copied. */
  readonly gateway4: boolean;
  readonly gateway6: boolean;
}
