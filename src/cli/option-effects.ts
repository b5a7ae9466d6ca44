/**
 * What options do to the draft of the configuration, where that is more than to take a value: called by the table
 * (option-table.ts), in the order of the command line.
 */
import { addressFamily } from '../config/address-text';
import { checkPolicy, MAX_RULES } from '../config/policy';
import { parseRule, RuleError } from '../config/policy-rule';
import { MAX_SEARCH } from '../config/resolv-conf';
import type { LogLevel } from '../log';
import type { Apply } from './option-spec';
import { MODERATION_LEVELS } from '../dataplane/commands';
import { MAX_DNS } from '../stack/config';
import type { PolicyVerdict } from '../stack/policy/types';
import { ConfigError } from '../errors';
import { readConfigFile } from './settings';
import * as values from './option-values';

/** Largest `--mtu`: the IP packet of the largest Ethernet frame that passt's stream framing carries (65535 bytes). */
const MAX_MTU = 65521;
const MAX_POLL_US = 1000;
const MAX_LABELS = 32;
const MAX_STATS_SECONDS = 86400;

type FamilyAddress = 'gateway' | 'outboundAddr' | 'dnsForward' | 'dnsHost' | 'mapHostLoopback' | 'mapGuestAddr';

/** An address option given once per family, the last one wins. */
export function perFamily(field: FamilyAddress, refuse: readonly values.AddressRefusal[]): Apply {
  return (draft, value, shown) => {
    const addr = values.addressValue(shown, value, refuse);
    (addressFamily(addr) === 4 ? draft.v4 : draft.v6)[field] = addr;
  };
}

export const applyOutbound: Apply = (draft, value, shown) => {
  const addr = values.addressValue(shown, value, ['unspecified', 'multicast', 'broadcast', 'mapped']);
  if (addressFamily(addr) === 6) values.addressValue(shown, value, ['loopback']);
  (addressFamily(addr) === 4 ? draft.v4 : draft.v6).outboundAddr = addr;
};

export const applyAddress: Apply = (draft, value, shown) => {
  const { addr, prefixLen } = values.prefixedAddressValue(shown, value);
  const family = addressFamily(addr) === 4 ? draft.v4 : draft.v6;
  family.addr = addr;
  family.prefixLen = prefixLen;
};

export const applyDns: Apply = (draft, value, shown) => {
  if (value === 'none') {
    draft.dnsNone = true;
    draft.v4.dns = [];
    draft.v6.dns = [];
    return;
  }
  const addr = values.addressValue(shown, value, ['unspecified', 'multicast', 'broadcast', 'mapped']);
  const family = addressFamily(addr) === 4 ? draft.v4 : draft.v6;
  if (family.dns.length >= MAX_DNS)
    draft.warnings.push(`${shown} ${value}: left out, at most ${MAX_DNS} resolvers are advertised`);
  else family.dns.push(addr);
};

export const applySearch: Apply = (draft, value, shown) => {
  if (value === 'none') {
    draft.search = [];
    return;
  }
  draft.search ??= [];
  const names = value.split(/\s+/).filter((name) => name !== '');
  if (names.length === 0) throw values.badValue(shown, value, 'give domain names or "none"');
  for (const name of names) {
    if (draft.search.length >= MAX_SEARCH)
      throw values.badValue(shown, value, `give at most ${MAX_SEARCH} search domains`);
    draft.search.push(values.nameValue(shown, name));
  }
};

export const applyMapLoopback: Apply = (draft, value, shown) => {
  if (value === 'none') draft.mapGateway = false;
  else
    perFamily('mapHostLoopback', ['unspecified', 'loopback', 'multicast', 'broadcast', 'mapped'])(draft, value, shown);
};

export const applyMapGuest: Apply = (draft, value, shown) => {
  if (value === 'none') {
    draft.v4.mapGuestAddr = null;
    draft.v6.mapGuestAddr = null;
  } else
    perFamily('mapGuestAddr', ['unspecified', 'loopback', 'multicast', 'broadcast', 'mapped'])(draft, value, shown);
};

export const applyMtu: Apply = (draft, value, shown) => {
  draft.mtu = values.numberValue(shown, value, 0, MAX_MTU);
  if (draft.mtu < 68)
    draft.warnings.push(`${shown} ${value}: ${draft.mtu === 0 ? 'no MTU is advertised' : 'IPv4 needs at least 68'}`);
  else if (draft.mtu < 1280) draft.warnings.push(`${shown} ${value}: IPv6 needs at least 1280`);
};

export const applyFd: Apply = (draft, value, shown) => {
  draft.fd = values.numberValue(shown, value, 0, 0x7fffffff);
  draft.oneOff = true;
};

export const applyPoll: Apply = (draft, value, shown) => {
  draft.pollUs = values.numberValue(shown, value, 0, MAX_POLL_US);
};

export const applyModeration: Apply = (draft, value, shown) => {
  const level = MODERATION_LEVELS.find((name) => name === value);
  if (level === undefined) throw values.badValue(shown, value, 'give "off", "standard" or "adaptive"');
  draft.moderation = level;
};

export const DF_WORDS = ['fragment', 'keep'] as const;

export const applyDf: Apply = (draft, value, shown) => {
  if (!DF_WORDS.some((word) => word === value)) throw values.badValue(shown, value, 'give "fragment" or "keep"');
  draft.keepDf = value === 'keep';
};

export const applyStats: Apply = (draft, value, shown) => {
  draft.statsSeconds = values.numberValue(shown, value, 1, MAX_STATS_SECONDS);
};

export const applyLabel: Apply = (draft, value, shown) => {
  const label = values.labelValue(shown, value);
  if (draft.labels.some(({ name }) => name === label.name))
    throw values.badValue(shown, value, `${label.name} is given twice`);
  if (draft.labels.length === MAX_LABELS) throw values.badValue(shown, value, `give at most ${MAX_LABELS} labels`);
  draft.labels.push(label);
};

export function rule(verdict: PolicyVerdict): Apply {
  return (draft, value, shown) => {
    if (draft.policyRules.length === MAX_RULES) throw values.badValue(shown, value, `give at most ${MAX_RULES} rules`);
    try {
      draft.policyRules.push(parseRule(verdict, value));
    } catch (error) {
      if (!(error instanceof RuleError)) throw error;
      throw values.badValue(shown, value, error.message);
    }
  };
}

export const applyPolicy: Apply = (draft, value, shown) => {
  const path = values.fileValue(shown, value);
  const result = checkPolicy(readConfigFile(path, shown) ?? {});
  if ('policy' in result) {
    draft.policyFile = result.policy;
    return;
  }
  const [{ at, message }] = result.errors;
  const others = result.errors.length - 1;
  const more = others === 0 ? '' : ` (and ${others} more error${others === 1 ? '' : 's'})`;
  throw new ConfigError('CFG_ERR_VALUE', `${shown} ${value}: ${at === '' ? '' : `${at}: `}${message}${more}`);
};

export function ports(protocol: 'tcp' | 'udp'): Apply {
  return (draft, spec, shown) => {
    draft.portOptions.push({ protocol, spec, origin: `${shown} ${spec}` });
  };
}

type Switch =
  'follow' | 'tcp' | 'udp' | 'dhcp' | 'ndp' | 'dhcpv6' | 'ra' | 'advertiseDns' | 'advertiseSearch' | 'mapGateway';

export function off(field: Switch): Apply {
  return (draft) => {
    draft[field] = false;
  };
}

/** The last one counts, as with passt. A user who gives both may have meant both families, which is the default. */
export function only(version: 4 | 6): Apply {
  return (draft, _value, shown) => {
    if (draft.only !== 0 && draft.only !== version)
      draft.warnings.push(`${shown}: IPv${version} only, --ipv${draft.only}-only before it has no effect`);
    draft.only = version;
  };
}

export function level(name: LogLevel): Apply {
  return (draft) => {
    // --trace implies -d, whichever comes first; -q clears both.
    if (name !== 'debug' || draft.level !== 'trace') draft.level = name;
  };
}
