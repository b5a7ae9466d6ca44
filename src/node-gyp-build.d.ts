/** What is used of node-gyp-build, which has no types of its own. */
declare module 'node-gyp-build' {
  /** The addon in `directory`/prebuilds that fits this Node, processor and C library. Throws if there is none. */
  export function resolve(directory: string): string;
}
