/** Replies of a DHCPv6 server, as RFC 8415 §18.3 allows them to a given message. */
import type { Dissected } from '../link-rig';
import { dataOf, demand, demandUnique, names, same, view, type Option } from './reader';

const CLIENTID = 1;
const SERVERID = 2;
const IA_NA = 3;
const IA_TA = 4;
const IAADDR = 5;
const STATUS = 13;
const RAPID = 14;
const DNS = 23;
const SEARCH = 24;
const IA_PD = 25;
const FQDN = 39;
const IAS: readonly number[] = [IA_NA, IA_TA, IA_PD];

/** Message types: the answer that each may get. */
const ADVERTISE = 2;
const REPLY = 7;
const SOLICIT = 1;
const CONFIRM = 4;
const INFORMATION = 11;
const ANSWERED: readonly number[] = [SOLICIT, 3, CONFIRM, 5, 6, 8, 9, INFORMATION];
const WITH_STATUS: readonly number[] = [CONFIRM, 8, 9];

function options(bytes: Uint8Array): Option[] {
  const found: Option[] = [];
  let at = 0;
  while (at < bytes.length) {
    demand(at + 4 <= bytes.length, 'half an option');
    const v = view(bytes);
    const length = v.getUint16(at + 2);
    demand(at + 4 + length <= bytes.length, 'an option past its end');
    found.push({ code: v.getUint16(at), data: bytes.subarray(at + 4, at + 4 + length) });
    at += 4 + length;
  }
  return found;
}

/** Throws unless `reply` is one that a strict client takes as the answer to the DHCPv6 message `request`. */
export function strictDhcpv6(reply: Dissected, request: Uint8Array, from: Uint8Array): void {
  const message = reply.payload;
  demand(reply.srcPort === 547 && reply.dstPort === 546, 'ports');
  demand(same(reply.dst, from), 'sent to another address');
  demand(reply.src[0] === 0xfe && (reply.src[1] & 0xc0) === 0x80, 'not from a link-local address');
  demand(message.length >= 4 && message.length <= 1280 - 48, 'length');
  demand(same(message.subarray(1, 4), request.subarray(1, 4)), 'transaction id');
  const asked = options(request.subarray(4));
  const given = options(message.subarray(4));
  const type = request[0];
  demand(ANSWERED.includes(type), `an answer to a message of type ${String(type)}`);
  const rapid = type === SOLICIT && dataOf(asked, RAPID) !== null;
  demand(message[0] === (type === SOLICIT && !rapid ? ADVERTISE : REPLY), 'the type of the answer');
  demandUnique(given, IAS);

  const has = (code: number): boolean => dataOf(given, code) !== null;
  demand(has(RAPID) === rapid, 'rapid commit');
  const client = dataOf(asked, CLIENTID);
  demand(client === null ? !has(CLIENTID) : same(dataOf(given, CLIENTID) ?? new Uint8Array(0), client), 'client id');
  demand(has(SERVERID), 'no server id');
  demand(has(STATUS) || !WITH_STATUS.includes(type), 'no status');
  for (const option of given) demandOption(option);
  demandAssociations(given, asked, type);
}

function demandOption({ code, data }: Option): void {
  switch (code) {
    case CLIENTID:
    case SERVERID:
      demand(data.length > 2 && data.length <= 130, 'a DUID (§11.1)');
      return;
    case IA_NA:
    case IA_TA:
    case IA_PD:
      return;
    case STATUS:
      demandStatus(data);
      return;
    case RAPID:
      demand(data.length === 0, 'rapid commit with data');
      return;
    case DNS:
      demand(data.length > 0 && data.length % 16 === 0, 'resolvers (RFC 3646 §3)');
      return;
    case SEARCH:
      names(data, { compression: false, padding: false });
      return;
    case FQDN: {
      // RFC 4704 §4.1: MBZ bits; N and S not together.
      demand(data.length > 1 && (data[0] & 0xf8) === 0 && (data[0] & 5) !== 5, 'the flags of the FQDN');
      demand(names(data.subarray(1), { compression: false, padding: false }).length === 1, 'two FQDNs');
      return;
    }
    default:
      demand(false, `option ${String(code)}, which nobody knows us to send`);
  }
}

function demandStatus(data: Uint8Array): void {
  demand(data.length >= 2 && view(data).getUint16(0) <= 6, 'the status code');
  new TextDecoder('utf-8', { fatal: true }).decode(data.subarray(2));
}

/** Identity associations: only those asked for, once each, and in each what §18.3 and §21.4 to §21.22 allow. */
function demandAssociations(given: readonly Option[], asked: readonly Option[], type: number): void {
  const left = asked.filter(({ code }) => IAS.includes(code)).map(keyOf);
  const seen: Uint8Array[] = [];
  for (const option of given.filter(({ code }) => IAS.includes(code))) {
    demand(type !== CONFIRM && type !== INFORMATION, 'an association where there may be none');
    const at = left.indexOf(keyOf(option));
    demand(at >= 0, 'an association that was not asked for');
    left.splice(at, 1);
    const fixed = option.code === IA_TA ? 4 : 12;
    demand(option.data.length >= fixed, 'an association cut short');
    if (fixed === 12) demandTimes(option.data, 4, 'T1 is later than T2');
    const inner = options(option.data.subarray(fixed));
    demandUnique(inner, [IAADDR]);
    demand(inner.length > 0, 'an empty association');
    for (const { code, data } of inner) {
      if (code === STATUS) {
        demandStatus(data);
        continue;
      }
      demand(code === IAADDR && option.code !== IA_PD, `option ${String(code)} in an association`);
      demand(data.length === 24, 'an address option');
      demandTimes(data, 16, 'preferred for longer than valid');
      if (view(data).getUint32(20) === 0) continue; // the client's own, told to be gone
      demand(data[0] !== 0xff, 'a group as address');
      demand(!seen.some((a) => same(a, data.subarray(0, 16))), 'an address given twice');
      seen.push(data.subarray(0, 16));
    }
  }
}

function keyOf({ code, data }: Option): string {
  return `${String(code)} ${Buffer.from(data.subarray(0, 4)).toString('hex')}`;
}

function demandTimes(data: Uint8Array, at: number, what: string): void {
  demand(view(data).getUint32(at) <= view(data).getUint32(at + 4), what);
}
