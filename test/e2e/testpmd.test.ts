import { poll } from '../support/world/processes';
import { whyNoNamespaces } from '../support/world/host-world';
import { startTestpmd, whyNoTestpmd } from '../support/world/testpmd';
import { describeWith, setUpBench, type Bench } from './support';

jest.setTimeout(120_000);

/** Enough to go round every ring many times. */
const DATAGRAMS = 20_000;
const FRAME_BYTES = 200;
/** Without Ethernet, IPv4 and UDP headers. */
const PAYLOAD_BYTES = FRAME_BYTES - 42;

/** Ring layouts that Linux drivers do not use, beside the one they do. */
const LAYOUTS: readonly { title: string; deviceArguments: readonly string[] }[] = [
  { title: 'a split ring of 256', deviceArguments: [] },
  { title: 'a split ring of 1024', deviceArguments: ['queue_size=1024'] },
  { title: 'no merged receive buffers', deviceArguments: ['mrg_rxbuf=0'] },
];

describeWith('DPDK testpmd', whyNoNamespaces() ?? whyNoTestpmd(), () => {
  let bench: Bench;

  beforeAll(async () => {
    bench = await setUpBench();
  });

  afterAll(async () => {
    await bench.destroy();
  });

  it.each(LAYOUTS)('sends its datagrams through $title', async ({ deviceArguments }) => {
    const { remote } = bench.world;
    const { port } = await remote.call('udpSink', { port: 0 });
    const testpmd = await startTestpmd({
      socketPath: bench.socketPath,
      destinationPort: port,
      frameBytes: FRAME_BYTES,
      deviceArguments,
    });
    try {
      const seen = await poll(
        `${DATAGRAMS} datagrams at the sink`,
        async () => {
          const count = await remote.call('udpSinkCount', { port });
          return count.datagrams >= DATAGRAMS ? count : null;
        },
        30_000,
      );
      expect(seen.bytes).toBe(seen.datagrams * PAYLOAD_BYTES);
      expect(seen.senders).toHaveLength(1);
    } catch (error) {
      if (error instanceof Error) error.message += `\n${bench.service.process.tail(20)}\n${testpmd.tail(20)}`;
      throw error;
    } finally {
      await testpmd.stop('SIGINT');
    }
    expect(bench.service.process.exitStatus).toBeNull();
  });
});
