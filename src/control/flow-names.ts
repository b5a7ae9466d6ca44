/**
 * By which names the guest found addresses, as its data planes say (stack/policy/names.ts): while a policy speaks of names.
 * Who looks at flows, and the flow log, show them.
 */
import { addressText } from './flow-text';

/** Addresses that are remembered; what was found longest ago is forgotten. */
const ADDRESSES = 4096;

export class FlowNames {
  private readonly names = new Map<string, string>();

  /** The guest has found `address` (four words, IPv4 as v4-mapped) by `name`. */
  learn(name: string, address: Int32Array): void {
    const text = addressText(address, 0);
    this.names.delete(text);
    this.names.set(text, name);
    if (this.names.size <= ADDRESSES) return;
    const [first] = this.names.keys();
    this.names.delete(first);
  }

  /** For `FlowWords`: the name of an address as text; null: none is known. */
  readonly nameOf = (address: string): string | null => this.names.get(address) ?? null;
}
