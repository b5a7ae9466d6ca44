/** All of the control plane's faces, which become a bundle of their own (scripts/build.mjs): loaded with `--control`. */
export { Captures } from './captures';
export { Events } from './events';
export { Forwards } from './forwards';
export { openGuestPipe } from './guest-pipe';
export { OutwardForwards } from './outward-forwards';
export { PestoServer } from './pesto';
export { SlirpServer } from './slirp';
export { UnixForwards } from './unix-forwards';
export { startControlServer, type ControlServer } from './server';
export { addressText } from './flow-text';
