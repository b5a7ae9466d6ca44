/** `tubetti ctl policy` and `tubetti ctl rates`. */
import { rateValue } from '../cli/option-values';
import { readConfigFile } from '../cli/settings';
import type { PolicyState } from '../control/types';
import { rateText } from '../policy-text';
import { clientFor, DONE, type Line, usageError, versionOf } from './command';
import { allFlows } from './flows';
import { Learnt, learnFrom } from './learn';
import type { Subcommand } from './subcommands';

const PROGRAM = 'tubetti ctl';

/** The service shows each rule by itself. */
const textOf = (rules: string | readonly string[] = ''): string => [rules].flat().join(', ');

function policyText({ version, policy: set }: PolicyState): string {
  if (set === null) return `version ${version}: the guest may talk to everybody`;
  const { rules = [], ...rest } = set;
  const words = Object.entries(rest).map(([key, value]) => `${key} ${String(value)}`);
  const lines = rules.map(({ allow, deny, private: opens }) => {
    const rule = allow === undefined ? `deny  ${textOf(deny)}` : `allow ${textOf(allow)}`;
    return opens === true ? `${rule} (private)` : rule;
  });
  return [`version ${version}: ${words.join(', ')}`, ...lines].join('\n');
}

function show(line: Line, value: unknown, text: string): number {
  process.stdout.write(line.values.has('json') ? `${JSON.stringify(value)}\n` : `${text}\n`);
  return DONE;
}

/** Prints a policy that allows the flows of the log, or those there are at this moment. */
async function learn(line: Line, log: string | undefined): Promise<number> {
  const learnt = new Learnt();
  if (log !== undefined) await learnFrom(log, learnt);
  else for await (const page of allFlows(clientFor(line))) for (const flow of page) learnt.add(flow);
  process.stdout.write(learnt.text());
  if (learnt.leftOut > 0)
    process.stderr.write(`${PROGRAM}: more rules than a policy may have, left out: ${learnt.leftOut}\n`);
  return DONE;
}

export const policy: Subcommand = {
  name: 'policy',
  words: 'get | set FILE | clear | learn [FLOW-LOG]',
  help: 'whom the guest may talk to; FILE is YAML or JSON, as for --policy; learn prints a policy that allows the open flows, or those of a flow log',
  run: async (line) => {
    const order = line.words.at(0) ?? 'get';
    const file = line.words.at(1);
    if (line.words.length > (order === 'set' || order === 'learn' ? 2 : 1))
      throw usageError(`policy ${order}: one word too many`, PROGRAM);
    if (order === 'learn') return learn(line, file);
    const client = clientFor(line);
    const asked = versionOf(line, PROGRAM);
    let answer: PolicyState;
    switch (order) {
      case 'get':
        answer = await client.policy();
        break;
      case 'clear':
        answer = await client.setPolicy(null, asked);
        break;
      case 'set': {
        if (file === undefined) throw usageError('policy set: give a file, YAML or JSON', PROGRAM);
        const body = readConfigFile(file, 'policy set') ?? {};
        answer = await client.setPolicy(body, asked);
        break;
      }
      default:
        throw usageError(`policy ${order}: give get, set, clear or learn`, PROGRAM);
    }
    return show(line, answer, policyText(answer));
  },
};

export const rates: Subcommand = {
  name: 'rates',
  words: '[IN OUT]',
  help: 'limits in bit/s of what goes to the guest and comes from it, like 50M 10M; 0: no limit',
  run: async (line) => {
    const { words } = line;
    if (words.length !== 0 && words.length !== 2)
      throw usageError('rates: give two, IN and OUT, like 50M 10M; or none, to see them', PROGRAM);
    const client = clientFor(line);
    const body =
      words.length === 0
        ? await client.rates()
        : await client.setRates({ in: rateValue('rates', words[0]), out: rateValue('rates', words[1]) });
    return show(line, body, `to the guest: ${rateText(body.in)}\nfrom the guest: ${rateText(body.out)}`);
  },
};
