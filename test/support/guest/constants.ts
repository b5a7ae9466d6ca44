/** The front-end's constants, which the prober keeps (src/probe). */
export * from '../../../src/probe/constants';
