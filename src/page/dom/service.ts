/** The service's answers. The page waits this long for each, and no longer. */
import type { FlowPage, ServiceStatus } from '../../control/types';
import { parseExposition, type Samples } from '../exposition';

const WAIT_MS = 4000;

/** The service answered that it would not. */
export class Refused extends Error {
  /** Asking again is of no use. */
  readonly forGood: boolean;

  constructor(status: number, text: string) {
    super(text.trim());
    this.forGood = status === 403 || status === 404;
  }
}

export interface FlowsWanted {
  readonly most: number;
  readonly from: string | null;
  /** Empty: all. */
  readonly protocol: string;
}

export class Service {
  async metrics(): Promise<Samples> {
    return parseExposition(await (await this.get('/metrics')).text());
  }

  async status(): Promise<ServiceStatus> {
    return (await (await this.get('/v1/status')).json()) as ServiceStatus;
  }

  async flows({ most, from, protocol }: FlowsWanted): Promise<FlowPage> {
    const query = new URLSearchParams({ most: String(most) });
    if (from !== null) query.set('from', from);
    if (protocol !== '') query.set('protocol', protocol);
    return (await (await this.get(`/v1/flows?${query.toString()}`)).json()) as FlowPage;
  }

  private async get(path: string): Promise<Response> {
    const response = await fetch(path, { cache: 'no-store', signal: AbortSignal.timeout(WAIT_MS) });
    if (!response.ok) throw new Refused(response.status, await response.text());
    return response;
  }
}
