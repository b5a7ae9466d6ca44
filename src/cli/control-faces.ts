/** What `--control` needs and nobody else. Apart from control.ts, so that it is loaded with that option only. */
export {
  Captures,
  addressText,
  Events,
  Forwards,
  OutwardForwards,
  UnixForwards,
  openGuestPipe,
  PestoServer,
  SlirpServer,
  startControlServer,
} from '../control';
