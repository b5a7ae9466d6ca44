/** The start-up report: the guest's configuration in a few lines, and the lines to paste for the hypervisor. */
import { formatHostPort, formatIp, formatMac, sameAddress } from '../config/address-text';
import type { ResolvedHost } from '../config/host-config';
import type { Skipped } from '../config/forward-listeners';
import { describeRule, type PortRule } from '../config/port-spec';
import type { FrontEnd } from './draft';
import { policySummary, rateText } from '../policy-text';
import type { AddressBytes, LinkRates, StackConfig } from '../stack/config';
import type { Policy } from '../stack/policy/types';

export type Endpoint =
  | { readonly kind: 'listen'; readonly path: string; readonly opened?: number }
  | { readonly kind: 'connect'; readonly path: string }
  | { readonly kind: 'fd'; readonly fd: number }
  /** No socket: the guest is a namespace. */
  | { readonly kind: 'namespace'; readonly name: string };

export interface SummaryInput {
  readonly version: string;
  /** The protocol spoken on the socket. */
  readonly frontEnd: FrontEnd;
  readonly endpoint: Endpoint;
  readonly oneOff: boolean;
  readonly config: StackConfig;
  readonly host: ResolvedHost;
  readonly rules: readonly PortRule[];
  /** Options of weak rules and how many ports of theirs are left out. */
  readonly skipped: ReadonlyMap<string, Skipped>;
  /** Whom the guest may talk to; null: everybody. */
  readonly policy: Policy | null;
  readonly rates: LinkRates;
  /** The control socket's path, or null. */
  readonly control: string | null;
  /** URL of the metrics, or null. */
  readonly metricsUrl: string | null;
}

/** A word of a shell command line, quoted if the shell would change it. */
export function shellWord(word: string): string {
  return /^[A-Za-z0-9_\-+=:,./@%]+$/.test(word) ? word : `'${word.replaceAll("'", "'\\''")}'`;
}

export function xmlText(text: string): string {
  const entities: Readonly<Record<string, string>> = {
    '&': '&amp;',
    '<': '&lt;',
    '>': '&gt;',
    "'": '&apos;',
    '"': '&quot;',
  };
  return text.replace(/[&<>'"]/g, (character) => entities[character]);
}

/** Guest memory must be shared for vhost-user; `size` must equal that of `-m`. */
export function qemuLines(endpoint: Endpoint, oneOff: boolean): string[] {
  if (endpoint.kind === 'fd' || endpoint.kind === 'namespace') return [];
  // A comma in a value is written twice in QEMU's options.
  const path = endpoint.path.replaceAll(',', ',,');
  const mode = endpoint.kind === 'connect' ? ',server=on,wait=off' : oneOff ? '' : ',reconnect=1';
  return [
    '-m 1G -object memory-backend-memfd,id=mem,size=1G,share=on -numa node,memdev=mem \\',
    `-chardev ${shellWord(`socket,id=net0,path=${path}${mode}`)} \\`,
    '-netdev vhost-user,id=net0,chardev=net0 -device virtio-net-pci,netdev=net0',
  ];
}

/** QEMU 7.2 or newer. QEMU reconnects a stream since 8.0. */
export function streamLines(endpoint: Endpoint, oneOff: boolean): string[] {
  if (endpoint.kind === 'fd' || endpoint.kind === 'namespace') return [];
  const path = endpoint.path.replaceAll(',', ',,');
  const mode = endpoint.kind === 'connect' ? 'server=on' : oneOff ? 'server=off' : 'server=off,reconnect=1';
  return [
    `-netdev ${shellWord(`stream,id=net0,${mode},addr.type=unix,addr.path=${path}`)} \\`,
    '-device virtio-net-pci,netdev=net0',
  ];
}

function libvirtLines(endpoint: Endpoint, oneOff: boolean): string[] {
  if (endpoint.kind === 'fd' || endpoint.kind === 'namespace') return [];
  const mode = endpoint.kind === 'listen' ? 'client' : 'server';
  const source = `source type='unix' path='${xmlText(endpoint.path)}' mode='${mode}'`;
  const again = mode === 'client' && !oneOff;
  return [
    "<memoryBacking><source type='memfd'/><access mode='shared'/></memoryBacking>",
    `<interface type='vhostuser'>${again ? `<${source}><reconnect enabled='yes' timeout='1'/></source>` : `<${source}/>`}<model type='virtio'/></interface>`,
  ];
}

function addressList(list: readonly AddressBytes[]): string {
  return list.map(formatIp).join(', ');
}

function guestLines(input: SummaryInput): string[] {
  const { config, host } = input;
  const { ip4, ip6 } = config;
  const lines: string[] = [];
  const names = (dns: readonly AddressBytes[]): string =>
    !config.advertiseDns || dns.length === 0 ? '' : `, DNS ${addressList(dns)}`;
  const source = (template: string | null): string => (template === null ? ' (local mode)' : ` (from ${template})`);
  if (ip4 !== null) {
    const gateway = ip4.gateway === null ? ', no gateway' : `, gateway ${formatIp(ip4.gateway)}`;
    const service = config.dhcp ? '' : ', no DHCP';
    lines.push(
      `  IPv4     ${formatIp(ip4.guestAddr)}/${ip4.prefixLen}${gateway}${names(ip4.dns)}${service}${source(host.template4)}`,
    );
  }
  if (ip6 !== null) {
    const addr = ip6.guestAddr === null ? 'no global address' : `${formatIp(ip6.guestAddr)}/64`;
    const gateway = ip6.gateway === null ? ', no gateway' : `, gateway ${formatIp(ip6.gateway)}`;
    lines.push(`  IPv6     ${addr}${gateway}${names(ip6.dns)}${source(host.template6)}`);
  }
  const search = config.advertiseSearch && config.search.length > 0 ? `, search ${config.search.join(' ')}` : '';
  lines.push(
    `  link     MTU ${config.mtu === 0 ? 'not advertised' : config.mtu}, gateway MAC ${formatMac(config.ourMac)}${search}`,
  );
  return lines;
}

function hostLines(config: StackConfig): string[] {
  const lines: string[] = [];
  for (const ip of [config.ip4, config.ip6]) {
    if (ip === null) continue;
    const loopback = ip === config.ip4 ? '127.0.0.1' : '::1';
    if (ip.mapHostLoopback !== null)
      lines.push(`  host     ${formatIp(ip.mapHostLoopback)} is this host's ${loopback}`);
    if (ip.mapGuestAddr !== null) lines.push(`  host     ${formatIp(ip.mapGuestAddr)} is this host's own address`);
    if (ip.dnsMatch !== null && ip.dnsHost !== null && !sameAddress(ip.dnsMatch, ip.dnsHost)) {
      lines.push(`  DNS      queries to ${formatIp(ip.dnsMatch)} go to ${formatHostPort(ip.dnsHost, 53)}`);
    }
  }
  return lines;
}

/** More rules than this are counted, not listed: `-t all` makes one rule between every two excluded ports. */
const MAX_RULE_LINES = 8;

function forwardLines(rules: readonly PortRule[], skipped: ReadonlyMap<string, Skipped>): string[] {
  const lines = rules.slice(0, MAX_RULE_LINES).map((rule) => `  forward  ${describeRule(rule)}`);
  if (rules.length > MAX_RULE_LINES) lines.push(`  forward  … and ${rules.length - MAX_RULE_LINES} more`);
  for (const [origin, { taken, noFiles }] of skipped) {
    if (taken > 0) lines.push(`  forward  ${origin}: left out ${taken} ports that are in use`);
    if (noFiles > 0)
      lines.push(`  forward  ${origin}: left out the highest ${noFiles} ports, the limit of open files is too low`);
  }
  return lines;
}

function limitLines({ policy, rates }: SummaryInput): string[] {
  const lines: string[] = [];
  if (policy !== null) lines.push(`  policy   ${policySummary(policy.rules.length, policy.otherwise, policy.audit)}`);
  if (rates.in !== 0 || rates.out !== 0)
    lines.push(`  rates    to the guest ${rateText(rates.in)}, from it ${rateText(rates.out)}`);
  return lines;
}

/** The start-up report, one log line each. */
export function summary(input: SummaryInput): string[] {
  const { endpoint } = input;
  const where =
    endpoint.kind === 'namespace'
      ? `for ${endpoint.name}`
      : endpoint.kind === 'fd'
        ? `on descriptor ${endpoint.fd}`
        : endpoint.kind === 'listen'
          ? `on ${endpoint.path}`
          : `for the front-end at ${endpoint.path}`;
  const service =
    endpoint.kind === 'namespace'
      ? 'network of a namespace'
      : input.frontEnd === 'stream'
        ? 'network back-end for a stream socket'
        : 'vhost-user network back-end';
  const lines = [
    `Tubetti ${input.version}: ${service} ${where}. The ${endpoint.kind === 'namespace' ? 'namespace' : 'guest'} gets:`,
    ...guestLines(input),
    ...hostLines(input.config),
    ...forwardLines(input.rules, input.skipped),
    ...limitLines(input),
  ];
  if (input.control !== null) lines.push(`  control  ${input.control}`);
  if (input.metricsUrl !== null) {
    lines.push(`  metrics  ${input.metricsUrl}`);
    if (input.metricsUrl.startsWith('http:')) lines.push(`  page     ${input.metricsUrl.replace(/metrics$/, '')}`);
  }
  if (endpoint.kind === 'namespace') return lines;
  if (input.frontEnd === 'stream') {
    const stream = streamLines(endpoint, input.oneOff);
    if (stream.length === 0) return lines;
    const hint = stream[0].includes('reconnect=1') ? ' (9.2 or newer: reconnect-ms=1000; 7.2: neither)' : '';
    return [...lines, `QEMU${hint}:`, ...stream.map((line) => `  ${line}`)];
  }
  const qemu = qemuLines(endpoint, input.oneOff);
  if (qemu.length > 0) {
    const hint = qemu.some((line) => line.includes('reconnect=1')) ? ' (9.2 or newer: reconnect-ms=1000)' : '';
    lines.push(`QEMU${hint}:`, ...qemu.map((line) => `  ${line}`));
    lines.push('libvirt:', ...libvirtLines(endpoint, input.oneOff).map((line) => `  ${line}`));
  }
  return lines;
}
