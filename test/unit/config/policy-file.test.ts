/** The published schema of policy files and what reads them agree, and the examples are good. */
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { parse } from 'yaml';
import { parseOptions } from '../../../src/cli/options';
import { checkPolicy, policyValue } from '../../../src/config/policy';

const ROOT = join(__dirname, '../../..');
const EXAMPLES = join(ROOT, 'examples/policy');

interface Schema {
  readonly properties: Record<string, { readonly enum?: readonly string[]; readonly items?: Schema }>;
}

const schema = JSON.parse(readFileSync(join(ROOT, 'docs/policy.schema.json'), 'utf8')) as Schema;

const errorsOf = (value: unknown): string[] => {
  const result = checkPolicy(value);
  return 'errors' in result ? result.errors.map(({ at }) => at) : [];
};

test.each([{}, { rules: [] }, { sni: 'require' }, { rules: [{ allow: [] }] }])(
  '%j would open everything by a mistake: a file without rules says the default',
  (file) => {
    expect(errorsOf(file)).toEqual(['rules']);
    expect(errorsOf({ ...file, default: 'allow' })).toEqual([]);
    expect(checkPolicy({ ...file, default: 'deny' })).toMatchObject({ policy: { rules: [], otherwise: 'deny' } });
  },
);

test('every key and word of the schema is read, and no other', () => {
  for (const [key, { enum: words }] of Object.entries(schema.properties)) {
    for (const word of words ?? [])
      expect([key, word, errorsOf({ default: 'deny', [key]: word })]).toEqual([key, word, []]);
    if (words !== undefined) expect(errorsOf({ rules: [{ deny: 'any' }], [key]: 'other' })).toEqual([key]);
  }
  const result = checkPolicy({ rules: [{ allow: 'a.example', private: true }, { deny: ['lan', 'host'] }] });
  if (!('policy' in result)) throw new Error('refused');
  const value = policyValue(result.policy);
  expect(Object.keys(value).sort()).toEqual(Object.keys(schema.properties).sort());
  expect(checkPolicy(value)).toEqual(result);
  expect(Object.keys(schema.properties.rules.items!.properties)).toEqual(['allow', 'deny', 'private']);
  expect(errorsOf({ rules: [{ permit: 'any' }] })).toEqual(['rules/0/permit', 'rules/0']);
});

test.each(readdirSync(EXAMPLES).filter((name) => !name.endsWith('.md')))('%s', (name) => {
  const text = readFileSync(join(EXAMPLES, name), 'utf8');
  expect(errorsOf(name.endsWith('.json') ? JSON.parse(text) : parse(text))).toEqual([]);
  expect(readFileSync(join(EXAMPLES, 'README.md'), 'utf8')).toContain(`(${name})`);
});

test('the example in docs/policy.md', () => {
  const [, yaml] = /```yaml\n([^`]*)```/.exec(readFileSync(join(ROOT, 'docs/policy.md'), 'utf8'))!;
  expect(errorsOf(parse(yaml))).toEqual([]);
});

test.each<[string[], string]>([
  [
    ['--allow', 'x y'],
    '--allow x y: "x y" is not an address, a prefix, a domain name, or one of any, host, lan, metadata, dns',
  ],
  [['--policy-audit'], '--policy-audit: there is no policy, give --allow, --deny or --policy'],
  [
    ['--deny', 'any', '--policy', join(EXAMPLES, 'agent.yaml')],
    '--policy and --allow or --deny exclude each other: write all rules into the file, or none',
  ],
])('%p is refused', (argv, message) => {
  expect(() => parseOptions(argv, { first: 32768, last: 60999 })).toThrow(message);
  expect(existsSync(EXAMPLES)).toBe(true);
});
