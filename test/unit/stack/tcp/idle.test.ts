/** Flows on which nothing happens: keep-alives, half-closed flows, restarts of the guest. */
import { C_TCP_EVICTED_HALF_CLOSED } from '../../../../src/stack/counters';
import { TcpRig, openFromGuest, openFromHost } from '../../../support/stack/tcp-rig';
import type { Connection } from '../../../support/stack/tcp-rig';

const HOUR = 3_600_000;

/** Sends an answer to a keep-alive. */
const answer = (c: Connection): void => c.flags('.');
const isProbe = (c: Connection): object => ({ flags: '.', seq: (c.ack - 1) >>> 0 });

describe('an idle connection', () => {
  test('is left alone for two hours, asked then, and kept as long as the guest answers', () => {
    const rig = new TcpRig({ forward: [{ port: 80 }] });
    const c = openFromHost(rig);
    for (let n = 0; n < 5; n++) {
      rig.wait(2 * HOUR - 1000);
      expect(rig.sent()).toEqual([]);
      rig.wait(2000);
      expect(rig.one()).toMatchObject(isProbe(c));
      answer(c);
      expect(rig.sent()).toEqual([]);
    }
    expect(c.socket.ending).toBe('open');
  });

  test('costs no wake-ups, three hundred of them either', () => {
    const rig = new TcpRig({ config: { maxTcpFlows: 512 } });
    for (let n = 0; n < 300; n++) {
      openFromGuest(rig, { sport: 1024 + n });
      rig.wait(7);
    }
    // What the handshakes left behind.
    rig.wait(60_000);
    const turns = rig.turns;
    rig.wait(HOUR);
    expect(rig.turns - turns).toBeLessThan(5);
    expect(rig.sent()).toEqual([]);
  });

  test('the host says how long', () => {
    const rig = new TcpRig({ config: { tcpKeepaliveMs: 600_000 } });
    const c = openFromGuest(rig);
    rig.wait(601_000);
    expect(rig.one()).toMatchObject(isProbe(c));
  });

  test('of a guest that does not answer is reset after nine keep-alives', () => {
    const rig = new TcpRig();
    const c = openFromGuest(rig);
    rig.wait(2 * HOUR + 8 * 75_000 + 1000);
    expect(rig.sent()).toHaveLength(9);
    expect(c.socket.ending).toBe('open');
    rig.wait(76_000);
    expect(rig.sent().map((s) => s.flags)).toEqual(['R.']);
    expect(c.socket.ending).toBe('aborted');
    expect(rig.tcp.engine.timers.count).toBe(0);
  });

  test('of a guest that does not know it is ended by its RST', () => {
    const rig = new TcpRig();
    const c = openFromGuest(rig);
    rig.wait(2 * HOUR + 1000);
    rig.sent();
    c.flags('R');
    expect(c.socket.ending).toBe('aborted');
  });
});

describe('closed by the guest, open at the peer', () => {
  const halfClosed = (rig: TcpRig, sport = 40000): Connection => {
    const c = openFromGuest(rig, { sport });
    c.flags('F.');
    rig.sent();
    return c;
  };

  test('a guest that has forgotten it frees the descriptor after about a minute', () => {
    const rig = new TcpRig();
    const c = halfClosed(rig);
    rig.wait(60_000);
    expect(rig.sent()).toEqual([]);
    rig.wait(3000);
    expect(rig.one()).toMatchObject(isProbe(c));
    c.flags('R');
    expect(rig.host.openCount).toBe(0);
    expect(rig.tcp.engine.table.count).toBe(0);
  });

  test('a guest that still waits for the answer is asked ever more seldom, and gets it after a day', () => {
    const rig = new TcpRig();
    const c = halfClosed(rig);
    let asked = 0;
    for (let n = 0; n < 24 * 60; n++) {
      rig.wait(60_000);
      const sent = rig.sent();
      asked += sent.length;
      if (sent.length > 0) answer(c);
    }
    expect(asked).toBeGreaterThan(7);
    expect(asked).toBeLessThan(25);
    rig.act(() => c.socket.write('at last'));
    expect(Buffer.from(rig.one().payload).toString()).toBe('at last');
  });

  test('makes room for a new one if the table is full and it is silent', () => {
    const rig = new TcpRig({ config: { maxTcpFlows: 4 } });
    const first = halfClosed(rig, 1);
    const second = halfClosed(rig, 2);
    openFromGuest(rig, { sport: 3 });
    openFromGuest(rig, { sport: 4 });
    // Not while something may still happen.
    rig.guest({ flags: 'S', seq: 1, sport: 5 });
    expect(rig.drops('flow_table_full')).toBe(1);
    rig.wait(61_000);
    openFromGuest(rig, { sport: 6 });
    expect([first, second].filter((c) => c.socket.ending === 'aborted')).toHaveLength(1);
    expect(rig.counter(C_TCP_EVICTED_HALF_CLOSED)).toBe(1);
  });
});

describe('the guest may have restarted', () => {
  const restart = (rig: TcpRig): void => {
    rig.stack.onLinkUp();
    rig.settle();
    rig.port.sentFrames(); // ARP and the like
  };

  test('silent flows are asked within seconds; those that speak are not', () => {
    const rig = new TcpRig({ config: { ra: false } });
    const a = openFromGuest(rig, { sport: 1 });
    const b = openFromGuest(rig, { sport: 2 });
    rig.wait(1000);
    restart(rig);
    rig.wait(100);
    b.send('alive');
    rig.sent();
    rig.wait(2000);
    expect(rig.one()).toMatchObject({ ...isProbe(a), dport: 1 });
    a.flags('R');
    expect(a.socket.ending).toBe('aborted');
    expect(b.socket.ending).toBe('open');
  });

  test('a guest that takes longer to come back is asked again', () => {
    const rig = new TcpRig({ config: { ra: false } });
    const c = openFromGuest(rig);
    rig.wait(1000);
    restart(rig);
    rig.wait(100_000);
    expect(rig.sent()).toHaveLength(2);
    answer(c);
    rig.wait(HOUR);
    expect(rig.sent()).toEqual([]);
    expect(c.socket.ending).toBe('open');
  });

  test('a guest that starts twice within ten seconds: what it opened in between is asked', () => {
    const rig = new TcpRig({ config: { ra: false } });
    openFromGuest(rig, { sport: 1 });
    restart(rig);
    rig.wait(5000);
    rig.sent();
    const second = openFromGuest(rig, { sport: 2 });
    rig.wait(1000);
    restart(rig);
    rig.wait(2000);
    expect(rig.sent().filter(({ dport }) => dport === 2)).toMatchObject([isProbe(second)]);
  });

  test('a guest that starts over and over makes no flood', () => {
    const rig = new TcpRig({ config: { ra: false } });
    const c = openFromGuest(rig);
    rig.wait(1000);
    for (let n = 0; n < 590; n++) {
      restart(rig);
      rig.wait(100);
      answer(c);
    }
    expect(rig.sent().length).toBeLessThanOrEqual(59 / 5 + 1);
  });
});
