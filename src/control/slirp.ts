/**
 * slirp4netns's API socket (slirp4netns(1), "API socket"), over the forwards of this service: what is written for it works.
 *
 * A connection is one request, a JSON object that ends with the client's half of the connection (or where the object
 * does), and one answer: `{"return": …}` or `{"error": {"desc": …}}`.
 *
 * | execute        | arguments                                                 | return                                  |
 * |----------------|-----------------------------------------------------------|-----------------------------------------|
 * | add_hostfwd    | proto (tcp, udp), host_addr, host_port, guest_addr, guest_port | id                                   |
 * | list_hostfwd   |                                                           | entries, each with id and the arguments |
 * | remove_hostfwd | id                                                        |                                         |
 *
 * `guest_addr` is the guest, whatever it says: its address is not the client's to know.
 */
import type { Socket } from 'node:net';
import { type Static, Type } from '@sinclair/typebox';
import { formatIp } from '../config/address-text';
import type { PortRule } from '../config/port-spec';
import { messageOf } from '../errors';
import type { Forwards } from './forwards';
import { OwnerClients, type OwnerClientsOptions } from './owner-clients';
import { check } from './route';

const MAX_BYTES = 4096;

const PORT = Type.Integer({ minimum: 1, maximum: 65535 });
const ADDRESS = Type.Optional(Type.String({ maxLength: 64 }));
const REQUEST = Type.Union([
  Type.Object({
    execute: Type.Literal('add_hostfwd'),
    arguments: Type.Object({
      proto: Type.Union([Type.Literal('tcp'), Type.Literal('udp')]),
      host_addr: ADDRESS,
      host_port: PORT,
      guest_addr: ADDRESS,
      guest_port: PORT,
    }),
  }),
  Type.Object({ execute: Type.Literal('list_hostfwd'), arguments: Type.Optional(Type.Object({})) }),
  Type.Object({ execute: Type.Literal('remove_hostfwd'), arguments: Type.Object({ id: Type.Integer() }) }),
]);
type Request = Static<typeof REQUEST>;

/** A rule as an entry of slirp4netns; it knows single ports only. */
function entryOf(id: number, { protocol, addr, first, targetFirst, targetAddr }: PortRule): object {
  return {
    id,
    proto: protocol,
    host_addr: addr === null ? '0.0.0.0' : formatIp(addr),
    host_port: first,
    guest_addr: targetAddr === null ? '' : formatIp(targetAddr),
    guest_port: targetFirst,
  };
}

async function execute(request: Request, forwards: Forwards): Promise<object> {
  switch (request.execute) {
    case 'add_hostfwd': {
      const { proto, host_addr: addr = '', host_port: port, guest_port: target } = request.arguments;
      const listen = addr === '' || addr === '0.0.0.0' ? '' : `${addr}/`;
      const spec = `${listen}${port}${port === target ? '' : `:${target}`}`;
      await forwards.add([{ protocol: proto, spec }]);
      return { id: forwards.idOf(proto, spec) };
    }
    case 'list_hostfwd':
      return { entries: forwards.byId().flatMap(({ id, rules }) => rules.map((rule) => entryOf(id, rule))) };
    case 'remove_hostfwd': {
      await forwards.removeId(request.arguments.id);
      return {};
    }
  }
}

export class SlirpServer extends OwnerClients {
  constructor(options: OwnerClientsOptions) {
    super(options, true);
  }

  protected override welcome(socket: Socket, forwards: Forwards): void {
    let said = '';
    let answered = false;
    const answer = (isWhole: boolean): void => {
      if (answered) return;
      const value = jsonOf(said);
      // The client may go on; what is too long, or over, is what it is.
      if (value === undefined && !isWhole && said.length <= MAX_BYTES) return;
      answered = true;
      this.answer(socket, value, forwards);
    };
    socket.on('data', (chunk: Buffer) => {
      if (said.length <= MAX_BYTES) said += chunk.toString('latin1');
      answer(false);
    });
    socket.once('end', () => {
      answer(true);
    });
  }

  private answer(socket: Socket, value: unknown, forwards: Forwards): void {
    const say = (reply: object): void => {
      if (!socket.destroyed) socket.end(JSON.stringify(reply), () => socket.destroySoon());
    };
    const run = async (): Promise<object> => {
      if (value === undefined) throw new Error(`a request is one object of JSON, of at most ${MAX_BYTES} bytes`);
      check(REQUEST, value, 'request');
      return execute(value as Request, forwards);
    };
    run().then(
      (result) => {
        say({ return: result });
      },
      (error: unknown) => {
        say({ error: { desc: messageOf(error) } });
      },
    );
  }
}

/** The value, or undefined: it is not whole, or nothing. */
function jsonOf(text: string): unknown {
  try {
    return JSON.parse(text) as unknown;
  } catch {
    return undefined;
  }
}
