/** What is said of a request that does not fit: the field, and what would be right. */
import { Type } from '@sinclair/typebox';
import { mistakesOf } from '../../../src/control/mistakes';

const KIND = Type.Union([
  Type.Object({
    execute: Type.Literal('add'),
    arguments: Type.Object({ port: Type.Integer({ minimum: 1, maximum: 9 }) }),
  }),
  Type.Object({ execute: Type.Literal('list') }),
]);
const RATE = Type.Union([Type.Literal(0), Type.Integer({ minimum: 10, maximum: 20 })]);
const OBJECT = Type.Object(
  {
    word: Type.Union([Type.Literal('tcp'), Type.Literal('udp')]),
    name: Type.Optional(Type.String({ minLength: 1, maxLength: 8 })),
    short: Type.Optional(Type.String({ maxLength: 4 })),
    list: Type.Optional(Type.Array(Type.Boolean(), { maxItems: 2 })),
    seconds: Type.Optional(Type.Number({ exclusiveMinimum: 0, maximum: 60 })),
    least: Type.Optional(Type.Integer({ minimum: 1 })),
    rate: Type.Optional(RATE),
  },
  { additionalProperties: false },
);

const said = (schema: Parameters<typeof mistakesOf>[0], value: unknown): [string, string][] =>
  mistakesOf(schema, value, 'body').map(({ at, message }) => [at, message]);

test.each<[unknown, [string, string][]]>([
  [{}, [['body/word', 'is missing, give "tcp" or "udp"']]],
  [7, [['body', 'give an object with word, name, short, list, seconds, least, rate']]],
  [{ word: 'sctp' }, [['body/word', 'give "tcp" or "udp"']]],
  [{ word: 'tcp', nmae: 'x' }, [['body/nmae', 'there is no such field']]],
  [{ word: 'tcp', name: '' }, [['body/name', 'give a text of 1 to 8 characters']]],
  [{ word: 'tcp', short: 'abcde' }, [['body/short', 'give a text of 0 to 4 characters']]],
  [{ word: 'tcp', list: [true, 1] }, [['body/list/1', 'give true or false']]],
  [{ word: 'tcp', list: [true, true, true] }, [['body/list', 'give a list of 0 to 2 items']]],
  [{ word: 'tcp', seconds: 0 }, [['body/seconds', 'give a number greater than 0 and at most 60']]],
  [{ word: 'tcp', least: 0 }, [['body/least', 'give an integer of at least 1']]],
  [{ word: 'tcp', rate: 5 }, [['body/rate', 'give 0 or an integer from 10 to 20']]],
])('%j', (value, expected) => {
  expect(said(OBJECT, value)).toEqual(expected);
});

test.each<[unknown, [string, string][]]>([
  [{ execute: 'nope' }, [['body/execute', 'give "add" or "list"']]],
  [{}, [['body/execute', 'give "add" or "list"']]],
  [{ execute: 'add' }, [['body/arguments', 'is missing, give an object with port']]],
  [{ execute: 'add', arguments: { port: 0 } }, [['body/arguments/port', 'give an integer from 1 to 9']]],
])('of several objects, the one that it says it is: %j', (value, expected) => {
  expect(said(KIND, value)).toEqual(expected);
});
