/** Operations on captures of the guest's frames. */
import { Type } from '@sinclair/typebox';
import { SNAPLEN } from '../pcap';
import type { Captures } from './captures';
import { refuse } from './problem';
import { type Route, route } from './route';
import { CAPTURE } from './schemas';

const TYPE = 'application/vnd.tcpdump.pcap';
/** A timer of Node's has 31 bits of ms. */
const MOST_SECONDS = 2_000_000;
const MOST = 2 ** 53 - 1;

interface Parts {
  readonly captures?: Captures;
}

function capturesOf({ captures }: Parts): Captures {
  if (captures === undefined) throw refuse(501, 'unsupported', 'this service has no captures');
  return captures;
}

/** The answer's head: its body ends with the connection (RFC 9112 §6.3). */
function headOf(id: string): string {
  return `HTTP/1.1 200 OK\r\nContent-Type: ${TYPE}\r\nCache-Control: no-store\r\nConnection: close\r\nCapture: ${id}\r\n\r\n`;
}

export const CAPTURE_ROUTES: readonly Route[] = [
  route({
    method: 'GET',
    path: '/v1/capture',
    name: 'capture',
    summary:
      "The guest's frames from now on, both ways, as they pass: a file of pcap, until a limit, an order or the client ends it. The header Capture has its id. Frames that the client reads too slowly for are left out and counted.",
    query: Type.Object(
      {
        snap: Type.Optional(Type.Integer({ minimum: 1, maximum: SNAPLEN })),
        packets: Type.Optional(Type.Integer({ minimum: 1, maximum: MOST })),
        bytes: Type.Optional(Type.Integer({ minimum: 1, maximum: MOST })),
        seconds: Type.Optional(Type.Number({ exclusiveMinimum: 0, maximum: MOST_SECONDS })),
      },
      { additionalProperties: false },
    ),
    answers: { 200: { text: 'The capture.', schema: Type.Unsafe({}), type: TYPE } },
    run: ({ parts, query }) => {
      const captures = capturesOf(parts);
      return { handOver: (fd) => captures.start(fd, query, headOf) };
    },
  }),
  route({
    method: 'GET',
    path: '/v1/captures',
    name: 'listCaptures',
    summary: 'Captures that run, and the last ones that are over.',
    answers: {
      200: { text: 'What was counted of each.', schema: Type.Object({ captures: Type.Array(CAPTURE) }) },
    },
    run: ({ parts }) => ({ status: 200, body: { captures: capturesOf(parts).list() } }),
  }),
  route({
    method: 'DELETE',
    path: '/v1/captures/{id}',
    name: 'stopCapture',
    summary: 'Ends a capture: its client gets what there is, and then the end.',
    answers: { 204: { text: 'It ends.' }, 404: { text: 'No capture of that id runs.' } },
    run: ({ parts, id }) => {
      if (!capturesOf(parts).end(id)) throw refuse(404, 'not-found', `no capture ${id} runs`, 'id');
      return { status: 204 };
    },
  }),
];
