import { bootUml } from '../support/rig/uml';
import { describeGuest } from './guest-suite';

jest.setTimeout(300_000);

describeGuest('uml', (bench) => bootUml({ socketPath: bench.socketPath, scratch: bench.scratch }));
