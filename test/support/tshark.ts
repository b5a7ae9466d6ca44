/**
 * Captures and what Wireshark's dissectors say of them: a judge of our frames that shares no code with us.
 *
 * `whyNoTshark()` says whether there is one; `problemsIn(file)` lists what a capture has that no capture of ours may
 * have: malformed packets, wrong checksums, and expert items of severity Error. `fieldsOf(file, filter, fields)` reads
 * decoded fields. `writePcap` makes a capture of frames that a test has in memory.
 */
import { execFileSync } from 'node:child_process';
import { existsSync, writeFileSync } from 'node:fs';
import { delimiter, join } from 'node:path';
import { SYSTEM_PATH } from './world/paths';

/** One thing Wireshark has to say about a frame. */
export interface ExpertItem {
  /** Number of the frame in the capture, from 1. */
  readonly frame: number;
  readonly severity: 'chat' | 'note' | 'warn' | 'error' | 'comment';
  /** Wireshark's group in lower case: 'checksum', 'malformed', 'protocol', 'sequence', … */
  readonly group: string;
  readonly message: string;
  /** The layers of the frame: 'eth:ethertype:ip:udp:dhcp'. */
  readonly protocols: string;
}

/** Everything that is verified only on demand, on. ICMP, ICMPv6 and IGMP are always verified. */
const PREFERENCES = [
  'ip.check_checksum:TRUE',
  'udp.check_checksum:TRUE',
  'tcp.check_checksum:TRUE',
  // Numbers as on the wire; a capture of a test may begin in the middle of a connection.
  'tcp.relative_sequence_numbers:FALSE',
];

// Wireshark's epan/proto.h, as its field reference documents `_ws.expert.severity` and `_ws.expert.group`.
const SEVERITIES: Readonly<Record<number, ExpertItem['severity']>> = {
  0x100000: 'comment',
  0x200000: 'chat',
  0x400000: 'note',
  0x600000: 'warn',
  0x800000: 'error',
};
const GROUPS: Readonly<Record<number, string>> = {
  0x01000000: 'checksum',
  0x02000000: 'sequence',
  0x03000000: 'response',
  0x04000000: 'request',
  0x05000000: 'undecoded',
  0x06000000: 'reassemble',
  0x07000000: 'malformed',
  0x08000000: 'debug',
  0x09000000: 'protocol',
  0x0a000000: 'security',
  0x0b000000: 'comments',
  0x0c000000: 'decryption',
  0x0d000000: 'assumption',
  0x0e000000: 'deprecated',
};

/** Separates occurrences of one field: no text of Wireshark's contains it. */
const AGGREGATOR = '\x1f';
const SEPARATOR = '\x1e';

function tsharkPath(): string | null {
  const paths = SYSTEM_PATH.split(delimiter).map((directory) => join(directory, 'tshark'));
  return paths.find((path) => existsSync(path)) ?? null;
}

/** Null if captures can be decoded here, else why not, in one sentence. */
export function whyNoTshark(): string | null {
  return tsharkPath() === null ? 'tshark is not installed' : null;
}

/**
 * For each frame that a display filter matches (empty: every frame), the values of each field, in the order of the
 * capture. A field that occurs several times in a frame has several values, one that does not occur none.
 * `frames`: how many to read, of a file that is still being written.
 * @throws Error with tshark's message: no such file or field, a capture cut short.
 */
export function fieldsOf(file: string, filter: string, fields: readonly string[], frames?: number): string[][][] {
  const tshark = tsharkPath();
  if (tshark === null) throw new Error(whyNoTshark() ?? '');
  const args = [
    ...['-n', '-r', file],
    ...(frames === undefined ? [] : ['-c', String(frames)]),
    ...PREFERENCES.flatMap((preference) => ['-o', preference]),
    ...(filter === '' ? [] : ['-Y', filter]),
    ...['-T', 'fields', '-E', `separator=${SEPARATOR}`, '-E', `aggregator=${AGGREGATOR}`],
    ...fields.flatMap((field) => ['-e', field]),
  ];
  // As root it warns on standard error that it runs as root; a failure has its reason there too.
  const stdio: ['ignore', 'pipe', 'pipe'] = ['ignore', 'pipe', 'pipe'];
  const output = execFileSync(tshark, args, { encoding: 'utf8', maxBuffer: 1 << 28, stdio });
  return output
    .split('\n')
    .filter((line) => line !== '')
    .map((line) => line.split(SEPARATOR).map((field) => (field === '' ? [] : field.split(AGGREGATOR))));
}

/** All expert items of a capture, in the order of the frames; of the first `frames` only, if given. */
export function expertItems(file: string, frames?: number): ExpertItem[] {
  const fields = ['severity', 'group', 'message'].map((name) => `_ws.expert.${name}`);
  const rows = fieldsOf(file, '_ws.expert', ['frame.number', 'frame.protocols', ...fields], frames);
  return rows.flatMap(([[number], [protocols], severities, groups, messages]) =>
    severities.map((severity, i) => ({
      frame: Number(number),
      severity: SEVERITIES[Number(severity)] ?? 'error',
      group: GROUPS[Number(groups[i])] ?? groups[i],
      message: messages[i] ?? '',
      protocols,
    })),
  );
}

/** The expert items that are somebody's fault: malformed packets, wrong checksums, everything of severity Error. */
export function problemsIn(file: string, frames?: number): ExpertItem[] {
  return expertItems(file, frames).filter(
    ({ severity, group }) => severity === 'error' || group === 'malformed' || group === 'checksum',
  );
}

/** How many frames a capture has. */
export function frameCount(file: string): number {
  return fieldsOf(file, '', ['frame.number']).length;
}

/** Writes Ethernet frames as a capture (pcap 2.4, microseconds), one a millisecond. */
export function writePcap(file: string, frames: readonly Uint8Array[]): void {
  const header = Buffer.alloc(24);
  header.writeUInt32LE(0xa1b2c3d4, 0);
  header.writeUInt16LE(2, 4);
  header.writeUInt16LE(4, 6);
  header.writeUInt32LE(262144, 16); // longest frame
  header.writeUInt32LE(1, 20); // LINKTYPE_ETHERNET
  const records = frames.map((frame, i) => {
    const record = Buffer.alloc(16);
    record.writeUInt32LE(Math.floor(i / 1000), 0);
    record.writeUInt32LE((i % 1000) * 1000, 4);
    record.writeUInt32LE(frame.length, 8);
    record.writeUInt32LE(frame.length, 12);
    return Buffer.concat([record, frame]);
  });
  writeFileSync(file, Buffer.concat([header, ...records]));
}
