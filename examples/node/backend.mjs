/**
 * A back-end for one virtual machine, from a Node program: `node backend.mjs /tmp/vm.sock`. It says what happens, forwards a
 * port once the guest is there, and ends with the guest.
 */
import { startBackend } from 'tubetti';

const [socket = '/tmp/vm.sock'] = process.argv.slice(2);
const backend = await startBackend({ socket, onLog: (line) => console.error(line) });
for await (const { event } of backend.events()) {
  console.log(event);
  if (event === 'front-end-connected') {
    await backend.addForwards({ protocol: 'tcp', spec: '2222:22' });
    console.log(await backend.forwards());
  }
  if (event === 'front-end-disconnected') break;
}
await backend.end();
