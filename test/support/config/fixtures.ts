import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import {
  AF_INET,
  AF_INET6,
  type HostNetwork,
  parseAddresses,
  parseLinks,
  parseRoutes,
} from '../../../src/config/netlink';

export type RtnetlinkFixture = Readonly<Record<'links' | 'addresses' | 'routes4' | 'routes6', Uint8Array>>;

/** The dumps of test/fixtures/rtnetlink.hex, sequence number 1; the layout is told at the top of the file. */
export function rtnetlinkFixture(): RtnetlinkFixture {
  const text = readFileSync(join(__dirname, '../../fixtures/rtnetlink.hex'), 'utf8');
  const section = (name: string): Uint8Array => {
    const lines = text.split(`# ${name}\n`)[1].split('\n#')[0];
    return Uint8Array.from(Buffer.from(lines.replace(/\s/g, ''), 'hex'));
  };
  return {
    links: section('links'),
    addresses: section('addresses'),
    routes4: section('routes4'),
    routes6: section('routes6'),
  };
}

export function fixtureNetwork(): HostNetwork {
  const dumps = rtnetlinkFixture();
  return {
    links: parseLinks(dumps.links),
    addresses: parseAddresses(dumps.addresses),
    routes: [
      ...parseRoutes(dumps.routes4).filter((route) => route.family === AF_INET),
      ...parseRoutes(dumps.routes6).filter((route) => route.family === AF_INET6),
    ],
  };
}
