/** Descriptors: how many come with which message, and of what kind. */
import { closeSync, ftruncateSync, mkdtempSync, openSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type Check, Failure } from '../check';
import * as vu from '../constants';
import { EMPTY, logBase, memTable, u64 } from '../payloads';
import type { Session } from '../session';
import { arrive, check, type MessageRow, messages, need, settle } from './rows';

const ANCILLARY = 'vhost-user "Ancillary data"';
const MEM_TABLE = 'vhost-user "VHOST_USER_SET_MEM_TABLE"';

const RING_FDS = [
  ['KICK', vu.VHOST_USER_SET_VRING_KICK],
  ['CALL', vu.VHOST_USER_SET_VRING_CALL],
  ['ERR', vu.VHOST_USER_SET_VRING_ERR],
] as const;

const NOFD = 0x100;
/** Descriptors replaced in one session: more than a process may usually hold. */
const REPLACED = 3000;
/** SCM_MAX_FD of Linux. */
const MOST = 253;
const MIB = 1n << 20n;

const region = { gpa: 0n, size: MIB, uva: 1n << 40n, offset: 0n };
const many = (count: number) => (s: Session) => new Array<number>(count).fill(s.eventFd());

/** A regular file of a megabyte, which has no name any more. */
function regularFile(s: Session, flags: 'r' | 'r+' = 'r+'): number {
  const dir = mkdtempSync(join(tmpdir(), 'tubetti-probe-'));
  try {
    const path = join(dir, 'file');
    const fd = openSync(path, 'w+');
    ftruncateSync(fd, Number(MIB));
    closeSync(fd);
    return s.file(path, flags);
  } finally {
    rmSync(dir, { recursive: true });
  }
}

/** Kinds that are neither eventfd nor memory, by what `s` makes. */
const KINDS: readonly (readonly [string, string, (s: Session) => number])[] = [
  ['file', 'a regular file', regularFile],
  ['directory', 'a directory', (s) => s.file('/')],
  ['null', '/dev/null', (s) => s.file('/dev/null', 'r+')],
  ['zero', '/dev/zero', (s) => s.file('/dev/zero', 'r+')],
  ['tcp', 'a TCP socket', (s) => s.tcpSocket()],
  ['dead-socket', 'a socket whose other end is closed', (s) => s.deadSocket()],
  ['memfd', 'a memfd', (s) => s.memfd(4096)],
];

const counts = RING_FDS.flatMap(([name, request]): MessageRow[] => [
  {
    id: `fds.${name}-0`,
    title: `SET_VRING_${name} without the descriptor it says to have`,
    request,
    payload: u64(0),
    expect: 'survives',
  },
  ...[2, 8, 9, 32, MOST].map((count): MessageRow => ({
    id: `fds.${name}-${count}`,
    title: `SET_VRING_${name} with ${count} descriptors`,
    request,
    payload: u64(0),
    fds: many(count),
    expect: 'survives',
  })),
  {
    id: `fds.${name}-nofd`,
    title: `SET_VRING_${name} with the bit for "no descriptor", and none`,
    spec: `vhost-user "VHOST_USER_SET_VRING_${name}"`,
    request,
    payload: u64(NOFD),
    expect: 'done',
  },
  {
    id: `fds.${name}-nofd-1`,
    title: `SET_VRING_${name} with that bit, and one`,
    request,
    payload: u64(NOFD),
    fds: many(1),
    expect: 'survives',
  },
]);

const unwanted: MessageRow[] = [
  [vu.VHOST_USER_GET_FEATURES, 'GET_FEATURES', EMPTY] as const,
  [vu.VHOST_USER_SET_OWNER, 'SET_OWNER', EMPTY] as const,
  [vu.VHOST_USER_SET_VRING_NUM, 'SET_VRING_NUM', new Uint8Array(8)] as const,
].flatMap(([request, name, payload]) =>
  [1, 8, MOST].map((count): MessageRow => ({
    id: `fds.${name}-${count}`,
    title: `${name} with ${count} descriptors`,
    request,
    payload,
    fds: many(count),
    expect: 'survives',
  })),
);

/** Offers a frame, and waits a moment until it is used. */
async function frameLook(session: Session): Promise<void> {
  const { tx } = session;
  const { gpa, length } = session.arpFrame();
  tx.put(0, { gpa, length });
  tx.offer([0]);
  tx.kick();
  await session.usedReaches(tx, tx.availIdx, 20);
}

/** A descriptor of the wrong kind on a running transmit ring, which then works: kicked, a frame, notified. */
const kinds = RING_FDS.flatMap(([name, request]) =>
  KINDS.map(([id, title, make]) =>
    check(
      `fds.${name}-${id}`,
      ANCILLARY,
      'robustness',
      `SET_VRING_${name} with ${title}, then frames`,
      async (probe) => {
        const session = await arrive(probe, 'running');
        session.front.send(request, u64(1), { needReply: session.hasAcks, fds: [make(session)] });
        probe.note(await settle(session));
        await frameLook(session);
        if (!session.front.isClosed) await session.alive();
      },
    ),
  ),
);

const memoryKinds = [
  ...KINDS.filter(([id]) => id !== 'memfd' && id !== 'file' && id !== 'zero'),
  ['eventfd', 'an eventfd', (s: Session) => s.eventFd()] as const,
].map(([id, title, make]): MessageRow => ({
  id: `fds.memory-${id}`,
  title: `memory in ${title}, which cannot be mapped`,
  request: vu.VHOST_USER_SET_MEM_TABLE,
  payload: memTable([region]),
  fds: (s) => [make(s)],
  expect: 'refused',
}));

export const DESCRIPTOR_CHECKS: readonly Check[] = [
  ...messages(ANCILLARY, [...counts, ...unwanted]),
  ...kinds,
  ...messages(MEM_TABLE, [
    ...memoryKinds,
    {
      id: 'fds.memory-read-only',
      title: 'memory in a file that is open for reading only',
      request: vu.VHOST_USER_SET_MEM_TABLE,
      payload: memTable([region]),
      fds: (s) => [regularFile(s, 'r')],
      expect: 'refused',
    },
    {
      id: 'fds.memory-zero',
      title: 'memory in /dev/zero',
      request: vu.VHOST_USER_SET_MEM_TABLE,
      payload: memTable([region]),
      fds: (s) => [s.file('/dev/zero', 'r+')],
      expect: 'survives',
    },
  ]),
  ...messages('vhost-user "VHOST_USER_SET_LOG_BASE"', [
    ...KINDS.filter(([id]) => id !== 'memfd' && id !== 'file').map(([id, title, make]): MessageRow => ({
      id: `fds.log-${id}`,
      title: `a dirty log in ${title}`,
      needs: vu.VHOST_USER_PROTOCOL_F_LOG_SHMFD,
      request: vu.VHOST_USER_SET_LOG_BASE,
      payload: logBase(4096n, 0n),
      fds: (s) => [make(s)],
      expect: 'survives',
    })),
  ]),
  ...messages('vhost-user "VHOST_USER_SET_BACKEND_REQ_FD"', [
    ...[0, 2].map((count): MessageRow => ({
      id: `fds.backend-req-${count}`,
      title: `${count} descriptors`,
      needs: vu.VHOST_USER_PROTOCOL_F_BACKEND_REQ,
      request: vu.VHOST_USER_SET_BACKEND_REQ_FD,
      fds: (s) => Array.from({ length: count }, () => s.front.socket()),
      expect: 'survives',
    })),
    ...KINDS.map(([id, title, make]): MessageRow => ({
      id: `fds.backend-req-${id}`,
      title: `${title} as the back-end's channel`,
      needs: vu.VHOST_USER_PROTOCOL_F_BACKEND_REQ,
      request: vu.VHOST_USER_SET_BACKEND_REQ_FD,
      fds: (s) => [make(s)],
      expect: 'survives',
    })),
  ]),
  check(
    'fds.backend-req-again',
    'vhost-user "VHOST_USER_SET_BACKEND_REQ_FD"',
    'MUST',
    'a second channel takes the place of the first',
    async (probe) => {
      const session = await arrive(probe, 'negotiated');
      need(session, vu.VHOST_USER_PROTOCOL_F_BACKEND_REQ, 'BACKEND_REQ');
      for (let i = 0; i < 2; i++) {
        await session.must(vu.VHOST_USER_SET_BACKEND_REQ_FD, EMPTY, { fds: [session.front.socket()] });
      }
    },
  ),
  ...RING_FDS.map(([name, request]) =>
    check(
      `fds.${name}-replaced`,
      ANCILLARY,
      'MUST',
      `SET_VRING_${name} ${REPLACED} times: the one before is closed`,
      async (probe) => {
        const session = await arrive(probe, 'negotiated');
        const fd = session.eventFd();
        for (let i = 0; i < REPLACED; i++) {
          session.front.send(request, u64(0), { fds: [fd] });
          // Every now and then, so that the socket does not fill up.
          if (i % 50 === 49 && !(await session.alive())) throw new Failure(`closed after ${i + 1}`);
        }
        if (!(await session.alive())) throw new Failure('closed');
      },
    ),
  ),
  check(
    'fds.call-full',
    ANCILLARY,
    'robustness',
    'an eventfd for notifications whose counter is full',
    async (probe) => {
      const session = await arrive(probe, 'running');
      const full = session.eventFd();
      session.native.write(full, u64(0xffff_ffff_ffff_fffen), 0, 8);
      await session.must(vu.VHOST_USER_SET_VRING_CALL, u64(1), { fds: [full] });
      await frameLook(session);
      if (!(await session.alive())) probe.note('closed');
    },
  ),
];
