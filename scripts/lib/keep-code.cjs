// Preloaded into each thread of the service (--require) by code-cache.mjs: at its end a thread writes the code that V8 has of
// its bundle to a file in $KEEP_CODE, under the bundle's name. The file is opened at the start: at the end there is no such
// directory any more.
'use strict';

const { openSync, writeSync } = require('node:fs');
const { join } = require('node:path');
const vm = require('node:vm');
const { setFlagsFromString } = require('node:v8');
const { isMainThread } = require('node:worker_threads');

const file = openSync(join(process.env.KEEP_CODE, isMainThread ? 'tubetti.js' : 'data-plane.js'), 'w');

// bin/load.js takes the class from there.
vm.Script = class extends vm.Script {
  constructor(source, options) {
    super(source, options);
    process.on('exit', () => {
      // V8 takes code under the flags that it was made under only: those of a start (src/supervisor/young-generation.ts).
      setFlagsFromString('--semi-space-growth-factor=2');
      writeSync(file, this.createCachedData());
    });
  }
};
