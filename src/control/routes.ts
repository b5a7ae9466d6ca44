/** The operations of the HTTP API, all of them. */
import { Type } from '@sinclair/typebox';
import type { ControlParts } from './parts';
import { refuse } from './problem';
import { type Answer, type Route, route } from './route';
import { ADDRESSES, EVENT, FLOW_PAGE, FLOW_PROTOCOL, FORWARD_ITEMS, FORWARD_LIST, STATUS } from './schemas';
import type { ForwardItem } from './forward-items';
import type { ForwardList } from './forwards';
import { CAPTURE_ROUTES } from './capture-routes';
import { GVPROXY_ROUTES } from './gvproxy';
import { openApi } from './openapi';
import { POLICY_ROUTES } from './policy-routes';
import { FLOWS_A_PAGE } from './types';

/** A part that this service was built or started with. Throws Refused. */
function has<K extends keyof ControlParts>(parts: ControlParts, name: K): NonNullable<ControlParts[K]> {
  const part = parts[name];
  if (part === undefined) throw refuse(501, 'unsupported', `this service has no ${name}`);
  return part;
}

/** The forwards after a change, or as they are. */
function listed(list: ForwardList): Answer {
  return { status: 200, body: list, version: list.version };
}

const CLOSE_FLOWS = Type.Object({ closeFlows: Type.Optional(Type.Boolean()) }, { additionalProperties: false });
const FORWARDS_BODY = Type.Object({ forwards: FORWARD_ITEMS }, { additionalProperties: false });
const FORWARDS_ANSWER = { 200: { text: 'All forwards, after that.', schema: FORWARD_LIST } };
const CHANGE_ANSWERS = {
  ...FORWARDS_ANSWER,
  409: { text: 'A port is taken, or two forwards contradict each other. Nothing was changed.' },
  412: { text: 'The forwards are of another version by now. Nothing was changed.' },
};

const OUTWARD_ANSWERS = { ...CHANGE_ANSWERS, 501: { text: 'The guest is no namespace.' } };

/** A change of the forwards. */
function changes(
  row: Pick<Route, 'method' | 'path' | 'name' | 'summary'>,
  run: (
    parts: ControlParts,
    items: readonly ForwardItem[],
    options: { readonly ifVersion: number | null; readonly closeFlows: boolean },
  ) => Promise<ForwardList>,
  answers: Route['answers'] = CHANGE_ANSWERS,
): Route {
  return route({
    ...row,
    query: CLOSE_FLOWS,
    body: FORWARDS_BODY,
    answers,
    run: async ({ parts, query, body, ifMatch }) =>
      listed(
        await run(parts, body.forwards, {
          ifVersion: ifMatch,
          closeFlows: query.closeFlows ?? false,
        }),
      ),
  });
}

/** Says of a stream that its client is still wanted, so that one that is gone is noticed. */
const HEARTBEAT_MS = 15_000;

export const ROUTES: readonly Route[] = [
  route({
    method: 'GET',
    path: '/v1/status',
    name: 'getStatus',
    summary: 'What the service is, and what it knows of its guest.',
    answers: { 200: { text: 'The state at this moment.', schema: STATUS } },
    run: async ({ parts }) => ({ status: 200, body: await has(parts, 'status')() }),
  }),
  route({
    method: 'GET',
    path: '/v1/addresses',
    name: 'listAddresses',
    summary: "Addresses of the host's interfaces, those that the guest is given, and those that it was seen to use.",
    answers: { 200: { text: 'The addresses at this moment.', schema: ADDRESSES } },
    run: async ({ parts }) => ({ status: 200, body: await has(parts, 'addresses')() }),
  }),
  route({
    method: 'GET',
    path: '/v1/forwards',
    name: 'listForwards',
    summary: 'Forwarded ports.',
    answers: { 200: { text: 'All of them, with their version.', schema: FORWARD_LIST } },
    run: ({ parts }) => listed(has(parts, 'forwards').list()),
  }),
  changes(
    { method: 'POST', path: '/v1/forwards', name: 'addForwards', summary: 'Adds forwarded ports: all or none.' },
    (parts, items, options) => has(parts, 'forwards').add(items, options),
  ),
  changes(
    {
      method: 'PUT',
      path: '/v1/forwards',
      name: 'replaceForwards',
      summary: 'Forwards these ports and no others. Those that are forwarded already stay as they are.',
    },
    (parts, items, options) => has(parts, 'forwards').replace(items, options),
  ),
  changes(
    {
      method: 'POST',
      path: '/v1/forwards/remove',
      name: 'removeForwards',
      summary:
        'Removes forwarded ports, named as they are listed: all or none. TCP connections that came by them live on.',
    },
    (parts, items, options) => has(parts, 'forwards').remove(items, options),
    { ...CHANGE_ANSWERS, 404: { text: 'One of them is not forwarded. Nothing was changed.' } },
  ),
  changes(
    {
      method: 'POST',
      path: '/v1/outward',
      name: 'addOutward',
      summary: "Adds ports of a namespace's loopback that lead to the host's: all or none.",
    },
    (parts, items, options) => has(parts, 'outward').add(items, options),
    OUTWARD_ANSWERS,
  ),
  changes(
    {
      method: 'PUT',
      path: '/v1/outward',
      name: 'replaceOutward',
      summary: "These ports of a namespace's loopback lead to the host's, and no others.",
    },
    (parts, items, options) => has(parts, 'outward').replace(items, options),
    OUTWARD_ANSWERS,
  ),
  changes(
    {
      method: 'POST',
      path: '/v1/outward/remove',
      name: 'removeOutward',
      summary:
        "Removes ports of a namespace's loopback that lead to the host's, named as they are listed: all or none.",
    },
    (parts, items, options) => has(parts, 'outward').remove(items, options),
    { ...OUTWARD_ANSWERS, 404: { text: 'One of them is not there. Nothing was changed.' } },
  ),
  ...POLICY_ROUTES,
  ...CAPTURE_ROUTES,
  route({
    method: 'GET',
    path: '/v1/events',
    name: 'streamEvents',
    summary: 'What happens, as it happens: server-sent events, each with its name and one object of JSON.',
    answers: { 200: { text: 'Events from now on.', schema: EVENT, type: 'text/event-stream' } },
    run: ({ parts }) => {
      const events = has(parts, 'events');
      return {
        stream: (response) => {
          response.writeHead(200, { 'Content-Type': 'text/event-stream', 'Cache-Control': 'no-store' });
          response.write(': events from now on\n\n');
          const beat = setInterval(() => response.write(': still here\n\n'), HEARTBEAT_MS);
          beat.unref();
          const end = events.listen((event) => {
            response.write(`event: ${event.event}\ndata: ${JSON.stringify(event)}\n\n`);
          });
          return () => {
            clearInterval(beat);
            end();
          };
        },
      };
    },
  }),
  route({
    method: 'POST',
    path: '/v1/connect/{port}',
    name: 'connectPort',
    summary: 'Connects to a TCP port of the guest: behind the answer the connection carries its bytes.',
    answers: {
      101: { text: 'The bytes that follow are the connection to the guest.' },
      502: {
        text: 'No guest is connected, or it has too many connections. A port that the guest refuses ends the connection behind 101.',
      },
    },
    upgrades: 'tcp',
    run: ({ parts, id }) => {
      const connect = has(parts, 'connect');
      const port = Number(id);
      if (!/^[0-9]{1,5}$/.test(id) || port < 1 || port > 65535)
        throw refuse(400, 'invalid', 'give a port from 1 to 65535', 'port');
      return { upgrade: () => connect(port) };
    },
  }),
  route({
    method: 'POST',
    path: '/v1/end',
    name: 'endService',
    summary: 'Ends the service, as a SIGTERM does.',
    answers: { 202: { text: 'It ends.' } },
    run: ({ parts }) => {
      const end = has(parts, 'end');
      // The answer leaves first.
      setImmediate(end);
      return { status: 202 };
    },
  }),
  route({
    method: 'GET',
    path: '/v1/openapi.json',
    name: 'getOpenApi',
    summary: 'This description.',
    answers: { 200: { text: 'An OpenAPI document.' } },
    run: () => ({ status: 200, body: openApi(ROUTES) }),
  }),
  route({
    method: 'GET',
    path: '/v1/flows',
    name: 'listFlows',
    summary: 'Flows between the guest and hosts, by pages.',
    query: Type.Object(
      {
        protocol: Type.Optional(FLOW_PROTOCOL),
        from: Type.Optional(Type.String({ minLength: 1, maxLength: 64 })),
        most: Type.Optional(Type.Integer({ minimum: 1, maximum: FLOWS_A_PAGE })),
      },
      { additionalProperties: false },
    ),
    answers: { 200: { text: 'A page; `next` is the `from` of the one after it.', schema: FLOW_PAGE } },
    run: async ({ parts, query }) => ({ status: 200, body: await has(parts, 'flows').list(query) }),
  }),
  route({
    method: 'DELETE',
    path: '/v1/flows/{id}',
    name: 'closeFlow',
    summary: 'Closes a flow: both ends of a TCP connection get a reset.',
    answers: { 204: { text: 'It is closed.' }, 404: { text: 'There is no flow of that id (any more).' } },
    run: async ({ parts, id }) => {
      if (!(await has(parts, 'flows').close(id))) throw refuse(404, 'not-found', `there is no flow ${id}`, 'id');
      return { status: 204 };
    },
  }),
  ...GVPROXY_ROUTES,
];
