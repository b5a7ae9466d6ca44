/**
 * A booted Linux guest, as the tests see it: a shell on its console (protocol in guest/init), an end, and the tail of
 * its console for the message of a failed test.
 */
import type { ManagedProcess } from './processes';

export interface ShellResult {
  readonly status: number;
  readonly output: string;
}

/** The fields of a line "RESULT name key=value key=value". */
export type ResultFields = Readonly<Record<string, string>>;

export interface CommandOptions {
  readonly timeoutMs?: number;
}

const DEFAULT_TIMEOUT_MS = 30_000;
/** Below the 4096 bytes a terminal's line may hold. */
const CHUNK = 2000;

export class Guest {
  readonly kind: string;
  readonly process: ManagedProcess;
  private nextId = 1;
  private busy: Promise<unknown> = Promise.resolve();

  constructor(kind: string, process: ManagedProcess) {
    this.kind = kind;
    this.process = process;
  }

  /** Waits until the guest's init takes commands. `since`: a mark from before a reboot. */
  async ready(timeoutMs = 60_000, since = 0): Promise<void> {
    await this.process.waitForLine(/^@READY$/, timeoutMs, since);
  }

  /** Runs a shell script in the guest; scripts run one after the other. Programs left behind must not hold stdout. */
  run(script: string, options: CommandOptions = {}): Promise<ShellResult> {
    const result = this.busy.then(() => this.exchange(script, options.timeoutMs ?? DEFAULT_TIMEOUT_MS));
    this.busy = result.catch(() => undefined);
    return result;
  }

  /** Runs a shell script. @throws Error with its output unless it exits with 0. */
  async sh(script: string, options: CommandOptions = {}): Promise<string> {
    const { status, output } = await this.run(script, options);
    if (status !== 0) {
      throw new Error(`in the guest (${this.kind}): ${script}\nexit status ${String(status)}:\n${output}`);
    }
    return output;
  }

  /** Runs a script and gives the fields of the RESULT line called `name`. @throws Error unless it prints one. */
  async result(script: string, name: string, options: CommandOptions = {}): Promise<ResultFields> {
    const output = await this.sh(script, options);
    const fields = parseResults(output).get(name);
    if (fields === undefined) throw new Error(`in the guest (${this.kind}): ${script}\nno RESULT ${name}:\n${output}`);
    return fields;
  }

  /** Starts a command that ends the guest's world (reboot, poweroff) and waits for no answer. */
  sendOff(script: string): void {
    this.send(String(this.nextId++), `( sleep 0.2; ${script} ) >/dev/null 2>&1 &`).catch(() => undefined);
  }

  /** Reboots, the kernel shutting its devices down, and waits for the shell. */
  reboot(): Promise<void> {
    return this.restart(() => {
      this.sendOff('reboot -f');
    });
  }

  /** The machine's reset button, if it has one (QEMU): the guest has no say. Waits for the shell. */
  reset(): Promise<void> {
    return this.reboot();
  }

  /** Waits for the shell of the kernel that comes after `begin`. */
  protected async restart(begin: () => void): Promise<void> {
    const mark = this.process.mark();
    begin();
    await this.ready(undefined, mark);
    this.busy = Promise.resolve();
  }

  /** Powers off properly, so that the front-end says goodbye; kills what does not go. */
  async powerOff(timeoutMs = 10_000): Promise<void> {
    if (this.process.exitStatus !== null) return;
    this.sendOff('poweroff -f');
    const timer = setTimeout(() => {
      this.process.kill('SIGKILL');
    }, timeoutMs);
    await this.process.exited;
    clearTimeout(timer);
  }

  private async exchange(script: string, timeoutMs: number): Promise<ShellResult> {
    const id = String(this.nextId++);
    const mark = this.process.mark();
    const output: string[] = [];
    const prefix = `@OUT ${id} `;
    const off = this.process.onLine((line) => {
      if (line.startsWith(prefix)) output.push(line.slice(prefix.length));
    });
    try {
      await this.send(id, script);
      const end = await this.process.waitForLine(new RegExp(`^@END ${id} (\\d+)$`), timeoutMs, mark);
      return { status: Number(end[1]), output: output.join('\n') };
    } catch (error) {
      const { message } = error as Error;
      throw new Error(`in the guest (${this.kind}): ${script}\n${message}`, { cause: error });
    } finally {
      off();
    }
  }

  private async send(id: string, script: string): Promise<void> {
    const code = Buffer.from(script).toString('base64');
    for (let at = 0; at < code.length; at += CHUNK) {
      const mark = this.process.mark();
      this.process.write(`@ADD ${id} ${code.slice(at, at + CHUNK)}\n`);
      await this.process.waitForLine(new RegExp(`^@ACK ${id}$`), 10_000, mark);
    }
    this.process.write(`@RUN ${id}\n`);
  }
}

/** All lines "RESULT name key=value …" of an output; the last of a name counts. */
export function parseResults(output: string): Map<string, ResultFields> {
  const results = new Map<string, ResultFields>();
  for (const match of output.matchAll(/^RESULT (\S+) ?(.*)$/gm)) {
    const fields: Record<string, string> = {};
    for (const pair of match[2].split(' ')) {
      const equals = pair.indexOf('=');
      if (equals > 0) fields[pair.slice(0, equals)] = pair.slice(equals + 1);
    }
    results.set(match[1], fields);
  }
  return results;
}
