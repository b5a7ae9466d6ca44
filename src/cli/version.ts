/** Who we are: the version of package.json, two folders up from here in the sources and in dist/ alike. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';

export function version(): string {
  const text = readFileSync(join(__dirname, '..', '..', 'package.json'), 'utf8');
  const parsed: unknown = JSON.parse(text);
  if (typeof parsed === 'object' && parsed !== null && 'version' in parsed && typeof parsed.version === 'string') {
    return parsed.version;
  }
  return 'unknown';
}
