/** A `Moderation` by itself, for ports and rings without a loop. */
import type { ModerationLevel } from '../../../src/dataplane/commands';
import { Moderation } from '../../../src/dataplane/moderation/moderation';
import { Traffic } from '../../../src/stack/ip/guest-hints';
import { FakeClock } from '../stack/fake-clock';

export function moderationOf(level: ModerationLevel = 'adaptive'): Moderation {
  return new Moderation(new FakeClock(), new Traffic(), { level, pollUs: 0 });
}
