import { bootUml } from '../support/world/uml';
import { testForwarding } from './forwarding-cases';
import { describeGuest } from './guest-suite';

jest.setTimeout(300_000);

describeGuest('uml', (bench) => bootUml({ socketPath: bench.socketPath, scratch: bench.scratch }), testForwarding);
