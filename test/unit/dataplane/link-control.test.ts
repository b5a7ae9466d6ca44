/** Commands that every kind of link executes alike: each reaches the stack and is answered, in order. */
import { MessageChannel, receiveMessageOnPort } from 'node:worker_threads';
import type { Captures } from '../../../src/dataplane/capture/captures';
import type { Command, WorkerMessage } from '../../../src/dataplane/commands';
import { LinkControl, type LinkCommand } from '../../../src/dataplane/link-control';
import { loadNative } from '../../../src/native';
import { COUNTERS } from '../../../src/stack/counters';
import type { Stack } from '../../../src/stack/stack';
import { stackConfig } from '../../support/stack/stack-config';

class RecordingControl extends LinkControl {
  readonly own: LinkCommand[] = [];
  ends = 0;

  protected executeOwn(command: LinkCommand): number {
    this.own.push(command);
    return 7;
  }

  protected end(): void {
    this.ends++;
  }
}

let channel: MessageChannel;
let control: RecordingControl;
/** What the stack was asked to do. */
let asked: unknown[][];

beforeEach(() => {
  channel = new MessageChannel();
  control = new RecordingControl(loadNative(), channel.port1, -1, new Float64Array(COUNTERS));
  asked = [];
  const note =
    (name: string) =>
    (...args: unknown[]): void => {
      asked.push([name, ...args]);
    };
  control.serve({
    reconfigure: note('reconfigure'),
    moved: note('moved'),
    setNeighbours: note('setNeighbours'),
    reset: note('reset'),
    setRates: note('setRates'),
    setPolicy: note('setPolicy'),
    forward: note('forward'),
    setBypass: note('setBypass'),
    fileRead: note('fileRead'),
    adopt: (adoption: unknown) => adoption === 'one that is there',
    closeFlow: (_: number, slot: number) => slot === 3,
    look: (into: Float64Array) => into.fill(2).length,
    describeGuest: (out: Int32Array) => out.fill(5).length,
  } as unknown as Stack);
});

/** A command whose content only the stack looks into. */
const order = (command: { readonly kind: Command['kind'] } & Record<string, unknown>): Command =>
  command as unknown as Command;

afterEach(() => {
  channel.port1.close();
});

/** Has the commands taken that were posted as number 1, 2, …; returns the answers. */
function answersTo(...commands: Command[]): WorkerMessage[] {
  commands.forEach((command, i) => {
    channel.port2.postMessage({ seq: i + 1, command });
  });
  control.takeCommands();
  const answers: WorkerMessage[] = [];
  for (;;) {
    const received = receiveMessageOnPort(channel.port2) as { message: WorkerMessage } | undefined;
    if (received === undefined) return answers;
    answers.push(received.message);
  }
}

const done = (seq: number, value: number): WorkerMessage => ({ kind: 'done', seq, value });

test('the stack gets its configuration, moves, neighbours and resets, and the loop goes on', () => {
  const config = stackConfig();
  const entries = Int32Array.of(1, 2, 3);
  expect(
    answersTo({ kind: 'config', config }, { kind: 'moved' }, { kind: 'neighbours', entries }, { kind: 'reset' }),
  ).toEqual([done(1, 0), done(2, 0), done(3, 0), done(4, 0)]);
  expect(asked).toEqual([['reconfigure', config], ['moved'], ['setNeighbours', entries], ['reset']]);
  expect(control.own).toEqual([]);
  expect([control.running, control.ends]).toEqual([true, 0]);
});

test('what is known of the guest is written to shared memory, and counted', () => {
  const out = new Int32Array(new SharedArrayBuffer(16));
  expect(answersTo({ kind: 'describeGuest', out })).toEqual([done(1, 4)]);
  expect([...out]).toEqual([5, 5, 5, 5]);
});

test('a stop resets the stack, lets go of the link and ends the loop', () => {
  expect(answersTo({ kind: 'stop' })).toEqual([done(1, 0)]);
  expect(asked).toEqual([['reset']]);
  expect([control.running, control.ends]).toEqual([false, 1]);
});

test('what is about the link is the link’s own, and its answer is given', () => {
  expect(answersTo({ kind: 'mtu', mtu: 1400 }, { kind: 'streamClose' })).toEqual([done(1, 7), done(2, 7)]);
  expect(control.own).toEqual([{ kind: 'mtu', mtu: 1400 }, { kind: 'streamClose' }]);
  expect(asked).toEqual([]);
});

test('orders of the user reach the stack', () => {
  const answers = answersTo(
    order({ kind: 'rates', rates: { in: 5, out: null } }),
    order({ kind: 'policy', setup: 'a policy' }),
    order({ kind: 'forward', change: 'ports' }),
    order({ kind: 'bypass', fd: 9 }),
    order({ kind: 'file', answer: 'a piece' }),
  );
  expect(answers).toEqual([1, 2, 3, 4, 5].map((seq) => done(seq, 0)));
  expect(asked).toEqual([
    ['setRates', 5, null],
    ['setPolicy', 'a policy'],
    ['forward', 'ports'],
    ['setBypass', 9],
    ['fileRead', 'a piece'],
  ]);
});

test('an answer says whether the flow was there, and how many were written', () => {
  const into = new SharedArrayBuffer(24);
  const close = (slot: number): Command => order({ kind: 'closeFlow', protocol: 0, slot, generation: 1 });
  const adopt = (adoption: string): Command => order({ kind: 'adopt', adoption });
  const commands = [close(3), close(4), adopt('one that is there'), adopt('another'), order({ kind: 'flows', into })];
  expect(answersTo(...commands)).toEqual([done(1, 1), done(2, 0), done(3, 1), done(4, 0), done(5, 3)]);
  expect([...new Float64Array(into)]).toEqual([2, 2, 2]);
});

describe('captures', () => {
  const start = order({ kind: 'captureStart', id: 1 });
  const stop = order({ kind: 'captureStop', id: 1, now: true });

  test('none where the link has none: nothing begins, and a descriptor is not in use', () => {
    expect(answersTo(start, stop)).toEqual([done(1, 0), done(2, 1)]);
    control.captureEvent(1, 4);
  });

  test('begin, may end later, hear of their clients, and end with the link', () => {
    const told: unknown[][] = [];
    control.serve(
      { reset: () => undefined } as unknown as Stack,
      {
        start: () => true,
        stop: (id: number, now: boolean) => {
          told.push(['stop', id, now]);
          return false;
        },
        onEvent: (id: number, events: number) => told.push(['event', id, events]),
        end: () => told.push(['end']),
      } as unknown as Captures,
    );
    expect(answersTo(start, stop)).toEqual([done(1, 1), done(2, 0)]);
    control.captureEvent(1, 4);
    expect(answersTo({ kind: 'stop' })).toEqual([done(1, 0)]);
    expect(told).toEqual([['stop', 1, true], ['event', 1, 4], ['end']]);
  });
});
