/** Forwards at an interface, when that is another one by now. */
import { InProcess } from '../../support/control/in-process';

let service: InProcess;

beforeEach(async () => {
  service = new InProcess();
  service.io.index = 7;
  await service.forwards.add([
    { protocol: 'tcp', spec: '%lan0/8000-8002:80-82' },
    { protocol: 'udp', spec: '%lan0/53' },
    { protocol: 'tcp', spec: '9000' },
  ]);
  service.changes.length = 0;
});

afterEach(() => {
  service.stop();
  expect(service.bugs).toEqual([]);
});

const ports = (): number[] => [...service.io.open.values()].sort((a, b) => a - b);
const ALL = [53, 8000, 8001, 8002, 9000];

test('its sockets are others then, with the same targets, and no order was given', async () => {
  const before = [...service.io.open.keys()];
  const { version } = service.forwards;
  service.io.index = 9;
  await service.forwards.followInterfaces();
  expect(service.changes).toHaveLength(1);
  const [{ remove, add, closeFlows }] = service.changes;
  expect([remove, closeFlows]).toEqual([before.slice(0, 4), false]);
  expect(
    add.map(({ protocol, port, targetPort, rule, ifIndex }) => [protocol, port, targetPort, rule, ifIndex]),
  ).toEqual([
    ['tcp', 8000, 80, 1, 9],
    ['tcp', 8001, 81, 1, 9],
    ['tcp', 8002, 82, 1, 9],
    ['udp', 53, 53, 2, 9],
  ]);
  expect(ports()).toEqual(ALL);
  expect([service.forwards.version, service.said]).toEqual([version, ['4 forwarded ports follow to the new lan0']]);
  await service.forwards.followInterfaces();
  expect(service.changes).toHaveLength(1);
  await service.forwards.remove([{ protocol: 'tcp', spec: '%lan0/8000-8002:80-82' }]);
  expect(ports()).toEqual([53, 9000]);
});

test.each([7, -19])('nothing is done where it is the same one, or gone: index %i', async (index) => {
  service.io.index = index;
  await service.forwards.followInterfaces();
  expect([service.changes, ports(), service.said]).toEqual([[], ALL, []]);
});

test('a port that cannot be had there stays as it is, and is tried with the next change', async () => {
  service.io.index = 9;
  service.io.taken.add(8001);
  await service.forwards.followInterfaces();
  expect(service.changes[0].add.map(({ port }) => port)).toEqual([8000, 8002, 53]);
  expect(service.said.at(-1)).toBe(
    'lan0 is another interface than before: tcp %lan0/8000-8002:80-82: cannot bind port 8001: address already in use',
  );
  expect(ports()).toEqual(ALL);
  service.io.taken.clear();
  await service.forwards.followInterfaces();
  expect(service.changes.at(-1)?.add.map(({ port, targetPort }) => [port, targetPort])).toEqual([[8001, 81]]);
  expect(ports()).toEqual(ALL);
});

test('as many as there may be follow', async () => {
  const many = new InProcess();
  try {
    await many.forwards.add([{ protocol: 'tcp', spec: '%lan0/20000-20063' }]);
    many.changes.length = 0;
    many.io.index = 2;
    await many.forwards.followInterfaces();
    expect(many.changes.reduce((sum, { add }) => sum + add.length, 0)).toBe(64);
    expect([...many.io.open.values()]).toHaveLength(64);
  } finally {
    many.stop();
  }
});

test('after the end nothing is opened', async () => {
  service.forwards.close();
  service.io.index = 9;
  await service.forwards.followInterfaces();
  expect(ports()).toEqual([]);
});
