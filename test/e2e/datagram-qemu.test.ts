import { bootQemu } from '../support/world/qemu';
import { DATAGRAM_CASES, LARGE_CASES } from './datagram-cases';
import { describeDatagrams } from './datagram-suite';

jest.setTimeout(300_000);

// Emulated instruction by instruction: the same behaviour, in smaller amounts.
describeDatagrams('qemu', (bench) => bootQemu({ socketPath: bench.socketPath, scratch: bench.scratch }), 500, [
  ...DATAGRAM_CASES,
  ...LARGE_CASES,
]);
