/** virtio-ring-ts: split virtqueues over shared memory, both sides. See README.md. */
export * from './types';
export * from './layout';
export { faultName } from './faults';
export { GuestMemory } from './guest-memory';
export { SplitQueueDevice } from './split-device';
export { SplitQueueDriver } from './split-driver';
export type { IndirectArea, Segment, SplitQueueDriverOptions } from './split-driver';
