/** Where the vhost-user side writes its log lines: one short sentence a call, no newline. */
export type LogLevel = 'error' | 'warn' | 'info' | 'debug';
/** `site`: names the place in the code, where the front-end can provoke the line: it is limited then (src/log.ts). */
export type LogFunction = (level: LogLevel, message: string, site?: string) => void;
