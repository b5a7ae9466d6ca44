/** The loops of the hot path, each by itself: parse, ring, flow lookup, calls into the addon, checksum. */
import { IpFields } from '../../src/stack/wire/ip-fields';
import { GuestMemory, SplitQueueDevice, SplitQueueDriver } from 'virtio-ring-ts';
import { loadNative } from '../../src/native';
import { FlowTable } from '../../src/stack/kit/flow-table';
import { C_FRAMES_FROM_GUEST, C_FRAMES_TO_GUEST, COUNTERS, H_TURN_US } from '../../src/stack/counters';
import { observe } from '../../src/stack/kit/histogram';
import { Load } from '../../src/dataplane/load';
import { parseRule } from '../../src/config/policy-rule';
import { Marks } from '../../src/stack/policy/rule-index';
import { CompiledRules, MARK_ASKED } from '../../src/stack/policy/rules';
import { checksumAdd, checksumFinish } from '../../src/stack/wire/checksum';
import { ETHERNET_HEADER_LEN, ethernetType, ethernetWrite } from '../../src/stack/wire/ethernet';
import {
  IPV4_HEADER_LEN,
  IP_PROTO_TCP,
  ipv4Check,
  ipv4ChecksumOk,
  ipv4Dst,
  ipv4HeaderLen,
  ipv4Protocol,
  ipv4Src,
  ipv4Write,
} from '../../src/stack/wire/ipv4';
import {
  TCP_ACK,
  TCP_HEADER_LEN,
  tcpAck,
  tcpCheck,
  tcpDstPort,
  tcpFlags,
  tcpSeq,
  tcpSrcPort,
  tcpWindow,
  tcpSetChecksum,
  tcpWrite,
} from '../../src/stack/wire/tcp';
import { HIGH, RawRing, makeRows } from '../../test/support/virtqueue/raw-ring';
import type { Loop } from './harness';

const SEGMENT = 1460;
const BATCH = 32;
const FLOWS = 10_000;
const ETHERTYPE = 0x0800;
const FRAME = ETHERNET_HEADER_LEN + IPV4_HEADER_LEN + TCP_HEADER_LEN;

export function loops(): Loop[] {
  return [
    ...parsing(),
    ring(true),
    ring(false),
    ...flowLookup(),
    ...checksums(),
    ...counting(),
    ...policies(),
    ...nativeCalls(),
  ];
}

function parsing(): Loop[] {
  const dv = new DataView(new SharedArrayBuffer(2048));
  const fields = new IpFields(IP_PROTO_TCP, 64);
  const write = (i: number): void => {
    ethernetWrite(dv, 0, 0x5254, 0x00123456, 0x5254, 0x00123457, ETHERTYPE);
    fields.words[3] = i;
    fields.words[7] = ~i;
    ipv4Write(dv, ETHERNET_HEADER_LEN, fields, FRAME - ETHERNET_HEADER_LEN, i & 0xffff, 0x4000);
    const at = ETHERNET_HEADER_LEN + IPV4_HEADER_LEN;
    tcpWrite(dv, at, (7000 << 16) | (i & 0xffff), i >>> 0, i >>> 0, TCP_HEADER_LEN, TCP_ACK, 65535);
    tcpSetChecksum(dv, at, 0);
  };
  const parse = (): number => {
    if (ethernetType(dv, 0) !== ETHERTYPE) return 0;
    const ip = ETHERNET_HEADER_LEN;
    if (ipv4Check(dv, ip, FRAME) !== 0 || !ipv4ChecksumOk(dv, ip) || ipv4Protocol(dv, ip) !== IP_PROTO_TCP) return 0;
    const tcp = ip + ipv4HeaderLen(dv, ip);
    if (tcpCheck(dv, tcp, FRAME) !== 0) return 0;
    const numbers = tcpSeq(dv, tcp) + tcpAck(dv, tcp) + tcpWindow(dv, tcp) + tcpFlags(dv, tcp);
    return numbers + tcpSrcPort(dv, tcp) + tcpDstPort(dv, tcp) + ipv4Src(dv, ip) + ipv4Dst(dv, ip);
  };
  write(1);
  if (parse() === 0) throw new Error('the frame of the parse loop is not accepted');
  return [
    loop('parse Ethernet + IPv4 + TCP', parse),
    loop('write Ethernet + IPv4 + TCP', (i) => {
      write(i);
      return dv.getUint8(0);
    }),
  ];
}

/** One chain of two segments through both sides of a ring, in batches. */
function ring(eventIdx: boolean): Loop {
  const buffer = new SharedArrayBuffer(1 << 20);
  const memory = new GuestMemory();
  memory.add(0, new SharedArrayBuffer(4096), 0, 4096);
  memory.add(1, buffer, HIGH, 1 << 20);
  const { layout } = new RawRing(256);
  const features = { indirect: false, eventIdx };
  const driver = new SplitQueueDriver(layout, features);
  const device = new SplitQueueDevice(memory, layout, features, 0);
  const rows = makeRows(64);
  const batch = (): number => {
    for (let i = 0; i < BATCH; i++) {
      driver.begin();
      driver.addReadable(HIGH + 64 * i, 12);
      driver.addWritable(HIGH + 64 * i + 16, 40);
      driver.commit(i, false);
    }
    driver.publish();
    device.disableNotify();
    device.refresh();
    for (let i = 0; i < BATCH; i++) {
      device.pop(rows, 0, 64);
      device.pushUsed(device.head, 40);
    }
    device.publish();
    device.enableNotify();
    let used = 0;
    while (driver.pollUsed() === 1) used++;
    driver.enableCallbacks();
    return used;
  };
  if (batch() !== BATCH) throw new Error('the ring loop loses chains');
  return {
    name: `ring, a chain of two through both sides, 32 a batch (${eventIdx ? 'EVENT_IDX' : 'flags'})`,
    run: (times) => {
      let sum = 0;
      for (let i = 0; i < times; i += BATCH) sum += batch();
      return sum;
    },
  };
}

function flowLookup(): Loop[] {
  const flows = new FlowTable(FLOWS * 2, 0x12345678, 0x9abcdef0);
  const probe = (i: number): void => {
    flows.probe[3] = i;
    flows.probe[8] = (i << 16) | 443;
  };
  for (let i = 0; i < FLOWS; i++) {
    const slot = flows.alloc();
    probe(i);
    flows.insert(slot);
  }
  const found = (i: number): number => {
    probe(i);
    return flows.lookup();
  };
  if (found(FLOWS - 1) < 0 || found(FLOWS) >= 0) throw new Error('the flow table of the lookup loop is wrong');
  return [
    loop(`flow lookup, one of ${String(FLOWS)}`, (i) => found((i * 7919) % FLOWS)),
    loop('flow lookup, the same again', () => found(17)),
    loop('flow lookup, not there', (i) => found(FLOWS + (i % FLOWS))),
  ];
}

function checksums(): Loop[] {
  const dv = new DataView(new SharedArrayBuffer(2048));
  for (let i = 0; i < SEGMENT; i++) dv.setUint8(i, i * 31);
  return [
    loop(`checksum of ${String(SEGMENT)} bytes, TypeScript`, () => checksumFinish(checksumAdd(dv, 0, SEGMENT, 0))),
  ];
}

function nativeCalls(): Loop[] {
  const native = loadNative();
  const region = native.allocRegion(1 << 17);
  const event = native.eventFd(0);
  const row = (length: number): void => {
    native.rows.region[0] = region;
    native.rows.offset[0] = 0;
    native.rows.length[0] = length;
  };
  const sum = (length: number): Loop =>
    loop(`checksum of ${String(length)} bytes, addon`, () => {
      row(length);
      return native.checksum(0, 1, 0);
    });
  return [
    loop('addon call that does nothing', () => native.regionLength(region)),
    sum(SEGMENT),
    sum(65_000),
    loop('eventfd signal and drain, two system calls', () => native.signal(event) + native.drain(event)),
  ];
}

/** A new flow against a policy of 1000 rules, the last of which matches. */
function policies(): Loop[] {
  const address = Int32Array.of(0, 0, 0xffff, 0xc6336401 | 0);
  const verdict = (name: string, host: (i: number) => string, last: string): Loop => {
    const rules = Array.from({ length: 999 }, (_, i) => parseRule('deny', host(i)));
    const compiled = new CompiledRules([...rules, parseRule('allow', last)]);
    const marks = new Marks(1000);
    if (last.startsWith('last.')) marks.add(999, MARK_ASKED);
    return loop(`a flow against 1000 rules of ${name}`, () => compiled.first(6, address, 0, 443, 0, marks));
  };
  return [
    verdict('addresses', (i) => `10.99.${String(i >> 8)}.${String(i & 255)}:443`, '198.51.100.0/24:443'),
    verdict('names, found by the last', (i) => `n${String(i)}.example.com:443`, 'last.example.com:443'),
    verdict('ports of one prefix', (i) => `198.51.100.0/24:${String(1000 + i)}`, '198.51.100.0/24:443'),
  ];
}

/** What the metrics cost: a value in a histogram; all that a turn of the loop counts. */
function counting(): Loop[] {
  const counters = new Float64Array(COUNTERS);
  const now = new Float64Array(1);
  const load = new Load(counters, now);
  return [
    loop('a value into a histogram', (i) => {
      observe(counters, H_TURN_US, i & 0xffff);
      return counters[H_TURN_US.at];
    }),
    loop('what a turn of the loop counts: its time, frames in and out', (i) => {
      now[0] += i & 0xff;
      load.begins();
      counters[C_FRAMES_FROM_GUEST] += i & 0x1f;
      counters[C_FRAMES_TO_GUEST] += i & 0xf;
      load.ends();
      load.rests();
      return counters[H_TURN_US.at];
    }),
  ];
}

function loop(name: string, body: (i: number) => number): Loop {
  return {
    name,
    run: (times) => {
      let sum = 0;
      for (let i = 0; i < times; i++) sum += body(i);
      return sum;
    },
  };
}
