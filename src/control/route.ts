/**
 * One operation as HTTP has it: method, path, what it takes and gives as JSON Schema, and what it does. The table of all
 * (routes.ts) is what the server looks up, what requests are checked by and what the OpenAPI document is made of.
 */
import type { IncomingMessage, ServerResponse } from 'node:http';
import type { Duplex } from 'node:stream';
import { type Static, type TSchema, Type } from '@sinclair/typebox';
import { Value } from '@sinclair/typebox/value';
import { mistakesOf } from './mistakes';
import type { ControlParts } from './parts';
import { Refused } from './problem';

export type Method = 'GET' | 'POST' | 'PUT' | 'DELETE';

/** A request that fits its operation's schemas. */
export interface Call<Q, B> {
  readonly parts: ControlParts;
  /** The part of the path that the operation leaves open; '' if it leaves none. */
  readonly id: string;
  readonly query: Q;
  readonly body: B;
  /** The version that the caller knows of (If-Match); null: any. */
  readonly ifMatch: number | null;
}

export interface Answer {
  readonly status: number;
  /** JSON; undefined: nothing. */
  readonly body?: unknown;
  /** The version of what is shown (ETag). */
  readonly version?: number;
}

/** A connection that stays open: the server only watches that it ends and that it does not stall. */
export interface Stream {
  /** Takes over: the answer's head is this one's to write. Returns what ends it. */
  readonly stream: (response: ServerResponse) => () => void;
}

/** The connection becomes one of another kind (RFC 9110 §7.8). */
export interface Upgrade {
  /** Gives what the connection leads to from then on. Throws Refused. */
  readonly upgrade: () => Promise<Duplex>;
}

/** The connection's bytes to the client are another's to write, those of the answer's head included. */
export interface Handover {
  /** Called while `fd`, the connection's descriptor, is open, which is not waited for. Throws Refused. */
  readonly handOver: (fd: number) => Promise<{
    /** Nothing more is written. */
    readonly ended: Promise<void>;
    /** The client is gone. */
    readonly leave: () => void;
  }>;
}

export type Result = Answer | Stream | Upgrade | Handover;

export interface Route {
  readonly method: Method;
  /** `/v1/flows/{id}`: at most one part is open. */
  readonly path: string;
  /** Name of the operation: `listFlows`. */
  readonly name: string;
  readonly summary: string;
  readonly query: TSchema;
  readonly body: TSchema;
  /** `run` checks the body itself, and says more of what is wrong than its schema can. */
  readonly checksBody?: true;
  /** What it answers with, by status. */
  readonly answers: Readonly<
    Record<number, { readonly text: string; readonly schema?: TSchema; readonly type?: string }>
  >;
  /** The name by which the client asks for another protocol; none: it asks for none. */
  readonly upgrades?: string;
  readonly run: (call: Call<unknown, unknown>, request: IncomingMessage) => Result | Promise<Result>;
}

/** Operations below this path are another program's, whose clients show what they read of an error: it is a line of text. */
const FOREIGN = '/services/';

export function hasTextErrors(path: string): boolean {
  return path.startsWith(FOREIGN);
}

export const NOTHING = Type.Object({}, { additionalProperties: false });

/** A row of the table whose `run` gets what the schemas say. */
export function route<Q extends TSchema, B extends TSchema>(
  row: Omit<Route, 'run' | 'query' | 'body'> & {
    readonly query?: Q;
    readonly body?: B;
    readonly run: (call: Call<Static<Q>, Static<B>>, request: IncomingMessage) => Result | Promise<Result>;
  },
): Route {
  return { ...row, query: row.query ?? NOTHING, body: row.body ?? NOTHING, run: row.run };
}

/** Errors that are said of one request. */
const MOST_ERRORS = 32;

/** Throws Refused with an error for each field that does not fit. `at`: where the value stands in the request. */
export function check(schema: TSchema, value: unknown, at: string): void {
  if (Value.Check(schema, value)) return;
  throw new Refused(400, mistakesOf(schema, value, at).slice(0, MOST_ERRORS));
}

/** Words of a query become the numbers and truths that the schema wants; the rest stays as it is, and is refused. */
export function convert(schema: TSchema, value: Readonly<Record<string, string>>): unknown {
  return Value.Convert(schema, { ...value });
}
