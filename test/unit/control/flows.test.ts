/** Looks at a data plane: shared among many, paced, and over the place of one that died. */
import { DataPlaneFlows, type FlowSource } from '../../../src/control/flows';
import { LOOK_GONE } from '../../../src/dataplane/commands';
import {
  FLOW_GENERATION,
  FLOW_GUEST,
  FLOW_PEER,
  FLOW_SLOT,
  FLOW_WORDS,
  LOOK_END,
  LOOK_HEADER,
  LOOK_ROWS,
  LOOK_TOOK_US,
} from '../../../src/stack/kit/flow-rows';
import { WORDS } from '../../support/stack/flow-list';

/** A data plane with `count` TCP flows, of which a look shows `most` at the most. */
class FakePlane implements FlowSource {
  worker = 1;
  gone = 0;
  tookUs = 0;
  looks: number[] = [];
  now = 0;
  atOnce = 0;

  constructor(
    private readonly count: number,
    private readonly most = 100,
  ) {}

  async lookAtFlows(
    into: SharedArrayBuffer,
    look: { from: number; most: number },
  ): Promise<{ worker: number; next: number }> {
    this.now++;
    this.atOnce = Math.max(this.atOnce, this.now);
    await new Promise(setImmediate);
    this.now--;
    const { worker } = this;
    this.looks.push(performance.now());
    if (this.gone > 0) {
      this.gone--;
      return { worker, next: LOOK_GONE };
    }
    const rows = new Float64Array(into);
    const end = Math.min(this.count, look.from + Math.min(this.most, look.most));
    rows[LOOK_ROWS] = Math.max(0, end - look.from);
    rows[LOOK_TOOK_US] = this.tookUs;
    for (let i = look.from; i < end; i++) {
      const at = LOOK_HEADER + (i - look.from) * FLOW_WORDS;
      rows.fill(0, at, at + FLOW_WORDS);
      rows[at + FLOW_SLOT] = i;
      rows[at + FLOW_GENERATION] = 7;
      rows.set([0, 0, 0xffff, 0x0a000001], at + FLOW_GUEST);
      rows.set([0x20010db8 | 0, 0, 0, 1], at + FLOW_PEER);
    }
    return { worker, next: end < this.count ? end : LOOK_END };
  }

  closeFlow(): Promise<boolean> {
    return Promise.resolve(true);
  }
}

test('a page takes as many looks as it needs; addresses are those of their family', async () => {
  const plane = new FakePlane(250);
  const { flows, next } = await new DataPlaneFlows(plane, WORDS).list({});
  expect(next).toBeNull();
  expect(flows).toHaveLength(250);
  expect(plane.looks).toHaveLength(3);
  expect(flows[249]).toMatchObject({
    id: 'tcp-1-249-7',
    guest: { address: '10.0.0.1' },
    peer: { address: '2001:db8::1' },
  });
});

test('a place in a data plane that is gone is no place in the next one', async () => {
  const plane = new FakePlane(250);
  const flows = new DataPlaneFlows(plane, WORDS);
  const first = await flows.list({ most: 100 });
  expect(first.next).toBe('1.100');
  plane.worker = 2;
  const second = await flows.list({ most: 1000, from: '1.100' });
  expect(second.flows.map(({ id }) => id)).toEqual(Array.from({ length: 250 }, (_, i) => `tcp-2-${i}-7`));
});

test('a data plane that dies during a look: the next one is looked at, or there are no flows', async () => {
  const plane = new FakePlane(3);
  const flows = new DataPlaneFlows(plane, WORDS);
  plane.gone = 1;
  expect((await flows.list({})).flows).toHaveLength(3);
  plane.gone = 2;
  expect(await flows.list({})).toEqual({ flows: [], next: null });
});

test('many that ask look one after the other, and are too many at last', async () => {
  const plane = new FakePlane(10);
  const flows = new DataPlaneFlows(plane, WORDS);
  const asked = await Promise.allSettled(Array.from({ length: 100 }, () => flows.list({})));
  expect(plane.atOnce).toBe(1);
  expect(asked.filter(({ status }) => status === 'fulfilled')).toHaveLength(64);
  expect(asked[99]).toMatchObject({ status: 'rejected', reason: { name: 'Refused', status: 503 } });
  expect((await flows.list({})).flows).toHaveLength(10);
});

test('the data plane rests after a look for 19 times as long', async () => {
  const plane = new FakePlane(5);
  plane.tookUs = 2000;
  const flows = new DataPlaneFlows(plane, WORDS);
  for (let i = 0; i < 4; i++) await flows.list({});
  const pauses = plane.looks.slice(1).map((at, i) => at - plane.looks[i]);
  expect(Math.min(...pauses)).toBeGreaterThan(36);
});
