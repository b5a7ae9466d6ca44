#!/usr/bin/env node
'use strict';

let cli;
try {
  cli = require('../dist/cli/main.js');
} catch (error) {
  if (error.code !== 'MODULE_NOT_FOUND') throw error;
  process.stderr.write('tubetti: not built yet: run "npm run build" first\n');
  process.exitCode = 1;
}

if (cli !== undefined) {
  cli.run(process.argv.slice(2)).then((status) => {
    process.exitCode = status;
  });
}
