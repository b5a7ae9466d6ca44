/**
 * The services on the link (ARP, ND, DHCP, DHCPv6), and unsolicited messages to the guest: when the link comes up, when
 * the host's network changes, when its neighbours do.
 */
import { isV4, sameBytes } from '../ip/address';
import { ArpService } from './arp';
import type { StackConfig } from '../config';
import type { StackContext } from '../context';
import { DhcpService } from './dhcp';
import { Dhcpv6Service } from './dhcpv6';
import { FirstUse } from './first-use';
import { linkCameUp, reconfigureLink, resetLinkState } from './guest-state';
import { NameService } from './names';
import { NdpService } from './ndp';
import { NEIGHBOUR_WORDS } from './neighbours';
import { Withdrawn } from './ra-withdrawals';
import { TftpService } from './tftp';

/** What still has to be sent since the link came up. */
const ANNOUNCE_ARP = 1;
const ANNOUNCE_NS = 2;
const ANNOUNCE_RA = 4;

export class LinkServices {
  // Created for a configuration, and replaced with it.
  arp: ArpService;
  ndp: NdpService;
  dhcp: DhcpService;
  dhcpv6: Dhcpv6Service;
  /** Is there an address for `dhcpv6` to give, and shall it? */
  servesDhcpv6: boolean;
  /** Null: there are no names of the user's. */
  names: NameService | null;
  readonly firstUse: FirstUse;
  /** Null: the guest gets no files. */
  readonly tftp: TftpService | null;
  private readonly ctx: StackContext;
  private readonly withdrawn: Withdrawn;
  private announce: number;

  constructor(ctx: StackContext) {
    this.ctx = ctx;
    this.withdrawn = new Withdrawn();
    this.announce = 0;
    this.arp = new ArpService(ctx);
    this.ndp = new NdpService(ctx, this.withdrawn);
    this.dhcp = new DhcpService(ctx);
    this.dhcpv6 = new Dhcpv6Service(ctx);
    this.names = NameService.create(ctx);
    this.servesDhcpv6 = givesAddress(ctx.config);
    this.firstUse = new FirstUse(ctx);
    this.tftp = ctx.files === undefined ? null : new TftpService(ctx, ctx.files);
  }

  /**
   * Both rings run: asks for the guest's Ethernet address, so that connections from outside find it, and advertises the
   * router. What finds no receive buffer yet is sent when the guest posts some.
   */
  onLinkUp(): void {
    const { config } = this.ctx;
    linkCameUp(this.ctx.link, this.ctx.clock.nowMs);
    this.firstUse.linkUp();
    this.announce = 0;
    if (config.ip4 !== null) this.announce |= ANNOUNCE_ARP;
    if (config.ip6 !== null && config.ndp) {
      this.announce |= ANNOUNCE_NS;
      if (config.ra) this.announce |= ANNOUNCE_RA;
      this.ndp.schedule();
    }
    this.announceAll();
  }

  /** Runs due timers. */
  onTimer(): void {
    this.ndp.onTimer();
    // What is announced when the link comes up waits for the first buffers.
    this.firstUse.onTimer(this.announce === 0);
    this.tftp?.onTimer();
  }

  /** Milliseconds (clock.nowMs scale) of the earliest timer, or Infinity. */
  nextDeadline(): number {
    const tftpMs = this.tftp === null ? Infinity : this.tftp.nextDeadline();
    return Math.min(this.ndp.nextDeadline(), this.firstUse.nextDeadline(), tftpMs);
  }

  /** The guest posted receive buffers. */
  onGuestReady(): void {
    if (this.announce !== 0) this.announceAll();
  }

  /** `config` holds from now on: the services answer with it at once. */
  reconfigure(config: StackConfig): void {
    const { ctx } = this;
    const old = ctx.config;
    if (!sameBytes(old.ip6?.ourLinkLocal, config.ip6?.ourLinkLocal)) this.ndp.retire();
    ctx.config = config;
    reconfigureLink(ctx.link, config);
    this.withdrawn.supersede(old, config);
    this.create();
  }

  /** NET_SET_MTU of the front-end, 0: it left. The advertised MTU changes with it. */
  setMtu(mtu: number): void {
    if (!this.ctx.link.mtu.setFrontEnd(mtu)) return;
    this.create();
    this.readvertise();
  }

  /**
   * Sends an ARP request or Neighbour Solicitation for the address that the stations' table names, if there is a
   * buffer.
   */
  ask(): void {
    const { link, port, config } = this.ctx;
    const { ask } = link.stations;
    link.stations.asking = false;
    if (!port.up) return;
    if (isV4(ask, 0)) {
      if (config.ip4 !== null) this.arp.ask(ask[3]);
    } else if (config.ip6 !== null && config.ndp) {
      this.ndp.ask(ask, 0);
    }
  }

  /**
   * After `reconfigure`, when all handlers have the new configuration: sends unsolicited router advertisements (IPv6).
   */
  readvertise(): void {
    const { config, port } = this.ctx;
    if (!port.up || config.ip6 === null || !config.ndp || !config.ra) return;
    this.ndp.schedule();
    this.announce |= ANNOUNCE_RA;
    this.announceAll();
  }

  /**
   * The host's neighbours are `entries` from now on (NEIGHBOUR_WORDS each); those that are new are announced while the
   * link is up, for the guest may have been told another Ethernet address.
   */
  setNeighbours(entries: Int32Array): void {
    const { link, port, config } = this.ctx;
    const fresh = link.neighbours.replace(entries);
    if (!port.up) return;
    for (let at = 0; at < fresh.length; at += NEIGHBOUR_WORDS) {
      if (isV4(fresh, at)) {
        if (config.ip4 !== null) this.arp.announce(fresh[at + 3], fresh[at + 4], fresh[at + 5]);
      } else if (config.ip6 !== null && config.ndp) {
        this.ndp.announce(fresh, at, fresh[at + 4], fresh[at + 5]);
      }
    }
  }

  /** The guest was reset or rebooted: what was learnt of it, and what it was told, is forgotten. */
  reset(): void {
    resetLinkState(this.ctx.link);
    this.firstUse.reset();
    this.tftp?.reset();
    if (this.withdrawn.empty) return;
    this.withdrawn.clear();
    this.create();
    if (this.ctx.port.up) this.ndp.schedule();
  }

  private create(): void {
    const { ctx } = this;
    this.arp = new ArpService(ctx);
    this.ndp = new NdpService(ctx, this.withdrawn);
    this.dhcp = new DhcpService(ctx);
    this.dhcpv6 = new Dhcpv6Service(ctx);
    this.names = NameService.create(ctx);
    this.servesDhcpv6 = givesAddress(ctx.config);
  }

  private announceAll(): void {
    const pending = this.announce;
    if ((pending & ANNOUNCE_ARP) !== 0 && !this.arp.probe()) return;
    this.announce &= ~ANNOUNCE_ARP;
    if ((pending & ANNOUNCE_NS) !== 0 && !this.ndp.probe()) return;
    this.announce &= ~ANNOUNCE_NS;
    if ((pending & ANNOUNCE_RA) !== 0 && !this.ndp.advertise()) return;
    this.announce = 0;
  }
}

function givesAddress(config: StackConfig): boolean {
  return config.dhcpv6 && config.ip6 !== null && config.ip6.guestAddr !== null;
}
