import { bootQemu } from '../support/world/qemu';
import * as cases from './tcp-cases';
import * as failures from './tcp-failure-cases';
import { describeTcp } from './tcp-suite';

jest.setTimeout(300_000);

// Emulated instruction by instruction: the same behaviour, in smaller amounts.
describeTcp(
  'qemu',
  (bench) => bootQemu({ socketPath: bench.socketPath, scratch: bench.scratch }),
  { bulkBytes: 128 << 20, parallel: 200, shortConnections: 1000, watchedMs: 0 },
  [
    ...cases.bulk,
    ...cases.parallel,
    ...cases.fromHost,
    ...cases.halfClose,
    ...failures.refused,
    ...failures.peerKilled,
    ...failures.closedInGuest,
    ...failures.reboot,
  ],
);
