/** A policy from what was seen: it is one that `--policy` takes, and allows just that. */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parse } from 'yaml';
import { checkPolicy } from '../../../src/config/policy';
import { Learnt, learnFrom, ruleFor } from '../../../src/ctl/learn';
import type { FlowInfo } from '../../../src/control/types';

type Seen = Parameters<typeof ruleFor>[0];

const seen = (over: Partial<FlowInfo & { reason: string }> = {}): Seen => ({
  protocol: 'tcp',
  origin: 'guest',
  peer: { address: '198.51.100.7', port: 443 },
  name: null,
  ...over,
});

test.each<[Partial<FlowInfo & { reason: string }>, string | null]>([
  [{}, 'tcp/198.51.100.7:443'],
  [{ name: 'www.example' }, 'tcp/www.example:443'],
  [{ protocol: 'udp', peer: { address: '2001:db8::7', port: 53 } }, 'udp/[2001:db8::7]:53'],
  [{ protocol: 'icmp', peer: { address: '2001:db8::7', port: 77 } }, 'icmp/[2001:db8::7]'],
  [{ origin: 'host' }, null],
  [{ reason: 'denied' }, null],
  [{ reason: 'closed' }, 'tcp/198.51.100.7:443'],
])('%j: %s', (over, rule) => {
  expect(ruleFor(seen(over))).toBe(rule);
});

test('the text is a policy that allows each of them once, and nobody else', () => {
  const learnt = new Learnt();
  const peers = ['198.51.100.7', '2001:db8::7', '198.51.100.7'];
  for (const address of peers) learnt.add(seen({ peer: { address, port: 443 } }));
  learnt.add(seen({ protocol: 'icmp', name: 'a.example' }));
  const result = checkPolicy(parse(learnt.text()));
  expect(result).toMatchObject({ policy: { otherwise: 'deny' } });
  const { rules } = (result as Extract<typeof result, { policy: unknown }>).policy;
  expect(rules.map(({ text }) => text)).toEqual(['icmp/a.example', 'tcp/198.51.100.7:443', 'tcp/[2001:db8::7]:443']);
});

test('nothing seen: a policy without rules', () => {
  expect(checkPolicy(parse(new Learnt().text()))).toMatchObject({
    policy: { rules: [], otherwise: 'deny' },
  });
});

test('more than a policy may have are left out, and said', () => {
  const learnt = new Learnt();
  for (let port = 1; port <= 10_003; port++) learnt.add(seen({ peer: { address: '198.51.100.7', port } }));
  expect(learnt.leftOut).toBe(3);
  expect(checkPolicy(parse(learnt.text()))).toHaveProperty('policy');
});

describe('a flow log', () => {
  let dir: string;
  beforeEach(() => {
    dir = mkdtempSync(join(tmpdir(), 'tubetti-learn-'));
  });
  afterEach(() => {
    rmSync(dir, { recursive: true });
  });

  const learn = async (text: string): Promise<string> => {
    const path = join(dir, 'flows');
    writeFileSync(path, text);
    const learnt = new Learnt();
    await learnFrom(path, learnt);
    return learnt.text();
  };

  test('its flows, and not what it says besides', async () => {
    const lines = [seen({ reason: 'closed' }), { lost: 3 }, seen({ name: 'b.example', reason: 'idle' })];
    const text = await learn(lines.map((line) => `${JSON.stringify(line)}\n`).join(''));
    expect(parse(text)).toEqual({ rules: [{ allow: ['tcp/198.51.100.7:443', 'tcp/b.example:443'] }] });
  });

  test('another file, or none', async () => {
    await expect(learn('PK\n')).rejects.toThrow(/policy learn .*: line 1 is none of a flow log/);
    const path = join(dir, 'none');
    await expect(learnFrom(path, new Learnt())).rejects.toThrow(`policy learn ${path}: cannot read: no such file`);
  });
});
