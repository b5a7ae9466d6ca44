/**
 * The guest address of a datagram that came to a host socket: its flow's, or by the translation rules of a listener's
 * peer. Messages are those of MSG_IN (../scratch.ts).
 */
import {
  addrSlotFamily,
  addrSlotIs,
  addrSlotPort,
  addrSlotRead,
  addrSlotScope,
  copyWords,
  isMulticast,
  isV4,
} from '../ip/address';
import type { StackContext } from '../context';
import { C_RULES, dropCode, type DropCode } from '../counters';
import { KEY_WORDS } from '../kit/flow-table';
import { NatResult, natSourceToGuest, natToGuest } from '../ip/nat';
import type { NatTables } from '../ip/nat';
import { FLOW_ANY_PORT, FLOW_FORWARDED, FLOW_FRESH, FLOW_GROUP, FLOW_PORT_KEPT } from './flows';
import type { UdpFlows } from './flows';
import { comesInOtherFamily, toOtherLoopback } from '../ip/other-loopback';
import { slotLocal, slotPeer } from '../scratch';
import type { UdpListener } from './listeners';

const DROP_SOURCE_INVALID = dropCode('source_invalid');
const DROP_FLOW_TABLE_FULL = dropCode('flow_table_full');

/** What the owner of the flow table does for us: both may close sockets. */
export interface FlowOwner {
  /** Makes a flow, keyed by `table.probe`, that is served by listener `listener`. -1: no room. */
  openAtListener(listener: number): number;
  /** `reason`: END_… */
  close(slot: number, reason: number): void;
}

export class UdpRoute {
  /** Result: guest's address, other address and ports as a flow key at `key[k…]`, and the flow; -1: none. */
  key: Int32Array;
  k: number;
  slot: number;
  private readonly ctx: StackContext;
  private readonly nat: NatTables;
  private readonly flows: UdpFlows;
  private readonly listeners: readonly UdpListener[];
  private readonly owner: FlowOwner;
  private readonly found: NatResult;
  /** The peer of a listener's datagram as it is translated. */
  private readonly seen: Int32Array;
  /** The address of the host that it was sent to. */
  private readonly to: Int32Array;

  constructor(ctx: StackContext, nat: NatTables, flows: UdpFlows, listeners: readonly UdpListener[], owner: FlowOwner) {
    this.ctx = ctx;
    this.nat = nat;
    this.flows = flows;
    this.listeners = listeners;
    this.owner = owner;
    this.found = new NatResult();
    this.seen = new Int32Array(4);
    this.to = new Int32Array(4);
    this.key = flows.table.probe;
    this.k = 0;
    this.slot = -1;
  }

  /** Does the socket of flow `slot` give datagrams of others than the flow's peer? Then their senders are needed. */
  private needsPeer(slot: number): boolean {
    return (this.flows.flags[slot] & (FLOW_FRESH | FLOW_GROUP)) !== 0;
  }

  /**
   * Sets up message `m` to be received from socket `id` (as in inbound.ts) into rows `row … row + count - 1`, with the
   * addresses that are needed of it.
   */
  prepare(id: number, m: number, row: number, count: number): void {
    const { io } = this.ctx;
    const listener = id >= this.flows.table.capacity;
    io.msgRow[m] = row;
    io.msgRows[m] = count;
    io.msgPeer[m] = listener || this.needsPeer(id) ? slotPeer(m) : -1;
    io.msgLocal[m] = listener ? slotLocal(m) : -1;
  }

  /** The guest's address of message `m` from socket `id`. Returns 0 or a drop code. */
  find(id: number, m: number): DropCode {
    const { capacity } = this.flows.table;
    return id < capacity ? this.fromFlow(id, m) : this.fromListener(id - capacity, m);
  }

  /** Is what was found an IPv4 address? */
  get v4(): boolean {
    return isV4(this.key, this.k);
  }

  /** `bytes` of what was found go to the guest: its flow, if it has one, lives on. */
  touch(bytes: number): void {
    if (this.slot >= 0) this.flows.touchFromHost(this.slot, bytes);
  }

  /** Message `m` from flow `slot`'s own socket. Returns 0 or a drop code. */
  private fromFlow(slot: number, m: number): DropCode {
    const { flows } = this;
    const flags = flows.flags[slot];
    if ((flags & (FLOW_FRESH | FLOW_GROUP)) !== 0) {
      if ((flags & FLOW_ANY_PORT) !== 0) return this.fromAnyPort(slot, m);
      if ((flags & FLOW_GROUP) !== 0) return this.fromGroup(slot, m);
      if (!this.isPeer(slot, m)) return this.foreign(slot, m);
    }
    this.key = flows.table.keys;
    this.k = KEY_WORDS * slot;
    this.slot = slot;
    return 0;
  }

  /** Message `m` from listener `index`. Returns 0 or a drop code. */
  private fromListener(index: number, m: number): DropCode {
    const { ctx, flows, found } = this;
    const { table } = flows;
    const listener = this.listeners[index];
    const a = ctx.io.addrs;
    const peer = slotPeer(m);
    const local = slotLocal(m);
    const { seen } = this;
    addrSlotRead(a, peer, seen, 0);
    const port = addrSlotPort(a, peer);
    // Port 0 cannot be answered (RFC 768: "no port").
    if (port === 0 || isMulticast(seen, 0)) return DROP_SOURCE_INVALID;
    const { to } = this;
    if (addrSlotFamily(a, local) !== 0) addrSlotRead(a, local, to, 0);
    else copyWords(listener.bound, 0, to, 0);
    if (comesInOtherFamily(ctx.link, listener.target, seen, 0)) toOtherLoopback(seen);
    const code = natToGuest(this.nat, ctx.link, seen, 0, to, listener.target, found);
    if (code !== 0) return code;
    const { probe } = table;
    copyWords(found.dst, 0, probe, 0);
    copyWords(found.src, 0, probe, 4);
    probe[KEY_WORDS - 1] = (listener.targetPort << 16) | port;
    this.key = probe;
    this.k = 0;
    this.slot = -1;
    // A group has no flow: members in the guest answer from addresses of their own.
    if (isMulticast(probe, 0)) return 0;

    let slot = table.lookup();
    if (slot < 0) {
      slot = this.owner.openAtListener(index);
      if (slot < 0) return DROP_FLOW_TABLE_FULL;
      flows.flags[slot] |= FLOW_FORWARDED;
      ctx.counters[C_RULES + listener.rule]++;
    }
    // Two peers can look the same to the guest (both 127.0.0.1 and 127.0.0.2 do): answers go to the latest.
    if (flows.listener[slot] >= 0) {
      flows.listener[slot] = index;
      addrSlotRead(a, peer, flows.peer, 4 * slot);
      flows.peerPort[slot] = port;
      flows.peerScope[slot] = addrSlotScope(a, peer);
      copyWords(to, 0, flows.local, 4 * slot);
    }
    this.key = table.keys;
    this.k = KEY_WORDS * slot;
    this.slot = slot;
    return 0;
  }

  /** Whoever answers a question to a group does so from an address of its own: it is passed on as that one's. */
  private fromGroup(slot: number, m: number): DropCode {
    const { ctx, flows, found } = this;
    const { probe, keys } = flows.table;
    const a = ctx.io.addrs;
    const peer = slotPeer(m);
    const { seen } = this;
    addrSlotRead(a, peer, seen, 0);
    const port = addrSlotPort(a, peer);
    if (port === 0 || isMulticast(seen, 0)) return DROP_SOURCE_INVALID;
    const code = natSourceToGuest(this.nat, ctx.link, seen, 0, found);
    if (code !== 0) return code;
    const k = KEY_WORDS * slot;
    copyWords(keys, k, probe, 0);
    copyWords(found.src, 0, probe, 4);
    probe[KEY_WORDS - 1] = (keys[k + KEY_WORDS - 1] & -0x10000) | port;
    this.key = probe;
    this.k = 0;
    this.slot = slot;
    return 0;
  }

  /**
   * An answer from a server's own port or from the one that it chose for this exchange: that one is the flow's peer
   * from now on, as the guest will send there. (If it did before, it has a flow for that.)
   */
  private fromAnyPort(slot: number, m: number): DropCode {
    const { ctx, flows } = this;
    const { table, peer } = flows;
    const a = ctx.io.addrs;
    const s = slotPeer(m);
    const port = addrSlotPort(a, s);
    if (port === 0) return DROP_SOURCE_INVALID;
    if (!addrSlotIs(a, s, peer, 4 * slot)) return DROP_SOURCE_INVALID;
    this.key = table.keys;
    this.slot = slot;
    if (port !== flows.peerPort[slot]) {
      const { probe, keys } = table;
      const k = KEY_WORDS * slot;
      for (let i = 0; i < KEY_WORDS - 1; i++) probe[i] = keys[k + i];
      probe[KEY_WORDS - 1] = (keys[k + KEY_WORDS - 1] & -0x10000) | port;
      const known = table.lookup();
      if (known >= 0) {
        this.slot = known;
      } else {
        table.remove(slot);
        table.insert(slot);
        flows.peerPort[slot] = port;
        // If it cannot be connected, datagrams of others are told by their source, as they were up to now.
        if (ctx.io.connect(flows.fd[slot], s) === 0) flows.flags[slot] ^= FLOW_ANY_PORT | FLOW_GROUP | FLOW_FRESH;
      }
    }
    this.k = KEY_WORDS * this.slot;
    return 0;
  }

  /** Is the sender of message `m` the one that the flow is connected to? */
  private isPeer(slot: number, m: number): boolean {
    const a = this.ctx.io.addrs;
    const { peer, peerPort } = this.flows;
    const s = slotPeer(m);
    if (addrSlotPort(a, s) !== peerPort[slot]) return false;
    return addrSlotIs(a, s, peer, 4 * slot);
  }

  /**
   * A datagram that came to a flow's socket before it was connected: it was meant for a listener on that port.
   * If that is one of our listeners, it is treated as its own.
   */
  private foreign(slot: number, m: number): DropCode {
    if ((this.flows.flags[slot] & FLOW_PORT_KEPT) === 0) return DROP_SOURCE_INVALID;
    const a = this.ctx.io.addrs;
    const s = slotPeer(m);
    addrSlotRead(a, s, this.seen, 0);
    const v4 = isV4(this.seen, 0);
    const port = this.flows.table.keys[KEY_WORDS * slot + KEY_WORDS - 1] >>> 16;
    for (let i = 0; i < this.listeners.length; i++) {
      const l = this.listeners[i];
      if (l.port === port && l.wildcard && (v4 ? l.takes4 : l.takes6)) return this.fromListener(i, m);
    }
    return DROP_SOURCE_INVALID;
  }
}
