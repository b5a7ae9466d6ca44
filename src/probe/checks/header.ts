/** The header, and how messages may arrive on a stream. */
import { type Check, Failure } from '../check';
import * as vu from '../constants';
import { EMPTY, u64 } from '../payloads';
import { encode } from '../raw-front-end';
import { u64Of } from '../session';
import { arrive, check, messages, settle } from './rows';

const HEADER = 'vhost-user "Header"';
const STREAM = 'vhost-user "Communication"';
const GET = vu.VHOST_USER_GET_FEATURES;

/** Messages sent without a look at the answers: many times what a socket holds. */
const FLOOD = 20_000;

const hex = (n: number): string => `0x${n.toString(16)}`;

const flags = [0x0, 0x2, 0x3, 0x5, 0x11, 0x101, 0x8000_0001].map((value) => ({
  id: `header.flags-${hex(value)}`,
  title: `GET_FEATURES with flags ${hex(value)}`,
  request: GET,
  flags: value,
  expect: 'survives' as const,
}));

/** Sizes that no payload follows. */
const lies = [1, 7, 4096, 4097, 65_536, 0x8000_0000, 0xffff_ffff].map((size) => ({
  id: `header.size-lie-${size}`,
  title: `a size of ${size} that nothing follows`,
  request: GET,
  size,
  expect: 'leaves' as const,
}));

/** Payloads that the request does not have. */
const extra = [1, 8, 4096, 4097, 65_536].map((size) => ({
  id: `header.payload-${size}`,
  title: `GET_FEATURES with ${size} bytes of payload`,
  request: GET,
  payload: new Uint8Array(size),
  expect: 'survives' as const,
}));

const short = [0, 4, 16].map((size) => ({
  id: `header.set-features-${size}`,
  title: `SET_FEATURES with ${size} bytes of payload`,
  request: vu.VHOST_USER_SET_FEATURES,
  payload: new Uint8Array(size),
  expect: 'survives' as const,
}));

const cut = [1, 4, 11].map((bytes) =>
  check(`header.cut-${bytes}`, HEADER, 'robustness', `${bytes} bytes of a header, then the end`, async (probe) => {
    const session = await probe.open();
    session.front.sendRaw(encode(GET).subarray(0, bytes));
  }),
);

/** Sends a message in pieces with a pause for the back-end to read each. */
async function inPieces(
  session: Awaited<ReturnType<typeof arrive>>,
  pieces: readonly Uint8Array[],
  fds: number[],
): Promise<void> {
  for (const [i, piece] of pieces.entries()) {
    session.front.sendRaw(piece, i === 0 ? fds : []);
    await new Promise((resolve) => setTimeout(resolve, 2));
  }
}

export const HEADER_CHECKS: readonly Check[] = [
  check(
    'header.reply-flags',
    HEADER,
    'MUST',
    'a reply repeats the request and has version 1 and the reply bit',
    async (probe) => {
      const session = await probe.open();
      await session.callU64(GET);
    },
  ),
  check(
    'header.reply-to-need-reply',
    HEADER,
    'MUST',
    'need_reply on a request with a reply: that reply, flags 0x5, once',
    async (probe) => {
      const session = await arrive(probe, 'negotiated');
      await session.callU64(GET, EMPTY, { needReply: true });
      await session.callU64(GET);
    },
  ),
  ...messages(HEADER, [...flags, ...lies, ...extra, ...short]),
  ...cut,
  check('header.cut-payload', HEADER, 'robustness', 'half a payload, then the end', async (probe) => {
    const session = await probe.open();
    session.front.sendRaw(encode(vu.VHOST_USER_SET_FEATURES, u64(0)).subarray(0, 16));
  }),
  check(
    'header.cut-descriptor',
    HEADER,
    'robustness',
    'half a header with a descriptor, then the end',
    async (probe) => {
      const session = await probe.open();
      session.front.sendRaw(encode(vu.VHOST_USER_SET_VRING_CALL, u64(0)).subarray(0, 6), [session.eventFd()]);
    },
  ),

  check('stream.byte-by-byte', STREAM, 'MUST', 'a message that comes byte by byte is answered', async (probe) => {
    const session = await probe.open();
    await inPieces(
      session,
      Array.from(encode(GET), (byte) => Uint8Array.of(byte)),
      [],
    );
    u64Of(await session.reply(GET), GET);
  }),
  check(
    'stream.header-then-payload',
    STREAM,
    'MUST',
    'header with its descriptor first, payload later',
    async (probe) => {
      const session = await arrive(probe, 'negotiated');
      const bytes = encode(vu.VHOST_USER_SET_VRING_CALL, u64(0), { needReply: session.hasAcks });
      await inPieces(session, [bytes.subarray(0, 12), bytes.subarray(12)], [session.eventFd()]);
      const outcome = await session.outcome(vu.VHOST_USER_SET_VRING_CALL, session.hasAcks);
      if (outcome === 'closed' || outcome === 'refused') throw new Failure(`it was ${outcome}`);
    },
  ),
  check(
    'stream.descriptor-with-payload',
    STREAM,
    'robustness',
    'the descriptor comes with the payload',
    async (probe) => {
      const session = await arrive(probe, 'negotiated');
      const bytes = encode(vu.VHOST_USER_SET_VRING_CALL, u64(0));
      session.front.sendRaw(bytes.subarray(0, 12));
      session.front.sendRaw(bytes.subarray(12), [session.eventFd()]);
      probe.note(await settle(session));
    },
  ),
  check('stream.joined', STREAM, 'MUST', 'two messages in one packet are both answered', async (probe) => {
    const session = await probe.open();
    session.front.sendRaw(Uint8Array.of(...encode(GET), ...encode(GET)));
    for (let i = 0; i < 2; i++) u64Of(await session.reply(GET), GET);
  }),
  check('stream.pipelined', STREAM, 'MUST', '100 requests sent at once are answered, all of them', async (probe) => {
    const session = await probe.open();
    for (let i = 0; i < 100; i++) session.front.send(GET);
    for (let i = 0; i < 100; i++) u64Of(await session.reply(GET), GET);
  }),
  check(
    'stream.unread-replies',
    STREAM,
    'robustness',
    `up to ${FLOOD} requests whose answers are never read`,
    async (probe) => {
      const session = await probe.open();
      const message = encode(GET);
      // In one turn of our loop, in which no answer is read.
      for (let i = 0; i < FLOOD && session.front.sendRaw(message); i++);
    },
  ),
  check('stream.second', STREAM, 'robustness', 'a second front-end does not disturb the first', async (probe) => {
    const session = await arrive(probe, 'running');
    const fd = session.native.unixConnect(probe.path);
    if (fd >= 0) session.front.own(fd);
    await session.transmit();
    if (!(await session.alive())) throw new Failure('the first front-end was closed');
  }),
];
