/** Guest memory as a front-end has it, which the prober keeps (src/probe). */
export { GuestRam, type RamOptions, type RamRegion } from '../../../src/probe/ram';
