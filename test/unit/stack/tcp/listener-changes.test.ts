/** Forwarded ports that come and go under their connections. */
import { parseIp } from '../../../../src/config/address-text';
import type { ForwardListener } from '../../../../src/stack/config';
import type { FakeSocket } from '../../../support/stack/fake-host-io';
import { openFromHost, payloadText, TcpRig } from '../../../support/stack/tcp-rig';

let rig: TcpRig;

beforeEach(() => {
  rig = new TcpRig({ forward: [{ port: 8080, targetPort: 80 }] });
});

const configOf = (socket: FakeSocket, targetPort: number): ForwardListener => ({
  ...{ fd: socket.fd, protocol: 'tcp', family: 'dual', port: 9000, targetPort, targetAddr: null },
});

test('a removed listener accepts nothing any more; its connection lives on', () => {
  const c = openFromHost(rig);
  const [listener] = rig.listeners;
  rig.stack.forward({ remove: [listener.fd], add: [], closeFlows: false });
  rig.host.incoming(listener, '203.0.113.5', 51001);
  rig.settle();
  expect(rig.sent()).toEqual([]);
  expect(listener.backlog).toHaveLength(1);
  rig.act(() => c.socket.write(Buffer.from('still here')));
  expect(payloadText(rig.one())).toBe('still here');
});

test('with closeFlows both ends of its connection are reset', () => {
  const c = openFromHost(rig);
  rig.stack.forward({ remove: [rig.listeners[0].fd], add: [], closeFlows: true });
  rig.settle();
  expect(rig.one().flags).toContain('R');
  expect(c.socket.ending).toBe('aborted');
});

test('an added listener has the place of one that is gone, not of one with connections', () => {
  const c = openFromHost(rig);
  const [old] = rig.listeners;
  const fresh = rig.host.listener();
  rig.stack.forward({ remove: [old.fd], add: [configOf(fresh, 90)], closeFlows: false });
  rig.host.incoming(fresh, '203.0.113.6', 6000);
  rig.settle();
  expect(rig.sent()).toEqual([]); // deaf: there was no place
  rig.act(() => {
    c.socket.reset();
  });
  rig.sent();
  rig.stack.forward({ remove: [], add: [configOf(fresh, 90)], closeFlows: false });
  rig.settle();
  expect(rig.one()).toMatchObject({ flags: 'S', src: '203.0.113.6', sport: 6000, dport: 90 });
});

test('after the last one is gone, another with its descriptor listens', () => {
  const [listener] = rig.listeners;
  rig.stack.forward({ remove: [listener.fd], add: [], closeFlows: false });
  rig.stack.forward({ remove: [], add: [configOf(listener, 81)], closeFlows: false });
  rig.host.incoming(listener, '203.0.113.5', 51000);
  rig.settle();
  expect(rig.one()).toMatchObject({ flags: 'S', dport: 81 });
});

test('the same descriptor in both: it leads elsewhere from then on', () => {
  const [listener] = rig.listeners;
  rig.stack.forward({ remove: [listener.fd], add: [configOf(listener, 81)], closeFlows: false });
  rig.host.incoming(listener, '203.0.113.5', 51000);
  rig.settle();
  expect(rig.one()).toMatchObject({ flags: 'S', dport: 81 });
});

test('what is there already, or never was, is passed over', () => {
  const [listener] = rig.listeners;
  rig.stack.forward({ remove: [4321], add: [configOf(listener, 81)], closeFlows: true });
  rig.host.incoming(listener, '203.0.113.5', 51000);
  rig.settle();
  expect(rig.one()).toMatchObject({ flags: 'S', dport: 80 });
});

test("a connection of the service's own is found by its port; strangers before it are closed", () => {
  rig.stack.forward({ remove: [rig.listeners[0].fd], add: [], closeFlows: false });
  const own = rig.host.listener();
  const stranger = rig.host.incoming(own, '127.0.0.1', 5000);
  const wanted = rig.host.incoming(own, '127.0.0.1', 5001);
  expect(rig.stack.adopt({ fd: own.fd, peerPort: 5001, targetPort: 22, targetAddr: null, rule: 0 })).toBe(true);
  rig.settle();
  expect(rig.one()).toMatchObject({ flags: 'S', dport: 22 });
  expect([stranger.ending, wanted.ending]).toEqual(['aborted', 'open']);
});

test.each([
  ['192.0.2.77', '192.0.2.77'],
  ['2001:db8::77', '20010db8000000000000000000000077'],
])('it leads to the address that is asked for, %s', (target, dst) => {
  rig.stack.forward({ remove: [rig.listeners[0].fd], add: [], closeFlows: false });
  const own = rig.host.listener();
  rig.host.incoming(own, '127.0.0.1', 5001);
  const asked = { fd: own.fd, peerPort: 5001, targetPort: 22, targetAddr: parseIp(target), rule: 0 };
  expect(rig.stack.adopt(asked)).toBe(true);
  rig.settle();
  expect(rig.one()).toMatchObject({ flags: 'S', dport: 22, dst });
});

test('it is not taken if it is not there, or has no place', () => {
  const own = rig.host.listener();
  rig.host.incoming(own, '127.0.0.1', 5001);
  expect(rig.stack.adopt({ fd: own.fd, peerPort: 5001, targetPort: 22, targetAddr: null, rule: 0 })).toBe(false);
  expect(own.backlog).toHaveLength(1);
  rig.stack.forward({ remove: [rig.listeners[0].fd], add: [], closeFlows: false });
  expect(rig.stack.adopt({ fd: own.fd, peerPort: 5002, targetPort: 22, targetAddr: null, rule: 0 })).toBe(false);
  rig.settle();
  expect(rig.sent()).toEqual([]);
});
