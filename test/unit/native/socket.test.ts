/** TCP, UDP and ping sockets over loopback: rows, many messages a call, the error queue. */
import {
  AF_INET,
  AF_INET6,
  EPOLLERR,
  EPOLLIN,
  EPOLLOUT,
  MEMINFO_RCVBUF,
  MEMINFO_RMEM_ALLOC,
  MEMINFO_SNDBUF,
  MSG_PEEK,
  MSG_TRUNC,
  SOCKERR_CODE,
  SOCKERR_ERRNO,
  SOCKERR_LENGTH,
  SOCKERR_ORIGIN,
  SOCKERR_TYPE,
  SOCK_ICMP,
  SOCK_TCP,
  SOCK_UDP,
  TCPI_BYTES_ACKED,
  TCPI_BYTES_RECEIVED,
  TCPI_RTT,
} from '../../../src/stack/ports';
import {
  AGAIN,
  E,
  LOOPBACK4,
  LOOPBACK6,
  MAPPED_LOOPBACK,
  getSlot,
  native,
  ok,
  region,
  setRows,
  setSlot4,
  setSlot6,
  testAddon,
  waitFor,
} from '../../support/native/addon';

const IPPROTO_IP = 0;
const IP_TOS = 1;
const IP_TTL = 2;
const IP_PKTINFO = 8;
const IP_RECVERR = 11;
const IP_RECVTTL = 12;
const IP_RECVTOS = 13;
const IPPROTO_TCP = 6;
const TCP_NODELAY = 1;
const IPPROTO_UDP = 17;
const UDP_GRO = 104;
const IPPROTO_IPV6 = 41;
const IPV6_RECVERR = 25;
const IPV6_V6ONLY = 26;
const IPV6_RECVPKTINFO = 49;
const IPV6_RECVHOPLIMIT = 51;
const IPV6_RECVTCLASS = 66;
const SOL_SOCKET = 1;
const SO_ERROR = 4;
const SO_SNDBUF = 7;
const SO_BUF_LOCK = 72;
const SOCK_SNDBUF_LOCK = 1;
const SO_RCVBUF = 8;

const memory = region(1 << 20);
const text = (offset: number, length: number) => Buffer.from(memory.bytes.slice(offset, offset + length)).toString();
const put = (offset: number, value: string) => memory.bytes.set(Buffer.from(value), offset);

let open: number[];
const track = (fd: number): number => {
  open.push(ok(fd));
  return fd;
};

beforeAll(() => {
  ok(native.epollInit());
});
beforeEach(() => {
  open = [];
  memory.bytes.fill(0);
});
afterEach(() => {
  for (const fd of open) native.close(fd);
});
afterAll(() => {
  native.retireRegion(memory.id);
});

/** Connected TCP sockets [client, server] on 127.0.0.1; slots 0-2 are used. */
function tcpPair(): [number, number] {
  const listener = track(native.socket(AF_INET, SOCK_TCP));
  setSlot4(0, LOOPBACK4, 0);
  ok(native.bind(listener, 0));
  ok(native.listen(listener, 1));
  ok(native.getsockname(listener, 0));
  const client = track(native.socket(AF_INET, SOCK_TCP));
  const connected = native.connect(client, 0);
  if (connected !== -E.INPROGRESS) ok(connected);
  native.watch(listener, EPOLLIN, 1, 0);
  waitFor(1);
  const server = track(native.accept(listener, 1));
  return [client, server];
}

function udpBound(family: number, slot: number): number {
  const fd = track(native.socket(family, SOCK_UDP));
  if (family === AF_INET) setSlot4(slot, LOOPBACK4, 0);
  else setSlot6(slot, LOOPBACK6, 0);
  ok(native.bind(fd, slot));
  ok(native.getsockname(fd, slot));
  return fd;
}

function readable(fd: number): void {
  native.unwatch(fd);
  ok(native.watch(fd, EPOLLIN, 99, 0));
  expect(waitFor(99) & EPOLLIN).toBe(EPOLLIN);
  native.unwatch(fd);
}

describe('TCP', () => {
  test('connects, with names on both sides and TCP_NODELAY', () => {
    const [client, server] = tcpPair();
    expect(getSlot(0)).toMatchObject({ family: AF_INET, scope: 0, address: MAPPED_LOOPBACK });
    ok(native.getsockname(client, 2));
    expect(getSlot(1)).toEqual(getSlot(2));
    for (const fd of [client, server]) expect(testAddon.getsockopt(fd, IPPROTO_TCP, TCP_NODELAY)).toBe(1);
    expect(testAddon.getsockopt(client, SOL_SOCKET, SO_ERROR)).toBe(0);
  });

  test('gathers, peeks, scatters, discards, ends', () => {
    const [client, server] = tcpPair();
    put(10, 'Hello, ');
    put(100, 'scattered');
    put(200, ' world');
    setRows(5, [memory.id, 10, 7], [memory.id, 100, 9], [memory.id, 0, 0], [memory.id, 200, 6]);
    expect(native.recv(server, 5, 1, 0)).toBe(AGAIN);
    expect(native.send(client, 5, 4, 0)).toBe(22);
    readable(server);
    setRows(20, [memory.id, 1001, 3], [memory.id, 2000, 100]);
    expect(native.recv(server, 20, 2, MSG_PEEK)).toBe(22);
    expect(text(1001, 4) + text(2000, 19)).toBe('Hel\0lo, scattered world');
    expect(native.discard(server, 7)).toBe(7);
    expect(native.recv(server, 20, 1, 0)).toBe(3);
    expect(text(1001, 3)).toBe('sca');
    expect(native.discard(server, 1000)).toBe(12);
    expect(native.discard(server, 1000)).toBe(AGAIN);
    expect(native.discard(server, -1)).toBe(-E.INVAL);
    expect(native.shutdown(client, 1)).toBe(0);
    readable(server);
    expect(native.recv(server, 20, 2, 0)).toBe(0);
    expect(native.send(client, 5, 4, 0)).toBe(-E.PIPE);
  });

  test('takes 1024 rows a call', () => {
    const [client, server] = tcpPair();
    for (let i = 0; i < 1025; i++) setRows(i, [memory.id, i, 1]);
    memory.bytes.fill(0x61, 0, 1024);
    expect(native.send(client, 0, 1024, 0)).toBe(1024);
    expect(native.send(client, 0, 1025, 0)).toBe(-E.INVAL);
    readable(server);
    for (let i = 0; i < 1024; i++) setRows(i, [memory.id, 4096 + 2 * i, 1]);
    expect(native.recv(server, 0, 1024, 0)).toBe(1024);
    expect(memory.bytes[4096 + 2 * 1023]).toBe(0x61);
  });

  test('tells how far its bytes have come', () => {
    const [client, server] = tcpPair();
    setRows(0, [memory.id, 0, 10_000]);
    expect(native.send(client, 0, 1, 0)).toBe(10_000);
    readable(server);
    expect(native.tcpInfo(client)).toBe(0);
    expect(native.tcpInfoOut[TCPI_BYTES_ACKED] - 10_000).toBeLessThanOrEqual(1); // the SYN
    expect(native.tcpInfoOut[TCPI_BYTES_ACKED] - 10_000).toBeGreaterThanOrEqual(0);
    expect(native.tcpInfoOut[TCPI_BYTES_RECEIVED]).toBe(0);
    expect(native.tcpInfoOut[TCPI_RTT]).toBeGreaterThan(0);
    expect(native.tcpInfo(server)).toBe(0);
    expect(native.tcpInfoOut[TCPI_BYTES_RECEIVED]).toBe(10_000);
    const udp = ok(native.socket(AF_INET, SOCK_UDP));
    expect(native.tcpInfo(udp)).toBeLessThan(0);
    native.close(udp);
    expect(native.tcpInfo(-1)).toBe(-9);
  });

  test('tells its queues', () => {
    const [client, server] = tcpPair();
    setRows(0, [memory.id, 0, 10_000]);
    expect(native.send(client, 0, 1, 0)).toBe(10_000);
    readable(server);
    expect(native.memInfo(server)).toBe(0);
    expect(native.memInfoOut[MEMINFO_RMEM_ALLOC]).toBeGreaterThanOrEqual(10_000);
    expect(native.memInfoOut[MEMINFO_RCVBUF]).toBe(testAddon.getsockopt(server, SOL_SOCKET, SO_RCVBUF));
    expect(native.memInfoOut[MEMINFO_SNDBUF]).toBeGreaterThan(0);
    expect(native.outq(client)).toBe(0);
    setRows(0, [memory.id, 0, 1 << 20]);
    while (native.send(client, 0, 1, 0) >= 0);
    expect(native.outq(client)).toBeGreaterThan(0);
  });

  test('a send buffer that was set and unlocked is tuned by the kernel again', () => {
    const [client] = tcpPair();
    expect(native.setsockopt(client, SOL_SOCKET, SO_SNDBUF, 20_000)).toBe(0);
    expect(native.memInfo(client)).toBe(0);
    expect(native.memInfoOut[MEMINFO_SNDBUF]).toBe(40_000);
    expect(testAddon.getsockopt(client, SOL_SOCKET, SO_BUF_LOCK)).toBe(SOCK_SNDBUF_LOCK);
    expect(native.setsockopt(client, SOL_SOCKET, SO_BUF_LOCK, 0)).toBe(0);
    expect(testAddon.getsockopt(client, SOL_SOCKET, SO_BUF_LOCK)).toBe(0);
  });

  test('abort is a reset, refusal an error', () => {
    const [client, server] = tcpPair();
    open.splice(open.indexOf(server), 1);
    expect(native.abort(server)).toBe(0);
    readable(client);
    setRows(0, [memory.id, 0, 1]);
    expect(native.recv(client, 0, 1, 0)).toBe(-E.CONNRESET);
    const probe = udpBound(AF_INET, 3); // a port that no TCP listener has
    native.getsockname(probe, 3);
    const refused = track(native.socket(AF_INET, SOCK_TCP));
    if (native.connect(refused, 3) === -E.INPROGRESS) {
      native.watch(refused, EPOLLOUT, 98, 0);
      waitFor(98);
    }
    expect([0, E.CONNREFUSED]).toContain(testAddon.getsockopt(refused, SOL_SOCKET, SO_ERROR));
    expect(native.send(refused, 0, 1, 0)).toBe(-E.PIPE);
  });

  test('IPv6, and an IPv4 peer of a dual-stack listener is AF_INET', () => {
    const listener = track(native.socket(AF_INET6, SOCK_TCP));
    expect(testAddon.getsockopt(listener, IPPROTO_IPV6, IPV6_V6ONLY)).toBe(1);
    ok(native.setsockopt(listener, IPPROTO_IPV6, IPV6_V6ONLY, 0));
    setSlot6(0, new Array<number>(16).fill(0), 0);
    ok(native.bind(listener, 0));
    ok(native.listen(listener, 2));
    ok(native.getsockname(listener, 0));
    const { port } = getSlot(0);
    native.watch(listener, EPOLLIN, 97, 0);
    setSlot4(1, LOOPBACK4, port);
    native.connect(track(native.socket(AF_INET, SOCK_TCP)), 1);
    waitFor(97);
    track(native.accept(listener, 2));
    expect(getSlot(2)).toMatchObject({ family: AF_INET, address: MAPPED_LOOPBACK });
    setSlot6(1, LOOPBACK6, port);
    native.connect(track(native.socket(AF_INET6, SOCK_TCP)), 1);
    waitFor(97);
    track(native.accept(listener, 2));
    expect(getSlot(2)).toMatchObject({ family: AF_INET6, address: LOOPBACK6 });
  });
});

test('bad arguments come back as errnos', () => {
  expect(native.socket(1, SOCK_TCP)).toBe(-97); // EAFNOSUPPORT
  expect(native.socket(AF_INET, 9)).toBe(-93); // EPROTONOSUPPORT
  const fd = track(native.socket(AF_INET, SOCK_UDP));
  setSlot6(0, LOOPBACK6, 0);
  native.addrs.setUint16(0, AF_INET, true); // an IPv4 slot that is not v4-mapped
  expect(native.bind(fd, 0)).toBe(-E.INVAL);
  native.addrs.setUint16(0, 0, true);
  expect(native.connect(fd, 0)).toBe(-97);
  for (const slot of [-1, 256]) {
    expect(native.bind(fd, slot)).toBe(-E.INVAL);
    expect(native.connect(fd, slot)).toBe(-E.INVAL);
    expect(native.accept(fd, slot)).toBe(-E.INVAL);
    expect(native.getsockname(fd, slot)).toBe(-E.INVAL);
  }
  expect(native.bindToDevice(fd, 'a-name-of-16-byt')).toBe(-E.INVAL);
  expect(native.bindToDevice(fd, 'lo')).toBeLessThanOrEqual(0);
  expect(native.recvMany(fd, 0, 0, 0)).toBe(-E.INVAL);
  expect(native.recvMany(fd, 250, 7, 0)).toBe(-E.INVAL);
  expect(native.sendMany(fd, -1, 1)).toBe(-E.INVAL);
  expect(native.close(-1)).toBe(-E.BADF);
  expect(native.ifIndex('lo')).toBe(1);
  expect(native.ifIndex('no-such-link')).toBeLessThan(0);
  expect(native.raiseFileLimit()).toBeGreaterThan(0);
});

describe.each([
  ['IPv4', AF_INET, IPPROTO_IP, [IP_PKTINFO, IP_RECVTTL, IP_RECVTOS], MAPPED_LOOPBACK],
  ['IPv6', AF_INET6, IPPROTO_IPV6, [IPV6_RECVPKTINFO, IPV6_RECVHOPLIMIT, IPV6_RECVTCLASS], LOOPBACK6],
] as const)('UDP over %s', (_, family, level, receiveOptions, loopback) => {
  /** Message i: rows, peer, local and options. */
  function message(
    i: number,
    row: number,
    rows: number,
    peer: number,
    local = -1,
    ttl = -1,
    tos = -1,
    segment = 0,
  ): void {
    native.msgRow[i] = row;
    native.msgRows[i] = rows;
    native.msgPeer[i] = peer;
    native.msgLocal[i] = local;
    native.msgTtl[i] = ttl;
    native.msgTos[i] = tos;
    native.msgSegment[i] = segment;
  }

  test('many at once, with addresses, TTL and TOS', () => {
    const a = udpBound(family, 10);
    const b = udpBound(family, 11);
    for (const option of receiveOptions) ok(native.setsockopt(b, level, option, 1));
    put(0, 'one');
    put(10, 'two');
    put(20, 'three');
    setRows(0, [memory.id, 0, 3], [memory.id, 10, 2], [memory.id, 12, 1], [memory.id, 20, 5]);
    if (family === AF_INET) setSlot4(12, LOOPBACK4, 0);
    else setSlot6(12, LOOPBACK6, 0);
    message(3, 0, 1, 11, 12, 17, 0x48);
    message(4, 1, 2, 11);
    message(5, 3, 1, 11, -1, 200);
    expect(native.sendMany(a, 3, 3)).toBe(3);
    expect([...native.msgLen.subarray(3, 6)]).toEqual([3, 3, 5]);
    readable(b);
    setRows(50, [memory.id, 100, 100], [memory.id, 200, 1], [memory.id, 300, 100], [memory.id, 400, 2]);
    message(20, 50, 1, 30, 40);
    message(21, 51, 2, 31, 41);
    message(22, 53, 1, 32, -1); // truncated
    message(23, 50, 1, 33, -1);
    expect(native.recvMany(b, 20, 4, MSG_TRUNC)).toBe(3);
    expect([...native.msgLen.subarray(20, 23)]).toEqual([3, 3, 5]);
    expect([text(100, 3), text(200, 1) + text(300, 2), text(400, 3)]).toEqual(['one', 'two', 'th\0']);
    expect([...native.msgTtl.subarray(20, 23)]).toEqual([17, 64, 200]);
    expect([...native.msgTos.subarray(20, 23)]).toEqual([0x48, 0, 0]);
    expect([...native.msgSegment.subarray(20, 23)]).toEqual([0, 0, 0]);
    for (const slot of [30, 31, 32]) expect(getSlot(slot)).toEqual(getSlot(10));
    for (const slot of [40, 41]) expect(getSlot(slot)).toMatchObject({ family, port: 0, address: loopback });
    expect(native.recvMany(b, 20, 4, 0)).toBe(AGAIN);
  });

  test('a wrong message ends the batch before it, then has its own error', () => {
    const a = udpBound(family, 10);
    const b = udpBound(family, 11);
    setRows(0, [memory.id, 0, 3], [memory.id, -1, 3]);
    message(0, 0, 1, 11);
    message(1, 0, 1, 11);
    message(2, 1, 1, 11);
    expect(native.sendMany(a, 0, 3)).toBe(2);
    expect(native.sendMany(a, 2, 1)).toBe(-E.FAULT);
    message(2, 0, 1, 256);
    expect(native.sendMany(a, 2, 1)).toBe(-E.INVAL);
    message(2, 0, 1, 11, 256);
    expect(native.sendMany(a, 2, 1)).toBe(-E.INVAL);
    message(2, 0, 1, 11, -1, -1, -1, 0x10000);
    expect(native.sendMany(a, 2, 1)).toBe(-E.INVAL);
    message(2, 0, 1025, 11);
    expect(native.sendMany(a, 2, 1)).toBe(-E.INVAL);
    message(2, 0, -1, 11);
    expect(native.recvMany(b, 2, 1, 0)).toBe(-E.INVAL);
    message(2, 0, 1, 256);
    expect(native.recvMany(b, 2, 1, 0)).toBe(-E.INVAL);
    message(1, 0, 1, 256);
    readable(b);
    message(0, 0, 1, 12);
    expect(native.recvMany(b, 0, 2, 0)).toBe(1);
  });

  test('connected: no peer, segments out and coalesced in', () => {
    const a = udpBound(family, 10);
    const b = udpBound(family, 11);
    ok(native.setsockopt(b, IPPROTO_UDP, UDP_GRO, 1));
    ok(native.connect(a, 11));
    setRows(0, [memory.id, 0, 3500]);
    memory.bytes.fill(7, 0, 3500);
    message(0, 0, 1, -1, -1, 33, 0x10, 1000);
    expect(native.sendMany(a, 0, 1)).toBe(1);
    expect(native.msgLen[0]).toBe(3500);
    readable(b);
    setRows(1, [memory.id, 10_000, 65_535]);
    const lengths: number[] = [];
    const segments: number[] = [];
    message(1, 1, 1, 20);
    while (native.recvMany(b, 1, 1, 0) === 1) {
      lengths.push(native.msgLen[1] ?? 0);
      segments.push(native.msgSegment[1] ?? 0);
    }
    // Loopback hands the whole over where the kernel coalesces there, else piece by piece.
    if (lengths.length === 1) expect([lengths, segments]).toEqual([[3500], [1000]]);
    else expect(lengths).toEqual([1000, 1000, 1000, 500]);
    expect(memory.bytes[10_000]).toBe(7);
    expect(getSlot(20)).toEqual(getSlot(10));
  });

  test('send and recv of one datagram', () => {
    const a = udpBound(family, 10);
    const b = udpBound(family, 11);
    ok(native.connect(a, 11));
    put(0, 'datagram');
    setRows(0, [memory.id, 0, 4], [memory.id, 4, 4], [memory.id, 50, 5], [memory.id, 60, 100]);
    expect(native.send(a, 0, 2, 0)).toBe(8);
    readable(b);
    expect(native.recv(b, 2, 2, 0)).toBe(8);
    expect(text(50, 5) + text(60, 3)).toBe('datagram');
    expect(native.send(a, 0, 0, 0)).toBe(0); // an empty datagram is one
    readable(b);
    expect(native.recv(b, 2, 2, 0)).toBe(0);
    expect(native.recv(b, 2, 2, 0)).toBe(AGAIN);
  });

  test('a closed port shows in the error queue', () => {
    const a = udpBound(family, 10);
    const closed = udpBound(family, 11);
    native.close(open.pop() ?? -1);
    expect(closed).toBeGreaterThan(0);
    ok(native.setsockopt(a, level, family === AF_INET ? IP_RECVERR : IPV6_RECVERR, 1));
    setRows(0, [memory.id, 0, 100], [memory.id, 200, 60], [memory.id, 300, 60]);
    put(0, 'quoted back');
    expect(native.recvError(a, 20, 21, 1, 2)).toBe(0);
    message(0, 0, 1, 11);
    expect(native.sendMany(a, 0, 1)).toBe(1);
    native.watch(a, 0, 96, 0);
    expect(waitFor(96) & EPOLLERR).toBe(EPOLLERR);
    expect(native.recvError(a, 20, 21, 1, 2)).toBe(1);
    expect(native.sockErrOut[SOCKERR_ERRNO]).toBe(E.CONNREFUSED);
    expect(native.sockErrOut[SOCKERR_ORIGIN]).toBe(family === AF_INET ? 2 : 3);
    expect(native.sockErrOut[SOCKERR_TYPE]).toBe(family === AF_INET ? 3 : 1);
    expect(native.sockErrOut[SOCKERR_CODE]).toBe(family === AF_INET ? 3 : 4);
    expect(native.sockErrOut[SOCKERR_LENGTH]).toBe(100);
    expect(text(200, 11)).toBe('quoted back');
    expect(getSlot(20)).toMatchObject({ family, address: loopback });
    expect(getSlot(21)).toEqual(getSlot(11));
    expect(native.recvError(a, -1, -1, 1, 0)).toBe(0);
    expect(native.recvError(a, 256, -1, 1, 0)).toBe(-E.INVAL);
  });
});

test('a libuv poll survives a socket error', async () => {
  const a = udpBound(AF_INET, 10);
  const b = udpBound(AF_INET, 11);
  native.close(open.pop() ?? -1);
  ok(native.connect(a, 11));
  setRows(0, [memory.id, 0, 1]);
  ok(native.send(a, 0, 1, 0)); // refused: the error is pending on `a`
  const seen: number[] = [];
  await new Promise<void>((settle) => {
    const handle = native.pollStart(a, 1, (events) => {
      const result = native.recv(a, 0, 1, 0);
      if (result === AGAIN) return;
      seen.push(events, result);
      if (result < 0) {
        // Only one that still watches sees what comes now.
        const again = udpBound(AF_INET, 12);
        ok(native.connect(again, 10));
        setSlot4(13, LOOPBACK4, 0);
        ok(native.getsockname(again, 13));
        ok(native.connect(a, 13));
        ok(native.send(again, 0, 1, 0));
      } else {
        native.pollStop(handle);
        settle();
      }
    });
  });
  expect(b).toBeGreaterThan(0);
  expect(seen).toEqual([1 | 8, -E.CONNREFUSED, 1, 1]);
});

test('default TTL and TOS of a socket hold where a message has none', () => {
  const a = udpBound(AF_INET, 10);
  ok(native.setsockopt(a, IPPROTO_IP, IP_TTL, 9));
  ok(native.setsockopt(a, IPPROTO_IP, IP_TOS, 0x20));
  expect(testAddon.getsockopt(a, IPPROTO_IP, IP_TTL)).toBe(9);
  expect(testAddon.getsockopt(a, IPPROTO_IP, IP_TOS)).toBe(0x20);
});

test('ping sockets, where the host allows them', () => {
  for (const [family, loopback, type] of [
    [AF_INET, LOOPBACK4, 8],
    [AF_INET6, LOOPBACK6, 128],
  ] as const) {
    const fd = native.socket(family, SOCK_ICMP);
    if (fd === -13) continue; // net.ipv4.ping_group_range
    track(fd);
    if (family === AF_INET) setSlot4(0, loopback, 0);
    else setSlot6(0, loopback, 0);
    ok(native.connect(fd, 0));
    memory.bytes.set([type, 0, 0, 0, 0, 0, 0, 5, 1, 2, 3], 0);
    setRows(0, [memory.id, 0, 11], [memory.id, 100, 100]);
    expect(native.send(fd, 0, 1, 0)).toBe(11);
    readable(fd);
    expect(native.recv(fd, 1, 1, 0)).toBe(11);
    expect([memory.bytes[100], memory.bytes[107], memory.bytes[110]]).toEqual([type === 8 ? 0 : 129, 5, 3]);
  }
});

test('netlink: a dump of links answers with strict checking', () => {
  const fd = track(native.netlinkOpen(0));
  const request = Buffer.alloc(32);
  request.writeUInt32LE(32, 0);
  request.writeUInt16LE(18, 4); // RTM_GETLINK
  request.writeUInt16LE(0x301, 6); // NLM_F_REQUEST | NLM_F_DUMP
  expect(native.write(fd, request, 0, 32)).toBe(32);
  const answer = Buffer.alloc(65536);
  expect(native.read(fd, answer, 0, answer.length)).toBeGreaterThan(32);
  expect(answer.readUInt16LE(4)).toBe(16); // RTM_NEWLINK
  let last = 0;
  while (native.read(fd, answer, 0, answer.length) > 0) last = answer.readUInt16LE(4);
  expect(last).toBe(3); // NLMSG_DONE
  expect(native.read(fd, answer, 0, answer.length)).toBe(AGAIN);
});
