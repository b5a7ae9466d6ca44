/**
 * What the guest gets after the host's network changed: a pure function of what it had and of what the host would give
 * now. A family that lost its network keeps its addresses, for there is nothing better, and they may come back (a cable,
 * a wireless network, a suspended machine): IPv6 tells the guest so (`withdrawn`), IPv4 cannot.
 */
import type { ResolvedHost } from './host-config';

export function followHost(before: ResolvedHost, now: ResolvedHost): ResolvedHost {
  const lost4 = before.template4 !== null && now.template4 === null && before.ip4 !== null && now.ip4 !== null;
  const lost6 = before.template6 !== null && now.template6 === null && before.ip6 !== null && now.ip6 !== null;
  return {
    ...now,
    ip4: lost4 ? before.ip4 : now.ip4,
    template4: lost4 ? before.template4 : now.template4,
    ip6: lost6 ? { ...before.ip6, withdrawn: true } : now.ip6,
    template6: lost6 ? before.template6 : now.template6,
  };
}

/** True if the guest would notice no difference. Notes are remarks on how it was found. */
export function sameHost(a: ResolvedHost, b: ResolvedHost): boolean {
  return text(a) === text(b);
}

function text(host: ResolvedHost): string {
  const { ip4, ip6, search, template4, template6 } = host;
  return JSON.stringify([ip4, ip6, search, template4, template6], (_key, value: unknown) =>
    value instanceof Uint8Array ? String(value) : value,
  );
}
