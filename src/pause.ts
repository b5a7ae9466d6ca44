/** Waiting that blocks the thread, for the control plane's few calls that have no event to wait for. */
const word = new Int32Array(new SharedArrayBuffer(Int32Array.BYTES_PER_ELEMENT));

export function pause(ms: number): void {
  Atomics.wait(word, 0, 0, ms);
}
