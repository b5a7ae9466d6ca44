'use strict';

/**
 * Loads a bundle of dist/ with the code that V8 made of it at build time, if this is the Node that made it: compiling
 * took as long as all the rest of our start. A stale or foreign cache is refused by V8 itself, which then compiles.
 */
const { closeSync, existsSync, fstatSync, openSync, readSync } = require('node:fs');
const { createRequire } = require('node:module');
const { dirname } = require('node:path');
const { Script } = require('node:vm');

/** In front of a module's text, as `require` puts it. */
const HEAD = '(function (exports, require, module, __filename, __dirname) {';
const TAIL = '\n})';

/**
 * What `use` makes of the bytes of the file at `path`, between `head` and `tail`. Their memory goes back to the system at
 * once: it would be there until a garbage collection, which an idle service does not need. Throws what openSync throws.
 */
function withBytes(path, use, head = '', tail = '') {
  const fd = openSync(path, 'r');
  const end = head.length + fstatSync(fd).size;
  const memory = new ArrayBuffer(end + tail.length, { maxByteLength: end + tail.length });
  try {
    const bytes = Buffer.from(memory);
    bytes.latin1Write(head, 0);
    bytes.latin1Write(tail, end);
    for (let at = head.length, got = -1; got !== 0 && at < end; at += got) {
      got = readSync(fd, bytes, at, end - at, at - head.length);
    }
    return use(bytes);
  } finally {
    closeSync(fd);
    memory.resize(0);
  }
}

/** Compiles a bundle. `latin1` as bundles are ASCII: V8 keeps one byte a character, once, and need not look for more. */
function compile(path, cachedData) {
  const source = withBytes(path, (bytes) => bytes.latin1Slice(), HEAD, TAIL);
  return new Script(source, { filename: path, columnOffset: -HEAD.length, cachedData });
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
  /** The exports of the bundle at `path`, an absolute file name. Throws what `openSync` throws if it is not there. */
  load: (path) => {
    const cache = `${path}.cache`;
    const script = existsSync(cache) ? withBytes(cache, (bytes) => compile(path, bytes)) : compile(path);
    return evaluate(path, script);
  },
};
