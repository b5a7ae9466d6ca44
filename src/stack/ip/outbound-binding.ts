/**
 * What is configured for outgoing traffic, on the sockets of TCP, UDP and ping alike: the interface (`--outbound-if4`,
 * `--outbound-if6`) and the address (`-o`) that they leave by. Neither holds for destinations on the host itself.
 */
import type { Ip4Config, Ip6Config, StackConfig } from '../config';
import type { StackContext } from '../context';
import { addressWords, addrSlotWrite, anyOf, copyWords, isUnspecified } from './address';
import type { NatResult } from './nat';
import { AF_INET, AF_INET6 } from '../ports';

export class OutboundBinding {
  private readonly ctx: StackContext;
  /** Address slot that `bind` writes. */
  private readonly slot: number;
  private readonly source4: Int32Array;
  private readonly source6: Int32Array;
  /** The configuration that they are of. */
  private seen: StackConfig | null;

  constructor(ctx: StackContext, slot: number) {
    this.ctx = ctx;
    this.slot = slot;
    this.source4 = new Int32Array(4);
    this.source6 = new Int32Array(4);
    this.seen = null;
  }

  /** The address configured for a family, four words; unspecified: the kernel's choice. Not to be written to. */
  source(v4: boolean): Int32Array {
    const { config } = this.ctx;
    if (this.seen !== config) {
      this.seen = config;
      sourceOf(config.ip4, true, this.source4);
      sourceOf(config.ip6, false, this.source6);
    }
    return v4 ? this.source4 : this.source6;
  }

  /** Is an address configured for what leaves toward `target`? */
  hasSource(v4: boolean, target: NatResult): boolean {
    return !target.local && !isUnspecified(this.source(v4), 0);
  }

  /** Binds to the interface configured, if there is one. Returns 0 or -errno. */
  bindToInterface(fd: number, v4: boolean, target: NatResult): number {
    const { io, config } = this.ctx;
    if (target.local) return 0;
    const ifname = v4 ? config.ip4?.outboundIf : config.ip6?.outboundIf;
    return typeof ifname === 'string' ? io.bindToDevice(fd, ifname) : 0;
  }

  /** Binds to the address configured and to a port; 0: the kernel's choice. Returns 0 or -errno. */
  bind(fd: number, v4: boolean, target: NatResult, port: number): number {
    const { io } = this.ctx;
    const from = target.local ? anyOf(v4) : this.source(v4);
    addrSlotWrite(io.addrs, this.slot, v4 ? AF_INET : AF_INET6, port, 0, from, 0);
    return io.bind(fd, this.slot);
  }
}

function sourceOf(family: Ip4Config | Ip6Config | null, v4: boolean, words: Int32Array): void {
  const address = family?.outboundAddr ?? null;
  if (address === null) copyWords(anyOf(v4), 0, words, 0);
  else addressWords(address, words, 0);
}
