import { changeUser, type Credentials, isInitialUserNamespace, parseRunAs, resolveRunAs } from '../../../src/cli/user';
import { ConfigError } from '../../../src/errors';
import { createLog } from '../../../src/log';
import { loadNative, type Native } from '../../../src/native';

/** Accounts that every test may count on. */
function accounts(uid: number): Native {
  const users: Readonly<Record<string, readonly [number, number]>> = {
    nobody: [65534, 65533],
    alice: [1000, 100],
    toor: [0, 0],
    high: [0xfffffff0, 0xfffffff1],
  };
  const fake: Partial<Native> = {
    getuid: () => uid,
    lookupUser: (name, ids) => {
      if (!(name in users)) return -2;
      [ids[0], ids[1]] = users[name];
      return 0;
    },
    lookupGroup: (name) => (name === 'staff' ? 50 : -2),
  };
  return fake as Native;
}

function refusal(run: () => unknown): string {
  try {
    run();
  } catch (error) {
    if (error instanceof ConfigError) return error.message;
    throw error;
  }
  throw new Error('accepted');
}

test.each<[string, number, number]>([
  ['1000', 1000, 1000],
  ['1000:5', 1000, 5],
  ['1000:staff', 1000, 50],
  ['alice', 1000, 100],
  ['alice:staff', 1000, 50],
  ['alice:7', 1000, 7],
  ['0', 0, 0],
  ['0:0', 0, 0],
  ['high', 0xfffffff0, 0xfffffff1],
  ['4294967294', 4294967294, 4294967294],
])('--runas %s is user %i, group %i', (value, uid, gid) => {
  expect(parseRunAs(value, accounts(0))).toEqual({ uid, gid });
});

test.each<[string, RegExp]>([
  ['toor', /^--runas toor: toor is root, give another user/],
  ['toor:staff', /is root/],
  ['bob', /^--runas bob: no such user bob, give UID\[:GID\] or LOGIN\[:GROUP\]$/],
  ['', /no such user ""/],
  ['alice:wheel', /^--runas alice:wheel: no such group wheel/],
  ['alice:', /no such group ""/],
  ['4294967295', /no such user 4294967295/],
  ['-1', /no such user -1/],
])('--runas %j is refused', (value, message) => {
  expect(refusal(() => parseRunAs(value, accounts(0)))).toMatch(message);
});

test('the addon knows the accounts of the host', () => {
  const native = loadNative();
  const ids = new Int32Array(2);
  expect(native.lookupUser('root', ids)).toBe(0);
  expect([...ids]).toEqual([0, 0]);
  expect(native.lookupUser('no such user', ids)).toBe(-2);
  expect(native.lookupGroup('root')).toBe(0);
  expect(native.lookupGroup('no such group')).toBe(-2);
});

describe("without --runas: the host's root becomes nobody, and says so", () => {
  const INITIAL = '         0          0 4294967295\n';
  const lines: string[] = [];
  const log = createLog('info', [(_level, message) => lines.push(message)]);
  beforeEach(() => {
    lines.length = 0;
  });

  test('root of the host', () => {
    expect(resolveRunAs(null, accounts(0), log, INITIAL)).toEqual({ uid: 65534, gid: 65533 });
    expect(lines).toHaveLength(1);
    expect(lines[0]).toContain('changing to nobody');
  });

  test('root of a user namespace, other users: they stay', () => {
    expect(resolveRunAs(null, accounts(0), log, '0 1000 1\n')).toBeNull();
    expect(resolveRunAs(null, accounts(1000), log, INITIAL)).toBeNull();
    expect(lines).toEqual([]);
    expect(isInitialUserNamespace('0 0 4294967295\n1 1 1\n')).toBe(false);
  });

  test('--runas counts', () => {
    expect(resolveRunAs('0', accounts(0), log, INITIAL)).toEqual({ uid: 0, gid: 0 });
    expect(lines).toEqual([]);
  });
});

describe('the change', () => {
  function recorded(allow: boolean): { calls: string[]; credentials: Credentials } {
    const calls: string[] = [];
    let uid = 0;
    let gid = 0;
    const may = (): void => {
      if (!allow) throw Object.assign(new Error('EPERM'), { code: 'EPERM' });
    };
    const credentials: Credentials = {
      setgroups: (groups) => {
        may();
        calls.push(`setgroups ${groups.length}`);
      },
      setgid: (id) => {
        calls.push(`setgid ${id}`);
        gid = Number(id);
      },
      setuid: (id) => {
        calls.push(`setuid ${id}`);
        uid = Number(id);
      },
      getuid: () => uid,
      geteuid: () => uid,
      getgid: () => gid,
    };
    return { calls, credentials };
  }

  test('groups first, the user last: afterwards nothing may be changed', () => {
    const { calls, credentials } = recorded(true);
    changeUser({ uid: 5, gid: 6 }, credentials);
    expect(calls).toEqual(['setgroups 0', 'setgid 6', 'setuid 5']);
  });

  test('one that is the user already needs no rights', () => {
    const { calls, credentials } = recorded(false);
    changeUser({ uid: 0, gid: 0 }, credentials);
    expect(calls).toEqual([]);
  });

  test('not allowed, or without effect: an error', () => {
    expect(
      refusal(() => {
        changeUser({ uid: 5, gid: 6 }, recorded(false).credentials);
      }),
    ).toMatch(/^--runas: cannot become user 5, group 6: operation not permitted, only root/);
    const { credentials } = recorded(true);
    const deaf: Credentials = { ...credentials, setuid: () => undefined };
    expect(
      refusal(() => {
        changeUser({ uid: 5, gid: 6 }, deaf);
      }),
    ).toMatch(/^--runas: the change to user 5, group [0-9]+ had no effect/);
  });
});
