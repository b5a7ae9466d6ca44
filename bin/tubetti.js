#!/usr/bin/env node
'use strict';

const { existsSync } = require('node:fs');
const { join } = require('node:path');
const { load } = require('./load.js');

/** `tubetti probe` is a program of its own, of which the service loads nothing. */
const PROBE = process.argv[2] === 'probe';
const BUNDLE = join(__dirname, '..', 'dist', PROBE ? 'probe.js' : 'tubetti.js');

let cli;
try {
  // The modules that the bundle is made of, where it was not made (scripts/build.mjs).
  cli = existsSync(BUNDLE) ? load(BUNDLE) : require(PROBE ? '../dist/probe/main.js' : '../dist/cli/main.js');
} catch (error) {
  if (error.code !== 'MODULE_NOT_FOUND') throw error;
  process.stderr.write('tubetti: not built yet: run "npm run build" first\n');
  process.exitCode = 1;
}

if (cli !== undefined) {
  cli.run(process.argv.slice(PROBE ? 3 : 2)).then((status) => {
    process.exitCode = status;
  });
}
