/** Commands that every kind of link executes alike: each reaches the stack and is answered, in order. */
import { MessageChannel, receiveMessageOnPort } from 'node:worker_threads';
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
  } as unknown as Stack);
});

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
