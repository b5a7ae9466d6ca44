/**
 * The size of V8's young generation while the service runs. Left to itself it grows to 48 MiB, from Node 24 on to some 80, of
 * what front-ends and scrapers leave behind, before it is collected; held as it is when the service is ready, it is collected
 * when some 8 MiB are full, which takes no measurable time.
 *
 * `--max-semi-space-size` would say as much at the start of Node, but V8 takes code only under the flags that it was made
 * under: up to Node 22 it then compiles all modules of Node's own again, which is a third of the start's time. So the growth is
 * switched off behind the start, and on again while another thread starts. Flags are the whole process's.
 */
import { setFlagsFromString } from 'node:v8';

/** A thread is about to load code that was made under V8's own flags. */
export function letYoungGenerationGrow(): void {
  setFlagsFromString('--semi-space-growth-factor=2'); // V8's own value
}

/** The code is loaded: from now on the young generation of no thread grows any more. */
export function holdYoungGeneration(): void {
  setFlagsFromString('--semi-space-growth-factor=1');
}
