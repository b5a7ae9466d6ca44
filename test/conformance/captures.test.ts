/** Captures that begin and end while the service runs: `tubetti ctl capture`, with Wireshark as the judge. Needs a build. */
import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { request } from 'node:http';
import { connect } from 'node:net';
import { existsSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describeWith } from '../e2e/support';
import { loadNative } from '../../src/native';
import type { CaptureInfo } from '../../src/control/types';
import { Denied } from '../../src/ctl/client';
import { dial, freePorts, type Ordered, startOrdered } from '../support/control/service';
import { BROADCAST_MAC } from '../support/guest/bytes';
import { Guest } from '../support/guest/guest';
import { ETHER_ARP, arp, ethernet } from '../support/guest/packets';
import { openFdsOf } from '../support/open-fds';
import { BIN } from '../support/program';
import { StreamClient } from '../support/stream/stream-client';
import { fieldsOf, frameCount, problemsIn, whyNoTshark } from '../support/tshark';
import { poll } from '../support/world/processes';

jest.setTimeout(60_000);

const native = loadNative();

describeWith('captures of a running service', whyNoTshark(), () => {
  let service: Ordered;
  let guest: Guest | null = null;
  let port: number;

  const begin = async (...argv: string[]): Promise<Guest> => {
    port = await freePorts(1);
    service = await startOrdered('-t', `${port}:80`, ...argv);
    guest = await Guest.start(native, { socket: service.socket });
    await guest.dhcp();
    return guest;
  };

  afterEach(async () => {
    await guest?.stop();
    guest = null;
    service.remove();
  });

  interface Ctl {
    readonly child: ChildProcess;
    readonly done: Promise<{ status: number; out: Buffer; err: string }>;
  }

  /** `tubetti ctl` as it is run. */
  function ctl(...argv: string[]): Ctl {
    const child = spawn(BIN, ['ctl', '--control', service.control, ...argv], { stdio: ['ignore', 'pipe', 'pipe'] });
    const out: Buffer[] = [];
    let err = '';
    child.stdout.on('data', (chunk: Buffer) => out.push(chunk));
    child.stderr.on('data', (chunk: Buffer) => (err += chunk.toString()));
    const done = once(child, 'close').then(([status]) => ({ status: Number(status), out: Buffer.concat(out), err }));
    return { child, done };
  }

  const running = async (): Promise<readonly CaptureInfo[]> =>
    (await service.client.captures()).filter(({ endedAt }) => endedAt === null);
  const runs = (count: number): Promise<unknown> =>
    poll('the captures', async () => ((await running()).length === count ? true : null), 10_000);

  /** A connection to the guest carries bytes to it and back. */
  async function exchange(bytes = 1000): Promise<void> {
    const listener = guest!.tcpListen(80);
    const client = await dial(port);
    const stream = await listener.accept();
    client.end(Buffer.alloc(bytes, 1));
    await stream.readExactly(bytes);
    await stream.write(Buffer.alloc(bytes, 2));
    await stream.end();
    await once(client.resume(), 'close');
    listener.close();
  }

  test('into a file: what passes from then on, both ways, until it is interrupted', async () => {
    await begin();
    const file = join(service.dir, 'f.pcap');
    const { child, done } = ctl('capture', '-w', file);
    await runs(1);
    await exchange(100_000);
    child.kill('SIGINT');
    const { status, out, err } = await done;
    const [{ packets, bytes, lost, reason }] = await service.client.captures();
    expect([status, out.length, err]).toEqual([0, 0, `${packets} packets captured, 0 left out\n`]);
    expect([lost, reason]).toEqual([0, 'order']);
    expect(packets).toBe(frameCount(file));
    expect(statSync(file).size).toBe(24 + bytes);
    expect(statSync(file).mode & 0o777).toBe(0o600);
    expect(problemsIn(file)).toEqual([]);
    for (const flow of ['tcp.dstport == 80', 'tcp.srcport == 80']) {
      const sizes = fieldsOf(file, flow, ['tcp.len']);
      expect(sizes.reduce((sum, [[length]]) => sum + Number(length), 0)).toBe(100_000);
    }
    // The bare port is the guest's again.
    await exchange();
  });

  test('a pipe, as Wireshark reads one; it ends by its number of packets', async () => {
    await begin();
    const { done } = ctl('capture', '-w', '-', '--packets', '12', '--snap', '64');
    await runs(1);
    let over = false;
    void done.then(() => (over = true));
    while (!over) await exchange();
    const { status, out, err } = await done;
    expect([status, err]).toEqual([0, '12 packets captured, 0 left out\n']);
    const file = join(service.dir, 'p.pcap');
    writeFileSync(file, out);
    expect(frameCount(file)).toBe(12);
    const lengths = fieldsOf(file, 'frame', ['frame.len', 'frame.cap_len']);
    for (const [[length], [kept]] of lengths) expect(Number(kept)).toBe(Math.min(Number(length), 64));
    expect(lengths.some(([[length]]) => Number(length) > 64)).toBe(true);
    expect(out.readUInt32LE(16)).toBe(64);
  });

  test('tshark at the other end of the pipe sees packets as they come, and ends the capture when it has enough', async () => {
    await begin();
    const command = `'${BIN}' ctl --control '${service.control}' capture | tshark -l -n -i - -c 3 -T fields -e frame.number`;
    const child = spawn('sh', ['-c', command], { stdio: ['ignore', 'pipe', 'ignore'] });
    let out = '';
    child.stdout.on('data', (chunk: Buffer) => (out += chunk.toString()));
    const closed = once(child, 'close');
    await runs(1);
    while (child.exitCode === null && out.split('\n').length < 4) await exchange();
    await exchange(); // a write finds the pipe without a reader
    await closed;
    expect(out).toBe('1\n2\n3\n');
    await poll('its end', async () => ((await running()).length === 0 ? true : null), 10_000);
  });

  test('by time; several at once beside --pcap; listed, stopped, refused', async () => {
    const kept = join(tmpdir(), `tubetti-captures-${process.pid}.pcap`);
    await begin('--pcap', kept);
    const files = [0, 1, 2, 3].map((i) => join(service.dir, `${i}.pcap`));
    const all = files.map((file) => ctl('capture', '-w', file, '--json'));
    await runs(4);
    const fifth = await ctl('capture').done;
    expect([fifth.status, fifth.err]).toEqual([1, 'tubetti ctl: there are 4 captures already: end one of them\n']);
    await exchange();
    const listed = JSON.parse((await ctl('capture', 'list', '--json').done).out.toString()) as CaptureInfo[];
    expect(listed.map(({ reason }) => reason)).toEqual([null, null, null, null]);
    for (const { id } of listed) expect((await ctl('capture', 'stop', id).done).status).toBe(0);
    for (const { done } of all) {
      const { status, out } = await done;
      expect(status).toBe(0);
      expect(JSON.parse(out.toString())).toMatchObject({ reason: 'order', lost: 0 });
    }
    const timed = await ctl('capture', '-w', join(service.dir, 't.pcap'), '--json', '--seconds', '0.2').done;
    expect([timed.status, JSON.parse(timed.out.toString())]).toMatchObject([0, { reason: 'time', lost: 0 }]);
    expect((await ctl('capture', 'stop', '99').done).err).toBe('tubetti ctl: capture stop 99: no capture 99 runs\n');
    const counts = files.map((file) => frameCount(file));
    expect(Math.min(...counts)).toBeGreaterThan(4);
    expect(frameCount(kept)).toBeGreaterThan(Math.max(...counts));
    expect(problemsIn(kept)).toEqual([]);
    rmSync(kept);
  });

  test('its client leaves, or the service ends: nothing is left behind, whole records', async () => {
    await begin();
    const names: string[] = [];
    const stop = new AbortController();
    const listening = (async () => {
      for await (const { event, data } of service.client.events('/v1/events', stop.signal))
        names.push(`${event} ${(JSON.parse(data) as { data: { reason?: string } }).data.reason ?? ''}`.trim());
    })();
    const { stream } = await service.client.capture();
    await runs(1);
    stream.on('error', () => undefined).destroy();
    // Nothing has to be written for it to be noticed.
    await runs(0);
    const plain = connect(service.control);
    plain.write('GET /v1/capture?packets=2 HTTP/1.1\r\nHost: tubetti\r\n\r\n');
    await runs(1);
    await exchange();
    const chunks: Buffer[] = [];
    for await (const chunk of plain) chunks.push(chunk as Buffer);
    expect(Buffer.concat(chunks).toString('latin1')).toMatch(
      /^HTTP\/1\.1 200 OK\r\n[^]*\r\nCapture: 2\r\n\r\n\xd4\xc3\xb2\xa1/,
    );
    const file = join(service.dir, 'e.pcap');
    const { done } = ctl('capture', '-w', file);
    await runs(1);
    await exchange();
    await service.client.ask('POST', '/v1/end');
    expect(await done).toMatchObject({ status: 0, err: 'the service has ended\n' });
    await listening.catch(() => undefined);
    stop.abort();
    expect(existsSync(file)).toBe(true);
    expect(problemsIn(file)).toEqual([]);
    expect(frameCount(file)).toBeGreaterThan(4);
    expect(names.slice(0, 5)).toEqual([
      ...['capture-started', 'capture-stopped client', 'capture-started', 'capture-stopped limit', 'capture-started'],
    ]);
    expect(service.stderr()).not.toMatch(/error|internal/i);
  });

  test('what a capture must not be asked for: refused, and the field is named', async () => {
    await begin();
    for (const [query, at] of [
      ['snap=0', 'query/snap'],
      ['packets=-1', 'query/packets'],
      ['seconds=0', 'query/seconds'],
      ['bytes=x', 'query/bytes'],
      ['file=x', 'query/file'],
    ]) {
      const error: unknown = await service.client.ask('GET', `/v1/capture?${query}`).catch((thrown: unknown) => thrown);
      expect(error).toBeInstanceOf(Denied);
      expect((error as Denied).errors[0].at).toBe(at);
    }
    expect((await ctl('capture', '--packets', 'many').done).err).toContain('--packets many: give a number');
    expect((await ctl('capture', '-w', '/nonexistent/x').done).err).toContain('--write /nonexistent/x: cannot write');
    expect(await service.client.captures()).toEqual([]);
  });

  test('many begin and end at once, and some never read: descriptors and the guest stay', async () => {
    await begin();
    const pid = service.child.pid ?? 0;
    // libuv opens a descriptor to spare with its first stream.
    await service.client.captures();
    const before = openFdsOf(pid);
    for (let round = 0; round < 30; round++) {
      const asked = [0, 1, 2, 3, 4].map(
        () =>
          new Promise<void>((resolve) => {
            const client = request({ socketPath: service.control, path: '/v1/capture', agent: false });
            client.on('response', () => setImmediate(() => client.destroy()));
            client
              .on('error', () => undefined)
              .once('close', () => {
                resolve();
              });
            client.end();
          }),
      );
      await Promise.all([...asked, exchange(100)]);
    }
    await runs(0);
    await exchange();
    await poll('descriptors', () => (openFdsOf(pid) <= before ? true : null), 10_000);
    expect(guest!.violations).toEqual([]);
  });

  test('of a guest behind a stream socket', async () => {
    service = await startOrdered('--stream');
    const client = await StreamClient.connect(service.socket);
    const { done } = ctl('capture', '--packets', '2');
    await runs(1);
    const senderMac = Uint8Array.of(2, 0, 0, 0, 0, 1);
    const [senderIp, targetIp] = [Uint8Array.of(192, 0, 2, 2), Uint8Array.of(10, 0, 0, 1)];
    const question = arp({ op: 1, senderMac, senderIp, targetMac: new Uint8Array(6), targetIp });
    client.send(ethernet(BROADCAST_MAC, senderMac, ETHER_ARP, question));
    await client.receive((frame) => frame.readUInt16BE(12) === ETHER_ARP && frame[31] === 1);
    expect(await done).toMatchObject({ status: 0, err: '2 packets captured, 0 left out\n' });
    await client.destroy();
  });
});
