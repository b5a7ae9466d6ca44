'use strict';

/**
 * Loads a bundle of dist/ with the code that V8 made of it at build time, if this is the Node that made it: compiling
 * took as long as all the rest of our start. A stale or foreign cache is refused by V8 itself, which then compiles.
 */
const { readFileSync } = require('node:fs');
const { createRequire } = require('node:module');
const { dirname } = require('node:path');
const { Script } = require('node:vm');

/** In front of a module's text, as `require` puts it. */
const HEAD = '(function (exports, require, module, __filename, __dirname) {';

/** The bytes of a file, or undefined. */
function bytesOf(path) {
  try {
    return readFileSync(path);
  } catch {
    return undefined;
  }
}

/** Compiles a bundle. `latin1` as bundles are ASCII: V8 keeps one byte a character and need not look for more. */
function compile(path, cachedData) {
  const source = readFileSync(path, 'latin1');
  return new Script(`${HEAD}${source}\n})`, { filename: path, columnOffset: -HEAD.length, cachedData });
}

/** Runs a compiled bundle as a CommonJS module. Returns its exports. */
function evaluate(path, script) {
  const module = { exports: {} };
  script.runInThisContext().call(module.exports, module.exports, createRequire(path), module, path, dirname(path));
  return module.exports;
}

module.exports = {
  compile,
  evaluate,
  /** The exports of the bundle at `path`, an absolute file name. Throws what `readFileSync` throws if it is not there. */
  load: (path) => evaluate(path, compile(path, bytesOf(`${path}.cache`))),
};
