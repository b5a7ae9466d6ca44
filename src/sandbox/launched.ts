/**
 * What the launcher (addon/launch/) did before Node was there, as it says in one environment variable: words `name=number`.
 * For a layer 0: it is there; above: the errno of why it cannot be had; -1: not tried; -2: see APART. `listen` 1: LISTEN_PID named the
 * process that was called.
 */
import { writeSync } from 'node:fs';

export const LAUNCH = 'TUBETTI_LAUNCH';

const WORDS = [
  'user',
  'mount',
  'ipc',
  'uts',
  'pid',
  'nnp',
  'broker',
  'bind',
  'number',
  'ready',
  'closed',
  'listen',
  'holder',
] as const;
type Word = (typeof WORDS)[number];

/** A namespace cannot be made, but who started us has put us into one that is not the host's. */
export const APART = -2;

/** What a process that waits for us is told: stay, we are in the foreground (addon/launch/background.cc). */
const FOREGROUND = 'F';

export class Launched {
  private readonly words: ReadonlyMap<Word, number>;

  private constructor(words: ReadonlyMap<Word, number>) {
    this.words = words;
  }

  /** Takes it out of the environment: no process that comes after us was launched so. Null: we were not. */
  static take(env: NodeJS.ProcessEnv): Launched | null {
    const text = env[LAUNCH];
    if (text === undefined) return null;
    Reflect.deleteProperty(env, LAUNCH);
    const words = new Map<Word, number>();
    for (const word of text.split(' ')) {
      const [name, value] = word.split('=');
      const known = WORDS.find((one) => one === name);
      if (known !== undefined && /^-?[0-9]{1,10}$/.test(value)) words.set(known, Number(value));
    }
    return new Launched(words);
  }

  /** What `Launched.take` will find in a process that inherits our namespaces and, as `broker`, our broker's socket. */
  handedOn(broker: number): string {
    const changed: Partial<Record<Word, number>> = { broker, ready: -1, number: 0, holder: -1 };
    return WORDS.map((word) => `${word}=${changed[word] ?? this.get(word)}`).join(' ');
  }

  get(word: Word): number {
    return this.words.get(word) ?? -1;
  }

  /** Descriptors that are ours because of it. */
  get descriptors(): readonly number[] {
    return [this.get('broker'), this.get('ready'), this.get('holder')].filter((fd) => fd >= 0);
  }

  /** Our number where we were called from: in a PID namespace of our own it is another one here. */
  get pid(): number {
    const number = this.get('number');
    return number > 0 ? number : process.pid;
  }

  /** Tells a process that waits for us to be ready that it is to wait for our end. */
  stayInForeground(): void {
    if (this.get('ready') >= 0) writeSync(this.get('ready'), FOREGROUND);
  }
}
