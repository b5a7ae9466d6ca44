/** More flows than there is room for: questions from a hundred thousand ports. */
import { C_FLOWS_OPENED_UDP, C_FLOWS_UDP } from '../../../../src/stack/counters';
import { ascii, DatagramRig } from '../../../support/stack/datagram-rig';
import { datagram, dissect } from '../../../support/stack/link-rig';

const GUEST = '192.0.2.10';
const GUEST6 = '2001:db8::10';

test.each([
  ['the table', { maxUdpFlows: 60 }, 1000],
  ['the descriptors', {}, 60],
])(
  '100 000 questions, each from a port of its own, are all answered; %s bound the flows',
  (_name, config, sockets) => {
    const rig = new DatagramRig({ config, port: { memorySize: 1 << 11 } });
    rig.host.maxSockets = sockets;
    const most = { flows: 0, sockets: 0 };
    let answers = 0;
    for (let i = 0; i < 100_000; i++) {
      const v4 = i % 2 === 0;
      const port = 2000 + (i >> 1);
      const server = v4 ? '203.0.113.53' : '2001:db8:5::53';
      rig.guest(datagram(v4 ? GUEST : GUEST6, port, server, 53, ascii('q')));
      const [sent] = rig.host.sent.splice(0);
      rig.host.queue(rig.host.get(sent.fd), { address: server, port: 53 }, '', ascii('a'));
      const { watched } = rig.host.get(sent.fd);
      rig.stack.onSocket(watched?.key ?? 0, watched?.generation ?? 0, 1);
      const [frame] = rig.port.sent();
      if (dissect(frame).dstPort === port) answers++;
      rig.clock.advance(i % 50 === 0 ? 1 : 0);
      most.flows = Math.max(most.flows, rig.counter(C_FLOWS_UDP));
      most.sockets = Math.max(most.sockets, rig.host.sockets.size);
    }
    expect(answers).toBe(100_000);
    expect(rig.counter(C_FLOWS_OPENED_UDP)).toBe(100_000);
    expect([most.flows, most.sockets]).toEqual([60, 60]);
    expect(rig.allDrops()).toEqual({});
    // The last ones are forgotten with time.
    rig.later(125_000);
    expect(rig.host.sockets.size).toBe(0);
  },
  60_000,
);
