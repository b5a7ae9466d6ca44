/**
 * ESLint, flat. Five things beyond the strict typed presets of typescript-eslint: which folder may import which
 * (docs/architecture.md), no allocation inside the functions of hot files, no enums, `private` as the one kind of privacy,
 * and eight parameters at the most.
 *
 * Relaxed, each for a reason:
 * - restrict-template-expressions takes numbers: they are what messages are made of.
 * - no-confusing-void-expression takes `() => call()`: a block around one call says nothing more.
 * - no-unnecessary-condition takes constant loop conditions.
 * - no-unused-vars takes `_name`: a parameter that an interface demands.
 * - tests may assert what they know (`!`), look twice, print anything and hand on half-made objects.
 */
import js from '@eslint/js';
import { defineConfig } from 'eslint/config';
import tseslint from 'typescript-eslint';

/** Files on the path of every packet: their function bodies must not allocate, throw or await. */
export const hotFiles = [
  'src/virtqueue/src/{guest-memory,split-device}.ts',
  'src/dataplane/virtio/{guest-port,receive-side,transmit-side,event-loop,dirty-log,net-header}.ts',
  'src/dataplane/stream/{port,input,output,loop}.ts',
  'src/dataplane/tap/{port,input,output,loop}.ts',
  'src/dataplane/capture/{port-decorator,capturing-port,capture-sink}.ts',
  'src/dataplane/moderation/*.ts',
  'src/dataplane/complete-checksum.ts',
  'src/stack/{stack,from-guest}.ts',
  'src/stack/kit/{bytes,flow-table,siphash,timer-wheel,seq,rows,credit,resting}.ts',
  'src/stack/link/{arp,neighbours,guest-state,stations,guest-mtu}.ts',
  'src/stack/ip/{address,nat,to-guest,path-mtus,host-moved,guest-hints,other-loopback}.ts',
  'src/stack/ip/{reassembly,fragment-sender,fragment-errors}.ts',
  'src/stack/ip/{icmp-error,socket-error,error-budget,protocol-errors,from-guest-errors}.ts',
  'src/stack/ip/{outbound-binding,socket-options}.ts',
  'src/stack/wire/{ethernet,arp,ip-fields,ipv4,ipv6,icmp,udp,tcp,checksum}.ts',
  'src/stack/{tcp,udp,ping}/*.ts',
];

/**
 * Functions of hot files that the bans spare: constructors, and by their names what runs once (`create…`, `make…`,
 * `new…`, `listen`) or only in traces and tests (`…Describe`, `…Text`). Any other cold function in a hot file says so where it allocates, with an
 * eslint-disable-next-line and its reason.
 */
const COLD = '/^(create|make|new)[A-Z]|^listen$|(Describe|Text)$/';
const hot = (selector, message) => ({
  selector: [
    `FunctionDeclaration:not([id.name=${COLD}]) ${selector}`,
    `MethodDefinition:not([kind="constructor"]):not([key.name=${COLD}]) > FunctionExpression ${selector}`,
  ].join(', '),
  message: `Hot file: ${message} (docs/architecture.md, "The hot path").`,
});

const noEnums = {
  selector: 'TSEnumDeclaration',
  message: 'No enums: `as const` objects, or top-level number constants where a switch is hot.',
};

const oneKindOfPrivacy = {
  selector: 'PrivateIdentifier',
  message: '`private` instead of `#`: one style of privacy (CONTRIBUTING.md).',
};

const hotBans = [
  hot('NewExpression', 'no `new` outside constructors'),
  hot('ArrayExpression', 'no array literals'),
  hot('ObjectExpression', 'no object literals'),
  hot('SpreadElement', 'no spread'),
  hot('ArrowFunctionExpression', 'no closures'),
  hot('ForOfStatement', 'no for…of'),
  hot('TemplateLiteral[expressions.length>0]', 'no template strings'),
  hot('ThrowStatement', 'no throw'),
  hot('AwaitExpression', 'no await'),
  hot('CallExpression[callee.name="BigInt"]', 'no BigInt'),
  hot('Literal[bigint]', 'no BigInt'),
  hot('Identifier[name="Buffer"]', 'no Buffer'),
  hot('CallExpression[callee.property.name="subarray"]', 'no .subarray'),
];

/** Import directions: `files` must not import what matches `forbidden`. */
const boundary = (files, forbidden, message) => ({
  files,
  rules: {
    'no-restricted-imports': ['error', { patterns: [{ regex: forbidden, message }] }],
  },
});

export default defineConfig(
  {
    ignores: ['**/dist/**', '**/build/**', '**/node_modules/**', 'coverage/**', '.cache/**'],
  },
  { linterOptions: { reportUnusedDisableDirectives: 'error' } },
  js.configs.recommended,
  {
    files: ['**/*.ts'],
    extends: [tseslint.configs.strictTypeChecked, tseslint.configs.stylisticTypeChecked],
    languageOptions: {
      parserOptions: {
        project: ['./tsconfig.test.json', './tsconfig.page.json'],
        tsconfigRootDir: import.meta.dirname,
      },
    },
    rules: {
      'no-restricted-syntax': ['error', noEnums, oneKindOfPrivacy],
      '@typescript-eslint/restrict-template-expressions': ['error', { allowNumber: true }],
      '@typescript-eslint/no-confusing-void-expression': ['error', { ignoreArrowShorthand: true }],
      '@typescript-eslint/no-unnecessary-condition': ['error', { allowConstantLoopConditions: true }],
      '@typescript-eslint/switch-exhaustiveness-check': ['error', { considerDefaultExhaustiveForUnions: true }],
      '@typescript-eslint/no-unused-vars': ['error', { argsIgnorePattern: '^_' }],
      '@typescript-eslint/consistent-type-imports': ['error', { fixStyle: 'inline-type-imports' }],
      eqeqeq: 'error',
    },
  },

  // An address is (words, at) or a slot, what belongs together is a record: no signature needs more.
  { files: ['src/**/*.ts'], rules: { 'max-params': ['error', 8] } },

  // ---- who may import whom
  boundary(['src/stack/*.ts'], '^\\.\\./|^node:|^[a-z@]', 'The stack imports nothing outside its own folder.'),
  boundary(['src/stack/*/*.ts'], '^(\\.\\./){2}|^node:|^[a-z@]', 'The stack imports nothing outside its own folder.'),
  boundary(['src/stack/*/*/*.ts'], '^(\\.\\./){3}|^node:|^[a-z@]', 'The stack imports nothing outside its own folder.'),
  boundary(['src/virtqueue/src/**/*.ts'], '^\\.\\./|^node:|^[a-z@]', 'virtio-ring-ts imports nothing.'),
  boundary(
    ['src/vhost/**/*.ts'],
    '^\\.\\./(cli|config|metrics|dataplane|supervisor|stack)/|^virtio-ring-ts',
    'vhost knows the addon, not networks and not rings.',
  ),
  boundary(
    ['src/stream/**/*.ts'],
    '^\\.\\./(cli|config|metrics|dataplane|supervisor|stack|vhost)/|^virtio-ring-ts',
    'stream knows the addon and the front-end server.',
  ),
  boundary(
    ['src/pasta/**/*.ts'],
    '^\\.\\./(cli|metrics|dataplane|supervisor|vhost|front-end)/|^\\.\\./stream/(?!device$)|^virtio-ring-ts',
    'pasta knows the addon, the host and the types of the stack.',
  ),
  boundary(
    ['src/front-end/**/*.ts'],
    '^\\.\\./(cli|config|metrics|dataplane|supervisor|stack|vhost|stream)/|^virtio-ring-ts',
    'front-end knows sockets, not what is spoken on them.',
  ),
  boundary(
    ['src/dataplane/*.ts'],
    '^\\.\\./(cli|config|metrics|front-end|supervisor)/|^\\.\\./(vhost|stream)/(?!device$)',
    'The data plane knows the stack, virtqueues, the addon and the device interfaces of vhost and stream.',
  ),
  boundary(
    ['src/dataplane/*/*.ts'],
    '^(\\.\\./){2}(cli|config|metrics|front-end|supervisor)/|^(\\.\\./){2}(vhost|stream)/(?!device$)',
    'The data plane knows the stack, virtqueues, the addon and the device interfaces of vhost and stream.',
  ),
  boundary(
    ['src/supervisor/**/*.ts'],
    '^\\.\\./(cli|config|metrics|front-end)/|^\\.\\./dataplane/(?!(commands|line-queue|virtio/features)$)|^\\.\\./stack/(?!(config|counters|policy/types)$)',
    'The supervisor runs on the main thread: of the data plane it knows the commands, not the code that serves frames.',
  ),
  boundary(
    ['src/config/**/*.ts'],
    '^\\.\\./(cli|metrics|dataplane|supervisor|vhost)/|^virtio-ring-ts',
    'config knows the addon and the types of the stack.',
  ),
  boundary(
    ['src/metrics/**/*.ts'],
    '^\\.\\./(cli|config|dataplane|supervisor|vhost)/|^virtio-ring-ts|^\\.\\./native',
    'metrics know the counters.',
  ),
  boundary(
    ['src/page/*.ts'],
    '^\\.\\./(?!control/types$)|^node:',
    'The page runs in a browser, and its logic anywhere.',
  ),
  boundary(
    ['src/page/dom/*.ts'],
    '^(\\.\\./){2}(?!control/types$)|^node:',
    'The page runs in a browser: of the service it knows the types of its answers.',
  ),
  boundary(
    ['src/sandbox/**/*.ts'],
    '^\\.\\./(?!errors$|native$|files$)',
    'The sandbox knows the addon: both planes put themselves into it.',
  ),
  boundary(
    ['src/control/**/*.ts'],
    '^\\.\\./(cli|ctl|probe|front-end|stream|virtqueue)/|^\\.\\./dataplane/(?!commands$)|^\\.\\./stack/(?!(config|counters|ports|scratch|link/seen|ip/address|kit/flow-rows|kit/flow-ends|policy/types)$)',
    'Control knows what it controls by interfaces; the start of the service (cli) puts them together.',
  ),
  boundary(
    ['src/api/**/*.ts'],
    '^\\.\\./(?!(ctl/client|control/types)$)',
    'The API for Node programs is a client of the control socket.',
  ),
  boundary(
    ['src/ctl/**/*.ts'],
    '^\\.\\./(config|dataplane|supervisor|stack|vhost|metrics|sandbox)/|^\\.\\./control/(?!types$)|^\\.\\./cli/(?!(getopt|settings|option-values)$)',
    'Clients know of the service what it says at its control socket.',
  ),
  boundary(
    ['src/probe/**/*.ts'],
    '^(\\.\\./)+(config|metrics|dataplane|supervisor|front-end|stack|stream|vhost)/|^(\\.\\./)+cli/(?!getopt$)|^virtio-ring-ts',
    'The prober judges the service: it shares nothing with it but the addon.',
  ),
  boundary(
    ['src/*.ts'],
    '^\\./(cli|config|metrics|dataplane|supervisor|probe|vhost)/|^virtio-ring-ts',
    'Files at the top are leaves that every folder may import.',
  ),

  { files: hotFiles, rules: { 'no-restricted-syntax': ['error', noEnums, oneKindOfPrivacy, ...hotBans] } },

  {
    files: ['test/**/*.ts', 'bench/**/*.ts', 'src/virtqueue/test/**/*.ts'],
    rules: {
      // Tests say what they know to be there, build strings of anything, and hand jest half-made objects.
      '@typescript-eslint/no-non-null-assertion': 'off',
      // Without noUncheckedIndexedAccess an index that may miss looks as if it never did.
      '@typescript-eslint/no-unnecessary-condition': 'off',
      '@typescript-eslint/restrict-template-expressions': 'off',
      '@typescript-eslint/no-empty-function': 'off',
      '@typescript-eslint/unbound-method': 'off',
      '@typescript-eslint/require-await': 'off',
    },
  },

  {
    files: ['**/*.{js,mjs,cjs}'],
    languageOptions: {
      globals: {
        console: 'readonly',
        process: 'readonly',
        require: 'readonly',
        module: 'writable',
        __dirname: 'readonly',
        setTimeout: 'readonly',
        clearTimeout: 'readonly',
        Buffer: 'readonly',
        URL: 'readonly',
      },
    },
  },
);
