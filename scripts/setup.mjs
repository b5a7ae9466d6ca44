/** `node scripts/setup.mjs [--no-guests]`: everything `npm test` and `npm run demo` would set up, and nothing else. */
import { SetupError, setUp } from './lib/setup.mjs';

try {
  const result = await setUp({ guests: !process.argv.includes('--no-guests'), checks: true });
  for (const note of result.notes) console.log(`note: ${note}`);
  const kinds = [result.uml && 'uml', result.qemu && 'qemu', result.testpmd && 'testpmd'].filter(Boolean);
  console.log(`ready; guests: ${kinds.join(', ') || 'none'}`);
} catch (error) {
  if (!(error instanceof SetupError)) throw error;
  console.error(error.message);
  process.exitCode = 1;
}
