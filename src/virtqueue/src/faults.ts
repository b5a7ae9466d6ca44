/** Names of ring faults, for logs and metrics. */
import {
  FAULT_ADDRESS,
  FAULT_AVAIL_INDEX,
  FAULT_HEAD,
  FAULT_INDIRECT,
  FAULT_LENGTH,
  FAULT_LOOP,
  FAULT_NEXT,
  FAULT_ORDER,
  FAULT_ROWS,
  FAULT_USED,
} from './types';

/** A short lower-case name (safe as a metric label) for a FAULT_* code; 'unknown' for any other number. */
export function faultName(code: number): string {
  switch (code) {
    case FAULT_AVAIL_INDEX:
      return 'avail_index';
    case FAULT_HEAD:
      return 'head';
    case FAULT_NEXT:
      return 'next';
    case FAULT_LOOP:
      return 'loop';
    case FAULT_ADDRESS:
      return 'address';
    case FAULT_ORDER:
      return 'order';
    case FAULT_INDIRECT:
      return 'indirect';
    case FAULT_LENGTH:
      return 'length';
    case FAULT_ROWS:
      return 'rows';
    case FAULT_USED:
      return 'used';
    default:
      return 'unknown';
  }
}
