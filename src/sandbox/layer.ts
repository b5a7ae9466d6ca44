/** What the sandbox consists of, for all who report it. */

/** `on`: what can be had; `strict`: all of it, or no start; `log`: nothing is refused, what would be is said; `off`. */
export type SandboxMode = 'on' | 'off' | 'log' | 'strict';

export interface Layer {
  readonly name: string;
  readonly state: 'on' | 'missing' | 'off';
  /** Why it is not on. */
  readonly why?: string;
}
