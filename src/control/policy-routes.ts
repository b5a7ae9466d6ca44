/** Operations on whom the guest may talk to, and how much. */
import { Type } from '@sinclair/typebox';
import { checkPolicy, policyValue } from '../config/policy';
import type { LinkRates } from '../stack/config';
import type { Policy } from '../stack/policy/types';
import { refuse, Refused } from './problem';
import { type Answer, type Route, route } from './route';

/** The policy in force. */
export interface PolicyPart {
  /** Null: the guest may talk to everybody. */
  readonly current: Policy | null;
  /** Another number after each change. */
  readonly version: number;
  /** Replaces it as a whole. When it settles, flows that it forbids are closed. */
  readonly set: (policy: Policy | null) => Promise<void>;
}

/** The limits in force. */
export interface RatesPart {
  readonly current: LinkRates;
  readonly set: (rates: LinkRates) => Promise<void>;
}

interface Parts {
  readonly policy?: PolicyPart;
  readonly rates?: RatesPart;
}

function has<K extends keyof Parts>(parts: Parts, name: K): NonNullable<Parts[K]> {
  const part = parts[name];
  if (part === undefined) throw refuse(501, 'unsupported', `this service has no ${name}`);
  return part;
}

const RULE = Type.String({ minLength: 1, maxLength: 512 });
const RULES = Type.Union([RULE, Type.Array(RULE)]);
const word = <T extends string>(...all: T[]) => Type.Optional(Type.Union(all.map((one) => Type.Literal(one))));

/** As docs/policy.schema.json; what a rule's text means is checked behind it. */
const POLICY = Type.Object(
  {
    rules: Type.Optional(
      Type.Array(
        Type.Object(
          { allow: Type.Optional(RULES), deny: Type.Optional(RULES), private: Type.Optional(Type.Boolean()) },
          { additionalProperties: false },
        ),
        { maxItems: 10_000 },
      ),
    ),
    default: word('allow', 'deny'),
    audit: Type.Optional(Type.Boolean()),
    'denied-names': word('refused', 'nxdomain'),
    sni: word('off', 'require'),
  },
  { additionalProperties: false },
);
const POLICY_ANSWER = Type.Object({ version: Type.Integer(), policy: Type.Union([POLICY, Type.Null()]) });

/** Fastest limit, bit/s; and the slowest but none. */
const MOST = 1e12;
const LEAST = 10_000;
const RATE = Type.Union([Type.Literal(0), Type.Integer({ minimum: LEAST, maximum: MOST })]);
const RATES = Type.Object({ in: RATE, out: RATE }, { additionalProperties: false });

function shown({ current, version }: PolicyPart): Answer {
  return { status: 200, body: { version, policy: current === null ? null : policyValue(current) }, version };
}

async function change(part: PolicyPart, ifMatch: number | null, policy: Policy | null): Promise<Answer> {
  if (ifMatch !== null && ifMatch !== part.version)
    throw refuse(412, 'version', `the policy has changed: this is version ${part.version}`, 'If-Match');
  await part.set(policy);
  return shown(part);
}

const CHANGED = {
  200: { text: 'The policy, after that. Flows that it forbids are closed.', schema: POLICY_ANSWER },
  412: { text: 'The policy is of another version by now. Nothing was changed.' },
};

export const POLICY_ROUTES: readonly Route[] = [
  route({
    method: 'GET',
    path: '/v1/policy',
    name: 'getPolicy',
    summary: 'Whom the guest may talk to; null: everybody.',
    answers: { 200: { text: 'The policy in force, with its version.', schema: POLICY_ANSWER } },
    run: ({ parts }) => shown(has(parts, 'policy')),
  }),
  route({
    method: 'PUT',
    path: '/v1/policy',
    name: 'setPolicy',
    summary: 'Replaces the policy as a whole.',
    body: POLICY,
    checksBody: true,
    answers: CHANGED,
    run: async ({ parts, body, ifMatch }) => {
      const result = checkPolicy(body);
      if ('errors' in result) throw new Refused(400, result.errors);
      return change(has(parts, 'policy'), ifMatch, result.policy);
    },
  }),
  route({
    method: 'DELETE',
    path: '/v1/policy',
    name: 'removePolicy',
    summary: 'From now on the guest may talk to everybody.',
    answers: CHANGED,
    run: ({ parts, ifMatch }) => change(has(parts, 'policy'), ifMatch, null),
  }),
  route({
    method: 'GET',
    path: '/v1/rates',
    name: 'getRates',
    summary: 'How much may pass to the guest and from it, bits in a second; 0: no limit.',
    answers: { 200: { text: 'The limits in force.', schema: RATES } },
    run: ({ parts }) => ({ status: 200, body: has(parts, 'rates').current }),
  }),
  route({
    method: 'PUT',
    path: '/v1/rates',
    name: 'setRates',
    summary: 'Sets both limits.',
    body: RATES,
    answers: { 200: { text: 'The limits, after that.', schema: RATES } },
    run: async ({ parts, body }) => {
      const part = has(parts, 'rates');
      await part.set(body);
      return { status: 200, body: part.current };
    },
  }),
];
