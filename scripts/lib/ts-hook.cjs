'use strict';

/**
 * Lets plain `node` load the TypeScript of test/ and bench/ as CommonJS, file by file and unchecked (tsc checks it
 * elsewhere). Used by the demo and by helper processes of the tests, so that the rig has one implementation and no
 * build step of its own: `node --require ./scripts/lib/ts-hook.cjs file.ts`.
 */
const { readFileSync } = require('node:fs');
const Module = require('node:module');
const ts = require('typescript');

const compilerOptions = {
  module: ts.ModuleKind.CommonJS,
  target: ts.ScriptTarget.ES2022,
  inlineSourceMap: true,
  esModuleInterop: true,
};

Module._extensions['.ts'] = (module, fileName) => {
  const { outputText } = ts.transpileModule(readFileSync(fileName, 'utf8'), { fileName, compilerOptions });
  module._compile(outputText, fileName);
};
