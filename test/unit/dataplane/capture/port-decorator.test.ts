/** A decorated port is the port: every part of `GuestPort` leads to the one inside, arguments and answers included. */
import { PortDecorator } from '../../../../src/dataplane/capture/port-decorator';
import type { GuestPort } from '../../../../src/stack/ports';

const VIEW = new DataView(new ArrayBuffer(8));

const VALUES = {
  ...{ up: true, gsoTcp4: true, gsoTcp6: false, gsoUdp4: true, gsoUdp6: false, maxFrame: 1514 },
  ...{ head: VIEW, headLen: 96, rowCount: 3, gsoType: 1, gsoSize: 1448, csumPartial: true },
  ...{ out: new DataView(new ArrayBuffer(16)), outOff: 7 },
} as const;

type Method = {
  [K in keyof GuestPort]: GuestPort[K] extends (...args: never[]) => unknown ? K : never;
}[keyof GuestPort];

/** Notes what is called, and answers with a number of each method's own. */
class NotingPort implements GuestPort {
  readonly calls: (readonly unknown[])[] = [];
  up: boolean = VALUES.up;
  gsoTcp4: boolean = VALUES.gsoTcp4;
  gsoTcp6: boolean = VALUES.gsoTcp6;
  gsoUdp4: boolean = VALUES.gsoUdp4;
  gsoUdp6: boolean = VALUES.gsoUdp6;
  maxFrame: number = VALUES.maxFrame;
  head: DataView = VALUES.head;
  headLen: number = VALUES.headLen;
  rowCount: number = VALUES.rowCount;
  gsoType: number = VALUES.gsoType;
  gsoSize: number = VALUES.gsoSize;
  csumPartial: boolean = VALUES.csumPartial;
  out: DataView = VALUES.out;
  outOff: number = VALUES.outOff;

  private note(answer: number, ...call: unknown[]): number {
    this.calls.push(call);
    return answer;
  }
  receive(row: number): number {
    return this.note(60, 'receive', row);
  }
  substitute(from: DataView, off: number, length: number, row: number): void {
    this.note(0, 'substitute', from, off, length, row);
  }
  pull(n: number): number {
    return this.note(128, 'pull', n);
  }
  releaseReceived(): void {
    this.note(0, 'releaseReceived');
  }
  reserve(headerLen: number, payloadLen: number, row: number): number {
    return this.note(-1, 'reserve', headerLen, payloadLen, row);
  }
  front(): void {
    this.note(0, 'front');
  }
  commit(payloadLen: number, flags: number, start: number, offset: number, gsoType: number, gsoSize: number): void {
    this.note(0, 'commit', payloadLen, flags, start, offset, gsoType, gsoSize);
  }
  cancel(): void {
    this.note(0, 'cancel');
  }
  flush(): void {
    this.note(0, 'flush');
  }
}

test.each(Object.keys(VALUES) as (keyof typeof VALUES)[])('%s is that of the port inside, as it is now', (name) => {
  const inner = new NotingPort();
  const port = new PortDecorator(inner);
  expect(port[name]).toBe(VALUES[name]);
  const other = typeof VALUES[name] === 'boolean' ? !VALUES[name] : typeof VALUES[name] === 'number' ? 4242 : VIEW;
  Object.assign(inner, { [name]: other });
  expect(port[name]).toBe(other);
  expect(inner.calls).toEqual([]);
});

const CALLS: readonly (readonly [Method, readonly unknown[], number | undefined])[] = [
  ['receive', [5], 60],
  ['substitute', [VIEW, 1, 2, 3], undefined],
  ['pull', [100], 128],
  ['releaseReceived', [], undefined],
  ['reserve', [54, 1460, 9], -1],
  ['front', [], undefined],
  ['commit', [1, 2, 3, 4, 5, 6], undefined],
  ['cancel', [], undefined],
  ['flush', [], undefined],
];

test.each(CALLS)('%s%j goes to the port inside, once', (name, args, answer) => {
  const inner = new NotingPort();
  const port = new PortDecorator(inner);
  expect((port[name] as (...all: unknown[]) => unknown).apply(port, [...args])).toBe(answer);
  expect(inner.calls).toEqual([[name, ...args]]);
});
