/** A data plane that could never be woken must not begin. */
import { watchCommands } from '../../../src/dataplane/watch-commands';

const ENOMEM = 12;
const EMFILE = 24;

test.each([
  ['no descriptor for the set', -EMFILE, 0, 24],
  ['no memory for the watch', 7, -ENOMEM, 12],
])('%s: it fails, and is replaced', (_title, made, watched, errno) => {
  const native = { epollInit: () => made, watch: () => watched };
  expect(() => watchCommands(native, 5, 1)).toThrow(`cannot wait for events (errno ${String(errno)})`);
});

test('the wake-up is watched by its key', () => {
  const watch = jest.fn(() => 0);
  watchCommands({ epollInit: () => 7, watch }, 5, 99);
  expect(watch).toHaveBeenCalledWith(5, 1, 99, 0);
});
