/**
 * What a service manager is told (sd_notify(3)): READY=1 when the service serves, STATUS= what it does, STOPPING=1 when it
 * ends. The socket that $NOTIFY_SOCKET names is connected at the start: behind the door there are no paths.
 *
 * Nobody is waited for. What the manager's queue has no room for is sent again until it has; of each variable the newest
 * value only. A front-end that comes and goes changes STATUS: that is sent once in STATUS_MS at most.
 */
import { describeErrno, EAGAIN } from '../errors';
import { type Log, oneLine } from '../log';
import type { Native } from '../native';

export const NOTIFY_SOCKET = 'NOTIFY_SOCKET';

const STATUS_MS = 1000;
const AGAIN_MS = 50;
const NO_FDS = new Int32Array(0);

type ManagerIo = Pick<Native, 'unixDatagram' | 'sendFds' | 'close'>;
type Variable = 'READY' | 'STATUS' | 'STOPPING' | 'MAINPID';

export class ServiceManager {
  private readonly native: ManagerIo;
  private readonly log: Log;
  private fd: number;
  /** What was not taken yet. */
  private readonly owed = new Map<Variable, string>();
  private again: NodeJS.Timeout | null = null;
  private statusTimer: NodeJS.Timeout | null = null;
  private statusAt = -Infinity;
  private next = '';

  private constructor(native: ManagerIo, log: Log, fd: number) {
    this.native = native;
    this.log = log;
    this.fd = fd;
  }

  /** Takes the variable out of the environment. Null: there is no manager, or none that can be told. */
  static find(env: NodeJS.ProcessEnv, native: ManagerIo, log: Log): ServiceManager | null {
    const name = env[NOTIFY_SOCKET];
    if (name === undefined || name === '') return null;
    Reflect.deleteProperty(env, NOTIFY_SOCKET);
    if (!name.startsWith('/') && !name.startsWith('@')) {
      log.warn(`${NOTIFY_SOCKET} ${name}: no path and no abstract name, the service manager is not told`);
      return null;
    }
    const fd = native.unixDatagram(name.replace(/^@/, '\0'));
    if (fd >= 0) return new ServiceManager(native, log, fd);
    log.warn(`${NOTIFY_SOCKET} ${name}: cannot connect, the service manager is not told: ${describeErrno(fd)}`);
    return null;
  }

  /** The service serves. `pid`: who it is, where that is not the process which the manager started. */
  ready(pid: number | null): void {
    this.owed.set('READY', '1');
    if (pid !== null) this.owed.set('MAINPID', String(pid));
    this.send();
  }

  /** One line for people. */
  status(text: string): void {
    // A line of its own would be another variable.
    this.next = oneLine(text);
    if (this.statusTimer !== null) return;
    const wait = this.statusAt + STATUS_MS - performance.now();
    if (wait <= 0) {
      this.sendStatus();
      return;
    }
    this.statusTimer = setTimeout(() => {
      this.statusTimer = null;
      this.sendStatus();
    }, wait);
    this.statusTimer.unref();
  }

  /** The service ends. */
  stopping(): void {
    if (this.statusTimer !== null) clearTimeout(this.statusTimer);
    this.statusTimer = null;
    this.owed.set('STOPPING', '1');
    this.next = 'stopping';
    this.sendStatus();
  }

  close(): void {
    for (const timer of [this.again, this.statusTimer]) if (timer !== null) clearTimeout(timer);
    if (this.fd >= 0) this.native.close(this.fd);
    this.fd = -1;
  }

  private sendStatus(): void {
    this.statusAt = performance.now();
    this.owed.set('STATUS', this.next);
    this.send();
  }

  private send(): void {
    if (this.fd < 0 || this.again !== null || this.owed.size === 0) return;
    const bytes = Buffer.from(Array.from(this.owed, ([name, value]) => `${name}=${value}\n`).join(''));
    const result = this.native.sendFds(this.fd, bytes, 0, bytes.length, NO_FDS, 0);
    if (result !== -EAGAIN) {
      this.owed.clear();
      if (result < 0) this.log.log('warn', `the service manager was not told: ${describeErrno(result)}`, 'manager');
      return;
    }
    this.again = setTimeout(() => {
      this.again = null;
      this.send();
    }, AGAIN_MS);
    this.again.unref();
  }
}
