/** All checks, in the order they are run and shown: by paragraph within each table. */
import type { Check } from '../check';
import { DESCRIPTOR_CHECKS } from './descriptors';
import { DEVICE_CHECKS } from './device';
import { FEATURE_CHECKS } from './features';
import { HEADER_CHECKS } from './header';
import { MEMORY_CHECKS } from './memory';
import { REQUEST_CHECKS } from './requests';
import { RING_CHECKS } from './ring-content';
import { VRING_CHECKS } from './vrings';

/** Checks of one paragraph together, paragraphs in the order of their first check. */
function grouped(checks: readonly Check[]): readonly Check[] {
  const groups = new Map<string, Check[]>();
  for (const check of checks) {
    const group = groups.get(check.spec);
    if (group === undefined) groups.set(check.spec, [check]);
    else group.push(check);
  }
  return [...groups.values()].flat();
}

export const CHECKS: readonly Check[] = grouped([
  ...HEADER_CHECKS,
  ...REQUEST_CHECKS,
  ...FEATURE_CHECKS,
  ...DESCRIPTOR_CHECKS,
  ...VRING_CHECKS,
  ...MEMORY_CHECKS,
  ...DEVICE_CHECKS,
  ...RING_CHECKS,
]);
