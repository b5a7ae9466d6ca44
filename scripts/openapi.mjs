/** `node scripts/openapi.mjs`: writes docs/openapi.json, the description of the HTTP API, from the compiled operations. */
import { writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { join } from 'node:path';
import { format } from 'prettier';
import { ROOT } from './lib/run.mjs';

const require = createRequire(import.meta.url);
const { openApi } = require('../dist/control/openapi.js');
const { ROUTES } = require('../dist/control/routes.js');

const text = JSON.stringify(openApi(ROUTES));
writeFileSync(join(ROOT, 'docs', 'openapi.json'), await format(text, { parser: 'json', printWidth: 120 }));
