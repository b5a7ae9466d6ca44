/** The addon in a worker that is ended while it loads it, as it happens when the program ends during its start. */
import { execFile } from 'node:child_process';
import { promisify } from 'node:util';
import { ADDON } from '../../support/native/addon';

/** Loads the addon over and over: whenever the worker is ended, it is most likely in the middle of that. */
const LOADER = `
  const { parentPort, workerData } = require('node:worker_threads');
  parentPort.postMessage('loading');
  for (;;) {
    try {
      process.dlopen({ exports: {} }, workerData);
    } catch {
      // No memory for one more, and there it goes on.
    }
  }
`;

const PROGRAM = `
  const { once } = require('node:events');
  const { Worker } = require('node:worker_threads');
  const [loader, addon] = process.argv.slice(1);
  (async () => {
    for (let n = 0; n < 10; n++) {
      const worker = new Worker(loader, { eval: true, workerData: addon });
      await once(worker, 'message');
      await worker.terminate();
    }
    console.log('alive');
  })();
`;

test('a worker that ends while it loads the addon does not take the process with it', async () => {
  const { stdout } = await promisify(execFile)(process.execPath, ['-e', PROGRAM, LOADER, ADDON], { timeout: 30_000 });
  expect(stdout).toBe('alive\n');
}, 40_000);
