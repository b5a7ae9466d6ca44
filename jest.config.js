'use strict';

/** Type errors are `npm run typecheck`'s business; the tests are only transpiled, file by file, which keeps them fast. */
const shared = {
  rootDir: __dirname,
  testEnvironment: 'node',
  transform: { '^.+\\.ts$': ['ts-jest', { tsconfig: '<rootDir>/tsconfig.test.json', transpilation: true }] },
  // The workspace package is tested from its sources, so that no test depends on a build of it.
  moduleNameMapper: { '^virtio-ring-ts$': '<rootDir>/src/virtqueue/src/index.ts' },
  modulePathIgnorePatterns: ['<rootDir>/dist', '<rootDir>/build', '<rootDir>/src/virtqueue/dist', '<rootDir>/.cache'],
};

/** @type {import('jest').Config} */
module.exports = {
  projects: [
    {
      ...shared,
      displayName: 'unit',
      setupFiles: ['<rootDir>/test/support/property-times.ts'],
      testMatch: ['<rootDir>/test/{unit,property}/**/*.test.ts', '<rootDir>/src/virtqueue/test/**/*.test.ts'],
    },
    { ...shared, displayName: 'conformance', testMatch: ['<rootDir>/test/conformance/**/*.test.ts'] },
    // Calls of the addon that fail at random, with guests that keep time: scripts/test.mjs runs it with --runInBand.
    { ...shared, displayName: 'exhaustion', testMatch: ['<rootDir>/test/exhaustion/**/*.test.ts'] },
    // Real guests: scripts/test.mjs runs this project with --runInBand, and each file sets its own time limits.
    { ...shared, displayName: 'e2e', testMatch: ['<rootDir>/test/e2e/**/*.test.ts'] },
  ],
};
