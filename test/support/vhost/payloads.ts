/** Payloads of requests byte by byte, which the prober keeps (src/probe). */
export * from '../../../src/probe/payloads';
