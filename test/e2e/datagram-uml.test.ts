import { bootUml } from '../support/world/uml';
import { LARGE_CASES } from './datagram-cases';
import { describeDatagrams } from './datagram-suite';
import { IPERF_CASES, whyNoPrograms } from './program-cases';
import { whyNotGuest } from './support';

jest.setTimeout(300_000);

// The small cases are in link-clients.test.ts, where what passes is captured.
describeDatagrams(
  'uml',
  (bench) => bootUml({ socketPath: bench.socketPath, scratch: bench.scratch }),
  50_000,
  [...LARGE_CASES, ...IPERF_CASES],
  whyNotGuest('uml') ?? whyNoPrograms(),
);
