/** The types of types.ts as JSON Schema, for answers. A test holds them against each other. */
import { type TSchema, Type } from '@sinclair/typebox';
import { EVENT_NAMES } from './events';

const nullable = <T extends TSchema>(schema: T) => Type.Union([schema, Type.Null()]);
const words = <T extends string>(...all: T[]) => Type.Union(all.map((word) => Type.Literal(word)));

export const ITEM_ERROR = Type.Object({ at: Type.String(), code: Type.String(), message: Type.String() });
export const ERRORS = Type.Object({ errors: Type.Array(ITEM_ERROR) });

export const FLOW_PROTOCOL = words('tcp', 'udp', 'icmp');
const FLOW_END = Type.Object({ address: Type.String(), port: Type.Integer() });

export const FLOW = Type.Object({
  id: Type.String(),
  protocol: FLOW_PROTOCOL,
  kind: words('link', 'splice'),
  origin: words('guest', 'host'),
  guest: FLOW_END,
  peer: FLOW_END,
  name: nullable(Type.String()),
  state: Type.String(),
  startedAt: Type.Number(),
  fromGuest: Type.Number(),
  toGuest: Type.Number(),
  rttUs: nullable(Type.Number()),
  rule: nullable(Type.String()),
});
export const FLOW_PAGE = Type.Object({ flows: Type.Array(FLOW), next: nullable(Type.String()) });

export const FORWARD = Type.Object({
  protocol: words('tcp', 'udp'),
  spec: Type.String(),
  listeners: Type.Integer(),
  connections: Type.Number(),
});

/** As users give it, and as it is listed. */
export const FORWARD_ITEM = Type.Object(
  { protocol: words('tcp', 'udp'), spec: Type.String({ minLength: 1, maxLength: 4096 }) },
  { additionalProperties: false },
);
export const FORWARD_ITEMS = Type.Array(FORWARD_ITEM, { maxItems: 255 });
/** `ports`: of `auto`, those that are forwarded at the moment. */
const OUTWARD = Type.Object({ ...FORWARD.properties, ports: Type.Optional(Type.Array(Type.Integer())) });
export const FORWARD_LIST = Type.Object({
  version: Type.Integer(),
  forwards: Type.Array(FORWARD),
  outward: Type.Array(OUTWARD),
});
export const EVENT = Type.Object({
  event: words(...EVENT_NAMES),
  at: Type.Number(),
  data: Type.Record(Type.String(), Type.Union([Type.String(), Type.Number()])),
});

export const CAPTURE = Type.Object({
  id: Type.String(),
  startedAt: Type.Number(),
  endedAt: nullable(Type.Number()),
  reason: nullable(words('limit', 'time', 'order', 'client', 'error', 'data-plane', 'end')),
  snap: Type.Integer(),
  packets: Type.Number(),
  bytes: Type.Number(),
  lost: Type.Number(),
});

export const ADDRESSES = Type.Object({
  host: Type.Array(Type.Object({ interface: Type.String(), address: Type.String(), prefix: Type.Integer() })),
  assigned: Type.Array(Type.String()),
  guest: Type.Array(Type.String()),
});

export const STATUS = Type.Object({
  version: Type.String(),
  node: Type.String(),
  labels: Type.Record(Type.String(), Type.String()),
  startedAt: Type.Number(),
  frontEnd: words('vhost-user', 'stream', 'tap'),
  endpoint: Type.String(),
  guest: Type.Object({
    connected: Type.Boolean(),
    mac: nullable(Type.String()),
    addresses: Type.Array(Type.String()),
    features: Type.Array(Type.String()),
    mtu: Type.Integer(),
  }),
  forwards: Type.Array(FORWARD),
  outward: Type.Array(OUTWARD),
  sandbox: Type.Array(Type.Object({ layer: Type.String(), state: words('on', 'off', 'missing') })),
});
