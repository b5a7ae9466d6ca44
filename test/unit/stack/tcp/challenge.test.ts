/** Answers that may provoke the next segment are limited: loops end, floods get no flood. */
import { TcpRig, openFromGuest, openFromHost } from '../../../support/stack/tcp-rig';
import type { Connection, Segment } from '../../../support/stack/tcp-rig';

/** The guest answers each segment for `ms`, with what `answer` makes of it. Returns how many it got. */
function loop(c: Connection, ms: number, answer: (s: Segment) => void): number {
  const { rig } = c;
  let frames = 0;
  for (let n = 0; n < ms; n++) {
    for (let round = 0; round < 20; round++) {
      const sent = rig.sent();
      if (sent.length === 0) break;
      frames += sent.length;
      for (const s of sent) answer(s);
    }
    rig.wait(1);
  }
  return frames;
}

describe.each([false, true])('IPv6 %p: a guest that was restored from a snapshot', (v6) => {
  test('and answers every ACK with an ACK of what was never sent', () => {
    const rig = new TcpRig();
    const c = openFromGuest(rig, { v6 });
    const wrong = (): void => c.flags('.', { ack: (c.ack + 100_000) >>> 0 });
    wrong();
    expect(loop(c, 3000, wrong)).toBeLessThanOrEqual(7);
    expect(rig.drops('tcp_answer_limit')).toBeGreaterThan(0);
    // The connection is as it was.
    c.send('fine');
    expect(c.socket.readText()).toBe('fine');
  });

  test('and answers every ACK with an ACK of old', () => {
    const rig = new TcpRig();
    const c = openFromGuest(rig, { v6 });
    c.send('x'.repeat(1000));
    const old = (): void => c.flags('.', { seq: c.seq - 1000 });
    old();
    expect(loop(c, 3000, old)).toBeLessThanOrEqual(8);
  });

  test.each(['S', 'R', 'S.'])('and answers every segment with %s in the window', (flags) => {
    const rig = new TcpRig();
    const c = openFromGuest(rig, { v6 });
    const bad = (): void => c.flags(flags, { seq: c.seq + 10 });
    bad();
    expect(loop(c, 3000, bad)).toBeLessThanOrEqual(7);
    expect(c.socket.ending).toBe('open');
  });
});

test('a connection of the host: the same', () => {
  const rig = new TcpRig({ forward: [{ port: 80 }] });
  const c = openFromHost(rig);
  const wrong = (): void => c.flags('.', { ack: (c.ack + 100_000) >>> 0 });
  wrong();
  expect(loop(c, 3000, wrong)).toBeLessThanOrEqual(7);
});

test('TIME-WAIT: the same', () => {
  const rig = new TcpRig();
  const c = openFromGuest(rig);
  rig.act(() => c.socket.close());
  c.acknowledge(1);
  c.flags('F.');
  rig.sent();
  const bad = (): void => c.flags('.', { seq: c.seq + 10 });
  bad();
  expect(loop(c, 3000, bad)).toBeLessThanOrEqual(7);
});

test('a repeated SYN in a flood gets its SYN-ACK twice a second', () => {
  const rig = new TcpRig();
  const syn = { flags: 'S', seq: 5, mss: 1460 };
  rig.guest(syn);
  rig.act(() => rig.host.last.accept());
  for (let n = 0; n < 900; n++) {
    rig.guest(syn);
    rig.wait(1);
  }
  expect(rig.sent().length).toBeLessThanOrEqual(3);
});

test('all flows together: a thousand a second', () => {
  const rig = new TcpRig({ config: { maxTcpFlows: 4096 }, port: { buffers: 100_000 } });
  rig.host.maxOpen = 4096;
  const open = Array.from({ length: 1500 }, (_, n) => openFromGuest(rig, { sport: 1024 + n }));
  rig.wait(1000);
  rig.sent();
  for (const c of open) c.flags('.', { ack: c.ack + 1 });
  expect(rig.sent()).toHaveLength(1000);
  rig.wait(1000);
  open[1400].flags('.', { ack: open[1400].ack + 1 });
  expect(rig.sent()).toHaveLength(1);
});

test('data that comes again is acknowledged each time', () => {
  const rig = new TcpRig();
  const c = openFromGuest(rig);
  c.send('twice');
  for (let n = 0; n < 5; n++) {
    rig.guest(c.segment({ flags: 'P.', seq: c.seq - 5, payload: 'twice' }));
    rig.guest(c.segment({ flags: '.', seq: c.seq - 5, payload: 'twice' }));
  }
  expect(rig.sent()).toHaveLength(11);
});

test('segments of no flow: ten thousand resets a second', () => {
  const rig = new TcpRig({ port: { buffers: 100_000 } });
  for (let n = 0; n < 10_500; n++) rig.guest({ flags: '.', seq: 1, ack: n, sport: 1 + (n % 60_000) });
  expect(rig.sent()).toHaveLength(10_000);
  rig.wait(1000);
  rig.guest({ flags: '.', seq: 1, ack: 9 });
  expect(rig.one().flags).toBe('R');
});
