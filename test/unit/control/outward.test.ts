/** Ports of a namespace's loopback that lead to the host, changed by HTTP: all or none, in turn, within their bounds. */
import type { ForwardList } from '../../../src/control/types';
import { ControlClient, Denied } from '../../../src/ctl/client';
import { parseScanSpec } from '../../../src/config/port-spec';
import { OutwardForwards } from '../../../src/control/outward-forwards';
import { InProcess, TAKEN_INSIDE } from '../../support/control/in-process';

const EPHEMERAL = { first: 32768, last: 60999 };

let service: InProcess;
let client: ControlClient;

beforeEach(() => {
  service = new InProcess();
  client = new ControlClient(service.path);
});
afterEach(() => {
  service.stop();
  expect(service.bugs).toEqual([]);
});

const item = (spec: string, protocol: 'tcp' | 'udp' = 'tcp') => ({ protocol, spec });

async function ask(
  method: string,
  below: string,
  forwards: readonly { protocol: string; spec: string }[],
  more: { ifVersion?: number; closeFlows?: boolean } = {},
): Promise<ForwardList> {
  const { closeFlows, ...rest } = more;
  const query = closeFlows === true ? { query: { closeFlows: 'true' } } : {};
  return (await client.ask<ForwardList>(method, `/v1/outward${below}`, { body: { forwards }, ...query, ...rest })).body;
}

/** What a refusal says: its status, and the place and code of each error. */
async function refusal(asked: Promise<unknown>): Promise<unknown> {
  const error = await asked.then(
    () => null,
    (reason: unknown) => reason,
  );
  if (!(error instanceof Denied)) throw new Error(`not refused: ${String(error)}`);
  return [error.status, ...error.errors.map(({ at, code }) => `${at} ${code}`)];
}

const ports = (): number[] => [...service.inside.open.values()];

test('added ones are listed, the data plane is told, and the version is that of all forwards', async () => {
  const list = await ask('POST', '', [item('8080:80'), item('53-54', 'udp')]);
  expect(list).toEqual({
    version: 2,
    forwards: [],
    outward: [
      { protocol: 'tcp', spec: '8080:80', listeners: 1, connections: 0 },
      { protocol: 'udp', spec: '53-54', listeners: 2, connections: 0 },
    ],
  });
  expect(service.changes).toHaveLength(1);
  expect(service.changes[0].add).toMatchObject([
    { protocol: 'tcp', port: 8080, targetPort: 80, inside: true, rule: 256 },
    { protocol: 'udp', port: 53, targetPort: 53, inside: true, rule: 257 },
    { protocol: 'udp', port: 54, targetPort: 54, inside: true, rule: 257 },
  ]);
  expect((await client.forwards()).body).toEqual(list);
  expect([service.outward.specOf(257), service.outward.specOf(258)]).toEqual(['53-54', null]);
  expect(await refusal(ask('POST', '', [item('1')], { ifVersion: 1 }))).toEqual([412, 'If-Match version']);
});

test('removed ones are closed; connections live on unless they are to be reset', async () => {
  await ask('POST', '', [item('8080'), item('8081'), item('8082')]);
  await ask('POST', '/remove', [item('8080')]);
  expect(ports()).toEqual([8081, 8082]);
  await ask('POST', '/remove', [item('8081')], { closeFlows: true });
  expect(service.changes.map(({ remove, closeFlows }) => [remove.length, closeFlows])).toEqual([
    [0, false],
    [1, false],
    [1, true],
  ]);
  expect(await refusal(ask('POST', '/remove', [item('8082'), item('8081')]))).toEqual([404, 'forwards/1 not-found']);
  expect(ports()).toEqual([8082]);
});

test('replaced ones: what stays keeps its listener, also where it leads elsewhere', async () => {
  await ask('POST', '', [item('8080'), item('8081'), item('8082')]);
  const [first, second] = service.inside.open.keys();
  const { outward, version } = await ask('PUT', '', [item('8080'), item('8081:81'), item('8083')]);
  expect(outward.map(({ spec }) => spec)).toEqual(['8080', '8081:81', '8083']);
  expect(version).toBe(3);
  expect(service.inside.open.get(first)).toBe(8080);
  expect(service.inside.open.get(second)).toBe(8081);
  expect(ports()).toEqual([8080, 8081, 8083]);
  expect(service.changes[1].add).toMatchObject([{ port: 8081, targetPort: 81, fd: second }, { port: 8083 }]);
  expect(service.changes[1].remove).toContain(second);
  expect(service.changes[1].remove).not.toContain(first);
  await ask('PUT', '', [item('8080'), item('8081:81'), item('8083')]);
  expect(service.changes).toHaveLength(2);
});

test('all or none: nothing is changed, and each item that is wrong is named', async () => {
  await ask('POST', '', [item('8080')]);
  const before = service.changes.length;
  expect(await refusal(ask('POST', '', [item('8081'), item(String(TAKEN_INSIDE))]))).toEqual([
    409,
    'forwards/1/spec bind',
  ]);
  expect(await refusal(ask('PUT', '', [item('8080:80'), item(`8090,${String(TAKEN_INSIDE)}`)]))).toEqual([
    409,
    'forwards/1/spec bind',
  ]);
  expect(await refusal(ask('POST', '', [item('8080:81'), item('seventy'), item('none')]))).toEqual([
    400,
    'forwards/1/spec invalid',
    'forwards/2/spec invalid',
  ]);
  expect(await refusal(ask('POST', '', [item('8080:81')]))).toEqual([409, 'forwards/0/spec conflict']);
  expect(await refusal(ask('POST', '', [item('127.0.0.1/81'), item('81:192.0.2.1/81'), item('auto')]))).toMatchObject([
    400,
    expect.stringMatching(/^forwards\/2\/spec/) as string,
  ]);
  expect(await refusal(ask('POST', '', [item('127.0.0.1/81'), item('unix:/run/x:22')]))).toEqual([
    400,
    'forwards/0/spec invalid',
    'forwards/1/spec invalid',
  ]);
  const five = Array.from({ length: 5 }, (_, i) => item(String(9000 + i)));
  expect(await refusal(ask('POST', '', five))).toEqual([400, 'forwards/4/spec invalid']);
  expect(ports()).toEqual([8080]);
  expect(service.changes).toHaveLength(before);
  expect((await client.forwards()).body).toMatchObject({ version: 2, outward: [{ spec: '8080', listeners: 1 }] });
  // It works as before.
  await ask('POST', '/remove', [item('8080')]);
  expect(ports()).toEqual([]);
});

test('a virtual machine has none', async () => {
  service.stop();
  service = new InProcess(['outward']);
  client = new ControlClient(service.path);
  expect(await refusal(ask('POST', '', [item('8080')]))).toMatchObject([501, expect.anything()]);
});

test('auto: its ports of the moment are listed; it stays by its rules, goes, and does not come', async () => {
  const rules = parseScanSpec('tcp', '8000-8010,auto', EPHEMERAL, '-T 8000-8010,auto') ?? [];
  const auto = { protocol: 'tcp', spec: '8000-8010,auto', rules, auto: true } as const;
  expect(await service.outward.change([], [auto], false)).toEqual([null]);
  expect(await service.outward.add('tcp', 8003, 8003)).toBe(true);
  expect(await service.outward.add('tcp', 8003, 8003)).toBe(false);
  expect((await client.forwards()).body.outward).toEqual([
    { protocol: 'tcp', spec: '8000-8010,auto', listeners: 1, connections: 0, ports: [8003] },
  ]);
  const outward = new OutwardForwards({
    forwards: service.forwards,
    table: service.outward,
    ephemeral: EPHEMERAL,
    tcp: true,
    udp: true,
  });
  const [named] = parseScanSpec('tcp', '8050,auto', EPHEMERAL, 'x') ?? [];
  const list = await outward.replaceRules([named], rules);
  expect(list.outward.map(({ spec }) => spec)).toEqual(['8000-8010,auto', '8050']);
  await expect(outward.replaceRules([], [...rules, named])).rejects.toThrow('are given at the start');
  expect(ports()).toEqual([8003, 8050]);
  await outward.replaceRules([], []);
  expect(ports()).toEqual([]);
  // What it had found is known no more.
  expect(await service.outward.add('tcp', 8003, 8003)).toBe(false);
});
