/** Where the vhost-user side writes its log lines: one short sentence a call, no newline. */
export type LogLevel = 'error' | 'warn' | 'info' | 'debug';
export type LogFunction = (level: LogLevel, message: string) => void;
