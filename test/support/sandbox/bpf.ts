/** Runs classic BPF over a struct seccomp_data, as the kernel does (Documentation/networking/filter.rst). */

export interface CallData {
  readonly number: number;
  readonly architecture: number;
  readonly pointer?: bigint;
  readonly args?: readonly (number | bigint)[];
}

function bytesOf({ number, architecture, pointer = 0n, args = [] }: CallData): DataView {
  const view = new DataView(new ArrayBuffer(64));
  view.setInt32(0, number, true);
  view.setUint32(4, architecture, true);
  view.setBigUint64(8, pointer, true);
  args.forEach((arg, i) => {
    view.setBigUint64(16 + 8 * i, BigInt.asUintN(64, BigInt(arg)), true);
  });
  return view;
}

/** What it returns, and after how many instructions. Throws on what the kernel's checker refuses. */
export function runFilter(program: ArrayLike<number>, data: CallData): { value: number; steps: number } {
  const view = bytesOf(data);
  let a = 0;
  let steps = 0;
  for (let at = 0; 4 * at < program.length; at++) {
    steps++;
    const [code, jt, jf, k] = [0, 1, 2, 3].map((i) => program[4 * at + i]);
    if (jt > 255 || jf > 255 || jt < 0 || jf < 0) throw new Error(`instruction ${at} jumps too far`);
    switch (code) {
      case 0x20:
        a = view.getUint32(k, true);
        break;
      case 0x54:
        a = (a & k) >>> 0;
        break;
      case 0x05:
        at += k;
        break;
      case 0x15:
        at += a === k >>> 0 ? jt : jf;
        break;
      case 0x35:
        at += a >= k >>> 0 ? jt : jf;
        break;
      case 0x06:
        return { value: k >>> 0, steps };
      default:
        throw new Error(`instruction ${at} has code ${code}`);
    }
  }
  throw new Error('the program has no end');
}
