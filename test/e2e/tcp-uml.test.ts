import { bootUml } from '../support/world/uml';
import * as cases from './tcp-cases';
import * as failures from './tcp-failure-cases';
import { describeTcp } from './tcp-suite';

jest.setTimeout(300_000);

describeTcp(
  'uml',
  (bench) => bootUml({ socketPath: bench.socketPath, scratch: bench.scratch }),
  { bulkBytes: 1 << 30, parallel: 500, shortConnections: 20_000, watchedMs: 10_000 },
  [
    ...cases.bulk,
    ...cases.watched,
    ...cases.parallel,
    ...cases.fromHost,
    ...cases.shortOnes,
    ...cases.sleepers,
    ...cases.halfClose,
    ...cases.lateAccept,
    ...cases.fairness,
    ...failures.refused,
    ...failures.unreachable,
    ...failures.peerKilled,
    ...failures.closedInGuest,
    ...failures.reboot,
  ],
);
