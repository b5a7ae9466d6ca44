/** Messages from the data plane's thread that a guest or front-end brings about: so many a command, whatever they do. */
import { MessageChannel, receiveMessageOnPort, type MessagePort } from 'node:worker_threads';
import type { Command, WorkerMessage } from '../../../src/dataplane/commands';
import { bit } from '../../../src/dataplane/virtio/features';
import { RingControl } from '../../../src/dataplane/virtio/ring-control';
import { StreamControl } from '../../../src/dataplane/stream/control';
import { STREAM_BAD_LENGTH, STREAM_EOF } from '../../../src/dataplane/stream/input';
import { loadNative } from '../../../src/native';
import { moderationOf } from '../../support/dataplane/moderation';
import { COUNTERS, C_RING_FAULTS } from '../../../src/stack/counters';

const SIZE = 1 << 20;
const RING = 16;
const TURNS = 1000;

const native = loadNative();
const ports: MessagePort[] = [];

afterEach(() => {
  for (const port of ports.splice(0)) port.close();
});

/** Both ends, and what has come to the control plane since the last look. */
function channel(): { worker: MessagePort; say: (command: Command) => void; heard: () => string[] } {
  const { port1, port2 } = new MessageChannel();
  ports.push(port1);
  return {
    worker: port1,
    say: (command) => {
      port2.postMessage({ seq: 1, command });
    },
    heard: () => {
      const kinds: string[] = [];
      for (;;) {
        const received = receiveMessageOnPort(port2) as { message: WorkerMessage } | undefined;
        if (received === undefined) return kinds;
        kinds.push(received.message.kind);
      }
    },
  };
}

test('a ring that breaks says so once a start, however often the guest kicks it', () => {
  const region = native.allocRegion(SIZE);
  const buffer = native.regionBuffer(region);
  const { worker, say, heard } = channel();
  const counters = new Float64Array(COUNTERS);
  const control = new RingControl(native, worker, -1, counters, moderationOf());
  const place = (offset: number) => ({ region, offset });
  const parts = { desc: place(0), avail: place(0x400), used: place(0x800) };
  const ring = { index: 1, size: RING, base: 0, enabled: true, logAddr: -1, ...parts };
  say({ kind: 'features', features: bit(32) });
  say({ kind: 'memory', regions: [{ region, buffer, gpa: 0, size: SIZE }] });
  for (let start = 1; start <= 3; start++) {
    say({ kind: 'startRing', ring: { ...ring, kickFd: -1, callFd: -1, errFd: -1 } });
    control.takeCommands();
    const avail = new DataView(buffer, 0x400);
    for (let turn = 0; turn < TURNS; turn++) {
      avail.setUint16(2, RING + 1 + turn, true); // further ahead than the ring is long
      control.port.receive(0);
      control.reportFaults();
    }
    say({ kind: 'stopRing', index: 1 });
    control.takeCommands();
    expect(heard().filter((kind) => kind !== 'done')).toEqual(['fault']);
    expect(counters[C_RING_FAULTS]).toBe(start);
    avail.setUint16(2, 0, true);
  }
  native.retireRegion(region);
});

test('commands are answered once each, and a stream ends once each time it was opened', () => {
  const { worker, say, heard } = channel();
  const control = new StreamControl(native, worker, -1, new Float64Array(COUNTERS));
  native.epollInit();
  for (let n = 0; n < 3; n++) {
    const fd = native.eventFd(0);
    for (let i = 0; i < TURNS; i++) say({ kind: 'moved' });
    say({ kind: 'streamOpen', fd });
    for (let i = 0; i < TURNS; i++) say({ kind: 'streamProbe' });
    control.takeCommands();
    control.answerProbes();
    for (let i = 0; i < TURNS; i++) {
      control.finish(STREAM_BAD_LENGTH);
      control.finish(STREAM_EOF);
      control.answerProbes();
    }
    const kinds = heard();
    expect(kinds.filter((kind) => kind === 'done')).toHaveLength(2 * TURNS + 1);
    expect(kinds.filter((kind) => kind !== 'done')).toEqual(['streamEnded']);
    native.close(fd);
  }
});
