/**
 * The forwarder's part of gvproxy's API (gvisor-tap-vsock), over the forwards of this service: what is written for it works
 * at the control socket. Of `remote` the port counts: its address is the guest's, whatever it says. Of its protocols there
 * are tcp, udp and unix, a path of the host's that leads to a TCP port of the guest (`remote`: `tcp://ADDRESS:PORT`).
 */
import { type Static, Type } from '@sinclair/typebox';
import { formatIp } from '../config/address-text';
import type { PortRule } from '../config/port-spec';
import type { ForwardItem } from './forward-items';
import type { Forwards } from './forwards';
import { refuse } from './problem';
import { type Route, route } from './route';
import type { ControlParts } from './parts';

const PROTOCOL = Type.Optional(Type.Union([Type.Literal('tcp'), Type.Literal('udp'), Type.Literal('unix')]));
const LOCAL = Type.String({ minLength: 1, maxLength: 128 });
const EXPOSE = Type.Object({ local: LOCAL, remote: Type.String({ minLength: 1, maxLength: 128 }), protocol: PROTOCOL });
const EXPOSED = Type.Object({ local: Type.String(), remote: Type.String(), protocol: Type.String() });

function forwardsOf({ forwards }: ControlParts): Forwards {
  if (forwards === undefined) throw refuse(501, 'unsupported', 'this service has no forwards');
  return forwards;
}

/** `:8080`, `127.0.0.1:8080`, `[::1]:8080`. Throws Refused. */
function placeOf(text: string, at: string): { readonly host: string; readonly port: string } {
  const match = /^(?:\[([^\]]*)\]|([^:[\]]*)):([0-9]{1,5})$/.exec(text) as (string | undefined)[] | null;
  if (match === null) throw refuse(400, 'invalid', 'give ADDRESS:PORT', at);
  return { host: match[1] ?? match[2] ?? '', port: match[3] ?? '' };
}

/** The guest's port in `tcp://192.168.127.2:22`. Throws Refused. */
function portOfUrl(text: string, at: string): string {
  const [, scheme, place] = /^([a-z][a-z0-9+.-]*):\/\/([^/]*)\/?/.exec(text) ?? ['', 'tcp', text];
  if (scheme !== 'tcp') throw refuse(400, 'unsupported', `${scheme}: is not supported, give tcp://ADDRESS:PORT`, at);
  return placeOf(place, at).port;
}

/** What is to be forwarded. Throws Refused. */
function itemOf({ local, remote, protocol = 'tcp' }: Static<typeof EXPOSE>): ForwardItem {
  if (protocol === 'unix') return { protocol: 'tcp', spec: `unix:${local}:${portOfUrl(remote, 'body/remote')}` };
  const { host, port } = placeOf(local, 'body/local');
  const target = placeOf(remote, 'body/remote').port;
  return { protocol, spec: `${isAny(host) ? '' : `${host}/`}${port}${port === target ? '' : `:${target}`}` };
}

function isAny(host: string): boolean {
  return host === '' || host === '0.0.0.0' || host === '::';
}

function localOf({ addr, first }: PortRule): string {
  if (addr === null) return `:${first}`;
  return addr.length === 4 ? `${formatIp(addr)}:${first}` : `[${formatIp(addr)}]:${first}`;
}

/** Whether a rule is what gvproxy knows by that. Throws Refused. */
function isOf(local: string, protocol: string): (rule: PortRule) => boolean {
  if (protocol === 'unix') return ({ path }) => path === local;
  const { host, port } = placeOf(local, 'body/local');
  const wanted = isAny(host) ? `:${port}` : `${host.includes(':') ? `[${host}]` : host}:${port}`;
  return (rule) => rule.path === undefined && rule.protocol === protocol && localOf(rule) === wanted;
}

function shown(rule: PortRule): Static<typeof EXPOSED> {
  const remote = `${rule.targetAddr === null ? '' : formatIp(rule.targetAddr)}:${rule.targetFirst}`;
  if (rule.path !== undefined) return { local: rule.path, remote: `tcp://${remote}`, protocol: 'unix' };
  return { local: localOf(rule), remote, protocol: rule.protocol };
}

export const GVPROXY_ROUTES: readonly Route[] = [
  route({
    method: 'GET',
    path: '/services/forwarder/all',
    name: 'gvproxyAll',
    summary: "gvproxy's list of exposed ports.",
    answers: { 200: { text: 'All of them.', schema: Type.Array(EXPOSED) } },
    run: ({ parts }) => ({
      status: 200,
      body: forwardsOf(parts)
        .byId()
        .flatMap(({ rules, unix }) => [...rules, ...unix])
        .map(shown),
    }),
  }),
  route({
    method: 'POST',
    path: '/services/forwarder/expose',
    name: 'gvproxyExpose',
    summary: "gvproxy's way to forward a port.",
    body: EXPOSE,
    answers: { 200: { text: 'It is forwarded.' }, 409: { text: 'It is taken.' } },
    run: async ({ parts, body }) => {
      await forwardsOf(parts).add([itemOf(body)]);
      return { status: 200 };
    },
  }),
  route({
    method: 'POST',
    path: '/services/forwarder/unexpose',
    name: 'gvproxyUnexpose',
    summary: "gvproxy's way to end that.",
    body: Type.Object({ local: LOCAL, protocol: PROTOCOL }),
    answers: { 200: { text: 'It is forwarded no more.' }, 404: { text: 'It was not.' } },
    run: async ({ parts, body }) => {
      const forwards = forwardsOf(parts);
      const { local, protocol = 'tcp' } = body;
      const isWanted = isOf(local, protocol);
      const found = forwards.byId().find(({ rules, unix }) => [...rules, ...unix].some(isWanted));
      if (found === undefined) throw refuse(404, 'not-found', `${protocol} ${local} is not forwarded`, 'body/local');
      await forwards.removeId(found.id);
      return { status: 200 };
    },
  }),
];
