// In a namespace: echoes of TCP and UDP at [address, port of TCP, port of UDP]…, by content; prints how many were right.
'use strict';
const { createHash, randomBytes } = require('node:crypto');
const { createSocket } = require('node:dgram');
const { connect } = require('node:net');

const TCP_BYTES = 4 << 20;
const UDP_BYTES = 9000;

function tcpEcho(address, port) {
  return new Promise((resolve, reject) => {
    const bytes = randomBytes(TCP_BYTES);
    const hash = createHash('sha256');
    const socket = connect(port, address, () => socket.end(bytes));
    socket.on('data', (data) => hash.update(data));
    socket.on('error', reject);
    socket.on('end', () => {
      if (hash.digest('hex') === createHash('sha256').update(bytes).digest('hex')) resolve();
      else reject(new Error(`${address}: other bytes came back`));
    });
  });
}

function udpEcho(address, port) {
  return new Promise((resolve, reject) => {
    const bytes = randomBytes(UDP_BYTES);
    const socket = createSocket(address.includes(':') ? 'udp6' : 'udp4');
    const timer = setTimeout(() => reject(new Error(`${address}: no datagram came back`)), 5000);
    socket.on('message', (message) => {
      clearTimeout(timer);
      socket.close();
      if (message.equals(bytes)) resolve();
      else reject(new Error(`${address}: another datagram came back`));
    });
    socket.send(bytes, port, address);
  });
}

async function main() {
  let echoed = 0;
  for (const [address, tcp, udp] of JSON.parse(process.argv[2])) {
    await tcpEcho(address, tcp);
    await udpEcho(address, udp);
    echoed += 2;
  }
  console.log(`echoed ${echoed}`);
}

main().catch((error) => {
  console.error(error.message);
  process.exit(3);
});
