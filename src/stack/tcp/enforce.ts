/** A policy that changed, and the connections that the guest has opened. */
import { END_DENIED } from '../kit/flow-rows';
import { KEY_WORDS } from '../kit/flow-table';
import { natToHost } from '../ip/nat';
import { IP_PROTO_TCP } from '../wire/ipv4';
import { resetBoth } from './close';
import { ST_FREE, ST_RESET, ST_TIME_WAIT } from './flow';
import type { TcpEngine } from './flow';

/** Resets, toward both ends, those that the policy does not let the guest have. */
export function enforcePolicy(t: TcpEngine): void {
  const { policy } = t.ctx.link;
  if (!policy.on) return;
  const { keys } = t.table;
  for (let flow = 0; flow < t.table.capacity; flow++) {
    const state = t.state[flow];
    if (state === ST_FREE || state === ST_RESET || state === ST_TIME_WAIT || t.owner[flow] >= 0) continue;
    const k = KEY_WORDS * flow;
    const port = keys[k + KEY_WORDS - 1] & 0xffff;
    const code = natToHost(t.nat, IP_PROTO_TCP, keys, k + 4, port, t.natResult);
    if (code !== 0 || !policy.keeps(t.ctx, IP_PROTO_TCP, keys, k + 4, port, t.natResult))
      resetBoth(t, flow, END_DENIED);
  }
}
