#!/usr/bin/env node
'use strict';

/** The bundle, or the modules it is made of where it was not made (scripts/build.mjs). */
function load() {
  try {
    return require('../dist/tubetti.js');
  } catch (error) {
    if (error.code !== 'MODULE_NOT_FOUND') throw error;
    return require('../dist/cli/main.js');
  }
}

let cli;
try {
  cli = load();
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
