/** Acknowledgements that wait for an answer to carry them, and those that must not. */
import { ACK_DELAY_MS, ACK_QUICK } from '../../../../src/stack/tcp/flow';
import { TICK_MS } from '../../../../src/stack/kit/timer-wheel';
import { TcpRig, openFromGuest, openFromHost, pattern } from '../../../support/stack/tcp-rig';
import type { Connection } from '../../../support/stack/tcp-rig';

const LATEST_MS = ACK_DELAY_MS + TICK_MS;

function open(): { rig: TcpRig; c: Connection } {
  const rig = new TcpRig();
  return { rig, c: openFromGuest(rig, { delayedAcks: true }) };
}

describe('a small segment alone', () => {
  test('is acknowledged by the answer, in one frame', () => {
    const { rig, c } = open();
    for (let n = 0; n < 5; n++) {
      c.send('ask');
      expect(rig.sent()).toEqual([]);
      rig.act(() => c.socket.write('answer'));
      expect(c.received()).toMatchObject([{ flags: 'P.', ack: 3 * (n + 1), text: 'answer' }]);
      c.ack = (c.ack + 6) >>> 0;
    }
    c.flags('.');
    rig.wait(1000);
    expect(rig.sent()).toEqual([]);
  });

  test('is acknowledged by itself after a moment, and those after it at once', () => {
    const { rig, c } = open();
    c.send('one');
    rig.wait(ACK_DELAY_MS - 1);
    expect(rig.sent()).toEqual([]);
    rig.wait(TICK_MS + 1);
    expect(c.received()).toMatchObject([{ flags: '.', ack: 3 }]);
    for (let n = 0; n < ACK_QUICK; n++) {
      c.send('two');
      expect(c.received()).toMatchObject([{ flags: '.', ack: 6 + 3 * n }]);
    }
  });

  test('waits again once the answers were prompt for a while', () => {
    const { rig, c } = open();
    c.send('late');
    rig.wait(LATEST_MS);
    rig.sent();
    for (let n = 0; n < ACK_QUICK; n++) {
      c.send('ask');
      expect(rig.one().payload.length).toBe(0);
      rig.act(() => c.socket.write('answer'));
      rig.sent();
      c.acknowledge(6);
    }
    c.send('ask');
    expect(rig.sent()).toEqual([]);
  });

  test('answers that come late do not make acknowledgements wait again', () => {
    const { rig, c } = open();
    for (let n = 0; n < 3 * ACK_QUICK; n++) {
      c.send('ask');
      rig.wait(100);
      expect(rig.one().payload.length).toBe(0);
      rig.act(() => c.socket.write('answer'));
      rig.sent();
      c.acknowledge(6);
    }
    c.send('ask');
    expect(rig.one().payload.length).toBe(0);
  });

  test('on a connection from the host as well', () => {
    const rig = new TcpRig({ forward: [{ port: 80 }] });
    const c = openFromHost(rig, { delayedAcks: true });
    c.send('greeting');
    expect(rig.sent()).toEqual([]);
    rig.act(() => c.socket.write('hello'));
    expect(c.received()).toMatchObject([{ flags: 'P.', ack: 8 }]);
  });
});

describe('acknowledged at once', () => {
  test('the second segment, in another batch', () => {
    const { rig, c } = open();
    c.send('one');
    expect(rig.sent()).toEqual([]);
    c.send('two');
    expect(c.received()).toMatchObject([{ flags: '.', ack: 6 }]);
    rig.wait(1000);
    expect(rig.sent()).toEqual([]);
  });

  test('two segments in one batch', () => {
    const { rig, c } = open();
    rig.guest(c.segment({ flags: '.', payload: 'ab' }), c.segment({ flags: 'P.', seq: c.seq + 2, payload: 'cd' }));
    expect(c.received()).toMatchObject([{ flags: '.', ack: 4 }]);
  });

  test('a large segment', () => {
    const { rig, c } = open();
    c.send(pattern(1461));
    expect(rig.one().payload.length).toBe(0);
  });

  test('one that came again', () => {
    const { rig, c } = open();
    c.send('abc');
    expect(rig.sent()).toEqual([]);
    rig.guest(c.segment({ flags: 'P.', seq: c.seq - 3, payload: 'abc' }));
    expect(c.received()).toMatchObject([{ flags: '.', ack: 3 }]);
  });

  test('one out of order', () => {
    const { rig, c } = open();
    rig.guest(c.segment({ flags: 'P.', seq: c.seq + 3, payload: 'abc' }));
    expect(c.received()).toMatchObject([{ flags: '.', ack: 0 }]);
  });

  test('a keep-alive', () => {
    const { c } = open();
    c.flags('.', { seq: c.seq - 1 });
    expect(c.received()).toMatchObject([{ flags: '.', ack: 0 }]);
  });

  test('data with a FIN, and a FIN behind data', () => {
    const together = open();
    together.c.send('bye', 'FP.');
    expect(together.c.received()).toMatchObject([{ flags: '.', ack: 4 }]);
    const behind = open();
    behind.c.send('bye');
    behind.c.flags('F.');
    expect(behind.c.received()).toMatchObject([{ flags: '.', ack: 4 }]);
  });
});

describe('a FIN alone', () => {
  test('is acknowledged by the peer’s FIN', () => {
    const { rig, c } = open();
    c.flags('F.');
    expect(c.socket.writeShut).toBe(true);
    expect(rig.sent()).toEqual([]);
    rig.act(() => c.socket.close());
    expect(c.received()).toMatchObject([{ flags: 'F.', ack: 1 }]);
  });

  test('is acknowledged after a moment if the peer goes on', () => {
    const { rig, c } = open();
    c.flags('F.');
    rig.wait(LATEST_MS);
    expect(c.received()).toMatchObject([{ flags: '.', ack: 1 }]);
  });

  test('is acknowledged at once after the peer’s', () => {
    const { rig, c } = open();
    rig.act(() => c.socket.close());
    rig.sent();
    c.acknowledge(1);
    c.flags('F.');
    expect(c.received()).toMatchObject([{ flags: '.', ack: 1 }]);
  });
});

test('the flow ends while an acknowledgement waits: nothing is left', () => {
  const { rig, c } = open();
  c.send('ask');
  c.flags('R');
  expect(rig.tcp.engine.timers.count).toBe(0);
  rig.wait(1000);
  expect(rig.sent()).toEqual([]);
});
