#!/usr/bin/env node
'use strict';

const { existsSync } = require('node:fs');
const { join } = require('node:path');
const { load } = require('./load.js');

// Node opens a debugger on this signal, at a port of the loopback: to every user of the host, and to the guest.
process.on('SIGUSR1', () => undefined);

/** Programs of their own, of which the service loads nothing: bundle, and the module that it is made of. */
const PROGRAMS = {
  probe: ['probe.js', 'probe/main.js'],
  ctl: ['ctl.js', 'ctl/main.js'],
  flows: ['ctl.js', 'ctl/main.js'],
  top: ['ctl.js', 'ctl/main.js'],
};
const NAME = Object.hasOwn(PROGRAMS, process.argv[2] ?? '') ? process.argv[2] : null;
const [BUNDLE, MODULE] = NAME === null ? ['tubetti.js', 'cli/main.js'] : PROGRAMS[NAME];
const DIST = join(__dirname, '..', 'dist');

let program;
try {
  // The modules that the bundle is made of, where it was not made (scripts/build.mjs).
  program = existsSync(join(DIST, BUNDLE)) ? load(join(DIST, BUNDLE)) : require(join(DIST, MODULE));
} catch (error) {
  if (error.code !== 'MODULE_NOT_FOUND') throw error;
  process.stderr.write('tubetti: not built yet: run "npm run build" first\n');
  process.exitCode = 1;
}

if (program !== undefined) {
  const status = NAME === null ? program.run(process.argv.slice(2)) : program.run(process.argv.slice(3), NAME);
  status.then((code) => {
    process.exitCode = code;
  });
}
