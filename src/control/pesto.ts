/**
 * passt's control socket (`-c`, `--conf-path`), as its client pesto speaks it: version 2, of October 2026.
 *
 * The server speaks first. All integers are big-endian.
 *
 * | who    | bytes                                                                                                     |
 * |--------|-----------------------------------------------------------------------------------------------------------|
 * | server | magic `basil:s` NUL, u32 version, u32 bytes of a table's name (128), u32 bytes of an interface's name (16)   |
 * | server | per table: u8 its number (1: HOST; of a namespace 3: SPLICE, what leads from its loopback to the host's),     |
 * |        | name, u32 abilities, u32 number of rules, rules; u8 0 ends                                                  |
 * | rule   | 56 bytes: listening address 16, target address 16, interface 16, u16 first port, u16 last port, u16 first    |
 * |        | target port, u8 protocol (6, 17), u8 flags                                                                  |
 * | client | nothing (it only shows), or per table: u8 its number, u32 number of rules, all of its new rules; u8 0 ends   |
 *
 * Addresses of IPv4 are v4-mapped; 16 zero bytes mean any address (listening; with FLAG_DUAL of both families), or the
 * guest (target). There is no answer: what cannot be done is said in our log, and nothing of it is done; where the client
 * shows the tables afterwards, it sees what there is.
 *
 * Clients are served beside each other, each has its time (owner-clients.ts), and none holds up anybody but itself.
 */
import type { Socket } from 'node:net';
import { isV4Mapped } from '../config/address-text';
import { isInterfaceName, MAX_RULES, type PortRule } from '../config/port-spec';
import { messageOf } from '../errors';
import type { AddressBytes } from '../stack/config';
import type { ForwardList, Forwards } from './forwards';
import type { OutwardForwards } from './outward-forwards';
import { OwnerClients, type OwnerClientsOptions } from './owner-clients';

const MAGIC = Buffer.from('basil:s\0', 'latin1');
const VERSION = 2;
const NAME_BYTES = 128;
const IFNAME_BYTES = 16;
const TABLE_HOST = 1;
const TABLE_SPLICE = 3;
const RULE_BYTES = 56;
/** The interface that rules of the second table listen on. */
const LOOPBACK = 'lo';

// Abilities.
const CAN_IP4 = 1;
const CAN_IP6 = 2;
const CAN_TCP = 4;
const CAN_UDP = 8;
const CAN_SCAN = 0x10;
const CAN_IFNAME = 0x20;

// Flags of a rule.
const FLAG_DUAL = 1;
const FLAG_WEAK = 2;
const FLAG_SCAN = 4;

const PROTOCOLS = { tcp: 6, udp: 17 } as const;

/** As long as that, a client may be silent; people run pesto, and it says all it says at once. */
/** Two tables of rules, and what is around them. */
const MAX_BYTES = 11 + 2 * RULE_BYTES * MAX_RULES;

export interface Abilities {
  readonly v4: boolean;
  readonly v6: boolean;
  readonly tcp: boolean;
  readonly udp: boolean;
}

/** A rule of the wire's; `scan`: its ports are forwarded while something listens on them. */
export interface WireRule {
  readonly rule: PortRule;
  readonly scan: boolean;
}

/** What a client wants: the rules of each table, null: it says nothing of that. */
export interface Tables {
  readonly host: readonly PortRule[] | null;
  readonly splice: readonly WireRule[] | null;
}

/** What a client says is no table. */
class Malformed extends Error {}

function wireAddress(addr: AddressBytes | null): Buffer {
  if (addr === null) return Buffer.alloc(16);
  return addr.length === 16 ? Buffer.from(addr) : Buffer.concat([Buffer.alloc(10), Buffer.from([0xff, 0xff]), addr]);
}

/** An address with all bytes zero stands for none. */
function addressOf(bytes: Buffer): AddressBytes | null {
  if (bytes.every((byte) => byte === 0)) return null;
  return isV4Mapped(bytes) ? Uint8Array.from(bytes.subarray(12)) : Uint8Array.from(bytes);
}

/** A rule on the wire. One that listens on any address does so for `families`. */
export function writeRule(rule: PortRule, { v4, v6 }: Abilities, scan = false): Buffer {
  const numbers = Buffer.alloc(8);
  numbers.writeUInt16BE(rule.first, 0);
  numbers.writeUInt16BE(rule.last, 2);
  numbers.writeUInt16BE(rule.targetFirst, 4);
  numbers[6] = PROTOCOLS[rule.protocol];
  numbers[7] = (rule.addr === null && v4 && v6 ? FLAG_DUAL : 0) | (rule.weak ? FLAG_WEAK : 0) | (scan ? FLAG_SCAN : 0);
  const ifname = Buffer.alloc(IFNAME_BYTES);
  ifname.write(rule.ifname ?? '', 0, IFNAME_BYTES - 1, 'utf8');
  // Any address of one family is an address: that of IPv4 is mapped.
  const addr = rule.addr === null && v4 && !v6 ? Uint8Array.of(0, 0, 0, 0) : rule.addr;
  return Buffer.concat([wireAddress(addr), wireAddress(rule.targetAddr), ifname, numbers]);
}

/** Throws Malformed. */
export function readRule(bytes: Buffer): WireRule {
  const protocol = bytes[54] === PROTOCOLS.tcp ? 'tcp' : bytes[54] === PROTOCOLS.udp ? 'udp' : null;
  if (protocol === null) throw new Malformed(`protocol ${bytes[54]}, give 6 or 17`);
  const flags = bytes[55];
  const nameEnd = bytes.indexOf(0, 32);
  if (nameEnd < 0 || nameEnd >= 48) throw new Malformed('an interface name without an end');
  const ifname = nameEnd === 32 ? null : bytes.toString('utf8', 32, nameEnd);
  if (ifname !== null && !isInterfaceName(ifname)) throw new Malformed('no name of an interface');
  const [first, last, targetFirst] = [48, 50, 52].map((at) => bytes.readUInt16BE(at));
  if (first < 1 || last < first || targetFirst < 1 || targetFirst + last - first > 65535)
    throw new Malformed(`ports ${first} to ${last}, ${targetFirst} on`);
  const given = addressOf(bytes.subarray(0, 16));
  // Without the flag all zeroes are any address of IPv6 alone; any address of IPv4 is mapped.
  const addr = given === null && (flags & FLAG_DUAL) === 0 ? new Uint8Array(16) : given;
  const targetAddr = addressOf(bytes.subarray(16, 32));
  const weak = (flags & FLAG_WEAK) !== 0;
  const origin = `pesto's ${protocol} ${first}${last === first ? '' : `-${last}`}`;
  const rule: PortRule = { protocol, addr, ifname, first, last, targetFirst, targetAddr, weak, origin };
  return { rule, scan: (flags & FLAG_SCAN) !== 0 };
}

function tableOf(number: number, name: string, can: number, rules: readonly Buffer[]): Buffer {
  const table = Buffer.alloc(1 + NAME_BYTES + 8);
  table[0] = number;
  table.write(name, 1, 'latin1');
  table.writeUInt32BE(can, 1 + NAME_BYTES);
  table.writeUInt32BE(rules.length, 5 + NAME_BYTES);
  return Buffer.concat([table, ...rules]);
}

/** What the server says first. `splice`: the rules of a namespace's loopback; null: the guest is none. */
export function greeting(rules: readonly PortRule[], on: Abilities, splice: readonly WireRule[] | null = null): Buffer {
  const head = Buffer.alloc(12);
  head.writeUInt32BE(VERSION, 0);
  head.writeUInt32BE(NAME_BYTES, 4);
  head.writeUInt32BE(IFNAME_BYTES, 8);
  const can = (on.v4 ? CAN_IP4 : 0) | (on.v6 ? CAN_IP6 : 0) | (on.tcp ? CAN_TCP : 0) | (on.udp ? CAN_UDP : 0);
  const host = rules.map((rule) => writeRule(rule, on));
  const tables = [tableOf(TABLE_HOST, 'HOST', can | CAN_IFNAME, host)];
  if (splice !== null) {
    const inside = splice.map(({ rule, scan }) => writeRule({ ...rule, ifname: LOOPBACK }, on, scan));
    tables.push(tableOf(TABLE_SPLICE, 'SPLICE', can | CAN_SCAN | CAN_IFNAME, inside));
  }
  return Buffer.concat([MAGIC, head, ...tables, Buffer.alloc(1)]);
}

/**
 * The new rules, if what a client has said is complete; null: it may have more to say; undefined: it has nothing to
 * change. Throws Malformed.
 */
export function readTables(bytes: Buffer, hasSplice = false): Tables | null | undefined {
  let at = 0;
  const tables = new Map<number, WireRule[]>();
  for (;;) {
    if (bytes.length < at + 1) return null;
    const table = bytes[at++];
    if (table === 0) {
      if (bytes.length > at) throw new Malformed('bytes behind the end');
      return tables.size === 0 ? undefined : tablesOf(tables);
    }
    if (table !== TABLE_HOST && (table !== TABLE_SPLICE || !hasSplice))
      throw new Malformed(`table ${table}, there is 1${hasSplice ? ' and 3' : ''} only`);
    if (tables.has(table)) throw new Malformed(`table ${table} twice`);
    if (bytes.length < at + 4) return null;
    const count = bytes.readUInt32BE(at);
    at += 4;
    if (count > MAX_RULES) throw new Malformed(`${count} rules, there can be ${MAX_RULES}`);
    if (bytes.length < at + count * RULE_BYTES) return null;
    const rules: WireRule[] = [];
    for (let i = 0; i < count; i++, at += RULE_BYTES) rules.push(readRule(bytes.subarray(at, at + RULE_BYTES)));
    tables.set(table, rules);
  }
}

/** Throws Malformed. */
function tablesOf(tables: ReadonlyMap<number, readonly WireRule[]>): Tables {
  const host = tables.get(TABLE_HOST) ?? null;
  if (host?.some(({ scan }) => scan) === true) throw new Malformed('automatic rules are those of table 3');
  return { host: host?.map(({ rule }) => rule) ?? null, splice: tables.get(TABLE_SPLICE) ?? null };
}

/** A wildcard of the only family that there is, is no address: that is how such rules are written here. */
function ownForm(rule: PortRule, { v4, v6 }: Abilities): PortRule {
  const { addr } = rule;
  const isAny = addr?.every((byte) => byte === 0) === true;
  return isAny && v4 !== v6 && (addr.length === 4) === v4 ? { ...rule, addr: null } : rule;
}

/** All rules of the second table are of the loopback interface, which ours do not say. */
function insideForm(rule: PortRule): PortRule {
  return rule.ifname === LOOPBACK ? { ...rule, ifname: null } : rule;
}

export interface PestoOptions extends OwnerClientsOptions {
  readonly abilities: Abilities;
  readonly info: (message: string, site: string) => void;
}

export class PestoServer extends OwnerClients {
  private readonly options: PestoOptions;

  constructor(options: PestoOptions) {
    super(options, false);
    this.options = options;
  }

  protected override welcome(socket: Socket, forwards: Forwards, outward: OutwardForwards | null): void {
    let said = Buffer.alloc(0);
    socket.on('data', (chunk: Buffer) => {
      said = Buffer.concat([said, chunk]);
      this.take(socket, said, forwards, outward);
    });
    const splice = outward === null ? null : wireRules(outward);
    socket.write(greeting(forwards.rules(), this.options.abilities, splice));
  }

  private take(socket: Socket, said: Buffer, forwards: Forwards, outward: OutwardForwards | null): void {
    const { shown, warn, abilities } = this.options;
    try {
      if (said.length > MAX_BYTES) throw new Malformed(`more than ${MAX_BYTES} bytes`);
      const tables = readTables(said, outward !== null);
      if (tables === null) return;
      this.end(socket);
      if (tables === undefined) return;
      const { host, splice } = tables;
      const own = (rule: PortRule): PortRule => ownForm(rule, abilities);
      if (host !== null) this.tell('forwarded ports', forwards.replaceRules(host.map(own)));
      if (splice === null || outward === null) return;
      const of = (isAuto: boolean): PortRule[] =>
        splice.filter(({ scan }) => scan === isAuto).map(({ rule }) => own(insideForm(rule)));
      this.tell('ports that lead to the host', outward.replaceRules(of(false), of(true)));
    } catch (error) {
      this.end(socket);
      warn(`${shown}: a client was closed, what it says is no table: ${messageOf(error)}`, 'pesto.malformed');
    }
  }
  /** Says what came of a change, of which there is no answer. The version is told where there was one. */
  private tell(what: string, change: Promise<ForwardList>): void {
    const { shown, warn, info } = this.options;
    change.then(
      ({ version }) => {
        info(`${shown}: pesto has changed the ${what} (version ${version})`, 'pesto.done');
      },
      (error: unknown) => {
        warn(
          `${shown}: pesto's change was refused, nothing of the ${what} was changed: ${messageOf(error)}`,
          'pesto.refused',
        );
      },
    );
  }
}

function wireRules(outward: OutwardForwards): WireRule[] {
  const { named, auto } = outward.rules();
  return [...named.map((rule) => ({ rule, scan: false })), ...auto.map((rule) => ({ rule, scan: true }))];
}
