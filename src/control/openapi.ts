/** The OpenAPI 3.1 document of the operations (spec.openapis.org/oas/v3.1.0), made of their table. */
import type { TSchema } from '@sinclair/typebox';
import { hasTextErrors, type Route } from './route';
import { ERRORS } from './schemas';

/** Of the operations: paths begin with its first number. */
const API_VERSION = '1.0';

const REFUSAL = { description: 'Refused.', content: { 'application/json': { schema: ERRORS } } };

function isEmpty(schema: TSchema): boolean {
  return Object.keys((schema.properties ?? {}) as object).length === 0;
}

function parametersOf({ path, query }: Route): object[] {
  const open = /\{(\w+)\}/.exec(path)?.[1];
  const properties = Object.entries((query.properties ?? {}) as Record<string, TSchema>);
  return [
    ...(open === undefined ? [] : [{ name: open, in: 'path', required: true, schema: { type: 'string' } }]),
    ...properties.map(([name, schema]) => ({ name, in: 'query', required: false, schema })),
  ];
}

const TEXT_REFUSAL = { description: 'Refused.', content: { 'text/plain': { schema: { type: 'string' } } } };

function answersOf({ answers, path }: Route): Record<string, object> {
  const refusal = hasTextErrors(path) ? TEXT_REFUSAL : REFUSAL;
  const all: Record<string, object> = {};
  for (const [status, { text, schema, type = 'application/json' }] of Object.entries(answers)) {
    if (Number(status) >= 400) all[status] = { ...refusal, description: text };
    else all[status] = { description: text, ...(schema && { content: { [type]: { schema } } }) };
  }
  return { ...all, default: refusal };
}

/** The document; plain JSON. */
export function openApi(routes: readonly Route[]): object {
  const paths: Record<string, Record<string, object>> = {};
  for (const route of routes) {
    const parameters = parametersOf(route);
    paths[route.path] = {
      ...(paths[route.path] ?? {}),
      [route.method.toLowerCase()]: {
        operationId: route.name,
        summary: route.summary,
        ...(parameters.length === 0 ? {} : { parameters }),
        ...(isEmpty(route.body)
          ? {}
          : { requestBody: { required: true, content: { 'application/json': { schema: route.body } } } }),
        responses: answersOf(route),
      },
    };
  }
  const document = {
    openapi: '3.1.0',
    info: {
      title: 'Tubetti',
      version: API_VERSION,
      description: 'Orders to a running service, at the UNIX socket of --control.',
      license: { name: 'MIT', identifier: 'MIT' },
    },
    servers: [{ url: 'http://tubetti' }],
    paths,
  };
  // Without the validator's own marks.
  return JSON.parse(JSON.stringify(document)) as object;
}
