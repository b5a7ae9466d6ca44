/**
 * Whether this process was started for a debugger: what stands still then does not hang. (The watchdog notices ptrace.)
 */
export function startedForDebugger(): boolean {
  const asked = (option: string): boolean => option.startsWith('--inspect');
  return process.execArgv.some(asked) || (process.env.NODE_OPTIONS ?? '').split(/\s+/).some(asked);
}
