/** What the faces answer to a request that cannot be served. */
import type { ItemError } from './types';

/** What of a refusal is said. */
export interface Refusal {
  readonly status: number;
  readonly errors: readonly ItemError[];
}

/** Refused: nothing was changed. `status` is HTTP's (RFC 9110 §15), by which every face sorts what happened. */
export class Refused extends Error implements Refusal {
  readonly status: number;
  readonly errors: readonly ItemError[];

  constructor(status: number, errors: readonly ItemError[]) {
    super(errors.map(({ at, message }) => (at === '' ? message : `${at}: ${message}`)).join('; '));
    this.name = 'Refused';
    this.status = status;
    this.errors = errors;
  }
}

/** True also of one that another bundle's class of that name has made. */
export function isRefusal(error: unknown): error is Error & Refusal {
  return error instanceof Error && error.name === 'Refused';
}

/** All of it in one line, for who knows no items: of a place only the field is said. */
export function textOf({ errors }: Refusal): string {
  return errors.map(({ at, message }) => (at.startsWith('body/') ? `${at.slice(5)}: ${message}` : message)).join('; ');
}

/** One item's error. */
export function refuse(status: number, code: string, message: string, at = ''): Refused {
  return new Refused(status, [{ at, code, message }]);
}
