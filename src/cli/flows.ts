/** Flows of the running service for the faces that show them, and `--flow-log`. Loaded with these options only. */
import type { FlowLog } from '../control/flow-log';
import type { FlowNames } from '../control/flow-names';
import type { FlowSource } from '../control/flows';
import type { FlowWords } from '../control/flow-text';
import type { Flows } from '../control/types';
import { ConfigError, describeSystemError } from '../errors';
import type { Log } from '../log';
import type { Options } from './options';

/** For `--control` and `--metrics`; null: neither was given. */
export async function flowsFor(options: Options, plane: FlowSource, words: FlowWords): Promise<Flows | null> {
  if (options.control === null && options.metrics === null) return null;
  const { DataPlaneFlows } = await import('../control/flows.js');
  return new DataPlaneFlows(plane, words);
}

/** By which names the guest finds its peers, for the faces that show flows; null: there are none. */
export async function flowNames({ control, metrics, flowLog }: Options): Promise<FlowNames | null> {
  if (control === null && metrics === null && flowLog === null) return null;
  const { FlowNames } = await import('../control/flow-names.js');
  return new FlowNames();
}

/** The flow log; null: `--flow-log` was not given. Throws ConfigError. */
export async function openFlowLog(options: Options, words: FlowWords, log: Log): Promise<FlowLog | null> {
  const { flowLog: path, logSize: maxBytes } = options;
  if (path === null) return null;
  const { FlowLog } = await import('../control/flow-log.js');
  try {
    return new FlowLog({ path, maxBytes, words, warn: log.warn });
  } catch (error) {
    throw new ConfigError('CFG_ERR_VALUE', `--flow-log ${path}: cannot write: ${describeSystemError(error)}`);
  }
}
