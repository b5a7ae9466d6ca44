import { answerText, isOwnName, parseRequest, plain } from '../../../src/metrics/http';

const request = (...lines: string[]): string => `${lines.join('\r\n')}\r\n\r\n`;

test('the parts of a request that are looked at', () => {
  const parsed = parseRequest(
    request('GET /v1/flows?most=5&from=a%2Db?x HTTP/1.1', 'hOST:  localhost:9100 ', 'Sec-Fetch-Site: same-origin'),
  );
  expect(parsed).toMatchObject({ method: 'GET', path: '/v1/flows', authority: 'localhost:9100', site: 'same-origin' });
  expect([...(parsed?.query ?? [])]).toEqual([
    ['most', '5'],
    ['from', 'a-b?x'],
  ]);
  expect(parsed?.origin).toBeNull();
});

test.each<[string, string, string | null]>([
  [
    'a target that is a whole URL says whom it means',
    'GET http://evil.example/v1/status HTTP/1.1\r\nHost: localhost',
    'evil.example',
  ],
  ['two names are none', 'GET / HTTP/1.1\r\nHost: localhost\r\nHost: evil.example', null],
  ['no name', 'GET / HTTP/1.0', null],
  ['bare line feeds', 'GET / HTTP/1.1\nHost: localhost', 'localhost'],
])('%s', (_, head, authority) => {
  expect(parseRequest(`${head}\r\n\r\n`)?.authority).toBe(authority);
});

test('the path of a whole URL', () => {
  expect(parseRequest(request('GET http://a:1 HTTP/1.1'))?.path).toBe('/');
  expect(parseRequest(request('GET HTTP://a:1/metrics?x HTTP/1.1'))?.path).toBe('/metrics');
});

test.each(['', 'GET\r\n\r\n', 'GET / HTTP/2\r\n\r\n', 'GET / HTTP/1.1', '\0\0', 'G(T / HTTP/1.1\r\n\r\n'])(
  'no request: %j',
  (head) => {
    expect(parseRequest(head)).toBeNull();
  },
);

test.each(['localhost', 'LOCALHOST:9100', '127.0.0.1', '127.0.0.1:9100', '192.0.2.7:80', '[::1]', '[fe80::1]:9100'])(
  '%s leads here whatever a name server says',
  (authority) => {
    expect(isOwnName(authority)).toBe(true);
  },
);

test.each([
  null,
  '',
  'evil.example',
  'evil.example:9100',
  'localhost.evil.example',
  '127.0.0.1.evil.example',
  '1.2.3',
  '::1',
  '[evil]',
  'a@127.0.0.1',
  '[::1',
  'localhost:9100:1x',
])('%s may be anybody’s', (authority) => {
  expect(isOwnName(authority)).toBe(false);
});

test('an answer is not kept, not guessed at, and of no other site; to HEAD without its body', () => {
  const text = answerText(plain('200 OK', 'grüß\n'), false);
  expect(text).toMatch(/^HTTP\/1\.1 200 OK\r\n/);
  for (const line of ['nosniff', 'Content-Length: 7', 'no-store', 'same-origin', 'no-referrer', 'Connection: close'])
    expect(text).toContain(line);
  expect(text).not.toMatch(/access-control/i);
  expect(text.endsWith('\r\n\r\ngrüß\n')).toBe(true);
  expect(answerText(plain('200 OK', 'grüß\n'), true)).toMatch(/Content-Length: 7\r\n[\s\S]*\r\n\r\n$/);
});
