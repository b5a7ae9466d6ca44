/** What the sandbox consists of, for all who report it. */

/** `on`: what can be had; `strict`: all of it, or no start; `log`: nothing is refused, what would be is said; `off`. */
export const SANDBOX_MODES = ['on', 'strict', 'log', 'off'] as const;
export type SandboxMode = (typeof SANDBOX_MODES)[number];

/** In the order in which they are reported. docs/sandbox.md says what each is for. */
export const LAYER_NAMES = [
  'user-namespace',
  'mount-namespace',
  'ipc-namespace',
  'uts-namespace',
  'pid-namespace',
  'root',
  'capabilities',
  'landlock',
  'no-new-privs',
  'seccomp',
  'seccomp-data-plane',
  'seccomp-broker',
] as const;

export type LayerName = (typeof LAYER_NAMES)[number];

export interface Layer {
  readonly name: LayerName;
  /** `off`: it is not wanted here. */
  readonly state: 'on' | 'missing' | 'off';
  /** Why it is not on. */
  readonly why?: string;
}
