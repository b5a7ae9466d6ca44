/** What a flow's traffic says about whether the guest's next frames may wait a moment. */
import { TcpRig, openFromGuest, pattern, type Connection } from '../../../support/stack/tcp-rig';

const REMEMBERED_MS = 10;

let rig: TcpRig;
let c: Connection;

function open(win = 65535): void {
  rig = new TcpRig({ config: { mtu: 65520 } });
  c = openFromGuest(rig, { mss: 65480, win });
  rig.wait(REMEMBERED_MS + 1);
  look();
}

/** What was noted since the last look. */
function look(): { fromGuest: number; toGuest: number; light: boolean } {
  const { traffic } = rig.ctx;
  const { fromGuest, toGuest, light } = traffic;
  traffic.fromGuest = 0;
  traffic.toGuest = 0;
  traffic.light = false;
  return { fromGuest, toGuest, light };
}

beforeEach(() => {
  open();
});

test('payload counts both ways', () => {
  c.send(pattern(40_000));
  expect(look()).toEqual({ fromGuest: 40_000, toGuest: 0, light: false });
  rig.wait(REMEMBERED_MS + 1);
  rig.act(() => c.socket.write(pattern(50_000)));
  expect(look()).toEqual({ fromGuest: 0, toGuest: 50_000, light: false });
});

test('the begin and the end of a connection are light', () => {
  openFromGuest(rig, { sport: 40001 });
  expect(look().light).toBe(true);
  c.flags('F.');
  expect(look().light).toBe(true);
});

test('a message from the guest is light, the rest of bulk is not', () => {
  c.send('request');
  expect(look().light).toBe(true);
  c.send(pattern(20_000));
  c.send('rest');
  expect(look().light).toBe(false);
  rig.wait(REMEMBERED_MS + 1);
  c.send('request');
  expect(look().light).toBe(true);
});

test('only a message from the guest is one that an answer may follow soon', () => {
  const { traffic } = rig.ctx;
  const messages = (act: () => void): boolean => {
    traffic.message = false;
    act();
    return traffic.message;
  };
  expect(messages(() => c.send('request'))).toBe(true);
  expect(messages(() => rig.act(() => c.socket.write('answer')))).toBe(false);
  expect(messages(() => c.acknowledge(6))).toBe(false);
  expect(messages(() => c.send(pattern(20_000)))).toBe(false);
  expect(messages(() => c.send('rest'))).toBe(false);
});

test('acknowledgements are not', () => {
  rig.act(() => c.socket.write(pattern(1000)));
  look();
  c.acknowledge(1000);
  expect(look()).toEqual({ fromGuest: 0, toGuest: 0, light: false });
});

test('an answer to what the guest sent is light, however large both are', () => {
  c.send(pattern(60_000));
  look();
  rig.act(() => c.socket.write(pattern(30_000)));
  expect(look().light).toBe(true);
  c.acknowledge(30_000);
  rig.wait(REMEMBERED_MS + 1);
  rig.act(() => c.socket.write(pattern(30_000)));
  expect(look().light).toBe(false);
});

test.each([
  [300, true],
  [8000, false],
])('a window of %d times 128 bytes that is used up: light is %p', (win, light) => {
  open(win);
  rig.act(() => c.socket.write(pattern(2_000_000)));
  const { toGuest, light: noted } = look();
  expect(toGuest).toBeGreaterThan((win * 128) / 2);
  expect(noted).toBe(light);
});
