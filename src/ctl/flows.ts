/** `tubetti flows`: the flows of a running service. */
import type { FlowInfo, FlowProtocol } from '../control/types';
import { type ControlClient, Denied } from './client';
import {
  clientFor,
  COMMON_OPTIONS,
  type CtlOption,
  DONE,
  guarded,
  type Line,
  optionLines,
  readLine,
  usageError,
} from './command';
import { COLUMNS, flowLines } from './flow-table';

const PROGRAM = 'tubetti flows';

const PROTOCOLS: readonly FlowProtocol[] = ['tcp', 'udp', 'icmp'];

export const PROTOCOL_OPTION: CtlOption = {
  long: ['protocol'],
  short: 'p',
  arg: 'PROTOCOL',
  help: 'only flows of this protocol: tcp, udp or icmp',
  words: PROTOCOLS,
};

export const FLOWS_OPTIONS: readonly CtlOption[] = [
  ...COMMON_OPTIONS,
  PROTOCOL_OPTION,
  {
    long: ['close'],
    short: '',
    arg: 'ID',
    help: 'close the flow that has this ID: both ends of a connection get a reset',
  },
];

export function flowsUsage(): string {
  return `Usage: tubetti flows [OPTION]...

Shows who talks to whom: the flows of a service that was started with --control PATH. ">" is a flow
that the guest began, "<" one that came by a forwarded port; FROM and TO are payload bytes from and
to the guest. A narrow terminal has fewer columns; output to a file or a pipe has all.

${optionLines(FLOWS_OPTIONS)}

With --json: an object a line.

Exit status: 0 if it was done; 1 if the service refused it, or has no flow of that ID; 2 if the
command line cannot be used, or no service answers.
`;
}

/** The protocol that the command line asks for. Throws ConfigError. */
export function protocolOf({ values }: Line, program: string): FlowProtocol | undefined {
  const word = values.get('protocol');
  const found = PROTOCOLS.find((name) => name === word);
  if (word !== undefined && found === undefined)
    throw usageError(`--protocol ${word}: give ${PROTOCOLS.join(', ')}`, program);
  return found;
}

/** All flows, page by page. */
export async function* allFlows(client: ControlClient, protocol?: FlowProtocol): AsyncGenerator<readonly FlowInfo[]> {
  for (let from: string | null | undefined; from !== null;) {
    const page = await client.flows({ ...(protocol && { protocol }), ...(from !== undefined && { from }) });
    yield page.flows;
    from = page.next;
  }
}

/** Who reads may be gone (`| head`): then there is nothing left to do. */
function write(text: string): Promise<void> {
  return new Promise((resolve, reject) => {
    process.stdout.write(text, (error) => {
      if (error === null || error === undefined) resolve();
      else reject(error);
    });
  });
}

/** Runs it with the arguments behind "flows". Returns its exit status. */
export function run(argv: readonly string[]): Promise<number> {
  return guarded(PROGRAM, async () => {
    const line = readLine(FLOWS_OPTIONS, argv);
    if (line.values.has('help')) {
      process.stdout.write(flowsUsage());
      return DONE;
    }
    if (line.words.length > 0) throw usageError(`extra argument "${line.words[0]}"`, PROGRAM);
    const protocol = protocolOf(line, PROGRAM);
    const client = clientFor(line);
    const id = line.values.get('close');
    if (id !== undefined) {
      if (await client.closeFlow(id)) return DONE;
      throw new Denied(404, [
        { at: '', code: 'not-found', message: `--close ${id}: there is no such flow, give the ID of an open one` },
      ]);
    }
    process.stdout.on('error', () => undefined);
    try {
      if (line.values.has('json')) {
        for await (const flows of allFlows(client, protocol)) {
          if (flows.length > 0) await write(flows.map((flow) => `${JSON.stringify(flow)}\n`).join(''));
        }
        return DONE;
      }
      const flows: FlowInfo[] = [];
      for await (const page of allFlows(client, protocol)) flows.push(...page);
      // A serial line may not know its size.
      const width = process.stdout.isTTY ? process.stdout.columns || Infinity : Infinity;
      await write(`${flowLines(COLUMNS, flows, width, Date.now()).join('\n')}\n`);
    } catch (error) {
      if (!(error instanceof Error && 'code' in error && error.code === 'EPIPE')) throw error;
    }
    return DONE;
  });
}
