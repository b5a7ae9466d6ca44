/** What is wrong with a request: an error for each field, which says what would be right. */
import { type TSchema, TypeGuard } from '@sinclair/typebox';
import { type ValueError, ValueErrorType } from '@sinclair/typebox/errors';
import { Value } from '@sinclair/typebox/value';
import type { ItemError } from './types';

/** `from 1 to 65535`, `of at least 1`, or nothing. */
function rangeText(least: number | undefined, most: number | undefined): string {
  if (least !== undefined && most !== undefined) return ` from ${least} to ${most}`;
  if (least !== undefined) return ` of at least ${least}`;
  return most === undefined ? '' : ` of at most ${most}`;
}

/** What fits a schema, in words. */
function fitting(schema: TSchema): string {
  if (TypeGuard.IsLiteral(schema)) return JSON.stringify(schema.const);
  if (TypeGuard.IsUnion(schema)) return schema.anyOf.map(fitting).join(' or ');
  if (TypeGuard.IsInteger(schema)) return `an integer${rangeText(schema.minimum, schema.maximum)}`;
  if (TypeGuard.IsNumber(schema)) {
    const { exclusiveMinimum: above, maximum } = schema;
    if (above === undefined) return `a number${rangeText(schema.minimum, maximum)}`;
    return `a number greater than ${above}${maximum === undefined ? '' : ` and at most ${maximum}`}`;
  }
  if (TypeGuard.IsString(schema)) {
    const { minLength, maxLength } = schema;
    return minLength === undefined && maxLength === undefined
      ? 'a text'
      : `a text${rangeText(minLength ?? 0, maxLength).replace(' from', ' of')} characters`;
  }
  if (TypeGuard.IsBoolean(schema)) return 'true or false';
  if (TypeGuard.IsArray(schema)) {
    const { minItems, maxItems } = schema;
    return minItems === undefined && maxItems === undefined
      ? 'a list'
      : `a list${rangeText(minItems ?? 0, maxItems).replace(' from', ' of')} items`;
  }
  if (TypeGuard.IsObject(schema)) return `an object with ${Object.keys(schema.properties).join(', ')}`;
  return 'another value';
}

/** The field by which an object says which of the union's it is, or null. */
function kindOf(variants: readonly TSchema[]): string | null {
  const [first] = variants;
  if (!variants.every((each) => TypeGuard.IsObject(each)) || !TypeGuard.IsObject(first)) return null;
  const isKind = (name: string): boolean =>
    variants.every((each) => TypeGuard.IsObject(each) && TypeGuard.IsLiteral(each.properties[name]));
  return Object.keys(first.properties).find(isKind) ?? null;
}

/** Of a value that is none of several objects: what is wrong with the one that it says it is. */
function unionMistakes(schema: TSchema, value: unknown, at: string): ItemError[] | null {
  if (!TypeGuard.IsUnion(schema) || typeof value !== 'object' || value === null) return null;
  const name = kindOf(schema.anyOf);
  if (name === null) return null;
  const kinds = schema.anyOf.map(
    (each) => (each as TSchema & { properties: Record<string, TSchema> }).properties[name],
  );
  const found = schema.anyOf.find((_, i) => Value.Check(kinds[i], (value as Record<string, unknown>)[name]));
  if (found !== undefined) return mistakesOf(found, value, at);
  return [{ at: `${at}/${name}`, code: 'invalid', message: `give ${kinds.map(fitting).join(' or ')}` }];
}

function messageOf({ type, schema }: ValueError): string {
  switch (type) {
    case ValueErrorType.ObjectRequiredProperty:
      return `is missing, give ${fitting(schema)}`;
    case ValueErrorType.ObjectAdditionalProperties:
      return 'there is no such field';
    default:
      return `give ${fitting(schema)}`;
  }
}

/** One for each field of `value` that does not fit. `at`: where the value stands in the request. */
export function mistakesOf(schema: TSchema, value: unknown, at: string): ItemError[] {
  const found = new Map<string, ItemError>();
  for (const error of Value.Errors(schema, value)) {
    const place = `${at}${error.path}`;
    const all = unionMistakes(error.schema, error.value, place) ?? [
      { at: place, code: 'invalid', message: messageOf(error) },
    ];
    for (const one of all) if (!found.has(one.at)) found.set(one.at, one);
  }
  return [...found.values()];
}
