/**
 * Debian's Chromium without a window, as the set-up unpacked it, in the host's world; spoken to by its DevTools protocol
 * (chromedevtools.github.io/devtools-protocol) over two pipes: messages of JSON, each with a zero byte behind it.
 */
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import type { Duplex } from 'node:stream';
import type { HostWorld } from './host-world';
import { CACHE_DIR } from './paths';
import { ManagedProcess, poll } from './processes';

const RUN = join(CACHE_DIR, 'chromium', 'run');

/** Null if it can be run here, else why not. */
export function whyNoBrowser(): string | null {
  return existsSync(RUN) ? null : 'Chromium is not there (npm test fetches it)';
}

type Fields = Readonly<Record<string, unknown>>;

interface Message {
  readonly id?: number;
  readonly method?: string;
  readonly params?: Fields;
  readonly result?: Fields;
  readonly error?: { readonly message: string };
}

const ANSWER_MS = 10_000;

export type Scheme = 'light' | 'dark';

/** One page of a browser of its own. */
export class Browser {
  /** What the console was told that is not to be: errors, warnings, violations of the page's policy. */
  readonly complaints: string[] = [];
  private readonly process: ManagedProcess;
  private readonly pipe: Duplex;
  private session = '';
  private number = 0;
  private readonly waiting = new Map<number, (message: Message) => void>();

  private constructor(process: ManagedProcess) {
    this.process = process;
    const [, , , to, from] = process.child.stdio as unknown as Duplex[];
    this.pipe = to;
    let text = '';
    from.setEncoding('utf8').on('data', (chunk: string) => {
      text += chunk;
      const messages = text.split('\0');
      text = messages.pop() ?? '';
      for (const one of messages) this.take(JSON.parse(one) as Message);
    });
    for (const end of [to, from]) end.on('error', () => undefined); // its end tells
  }

  /** `profile`: a directory for what it writes. */
  static async start(world: HostWorld, profile: string): Promise<Browser> {
    const flags = [
      '--remote-debugging-pipe',
      '--no-sandbox',
      '--disable-gpu',
      '--no-first-run',
      `--user-data-dir=${profile}`,
    ];
    const browser = new Browser(new ManagedProcess('chromium', world.inHost([RUN, ...flags]), { pipes: 2 }));
    try {
      const { targetId } = await browser.send('Target.createTarget', { url: 'about:blank' });
      const { sessionId } = await browser.send('Target.attachToTarget', { targetId, flatten: true });
      browser.session = String(sessionId);
      for (const domain of ['Page', 'Runtime', 'Log']) await browser.send(`${domain}.enable`);
      return browser;
    } catch (error) {
      await browser.stop();
      throw error;
    }
  }

  /** Sends a command and waits for its result. */
  async send(method: string, params: Fields = {}): Promise<Fields> {
    const id = ++this.number;
    const answer = new Promise<Message>((resolve, reject) => {
      const timer = setTimeout(() => {
        reject(new Error(`no answer to ${method}\n${this.process.tail(20)}`));
      }, ANSWER_MS);
      this.waiting.set(id, (message) => {
        clearTimeout(timer);
        resolve(message);
      });
    });
    const session = this.session === '' ? {} : { sessionId: this.session };
    this.pipe.write(`${JSON.stringify({ id, method, params, ...session })}\0`);
    const { error, result } = await answer;
    if (error !== undefined) throw new Error(`${method}: ${error.message}`);
    return result ?? {};
  }

  async open(url: string, scheme: Scheme, width = 1280, height = 1000): Promise<void> {
    await this.look(scheme, width, height);
    await this.send('Page.navigate', { url });
    await this.until('the page', `document.readyState === 'complete' && location.href === ${JSON.stringify(url)}`);
  }

  /** Changes what the page is looked at with. */
  async look(scheme: Scheme, width = 1280, height = 1000): Promise<void> {
    await this.send('Emulation.setDeviceMetricsOverride', { width, height, deviceScaleFactor: 1, mobile: false });
    const features = [{ name: 'prefers-color-scheme', value: scheme }];
    await this.send('Emulation.setEmulatedMedia', { features });
  }

  /** The value of an expression in the page, which may be a promise. @throws Error what it throws. */
  async evaluate<T>(expression: string): Promise<T> {
    const { result, exceptionDetails } = (await this.send('Runtime.evaluate', {
      ...{ expression, awaitPromise: true, returnByValue: true },
    })) as { result: { value: T }; exceptionDetails?: { exception?: { description?: string } } };
    if (exceptionDetails !== undefined) throw new Error(`${expression}: ${exceptionDetails.exception?.description}`);
    return result.value;
  }

  /** Waits until an expression in the page is true. */
  async until(what: string, expression: string, timeoutMs = 10_000): Promise<void> {
    await poll(what, async () => ((await this.evaluate<boolean>(expression)) ? true : null), timeoutMs);
  }

  /** A key as a user presses it. */
  async press(key: string, modifiers = 0): Promise<void> {
    const text = key === 'Enter' ? { text: '\r' } : {};
    const code = { Tab: 9, Enter: 13, ArrowLeft: 37, ArrowRight: 39, Home: 36, End: 35, Escape: 27 }[key] ?? 0;
    const which = { key, code: key, windowsVirtualKeyCode: code, modifiers };
    await this.send('Input.dispatchKeyEvent', { type: 'keyDown', ...which, ...text });
    await this.send('Input.dispatchKeyEvent', { type: 'keyUp', ...which });
  }

  /** PNG of the window, or of as much of the page as is that high. */
  async picture(width: number, height: number): Promise<Buffer> {
    const clip = { x: 0, y: 0, width, height, scale: 1 };
    const { data } = await this.send('Page.captureScreenshot', { format: 'png', clip, captureBeyondViewport: true });
    return Buffer.from(String(data), 'base64');
  }

  async stop(): Promise<void> {
    await this.process.stop('SIGKILL');
  }

  private take({ id, method, params, result, error }: Message): void {
    if (id !== undefined) {
      this.waiting.get(id)?.({ ...(result && { result }), ...(error && { error }) });
      this.waiting.delete(id);
      return;
    }
    const entry = params?.entry as { level: string; text: string } | undefined;
    if (method === 'Log.entryAdded' && entry !== undefined && entry.level !== 'verbose')
      this.complaints.push(entry.text);
    if (method === 'Runtime.exceptionThrown' || method === 'Runtime.consoleAPICalled')
      this.complaints.push(JSON.stringify(params));
  }
}
