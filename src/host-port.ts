/** A host and a port as in a URL (RFC 3986 §3.2.2): an IPv6 address is in brackets. */

/** `host`: a name, or an address as text. */
export function hostPort(host: string, port: number): string {
  return host.includes(':') ? `[${host}]:${port}` : `${host}:${port}`;
}
