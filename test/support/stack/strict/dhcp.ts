/** Replies of a DHCP server, as RFC 2131 §4.3 (table 3) and RFC 2132 allow them to a given request. */
import type { Dissected } from '../link-rig';
import { dataOf, demand, demandUnique, names, same, view, zero, type Option } from './reader';

const MAGIC = 0x63825363;
const OFFER = 2;
const ACK = 5;
const NAK = 6;
/** Answers by type of the request. */
const ANSWERS: Readonly<Partial<Record<number, readonly number[]>>> = { 1: [OFFER, ACK], 3: [ACK, NAK], 8: [ACK] };
const UDP_IP = 28;

/** Options of which only one length is right: if they come twice, the first counts. */
const OF_ONE_LENGTH: readonly number[] = [50, 51, 52, 53, 54, 57, 80];

/** A client's options: of all fields that hold some (RFC 2131 §4.1), parts put together (RFC 3396 §5). */
function askedFor(request: Uint8Array): Option[] {
  const all = options(request, false);
  const overload = dataOf(all, 52)?.[0] ?? 0;
  if ((overload & 1) !== 0) all.push(...options(request.subarray(0, 236), false, 108));
  if ((overload & 2) !== 0) all.push(...options(request.subarray(0, 108), false, 44));
  const joined = new Map<number, Uint8Array>();
  for (const { code, data } of all) {
    const before = joined.get(code);
    if (before === undefined) joined.set(code, data);
    else if (!OF_ONE_LENGTH.includes(code)) joined.set(code, Uint8Array.from([...before, ...data]));
  }
  return [...joined].map(([code, data]) => ({ code, data }));
}

/** Options up to END. `strict`: and nothing but zeros behind it, which a client's own message need not keep to. */
function options(message: Uint8Array, strict: boolean, from = 240): Option[] {
  const found: Option[] = [];
  let at = from;
  while (at < message.length) {
    const code = message[at];
    if (code === 255) {
      if (strict) demand(zero(message.subarray(at + 1)), 'bytes behind END');
      return found;
    }
    if (code === 0) {
      demand(!strict, 'PAD in front of END');
      at++;
      continue;
    }
    demand(at + 2 <= message.length && at + 2 + message[at + 1] <= message.length, 'an option past the message');
    found.push({ code, data: message.subarray(at + 2, at + 2 + message[at + 1]) });
    at += 2 + message[at + 1];
  }
  demand(!strict, 'no END');
  return found;
}

/** Throws unless `reply` is one that a strict client takes as the answer to the DHCP message `request`. */
export function strictDhcp(reply: Dissected, request: Uint8Array): void {
  const message = reply.payload;
  demand(message.length >= 300, 'shorter than 300 bytes (RFC 951)');
  const m = view(message);
  const r = view(request);
  demand(m.getUint8(0) === 2, 'op');
  for (const [at, what] of [
    [1, 'htype'],
    [2, 'hlen'],
  ] as const)
    demand(m.getUint8(at) === r.getUint8(at), what);
  demand(m.getUint8(3) === 0, 'hops');
  demand(m.getUint32(4) === r.getUint32(4), 'xid');
  demand(m.getUint16(8) === 0, 'secs');
  demand(m.getUint32(20) === 0, 'siaddr without a server to boot from');
  demand(m.getUint32(24) === r.getUint32(24), 'giaddr');
  demand(same(message.subarray(28, 44), request.subarray(28, 44)), 'chaddr');
  demand(zero(message.subarray(44, 236)), 'sname or file');
  demand(m.getUint32(236) === r.getUint32(236), 'cookie');

  const vendor = m.getUint32(236) === MAGIC;
  if (!vendor) demand(zero(message.subarray(240)), 'options without a cookie');
  const asked = vendor ? askedFor(request) : [];
  const given = vendor ? options(message, true) : [];
  demandUnique(given);
  for (const option of given) demandOption(option, asked);
  demandTypes(given, asked);
  demandOrder(given, asked);
  demandSize(message, asked);
  demandHeader(reply, given, r);
}

function demandOption({ code, data }: Option, asked: readonly Option[]): void {
  const requested = [...(dataOf(asked, 55) ?? [])];
  const d = view(data);
  const addresses = data.length >= 4 && data.length % 4 === 0;
  switch (code) {
    case 1: {
      demand(data.length === 4, 'the mask');
      const host = ~d.getUint32(0) >>> 0;
      demand((host & (host + 1)) === 0, 'a mask with holes');
      return;
    }
    case 3:
    case 6:
      demand(addresses, `addresses in option ${String(code)}`);
      return;
    case 12:
      demand(data.length > 0 && data.every((b) => b > 0x20 && b < 0x7f), 'the host name');
      return;
    case 15:
      // RFC 2132 §3.17: text, as a resolver takes it.
      demand(/^[A-Za-z0-9_]([A-Za-z0-9_.-]*[A-Za-z0-9_])?$/.test(Buffer.from(data).toString('latin1')), 'the domain');
      demand(requested.includes(code), 'a domain that was not asked for');
      return;
    case 28:
      demand(data.length === 4 && (data[3] & 1) === 1 && requested.includes(code), 'the broadcast address');
      return;
    case 31:
      demand(data.length === 1 && data[0] <= 1 && requested.includes(code), 'router discovery');
      return;
    case 26:
      demand(data.length === 2 && d.getUint16(0) >= 68, 'the MTU');
      return;
    case 51:
    case 54:
    case 58:
    case 59:
      demand(data.length === 4 && d.getUint32(0) !== 0, `option ${String(code)}`);
      return;
    case 53:
      demand(data.length === 1, 'the message type');
      return;
    case 61:
      demand(same(data, dataOf(asked, 61) ?? new Uint8Array(0)), 'another client identifier (RFC 6842 §3)');
      return;
    case 80:
      demand(data.length === 0, 'rapid commit with data');
      return;
    case 81:
      // RFC 4702 §2.1: MBZ bits, deprecated result codes of 255; E: the name in wire encoding.
      demand(data.length > 3 && (data[0] & 0xf0) === 0 && data[1] === 255 && data[2] === 255, 'the FQDN');
      demand((data[0] & 4) !== 0 && (data[0] & 3) !== 3, 'the flags of the FQDN');
      demand(names(data.subarray(3), { compression: false, padding: false }).length === 1, 'two FQDNs');
      return;
    case 119:
      names(data, { compression: true, padding: false });
      return;
    case 249:
      // [MS-DHCPE] §2.2.8; a client that knows RFC 3442 is to get that.
      demand(requested.includes(code) && !requested.includes(121), "Microsoft's routes");
      demandRoutes(data);
      return;
    case 121:
      demandRoutes(data);
      return;
    default:
      demand(false, `option ${String(code)}, which nobody knows us to send`);
  }
}

/** RFC 3442: prefix length, its bytes, router. */
function demandRoutes(data: Uint8Array): void {
  let at = 0;
  while (at < data.length) {
    const width = data[at];
    demand(width <= 32, 'a route of more than 32 bits');
    at += 1 + Math.ceil(width / 8) + 4;
  }
  demand(at === data.length && at > 0, 'a route cut short');
}

/** RFC 2131 table 3, RFC 4039 §3.1. */
function demandTypes(given: readonly Option[], asked: readonly Option[]): void {
  const requestType = dataOf(asked, 53)?.[0];
  const type = dataOf(given, 53)?.[0];
  const has = (code: number): boolean => dataOf(given, code) !== null;
  if (requestType === undefined) {
    for (const code of [51, 53, 54, 58, 59, 61, 80]) demand(!has(code), `option ${String(code)} to a BOOTP client`);
    return;
  }
  const allowed = ANSWERS[requestType];
  demand(allowed !== undefined && type !== undefined && allowed.includes(type), 'the type of the answer');
  demand(has(54), 'no server identifier');
  const rapid = requestType === 1 && dataOf(asked, 80) !== null;
  demand(has(80) === rapid && (requestType !== 1 || (type === ACK) === rapid), 'rapid commit');
  demand((dataOf(asked, 61) !== null) === has(61), 'the client identifier is not returned');
  if (type === NAK) {
    demand(
      given.every(({ code }) => [53, 54, 56, 61].includes(code)),
      'more in a NAK than it may have',
    );
    return;
  }
  demand(has(51) === (requestType !== 8), 'the lease time');
  const seconds = (code: number): number => view(dataOf(given, code) ?? new Uint8Array(4)).getUint32(0);
  demand(has(58) === has(51) && has(59) === has(51), 'a lease without the times to renew it, or those without a lease');
  demand(!has(51) || (seconds(58) < seconds(59) && seconds(59) < seconds(51)), 'T1, T2 and the lease are not in order');
  for (const code of [1, 3]) demand(has(code), `no option ${String(code)}`);
}

/** RFC 2131 §4.3.1: in the order asked for; RFC 2132 §3.3: the mask in front of the router. */
function demandOrder(given: readonly Option[], asked: readonly Option[]): void {
  const codes = given.map(({ code }) => code);
  if (codes.includes(1) && codes.includes(3)) demand(codes.indexOf(1) < codes.indexOf(3), 'the router before its mask');
  const list = [...new Set(dataOf(asked, 55) ?? [])].filter((code) => codes.includes(code) && code !== 1);
  const order = codes.filter((code) => list.includes(code));
  demand(
    list.every((code, i) => order[i] === code),
    `in the order ${order.join(' ')}, not ${list.join(' ')}`,
  );
  // What nobody asked for comes behind it, the type aside.
  const first = codes.findIndex((code) => ![1, 53, ...list].includes(code));
  const last = list.length === 0 ? -1 : codes.lastIndexOf(list[list.length - 1] ?? 0);
  demand(first < 0 || first > last, 'what was not asked for comes first');
}

/** RFC 2131 §2, RFC 2132 §9.10. */
function demandSize(message: Uint8Array, asked: readonly Option[]): void {
  const max = dataOf(asked, 57);
  const limit = max !== null && max.length === 2 ? Math.max(576, view(max).getUint16(0)) : 576;
  demand(UDP_IP + message.length <= limit, `a message of ${String(message.length)} bytes`);
}

/** Addresses in the message, and where it goes (RFC 2131 §4.1). */
function demandHeader(reply: Dissected, given: readonly Option[], r: DataView): void {
  const m = view(reply.payload);
  const type = dataOf(given, 53)?.[0];
  const yiaddr = m.getUint32(16);
  const ciaddr = m.getUint32(12);
  const giaddr = r.getUint32(24);
  const inform = type === ACK && dataOf(given, 51) === null;
  demand((yiaddr === 0) === (type === NAK || inform), 'yiaddr');
  const kept = type === OFFER || type === NAK ? 0 : r.getUint32(12);
  demand(ciaddr === kept, 'ciaddr');
  const flags = r.getUint16(10);
  const broadcast = (flags & 0x8000) !== 0 || (type === NAK && giaddr !== 0);
  demand(((m.getUint16(10) & 0x8000) !== 0) === broadcast, 'the broadcast flag');
  let to = yiaddr;
  if (giaddr !== 0) to = giaddr;
  else if (type === NAK) to = 0xffffffff;
  else if (ciaddr !== 0) to = ciaddr;
  else if (broadcast || yiaddr === 0) to = 0xffffffff;
  demand(view(reply.dst).getUint32(0) === to, 'sent to another address');
  demand(reply.srcPort === 67 && reply.dstPort === (giaddr === 0 ? 68 : 67), 'ports');
}
