// One end of connections between two loopbacks, for pasta-splice.test.ts and pasta-flood.test.ts: `loopback-peer.cjs WHAT ADDRESS PORT [NUMBER…]`.
// Servers say `listens`, and a line for what happens to them; clients print one line of JSON and end.
'use strict';
const { createHash, randomBytes } = require('node:crypto');
const { createSocket } = require('node:dgram');
const { once } = require('node:events');
const { connect, createServer } = require('node:net');

const [what, address, portText, ...numbers] = process.argv.slice(2);
const port = Number(portText);
const [first, second] = numbers.map(Number);
const say = (line) => process.stdout.write(`${line}\n`);
const print = (result) => {
  say(JSON.stringify(result));
  process.exit(0);
};

function serve(onConnection) {
  const server = createServer({ allowHalfOpen: true }, (socket) => {
    socket.on('error', ({ code }) => say(`error ${code}`));
    onConnection(socket);
  });
  server.on('error', ({ code }) => say(`failed ${code}`));
  server.listen({ port, host: address, backlog: 1024 }, () => say('listens'));
  return server;
}

const sha = (hash) => hash.digest('hex').slice(0, 32);

/** Sends `bytes`, half-closes, and reads all that comes. */
function exchange(bytes) {
  return new Promise((resolve) => {
    const sent = createHash('sha256');
    const received = createHash('sha256');
    let got = 0;
    const socket = connect({ port, host: address, allowHalfOpen: true });
    const result = (error) => resolve({ error, bytes: got, sent: sha(sent), received: sha(received) });
    socket.on('error', ({ code }) => result(code));
    socket.on('data', (data) => {
      got += data.length;
      received.update(data);
    });
    socket.on('end', () => result(null));
    let left = bytes;
    const more = () => {
      while (left > 0) {
        const chunk = randomBytes(Math.min(left, 1 << 16));
        left -= chunk.length;
        sent.update(chunk);
        if (!socket.write(chunk) && left > 0) {
          socket.once('drain', more);
          return;
        }
      }
      socket.end();
    };
    socket.on('connect', more);
  });
}

const ACTIONS = {
  echo: () => serve((socket) => socket.pipe(socket)),
  // Answers when the client has half-closed: what it got, and its sum.
  sum: () =>
    serve((socket) => {
      const hash = createHash('sha256');
      let bytes = 0;
      socket.on('data', (data) => {
        bytes += data.length;
        hash.update(data);
      });
      socket.on('end', () => socket.end(`${bytes} ${sha(hash)}`));
    }),
  silent: () =>
    serve((socket) => {
      socket.pause();
      say('accepted');
      process.stdin.once('data', () => socket.resume());
      let bytes = 0;
      socket.on('data', (data) => (bytes += data.length));
      socket.on('end', () => {
        say(`ended ${bytes}`);
        socket.end();
      });
    }),
  resetter: () => serve((socket) => socket.once('data', () => socket.resetAndDestroy())),
  udpSilent: () => {
    const socket = createSocket(address.includes(':') ? 'udp6' : 'udp4');
    socket.bind(port, address, () => say('listens'));
  },
  udpEcho: () => {
    const socket = createSocket(address.includes(':') ? 'udp6' : 'udp4');
    socket.on('message', (message, from) => {
      say(`from ${from.address} ${from.port}`);
      socket.send(message, from.port, from.address);
    });
    socket.bind(port, address, () => say('listens'));
  },

  send: async () => print(await exchange(first)),
  reset: () => {
    const socket = connect({ port, host: address }, () => socket.write('hello'));
    socket.on('error', ({ code }) => print({ error: code }));
    socket.on('end', () => print({ error: null }));
  },
  abort: () => {
    const socket = connect({ port, host: address }, () => socket.write('hello', () => socket.resetAndDestroy()));
    socket.on('close', () => print({}));
  },
  /** Writes for as long as it is taken; prints how much when nothing was for a while. Then `close` ends it. */
  fill: () => {
    const socket = connect({ port, host: address }, () => write());
    const chunk = Buffer.alloc(1 << 16, 7);
    socket.on('error', ({ code }) => print({ error: code, bytes: socket.bytesWritten }));
    let taken = 0;
    const write = () =>
      socket.write(chunk, () => {
        taken += chunk.length;
        write();
      });
    const look = (before) => {
      if (taken !== before || taken === 0) {
        setTimeout(look, 300, taken);
        return;
      }
      say(`full ${taken}`);
      process.stdin.once('data', () => {
        socket.destroySoon();
        print({ bytes: taken });
      });
    };
    look(0);
  },
  /** `first` connections, `second` at a time, 1000 bytes echoed by each. */
  many: async () => {
    let begun = 0;
    let right = 0;
    const worker = async () => {
      while (begun < first) {
        begun++;
        const { error, bytes, sent, received } = await exchange(1000);
        if (error === null && bytes === 1000 && sent === received) right++;
      }
    };
    await Promise.all(Array.from({ length: second }, worker));
    print({ right });
  },
  /** `first` connections that stay open until they are all there. */
  together: async () => {
    const sockets = [];
    for (let i = 0; i < first; i++) {
      const socket = connect({ port, host: address });
      socket.on('error', ({ code }) => print({ error: code }));
      sockets.push(socket);
    }
    let right = 0;
    await Promise.all(
      sockets.map(async (socket, i) => {
        await once(socket, 'connect');
        socket.write(`number ${i}`);
        const [data] = await once(socket, 'data');
        if (String(data) === `number ${i}`) right++;
      }),
    );
    say(`open ${right}`);
    process.stdin.once('data', async () => {
      await Promise.all(
        sockets.map(async (socket) => {
          socket.end();
          await once(socket, 'close');
        }),
      );
      print({ right });
    });
  },
  /** `first` connections as fast as it can, `second` bytes down each, which never reads and never ends. */
  flood: () => {
    const bytes = Buffer.alloc(second, 7);
    let connected = 0;
    for (let i = 0; i < first; i++) {
      const socket = connect({ port, host: address });
      socket.pause();
      socket.on('error', () => undefined);
      socket.on('connect', () => {
        socket.write(bytes);
        connected++;
      });
    }
    const look = (before) => {
      if (connected === 0 || connected !== before) setTimeout(look, 300, connected);
      else say(`stopped at ${connected}`);
    };
    look(0);
  },
  /** Datagrams of `second` bytes from `first` sockets, round after round until it is stopped. */
  udpFlood: async () => {
    const bytes = Buffer.alloc(second, 7);
    const sockets = Array.from({ length: first }, () => createSocket(address.includes(':') ? 'udp6' : 'udp4'));
    for (const socket of sockets) socket.on('error', () => undefined);
    for (let round = 1; ; round++) {
      await Promise.all(sockets.map((socket) => new Promise((resolve) => socket.send(bytes, port, address, resolve))));
      if (round % 10 === 0) say(`round ${round}`);
    }
  },
  /** `first` bytes to an echo, and again at each line of standard input; a line for each that came back whole. */
  steady: () => {
    const bytes = randomBytes(first);
    let got = Buffer.alloc(0);
    const socket = connect({ port, host: address }, () => socket.write(bytes));
    socket.on('error', ({ code }) => say(`error ${code}`));
    socket.on('data', (data) => {
      got = Buffer.concat([got, data]);
      if (got.length < first) return;
      say(got.equals(bytes) ? 'echoed' : 'wrong');
      got = Buffer.alloc(0);
    });
    process.stdin.on('data', () => socket.write(bytes));
  },
  /** `first` datagrams of `second` bytes from one socket, each after the answer to the one before. */
  datagrams: async () => {
    const socket = createSocket(address.includes(':') ? 'udp6' : 'udp4');
    let right = 0;
    await new Promise((resolve) => socket.bind(0, address, resolve));
    for (let i = 0; i < first; i++) {
      const bytes = randomBytes(second);
      socket.send(bytes, port, address);
      const timer = setTimeout(() => print({ right, port: socket.address().port }), 3000);
      const [message] = await once(socket, 'message');
      clearTimeout(timer);
      if (message.equals(bytes)) right++;
    }
    print({ right, port: socket.address().port });
  },
};

ACTIONS[what]();
