/** A rule of the policy: `[tcp|udp|icmp/]HOST[:PORTS]` (docs/policy.md). */
import { domainToASCII } from 'node:url';
import { formatIp, isV4Mapped, parseIp, sameAddress } from './address-text';
import type { PolicyHost, PolicyRule, PolicyVerdict } from '../stack/policy/types';

/** Words that are a host of their own. */
const CLASSES = ['any', 'host', 'lan', 'metadata', 'dns'] as const;

const MAX_NAME = 253;
const LABEL = /^[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?$/;

/** What is wrong with a rule, without the rule. */
export class RuleError extends Error {}

function hostName(text: string): PolicyHost {
  const below = text.startsWith('*.');
  const given = (below ? text.slice(2) : text).replace(/\.$/, '');
  // Labels with "_" are names of DNS, and none of hosts, which is what domainToASCII knows.
  const name = /^[\x21-\x7e]+$/.test(given) ? given.toLowerCase() : domainToASCII(given);
  const labels = name.split('.');
  if (name === '' || name.length > MAX_NAME || !labels.every((label) => LABEL.test(label)) || !/[a-z]/.test(name)) {
    const why = text.includes('*') ? 'a name may have "*." in front, and no other "*"; write "any" for everybody' : '';
    throw new RuleError(
      why === '' ? `"${text}" is not an address, a prefix, a domain name, or one of ${CLASSES.join(', ')}` : why,
    );
  }
  if (name === 'localhost') throw new RuleError('"localhost" is the guest itself there; write "host" for this host');
  if (/^[0-9]+$/.test(labels[labels.length - 1])) throw new RuleError(`"${text}" is neither an address nor a name`);
  return { kind: 'name', name, below };
}

function hostOf(text: string): PolicyHost {
  if (text === '') throw new RuleError('the host is missing: give an address, a prefix, a name or "any"');
  for (const kind of CLASSES) if (text === kind) return { kind };
  if (text === '*') throw new RuleError('write "any" for everybody');
  const slash = text.indexOf('/');
  const address = parseIp(slash < 0 ? text : text.slice(0, slash));
  if (address === null) {
    if (slash >= 0)
      throw new RuleError(
        `"${text.slice(0, slash)}" is neither a protocol (tcp, udp, icmp) nor an address in front of a prefix length`,
      );
    return hostName(text);
  }
  if (isV4Mapped(address)) throw new RuleError('write the IPv4 address itself');
  const most = 8 * address.length;
  if (slash < 0) return { kind: 'prefix', address, length: most };
  const digits = text.slice(slash + 1);
  if (!/^[0-9]{1,3}$/.test(digits) || Number(digits) > most) {
    throw new RuleError(`give a prefix length from 0 to ${most} after the slash`);
  }
  const length = Number(digits);
  const network = address.map((byte, i) => byte & (0xff00 >> Math.min(8, Math.max(0, length - 8 * i))));
  if (!sameAddress(network, address)) {
    const right = `${formatIp(network)}/${length}, or ${formatIp(address)} for this address alone`;
    throw new RuleError(`the address has bits set behind its prefix of ${length}: write ${right}`);
  }
  return { kind: 'prefix', address, length };
}

function portsOf(text: string): readonly (readonly [number, number])[] {
  return text.split(',').map((part) => {
    const match = /^([0-9]{1,5})(?:-([0-9]{1,5}))?$/.exec(part);
    const first = Number(match?.[1] ?? NaN);
    const last = match?.[2] === undefined ? first : Number(match[2]);
    if (!(first >= 1 && last <= 65535 && first <= last)) {
      throw new RuleError(`ports are numbers from 1 to 65535, like 443, 80,443 or 8000-8999, not "${part}"`);
    }
    return [first, last] as const;
  });
}

/** Host and ports. IPv6 stands in brackets where ports follow, a prefix length within or behind them. */
function splitPorts(text: string): { host: string; ports: string | null } {
  if (text.startsWith('[')) {
    const match = /^\[([^\]]*)\](\/[0-9]+)?(?::(.*))?$/.exec(text);
    if (match === null) throw new RuleError('write IPv6 with ports like [2001:db8::1]:443');
    // Groups that took no part are undefined, whatever their type says.
    const [, inner, length = '', ports = null] = match;
    return { host: inner + length, ports };
  }
  const colon = text.indexOf(':');
  if (colon < 0) return { host: text, ports: null };
  // More than one colon: IPv6 without ports.
  if (text.includes(':', colon + 1)) {
    const match = /^(.*):([1-9][0-9]{0,4})$/.exec(text);
    if (match !== null && parseIp(text) !== null && parseIp(match[1]) !== null)
      throw new RuleError(
        `is ${match[2]} a port? Write [${match[1]}]:${match[2]} if it is, [${text}] if it is part of the address`,
      );
    return { host: text, ports: null };
  }
  return { host: text.slice(0, colon), ports: text.slice(colon + 1) };
}

/** @throws RuleError */
export function parseRule(verdict: PolicyVerdict, text: string, opensPrivate = false): PolicyRule {
  const match = /^(tcp|udp|icmp)\/(.*)$/.exec(text);
  const protocol = (match?.[1] ?? 'any') as PolicyRule['protocol'];
  const { host: hostText, ports: portText } = splitPorts(match === null ? text : match[2]);
  const host = hostOf(hostText);
  if (portText !== null && protocol === 'icmp')
    throw new RuleError('ICMP has no ports: leave them out, or give tcp/ or udp/');
  if (host.kind === 'dns' && (portText !== null || protocol === 'icmp')) {
    throw new RuleError('"dns" is port 53 of the resolvers, by TCP and UDP');
  }
  const ports = portText === null ? (host.kind === 'dns' ? ([[53, 53]] as const) : []) : portsOf(portText);
  if (opensPrivate && (host.kind !== 'name' || verdict === 'deny')) {
    throw new RuleError('"private" is for rules that allow a name');
  }
  return { verdict, protocol, host, ports, private: opensPrivate, text };
}
