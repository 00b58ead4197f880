// hostile.mjs - bad input against the sanitized daemon: tables of cases, each with the status or close code it must get and the words that say what
// and where: SPARSECASTD=... node hostile.mjs
//
// A well-behaved viewer is connected from the start. After every group it must still get frames, GET /healthz must answer 200, and no sanitizer may
// have spoken. What takes long (slow, silent and never-reading clients) runs beside the tables and is looked at in the end.
import assert from 'node:assert/strict';
import { connect } from 'node:net';
import { check, Daemon, finish, sleep, until, within } from './harness.mjs';
import { problem } from './schema.mjs';
import { closeFrame, frame, handshake, KEY, RawStream } from './rawstream.mjs';
import { call, exchange, Viewer } from './wire.mjs';

const PROMPT = 'a red ball bouncing right over green hills at noon';
const NOBODY = 'aaaaaaaaaaaaaaaaaaaaaaaaaa'; // well formed, no session of that name

const d = await Daemon.start(['--max-sessions', '2', '--max-viewers', '64', '--jpeg-quality', '100']);
const made = await call(d, 'POST', '/v1/sessions', { body: { prompt: PROMPT, seed: 1 } });
assert.equal(made.status, 201, made.text);
const id = made.json().id;
const here = `/v1/sessions/${id}`;
const good = await Viewer.open(d, id);
await good.frame(0);

/** The rest of the world goes on. */
async function group(name, body) {
  await body();
  await check(`after ${name}: the first viewer gets frames, the daemon is well`, async () => {
    await good.frame();
    assert.equal((await call(d, 'GET', '/healthz')).status, 200);
    assert.equal(d.report(), null);
  });
}

const metric = async (name) => Number(new RegExp(`^sparsecast_${name} (\\S+)$`, 'm').exec((await call(d, 'GET', '/metrics')).text)?.[1]);

/** The text of a request. `set` changes or (with null) drops a header, `add` are lines as they stand. */
function request(method, target, { set = {}, add = [], body, version = 'HTTP/1.1' } = {}) {
  const data = body === undefined ? Buffer.alloc(0) : Buffer.from(body);
  const headers = { Host: d.host, Connection: 'close', ...(body === undefined ? {} : { 'Content-Type': 'application/json', 'Content-Length': data.length }), ...set };
  const lines = Object.entries(headers).filter(([, v]) => v !== null).map(([k, v]) => `${k}: ${v}`);
  return Buffer.concat([Buffer.from([`${method} ${target} ${version}`, ...lines, ...add, '', ''].join('\r\n'), 'latin1'), data]);
}

/** Cases [name, bytes, status, words of the detail, pointer]. status 0: the connection may end without an answer. */
async function requests(what, cases) {
  for (const [name, bytes, status, words, pointer] of cases) {
    await check(`${what}: ${name}`, async () => {
      const answer = await exchange(d, bytes);
      if ([status].flat().includes(0) && answer.status === 0) return;
      problem(answer, { status, detail: words, pointer });
    });
  }
}

// ---- clients that take their time, beside everything else ----

const drip = (bytes, ms) => (socket) => {
  let at = 0;
  const timer = setInterval(() => (socket.destroyed || at >= bytes.length ? clearInterval(timer) : socket.write(bytes.subarray(at, ++at))), ms);
};
const endless = Buffer.from(`GET /healthz HTTP/1.1\r\nHost: ${d.host}\r\n${'X-Slow: and steady\r\n'.repeat(200)}`);
const half = request('POST', '/v1/sessions', { set: { 'Content-Length': 1000 }, body: '{"prompt": "' });
const slow = {
  'a connection that says nothing': exchange(d, []),
  'half a request line': exchange(d, 'GET /heal'),
  'a header that does not end': exchange(d, `GET /healthz HTTP/1.1\r\nHost: ${d.host}\r\n`),
  'a header that comes byte by byte': exchange(d, [], { more: drip(endless, 200) }),
  'half a handshake': exchange(d, handshake(d, id).slice(0, -10)),
  'a handshake that comes byte by byte': exchange(d, [], { more: drip(Buffer.from(handshake(d, id, [`X-Slow: ${'z'.repeat(900)}`])), 150) }),
  'half a body': exchange(d, half),
  'a body that comes byte by byte': exchange(d, half, { more: drip(Buffer.alloc(900, 'a'), 400) }),
  'an answer, then silence on the kept connection': exchange(d, request('GET', '/healthz', { set: { Connection: 'keep-alive' } }), { untilClosed: true }),
};
for (const promise of Object.values(slow)) promise.catch(() => {});

const never = await RawStream.open(d, id, { reading: false });
const neverHttp = connect(d.target, () => neverHttp.write(`GET ${here}/stream.mjpg HTTP/1.1\r\nHost: ${d.host}\r\n\r\n`)).on('error', () => {});
neverHttp.pause();

// ---- bodies ----

const post = (body, options) => request('POST', '/v1/sessions', { body, ...options });
const deep = (n) => `{"prompt":"x","seed":${'['.repeat(n)}${']'.repeat(n)}}`;
const wrongJson = [
  ['an empty body', '', /empty/],
  ['white space', ' \n ', /line 2, column 2/],
  ['an open brace', '{', /line 1, column 2.*end/],
  ['a closing brace', '}', /column 1.*'\}'/],
  ['a trailing comma', '{"prompt":"x",}', /column 15.*'\}'/],
  ['single quotes', "{'prompt':'x'}", /column 2.*name/],
  ['a name without quotes', '{prompt:"x"}', /column 2.*name.*'p'/],
  ['no colon', '{"prompt" "x"}', /':'/],
  ['text behind it', '{"prompt":"x"} {}', /column 16.*after the end/],
  ['a comment', '{/* */"prompt":"x"}', /column 2/],
  ['NaN', '{"prompt":"x","seed":NaN}', /column 22.*'N'/],
  ['a number with a plus', '{"prompt":"x","seed":+1}', /'\+'/],
  ['a number that begins with 0', '{"prompt":"x","seed":01}', /begin with 0/],
  ['a number that ends in a point', '{"prompt":"x","seed":1.}', /digit after '\.'/],
  ['a number without an exponent', '{"prompt":"x","seed":1e}', /exponent/],
  ['a number beyond a double', '{"prompt":"x","seed":1e999}', /too large/],
  ['a number of 100 digits', `{"prompt":"x","seed":${'9'.repeat(100)}}`, /100 characters/],
  ['a string without end', '{"prompt":"x', /column 11.*string without end/],
  ['an unknown escape', '{"prompt":"\\x41"}', /escape/],
  ['half an escape', '{"prompt":"\\u12"}', /hexadecimal/],
  ['half a surrogate pair', '{"prompt":"\\ud83c!"}', /surrogate/],
  ['the wrong half of a surrogate pair', '{"prompt":"\\udf88"}', /surrogate/],
  ['NUL as an escape', '{"prompt":"a\\u0000b"}', /u0000/],
  ['a raw NUL', Buffer.from('{"prompt":"a\0b"}'), /column 13.*NUL/],
  ['a raw line break in a string', '{"prompt":"a\nb"}', /control byte 0x0a/],
  ['a byte order mark', '\ufeff{"prompt":"x"}', /byte order mark/],
  ['UTF-16', Buffer.from('{"prompt":"x"}', 'utf16le'), /column 2.*NUL/],
  ['Latin-1', Buffer.from('{"prompt":"Bälle"}', 'latin1'), /column 13.*UTF-8/],
  ['overlong UTF-8', Buffer.from('7b2270726f6d7074223a22c0af227d', 'hex'), /column 12.*UTF-8/],
  ['a surrogate in UTF-8', Buffer.from('7b2270726f6d7074223a22eda080227d', 'hex'), /UTF-8/],
  ['UTF-8 beyond U+10FFFF', Buffer.from('7b2270726f6d7074223a22f4908080227d', 'hex'), /UTF-8/],
  ['UTF-8 that ends in the middle', Buffer.from('7b2270726f6d7074223a22e282', 'hex'), /UTF-8/],
  ['the same name twice', '{"prompt":"x","prompt":"y"}', /"prompt" stands twice/],
  ['the same name twice, once escaped', '{"prompt":"x","\\u0070rompt":"y"}', /"prompt" stands twice/],
  ['nested 17 deep', deep(16), /nested deeper than 16/],
  ['nested 20000 deep', deep(20000), /nested deeper than 16/],
  ['an array', '["prompt"]', /object, found an array/],
  ['a string', '"prompt"', /object, found the text/],
  ['a number', '7', /object, found 7/],
  ['null', 'null', /object, found null/],
  ['a form', 'prompt=x', /column 1/],
  ['binary rubbish', Buffer.from([0xde, 0xad, 0xbe, 0xef, 0xff]), /UTF-8/],
];
const wrongFields = [
  ['no prompt', '{}', /prompt.*missing/, '/prompt'],
  ['an unknown field', '{"prompt":"x","promt":"y"}', /promt.*unknown/, '/promt'],
  ['a name in capitals', '{"Prompt":"x"}', /prompt/i, '/Prompt'],
  ['a field with a slash and a tilde', '{"prompt":"x","a/b~c":1}', /unknown/, '/a~1b~0c'],
  ['an empty name', '{"prompt":"x","":1}', /unknown/, '/'],
  ['an empty prompt', '{"prompt":""}', /empty/, '/prompt'],
  ['a prompt of 4097 bytes', `{"prompt":"${'x'.repeat(4097)}"}`, /4096.*4097/, '/prompt'],
  ['a prompt of 2049 umlauts', `{"prompt":"${'ä'.repeat(2049)}"}`, /4096.*4098/, '/prompt'],
  ['a prompt with an escape sequence', '{"prompt":"\\u001b[2J"}', /0x1b at byte 0/, '/prompt'],
  ['a prompt with DEL', '{"prompt":"ab\\u007f"}', /0x7f at byte 2/, '/prompt'],
  ['a prompt that is a number', '{"prompt":7}', /text.*found 7/, '/prompt'],
  ['a prompt that is null', '{"prompt":null}', /text.*found null/, '/prompt'],
  ['a prompt that is a list', '{"prompt":["x"]}', /found an array/, '/prompt'],
  ['a negative seed', '{"prompt":"x","seed":-1}', /seed.*found -1/, '/seed'],
  ['a seed with a fraction', '{"prompt":"x","seed":1.5}', /found 1.5/, '/seed'],
  ['a seed of 2^53', '{"prompt":"x","seed":9007199254740992}', /9007199254740991/, '/seed'],
  ['a seed of 2^64 in a text', '{"prompt":"x","seed":"18446744073709551616"}', /18446744073709551615/, '/seed'],
  ['a seed in hexadecimal', '{"prompt":"x","seed":"0x10"}', /found the text/, '/seed'],
  ['a seed with a leading zero', '{"prompt":"x","seed":"007"}', /found the text/, '/seed'],
  ['an empty seed', '{"prompt":"x","seed":""}', /seed/, '/seed'],
  ['a seed that is true', '{"prompt":"x","seed":true}', /found true/, '/seed'],
  ['a model that is not there', '{"prompt":"x","model":"gpt-9"}', /model/, '/model'],
  ['a model that is a path', '{"prompt":"x","model":"../../etc/passwd"}', /model/, '/model'],
  ['a model name of 64 bytes', `{"prompt":"x","model":"${'m'.repeat(64)}"}`, /63 bytes, found 64/, '/model'],
  ['an unknown transition', '{"prompt":"x","transition":"fade"}', /"switch".*"cut".*"fade"/, '/transition'],
  ['fps 0', '{"prompt":"x","fps":0}', /1 to 60, found 0/, '/fps'],
  ['fps 61', '{"prompt":"x","fps":61}', /1 to 60, found 61/, '/fps'],
  ['fps 1e300', '{"prompt":"x","fps":1e300}', /1 to 60/, '/fps'],
  ['fps as a text', '{"prompt":"x","fps":"16"}', /found the text "16"/, '/fps'],
  ['JPEG quality 0', '{"prompt":"x","jpeg_quality":0}', /1 to 100/, '/jpeg_quality'],
  ['JPEG quality 101', '{"prompt":"x","jpeg_quality":101}', /1 to 100/, '/jpeg_quality'],
  ['five chunks of look-ahead', '{"prompt":"x","lookahead_chunks":5}', /1 to 4/, '/lookahead_chunks'],
  ['a timeout of a day and a second', '{"prompt":"x","idle_timeout_s":86401}', /86400/, '/idle_timeout_s'],
  ['a flag as a number', '{"prompt":"x","run_without_viewers":1}', /true or false, found 1/, '/run_without_viewers'],
  ['a schedule that is a list', '{"prompt":"x","schedule":[]}', /must be an object/, '/schedule'],
  ['a schedule without prompts', '{"prompt":"x","schedule":{"loop":true}}', /one of prompts .* and text/, '/schedule'],
  ['a schedule with a wrong prompt', '{"prompt":"x","schedule":{"prompts":[{"at_chunk":3,"prompt":"\\u0007"}]}}', /0x07/, '/schedule/prompts/0/prompt'],
  ['a schedule quicker than its chunks', '{"prompt":"x","schedule":{"text":"a[0.01s]|b"}}', /a chunk takes/, '/schedule/text'],
];

await group('bodies of POST /v1/sessions', async () => {
  await requests('POST body', wrongJson.map(([name, body, words]) => [name, post(body), 400, words]));
  await requests('fork body', wrongJson.filter(([, body]) => body !== '').map(([name, body, words]) => [name, request('POST', `${here}/fork`, { body }), 400, words]));
  await requests('fork', [
    ['of nobody', request('POST', `/v1/sessions/${NOBODY}/fork`), 404, /no such session/],
    ['of no id', request('POST', '/v1/sessions/x/fork'), 404, /no such session/],
    ['at a chunk of the far future', request('POST', `${here}/fork`, { body: '{"at_chunk":9007199254740991}' }), 409, /9007199254740991 is too far ahead/, '/at_chunk'],
    ['by a page of another site', request('POST', `${here}/fork`, { body: '{}', set: { 'Sec-Fetch-Site': 'cross-site' } }), 403, /another site/],
    ['with a form', request('POST', `${here}/fork`, { body: 'prompt=x', set: { 'Content-Type': 'application/x-www-form-urlencoded' } }), 415, /JSON/],
  ]);
  const put = (body, rest = {}) => request('PUT', `${here}/schedule`, { body, ...rest });
  await requests('schedule body', wrongJson.filter(([, body]) => body !== '').map(([name, body, words]) => [name, put(body), 400, words]));
  await requests('schedule', [
    ['of nobody', request('PUT', `/v1/sessions/${NOBODY}/schedule`, { body: '{"prompts":[]}' }), 404, /no such session/],
    ['of no id', request('PUT', '/v1/sessions/x/schedule', { body: '{"prompts":[]}' }), 404, /no such session/],
    ['by a page of another site', put('{"prompts":[]}', { set: { 'Sec-Fetch-Site': 'cross-site' } }), 403, /another site/],
    ['as plain text', put('a cat[5s] | a dog', { set: { 'Content-Type': 'text/plain' } }), 415, /JSON/],
    ['with neither form', put('{}'), 422, /found none/, ''],
    ['with both forms', put('{"prompts":[],"text":"a"}'), 422, /found both/, ''],
    ['of 65 entries', put(JSON.stringify({ prompts: Array.from({ length: 65 }, (_, i) => ({ at_chunk: 1000 + i, prompt: 'x' })) })), 422, /at most 64 entries, found 65/, '/prompts'],
    ['of 65 pieces of text', put(JSON.stringify({ text: 'x[9s]|'.repeat(64) + 'x' })), 422, /at most 64/, '/text'],
    ['of numbers', put('{"prompts":[1,2]}'), 422, /must be an object/, '/prompts/0'],
    ['nested deeply', put(`{"prompts":${'['.repeat(2000)}${']'.repeat(2000)}}`), 400, /./],
    ['at a chunk beyond doubles', put('{"prompts":[{"at_chunk":9007199254740992,"prompt":"x"}]}'), 422, /9007199254740992/, '/prompts/0/at_chunk'],
    ['in a thousand years', put('{"prompts":[{"at_s":3e10,"prompt":"x"}]}'), 422, /to 1000000000, found 30000000000/, '/prompts/0/at_s'],
    ['before the beginning', put('{"prompts":[{"at_s":-0.5,"prompt":"x"}]}'), 422, /found -0.5/, '/prompts/0/at_s'],
    ['at no moment', put('{"prompts":[{"prompt":"x"}]}'), 422, /at_chunk or at_s/, '/prompts/0'],
    ['with a loop of nothing', put('{"prompts":[],"loop":true}'), 422, /empty list/, '/loop'],
    ['with a loop that does not say when', put('{"prompts":[{"at_chunk":5000,"prompt":"x"}],"loop":true}'), 422, /for_chunks: is missing/, '/prompts/0/for_chunks'],
    ['with a length that is endless', put('{"text":"a[1e9s] | b"}'), 422, /square brackets/, '/text'],
    ['with a length that is hexadecimal', put('{"text":"a[0x9s] | b"}'), 422, /square brackets/, '/text'],
    ['of bars', put(`{"text":"${'|'.repeat(60)}"}`), 422, /empty/, '/text'],
    ['of 70000 bytes', put(`{"text":"${'x'.repeat(70000)}"}`), 413, /65536/],
  ]);
  const film = (body, rest = {}) => request('POST', '/v1/videos', { body, ...rest });
  await requests('video body', wrongJson.map(([name, body, words]) => [name, film(body), 400, words]));
  await requests('video field', wrongFields.filter(([, , , pointer]) => ['/prompt', '/seed', '/model', '/promt', '/'].includes(pointer)).map(([name, body, words, pointer]) => [name, film(body), 422, words, pointer]));
  await requests('video', [
    ['of no length', film('{"prompt":"x","seconds":0}'), 422, /1 to 120, found 0/, '/seconds'],
    ['of a day', film('{"prompt":"x","seconds":"86400"}'), 422, /"120", found "86400"/, '/seconds'],
    ['of a length with more digits than a number has', film(`{"prompt":"x","seconds":"${'9'.repeat(4000)}"}`), 422, /4000 bytes/, '/seconds'],
    ['of a size that is not the model\'s', film('{"prompt":"x","size":"16384x16384"}'), 422, /256x160/, '/size'],
    ['of a size that no number holds', film('{"prompt":"x","size":"99999999999x99999999999"}'), 422, /width and height/, '/size'],
    ['of nobody', request('GET', `/v1/videos/video_${NOBODY}`), 404, /no such video/],
    ['of an id that is a path', request('GET', '/v1/videos/video_../content'), 404, /./],
    ['with a form', film('--x', { set: { 'Content-Type': 'multipart/form-data; boundary=x' } }), 415, /JSON/],
    ['by a page of another site', film('{"prompt":"x"}', { set: { 'Sec-Fetch-Site': 'cross-site' } }), 403, /another site/],
    ['of 70000 bytes', film(`{"prompt":"${'x'.repeat(70000)}"}`), 413, /65536/],
    ['in a list of all', request('GET', '/v1/videos?limit=99999999999999999999'), 400, /1 to 100/],
    ['in a list that begins behind a path', request('GET', '/v1/videos?after=video_../../x'), 404, /after/],
  ]);
  await requests('POST field', wrongFields.map(([name, body, words, pointer]) => [name, post(body), 422, words, pointer]));
  await check('POST field: twenty wrong ones: sixteen are named, the others counted', async () => {
    const fields = Array.from({ length: 20 }, (_, i) => [`wrong${i}`, i]);
    const p = problem(await exchange(d, post(JSON.stringify({ prompt: 'x', ...Object.fromEntries(fields) }))), { status: 422, detail: /wrong0/ });
    assert.deepEqual([p.errors.length, p.more_errors], [16, 4]);
  });
  await check('POST field: several wrong ones are all told', async () => {
    const p = problem(await exchange(d, post('{"prompt":7,"fps":0,"nonsense":1}')), { status: 422 });
    assert.deepEqual(p.errors.map((e) => e.pointer), ['/prompt', '/fps', '/nonsense']);
    assert.equal(p.instance, '/v1/sessions');
  });
});

const patch = (body, target = here) => request('PATCH', target, { body });

await group('bodies of PATCH', async () => {
  await requests('PATCH', [
    ['nothing', patch(''), 400, /empty/],
    ['no field', patch('{}'), 422, /nothing to change/, ''],
    ['broken JSON', patch('{"prompt":'), 400, /column 11/],
    ['a transition alone', patch('{"transition":"cut"}'), 422, /prompt/, '/transition'],
    ['a state that is none', patch('{"state":"ended"}'), 422, /"running" or "paused"/, '/state'],
    ['a field of POST only', patch('{"seed":1}'), 422, /unknown/, '/seed'],
    ['fps with a fraction', patch('{"fps":16.5}'), 422, /found 16.5/, '/fps'],
    ['an empty prompt', patch('{"prompt":""}'), 422, /empty/, '/prompt'],
    ['a good field beside a bad one', patch('{"fps":8,"jpeg_quality":1000}'), 422, /1 to 100/, '/jpeg_quality'],
    ['an unknown session', patch('{"fps":8}', `/v1/sessions/${NOBODY}`), 404, /session/],
    ['a wait for something else', patch('{"fps":8}', `${here}?wait=forever`), [400, 422], /wait/],
    ['a body of 65537 bytes', patch(`{"prompt":"${'x'.repeat(65524)}"}`), 413, /65536|64 KiB/],
  ]);
  await check('PATCH: nothing of all that happened', async () => {
    const s = (await call(d, 'GET', here)).json();
    assert.deepEqual([s.prompt, s.prompt_seq, s.fps, s.jpeg_quality, s.state], [PROMPT, 1, 16, 100, 'running']);
  });
});

// ---- how a body comes ----

const mega = Buffer.alloc(1 << 20, 'x');
const chunked = (body) => Buffer.from(`${body.length.toString(16)}\r\n${body}\r\n0\r\n\r\n`);
const raw = (lines, body = '') => Buffer.concat([Buffer.from(['POST /v1/sessions HTTP/1.1', `Host: ${d.host}`, 'Content-Type: application/json', ...lines, '', ''].join('\r\n')), Buffer.from(body)]);
const ok = '{"prompt":"x"}';

await group('sizes, types and lengths', async () => {
  await requests('body', [
    ['1 MB', post(mega), 413, /65536|64 KiB/],
    ['1 MB announced, nothing sent', raw([`Content-Length: ${mega.length}`]), 413, /65536|64 KiB/],
    ['1 MB that waits for 100 Continue', raw([`Content-Length: ${mega.length}`, 'Expect: 100-continue']), 413, /65536|64 KiB/],
    ['an unknown expectation', raw(['Content-Length: 13', 'Expect: the-unexpected'], '{"prompt":""}'), [417, 422], /expect|empty/i],
    ['65537 bytes', post(`{"prompt":"${'x'.repeat(65524)}"}`), 413, /65536|64 KiB/],
    ['no Content-Type', post(ok, { set: { 'Content-Type': null } }), 415, /application\/json/],
    ['text/plain', post(ok, { set: { 'Content-Type': 'text/plain' } }), 415, /application\/json/],
    ['a form type', post(ok, { set: { 'Content-Type': 'application/x-www-form-urlencoded' } }), 415, /application\/json/],
    ['multipart', post(ok, { set: { 'Content-Type': 'multipart/form-data; boundary=x' } }), 415, /application\/json/],
    ['a type that only begins like ours', post(ok, { set: { 'Content-Type': 'application/jsonx' } }), 415, /application\/json/],
    ['an empty type', post(ok, { set: { 'Content-Type': '' } }), 415, /application\/json/],
    ['a type twice', post(ok, { add: ['Content-Type: text/plain'] }), 400, /Content-Type/],
    ['no length', raw([]), [400, 411], /length|empty|body/i],
    ['a body where none is taken', request('GET', '/healthz', { body: ok }), 400, /body/],
    ['a body for DELETE', request('DELETE', here, { body: ok }), 400, /body/],
    ['from a page of another site', post(ok, { set: { 'Sec-Fetch-Site': 'cross-site' } }), 403, /site/],
    ['an Idempotency-Key twice', post(ok, { add: ['Idempotency-Key: a', 'Idempotency-Key: b'] }), 400, /Idempotency-Key/],
    ['an Idempotency-Key with a space', post(ok, { set: { 'Idempotency-Key': 'a b' } }), 400, /Idempotency-Key/],
    ['a negative length', raw(['Content-Length: -1'], ok), 400, /Content-Length/],
    ['a length with a plus', raw(['Content-Length: +14'], ok), 400, /Content-Length/],
    ['a length in hexadecimal', raw(['Content-Length: 0xe'], ok), 400, /Content-Length/],
    ['a length in words', raw(['Content-Length: many'], ok), 400, /Content-Length/],
    ['an empty length', raw(['Content-Length:'], ok), 400, /Content-Length/],
    ['a list of lengths', raw(['Content-Length: 14, 14'], ok), 400, /Content-Length/],
    ['two lengths', raw(['Content-Length: 14', 'Content-Length: 13'], ok), 400, /Content-Length/],
    ['the same length twice', raw(['Content-Length: 14', 'content-length: 14'], ok), 400, /Content-Length/],
    ['a length beyond 64 bits', raw(['Content-Length: 99999999999999999999999'], ok), 413, /too long|65536/],
    ['chunked', raw(['Transfer-Encoding: chunked'], chunked(ok)), 411, /Transfer-Encoding/],
    ['chunked with a length', raw(['Content-Length: 5', 'Transfer-Encoding: chunked'], chunked(ok)), 411, /Transfer-Encoding/],
    ['gzip, chunked', raw(['Transfer-Encoding: gzip, chunked'], chunked(ok)), 411, /Transfer-Encoding/],
    ['an encoding hidden behind a tab', raw(['Transfer-Encoding:\tchunked', 'Content-Length: 14'], ok), 411, /Transfer-Encoding/],
    ['an encoding of no name', raw(['Transfer-Encoding: ', 'Content-Length: 14'], ok), 411, /Transfer-Encoding/],
    ['chunked on GET', request('GET', '/healthz', { set: { 'Transfer-Encoding': 'chunked' } }), 411, /Transfer-Encoding/],
  ]);
  await check('body: what stands behind a refused one is not taken for a request', async () => {
    const smuggled = request('GET', '/v1/models');
    const answer = await exchange(d, Buffer.concat([raw(['Content-Length: 14', 'Transfer-Encoding: chunked'], chunked(ok)), smuggled]), { untilClosed: true });
    assert.doesNotMatch(answer.text + answer.rest, /"owned_by"/);
  });
});

// ---- request lines, paths, methods ----

const line = (text, lines = [`Host: ${d.host}`]) => Buffer.from([text, ...lines, '', ''].join('\r\n'), 'latin1');
const get = (target, options) => request('GET', target, options);

await group('request lines and headers', async () => {
  await requests('request', [
    ['only line ends', Buffer.from('\r\n\r\n'), 400, /method/],
    ['a word', Buffer.from('hello\r\n\r\n'), 400, /method/],
    ['a method alone', line('GET'), 400, /method/],
    ['no version', line('GET /healthz'), 400, /path|HTTP\/1\.1/],
    ['two spaces', line('GET  /healthz HTTP/1.1'), 400, /path/],
    ['a space in the path', line('GET /health z HTTP/1.1'), 400, /HTTP\/1\.1/],
    ['HTTP/2.0', line('GET /healthz HTTP/2.0'), 505, /HTTP\/1\.1/],
    ['HTTP/0.9', line('GET /healthz HTTP/0.9'), 505, /HTTP\/1\.1/],
    ['another protocol', line('GET /healthz RTSP/1.0'), 400, /HTTP\/1\.1/],
    ['the preface of HTTP/2', Buffer.from('PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n'), 400, /path/],
    ['a TLS hello', Buffer.from('16030100c8010000c40303000102030405060708090a0b0c0d0e0f0d0a0d0a', 'hex'), 400, /./],
    ['bytes above 127', Buffer.from([0x80, 0xff, 0xfe, 0x0d, 0x0a, 0x0d, 0x0a]), 400, /method/],
    ['bare line feeds', Buffer.from(`GET /healthz HTTP/1.1\nHost: ${d.host}\n\n`), 400, /CR LF/],
    ['no Host', line('GET /healthz HTTP/1.1', []), 400, /Host/],
    ['no Host in HTTP/1.0', line('GET /healthz HTTP/1.0', []), [400, 421], /Host/i],
    ['an empty Host', line('GET /healthz HTTP/1.1', ['Host:']), [400, 421], /Host/i],
    ['two Hosts', line('GET /healthz HTTP/1.1', [`Host: ${d.host}`, 'Host: evil.example']), 400, /Host/],
    ['the same Host twice', line('GET /healthz HTTP/1.1', [`Host: ${d.host}`, `host: ${d.host}`]), 400, /Host/],
    ['a foreign Host', get('/healthz', { set: { Host: 'evil.example' } }), 421, /host/i],
    ['a foreign Host with our port', get('/v1/sessions', { set: { Host: `evil.example:${d.port}` } }), 421, /host/i],
    ['our Host with another port', get('/healthz', { set: { Host: '127.0.0.1:1' } }), 421, /host/i],
    ['our Host with a port too many', get('/healthz', { set: { Host: `${d.host}:80` } }), 421, /host/i],
    ['a Host with a user', get('/healthz', { set: { Host: `user@${d.host}` } }), [400, 421], /host/i],
    ['a Host with a dot behind', get('/healthz', { set: { Host: `localhost.:${d.port}` } }), 421, /host/i],
    ['another loopback address', get('/healthz', { set: { Host: `127.0.0.2:${d.port}` } }), 421, /host/i],
    ['a Host of 4000 characters', get('/healthz', { set: { Host: `${'h'.repeat(4000)}` } }), [400, 421, 431], /host|header/i],
    ['a foreign Origin', get('/healthz', { set: { Origin: 'https://evil.example' } }), 403, /origin/i],
    ['a foreign Origin on POST', post(ok, { set: { Origin: 'https://evil.example' } }), 403, /origin/i],
    ['Origin null', get('/v1/sessions', { set: { Origin: 'null' } }), 403, /origin/i],
    ['two Origins', get('/healthz', { add: [`Origin: http://${d.host}`, 'Origin: https://evil.example'] }), [400, 403], /origin/i],
    ['an Origin that begins like ours', get('/healthz', { set: { Origin: `http://${d.host}.evil.example` } }), 403, /origin/i],
    ['an empty Origin', get('/healthz', { set: { Origin: '' } }), 403, /origin/i],
    ['101 headers', get('/healthz', { add: Array.from({ length: 101 }, (_, i) => `X-${i}: 1`) }), [400, 431], /header/i],
    ['a header of 16 KB', get('/healthz', { set: { 'X-Long': 'x'.repeat(16384) } }), 431, /header/i],
    ['a header of 100 KB', get('/healthz', { set: { 'X-Long': 'x'.repeat(100000) } }), 431, /header/i],
    ['2000 headers', get('/healthz', { add: Array.from({ length: 2000 }, (_, i) => `X-${i}: ${i}`) }), 431, /header/i],
    ['a path of 16 KB', get(`/${'p'.repeat(16384)}`), [414, 431], /./],
    ['a space before the colon', get('/healthz', { add: ['X-Bad : 1'] }), 400, /header/i],
    ['a header without a colon', get('/healthz', { add: ['X-Bad'] }), 400, /header/i],
    ['a header without a name', get('/healthz', { add: [': 1'] }), 400, /header/i],
    ['a folded header', get('/healthz', { add: ['X-Bad: 1', ' 2'] }), 400, /header/i],
    ['NUL in a header', get('/healthz', { add: ['X-Bad: a\0b'] }), 400, /header/i],
    ['a control byte in a header name', get('/healthz', { add: ['X-\x01Bad: 1'] }), 400, /header/i],
    ['a carriage return in a header', get('/healthz', { add: ['X-Bad: a\rb'] }), 400, /header|CR LF/i],
  ]);
});

await group('paths and methods', async () => {
  const missing = [
    '/nowhere', '/HEALTHZ', '/healthz/', '/v1', '/v1/', '/v1/session', '/v2/sessions', '/v1/sessions/', '/v1/sessions//', '/v1/sessions/x', `/v1/sessions/${NOBODY}`,
    `/v1/sessions/${id.toUpperCase()}`, `/v1/sessions/${id}a`, `/v1/sessions/${id.slice(1)}`, `/v1/sessions/${id.slice(0, 25)}b`, `/v1/sessions/${NOBODY}/snapshot.jpg`,
    `/v1/sessions/${NOBODY}/stream.mjpg`, `${here}/`, `${here}/nothing`, `${here}/snapshot.png`, `${here}/snapshot.jpg/more`, `/v1/sessions/${'a'.repeat(3000)}`,
    '/viewer/', '/viewer/nothing.js', '/viewer/main.js/x', '/index.html', '/favicon.ico.exe',
  ];
  await requests('path', missing.map((path) => [path.slice(0, 60), get(path), path.length > 2048 ? [404, 414] : 404, /./]));
  await requests('query', [
    ['one that is not known', get('/healthz?verbose=1'), 400, /"verbose"/],
    ['one that belongs elsewhere', get(`${here}?wait=applied`), 400, /"wait"/],
    ['one with a terminal escape', get('/v1/sessions?%1b[2J=1'), 400, /./],
  ]);
  const bad = [
    '/../etc/passwd', '/viewer/../../../etc/passwd', '/viewer/%2e%2e/%2e%2e/etc/passwd', '/viewer/..%2f..%2fetc%2fpasswd', '/viewer/....//main.js', '//healthz', '/v1//sessions',
    '/healthz%00', '/viewer/main.js%00.css', '/v1/sessions/%00', '/v1\\sessions', '/viewer/..\\main.js', '/%', '/%zz', '/v1/sessions/%ff%fe', '/healthz\x80', '/healthz\x7f', '*', 'healthz', '?', '',
    'http://evil.example/healthz', `http://${d.host}/healthz`,
  ];
  await requests('path', bad.map((path) => [JSON.stringify(path), get(path), [400, 404, 421], /./]));
  const wrong = [
    ['PUT', '/v1/sessions'], ['DELETE', '/v1/sessions'], ['PATCH', '/v1/sessions'], ['POST', here], ['PUT', here], ['POST', '/healthz'], ['DELETE', '/openapi.json'], ['POST', '/'],
    ['POST', `${here}/snapshot.jpg`], ['DELETE', `${here}/stream.mjpg`], ['POST', `${here}/stream`], ['PUT', '/viewer/main.js'], ['POST', '/v1/models'], ['PATCH', '/metrics'],
    ['GET', `${here}/tickets`], ['GET', `${here}/fork`], ['DELETE', `${here}/fork`], ['PUT', '/v1/videos'], ['PATCH', `/v1/videos/video_${NOBODY}`], ['POST', `/v1/videos/video_${NOBODY}/content`], ['POST', `${here}/schedule`], ['DELETE', `${here}/schedule`], ['PATCH', `${here}/schedule`],
  ];
  await requests('method', wrong.map(([method, path]) => [`${method} ${path.replace(id, 'ID')}`, request(method, path, method === 'GET' ? {} : { body: ok }), 405, /./]));
  await requests('method', ['FOOBAR', 'TRACE', 'CONNECT', 'get', 'G\x01T', 'M'.repeat(300)].map((m) => [m.slice(0, 20), request(m, '/healthz'), [400, 405, 501], /./]));
});

// ---- handshakes ----

/** A handshake with lines changed: {Name: value or null}, then lines added. */
function shake(set = {}, add = [], { method = 'GET', path = `${here}/stream`, version = 'HTTP/1.1' } = {}) {
  const lines = { Host: d.host, Upgrade: 'websocket', Connection: 'Upgrade', 'Sec-WebSocket-Key': KEY, 'Sec-WebSocket-Version': '13', 'Sec-WebSocket-Protocol': 'sparsecast.v1', ...set };
  return Buffer.from([`${method} ${path} ${version}`, ...Object.entries(lines).filter(([, v]) => v !== null).map(([k, v]) => `${k}: ${v}`), ...add, '', ''].join('\r\n'), 'latin1');
}

await group('handshakes', async () => {
  await requests('handshake', [
    ['no Upgrade', shake({ Upgrade: null }), 426, /Upgrade/],
    ['Upgrade to something else', shake({ Upgrade: 'h2c' }), 426, /Upgrade/],
    ['no Connection', shake({ Connection: null }), 426, /Upgrade/],
    ['Connection: keep-alive', shake({ Connection: 'keep-alive' }), 426, /Upgrade/],
    ['no version', shake({ 'Sec-WebSocket-Version': null }), 426, /13/],
    ['version 8', shake({ 'Sec-WebSocket-Version': '8' }), 426, /13/],
    ['version 13 and 8', shake({ 'Sec-WebSocket-Version': '13, 8' }), 426, /13/],
    ['the version twice', shake({}, ['Sec-WebSocket-Version: 13']), 426, /13/],
    ['no key', shake({ 'Sec-WebSocket-Key': null }), 400, /Sec-WebSocket-Key/],
    ['a short key', shake({ 'Sec-WebSocket-Key': 'AAAA' }), 400, /Sec-WebSocket-Key/],
    ['a key of 17 bytes', shake({ 'Sec-WebSocket-Key': 'AAAAAAAAAAAAAAAAAAAAAAA=' }), 400, /Sec-WebSocket-Key/],
    ['a key that is not base64', shake({ 'Sec-WebSocket-Key': '!!!!!!!!!!!!!!!!!!!!!!==' }), 400, /Sec-WebSocket-Key/],
    ['the key twice', shake({}, [`Sec-WebSocket-Key: ${KEY}`]), 400, /Sec-WebSocket-Key/],
    ['no subprotocol', shake({ 'Sec-WebSocket-Protocol': null }), 400, /sparsecast\.v1/],
    ['another subprotocol', shake({ 'Sec-WebSocket-Protocol': 'chat' }), 400, /sparsecast\.v1/],
    ['a subprotocol that begins like ours', shake({ 'Sec-WebSocket-Protocol': 'sparsecast.v10' }), 400, /sparsecast\.v1/],
    ['the subprotocol in capitals', shake({ 'Sec-WebSocket-Protocol': 'SPARSECAST.V1' }), 400, /sparsecast\.v1/],
    ['two lines of subprotocols', shake({}, ['Sec-WebSocket-Protocol: chat']), 400, /sparsecast\.v1/],
    ['HTTP/1.0', shake({}, [], { version: 'HTTP/1.0' }), 400, /HTTP\/1\.1/],
    ['POST', shake({ 'Content-Length': 0 }, [], { method: 'POST' }), 405, /./],
    ['a body', shake({ 'Content-Length': 5 }), 400, /body/],
    ['a chunked body', shake({ 'Transfer-Encoding': 'chunked' }), 411, /body/],
    ['no Host', shake({ Host: null }), 400, /Host/],
    ['two Hosts', shake({}, ['Host: evil.example']), 400, /Host/],
    ['a foreign Host', shake({ Host: 'evil.example' }), 421, /host/i],
    ['a foreign Host with our port', shake({ Host: `evil.example:${d.port}` }), 421, /host/i],
    ['a foreign Origin', shake({ Origin: 'http://evil.example' }), 403, /origin/i],
    ['Origin null', shake({ Origin: 'null' }), 403, /origin/i],
    ['two Origins', shake({}, [`Origin: http://${d.host}`, 'Origin: http://evil.example']), 400, /Origin/],
    ['a foreign Origin and no subprotocol', shake({ Origin: 'http://evil.example', 'Sec-WebSocket-Protocol': null }), 403, /origin/i],
    ['an unknown session', shake({}, [], { path: `/v1/sessions/${NOBODY}/stream` }), 404, /session/],
    ['an id that is none', shake({}, [], { path: '/v1/sessions/nothing/stream' }), 404, /session/],
    ['an encoded id', shake({}, [], { path: `/v1/sessions/%${id.charCodeAt(0).toString(16)}${id.slice(1)}/stream` }), 404, /session/],
    ['a slash behind it', shake({}, [], { path: `${here}/stream/` }), 404, /./],
    ['a path to the session itself', shake({}, [], { path: here.replace(id, NOBODY) }), 404, /session/],
    ['bare line feeds', Buffer.from(shake().toString().replaceAll('\r\n', '\n')), 400, /CR LF/],
    ['one bare line feed', Buffer.from(shake({}, ['X-A: 1\nX-B: 2']).toString()), 400, /CR LF/],
    ['a space before a colon', shake({}, ['X-Bad : 1']), 400, /header/i],
    ['a folded header', shake({}, ['X-Bad: 1', ' 2']), 400, /header/i],
    ['NUL in a header', shake({}, ['X-Bad: a\0b']), 400, /header/i],
    ['101 headers', shake({}, Array.from({ length: 101 }, (_, i) => `X-${i}: 1`)), [400, 431], /header/i],
    ['a header of 9000 bytes', shake({ 'X-Long': 'x'.repeat(9000) }), 431, /header/i],
    ['a header of 100 KB', shake({ Cookie: 'x'.repeat(100000) }), 431, /header/i],
  ]);
  await check('handshake: header names that trip up parsers are all taken', async () => {
    for (const name of ['A', 'X-Auth', 'User', 'Ori', 'Sec-WebSocket', 'Upgrade-Insecure-Requests', 'X-Real']) {
      const answer = await exchange(d, shake({}, [`${name}: 1`, `Origin: http://${d.host}`]));
      assert.equal(answer.status, 101, `${name}: ${answer.status} ${answer.text}`);
    }
  });
  await check('handshake: the answer is the one of RFC 6455, without extensions', async () => {
    const answer = await exchange(d, shake({ 'Sec-WebSocket-Extensions': 'permessage-deflate; client_max_window_bits' }));
    assert.equal(answer.status, 101);
    assert.equal(answer.headers['sec-websocket-accept'], 's3pPLMBiTxaQ9kYGzzhZRbK+xOo=');
    assert.equal(answer.headers['sec-websocket-protocol'], 'sparsecast.v1');
    assert.equal(answer.headers['sec-websocket-extensions'], undefined);
  });
});

// ---- frames ----

const text = (message, options) => frame(1, typeof message === 'string' || Buffer.isBuffer(message) ? message : JSON.stringify(message), options);
const PING = text({ type: 'ping', t: 1 });
const long = Buffer.alloc(20000, ' ');

await group('frames', async () => {
  const reserved = [3, 4, 5, 6, 7, 11, 12, 13, 14, 15].map((op) => [`opcode ${op}`, [frame(op, 'x')], 1002]);
  const codes = [0, 1, 999, 1004, 1005, 1006, 1015, 1016, 2999].map((code) => [`a close with code ${code}`, [closeFrame(code)], 1002]);
  const cases = [
    ['an unmasked text', [text({ type: 'ping', t: 1 }, { mask: false })], 1002],
    ['an unmasked ping', [frame(9, 'x', { mask: false })], 1002],
    ['an unmasked close', [closeFrame(1000, '', { mask: false })], 1002],
    ['an unmasked frame after a good one', [PING, text({ type: 'pause' }, { mask: false })], 1002],
    ...[1, 2, 4, 7].map((rsv) => [`RSV bits ${rsv}`, [text({ type: 'ping', t: 1 }, { rsv })], 1002]),
    ...reserved,
    ['a ping in pieces', [frame(9, 'x', { fin: false })], 1002],
    ['a close in pieces', [frame(8, '', { fin: false })], 1002],
    ['a ping of 126 bytes', [frame(9, Buffer.alloc(126))], 1002],
    ['a ping of 100000 bytes', [frame(9, Buffer.alloc(100000))], 1002],
    ['a continuation of nothing', [frame(0, 'x')], 1002],
    ['a text inside a text', [text('{"type":', { fin: false }), text('"ping"')], 1002],
    ['a close of one byte', [frame(8, 'x')], 1002],
    ...codes,
    ['a close with a reason that is not UTF-8', [closeFrame(1000, Buffer.from([0xff, 0xfe]))], 1007],
    ['a text that is not UTF-8', [frame(1, Buffer.from([0x22, 0xc3, 0x28, 0x22]))], 1007],
    ['a text with a surrogate', [frame(1, Buffer.from('22eda08022', 'hex'))], 1007],
    ['a text that ends inside a character', [frame(1, Buffer.from([0x22, 0xe2, 0x82]))], 1007],
    ['a binary message', [frame(2, 'x')], 1003],
    ['an empty binary message', [frame(2)], 1003],
    ['a binary message of 1 MB', [frame(2, mega)], 1003],
    ['a text of 20000 bytes', [text(long)], 1009],
    ['a text of 16385 bytes', [text(Buffer.alloc(16385, ' '))], 1009],
    ['a text of 1 MB', [text(mega)], 1009],
    ['a text of 20000 bytes in pieces', [...Array.from({ length: 20 }, (_, i) => frame(i ? 0 : 1, Buffer.alloc(1000, ' '), { fin: false }))], 1009],
    ['a text without end in small pieces', [...Array.from({ length: 3000 }, (_, i) => frame(i ? 0 : 1, '          ', { fin: false }))], 1009],
    ['a text that announces 2^62 bytes', [frame(1, long, { size: 1n << 62n })], 1009],
    ['a length with its highest bit set', [frame(1, 'x', { size: (1n << 63n) + 1n })], 1002],
    ['a short text with a length of two bytes', [text({ type: 'ping', t: 1 }, { wide: 126 })], 1002],
    ['a short text with a length of eight bytes', [text({ type: 'ping', t: 1 }, { wide: 127 })], 1002],
    ['500 pings in a second', [Buffer.concat(Array.from({ length: 500 }, () => PING))], 1008],
    ['200 prompts in a second', [Buffer.concat(Array.from({ length: 200 }, () => text({ type: 'prompt', text: '' })))], 1008],
    ['500 messages that are no JSON', [Buffer.concat(Array.from({ length: 500 }, () => text('{')))], 1008],
    ['HTTP where frames should be', [request('GET', '/healthz')], 1002],
  ];
  for (const [name, parts, code] of cases) {
    await check(`frame: ${name}: close ${code}`, async () => {
      const r = await RawStream.open(d, id);
      const end = await r.send(...parts).end();
      assert.ok([code].flat().includes(end.code), `closed with ${end.code} "${end.reason}"`);
    });
  }
  await check('frame: 60 messages in a second: an error 429 says so once, the others are dropped, the stream lives on', async () => {
    const r = await RawStream.open(d, id);
    r.send(Buffer.concat(Array.from({ length: 60 }, (_, i) => text({ type: 'ping', t: i }))));
    const of = (type) => r.texts.map((t) => JSON.parse(t)).filter((e) => e.type === type);
    await until('the error', () => of('error').length > 0);
    assert.deepEqual([of('error')[0].problem.status, /20 a second/.test(of('error')[0].problem.detail)], [429, true]);
    await sleep(1500);
    r.send(text({ type: 'ping', t: 99 }));
    await until('an answer again', () => of('pong').some((e) => e.t === 99));
    assert.ok(of('error').length <= 2 && of('pong').length < 60, `${of('error').length} errors, ${of('pong').length} pongs`);
    r.vanish();
  });
  await check('frame: a close is answered with its code', async () => {
    for (const code of [1000, 1001, 3000, 4999]) assert.equal((await (await RawStream.open(d, id)).send(closeFrame(code)).end()).code, code);
  });
  await check('frame: a good message in pieces, with a ping in between, is one message', async () => {
    const s = await RawStream.open(d, id);
    s.send(text('{"type":"pi', { fin: false }), frame(9, 'between'), frame(0, 'ng","t":', { fin: false }), frame(0, '', { fin: false }), frame(0, '7}'));
    await until('pong and the answer', () => s.pongs > 0 && s.texts.some((t) => JSON.parse(t).type === 'pong' && JSON.parse(t).t === 7));
    s.vanish();
  });
  await check('frame: 10000 WebSocket pings are no reason to fall over', async () => {
    const r = await RawStream.open(d, id);
    r.send(Buffer.concat(Array.from({ length: 10000 }, () => frame(9, 'x'))));
    const gone = await Promise.race([r.ended, until('pongs', () => r.pongs > 0)]);
    if (gone !== true) assert.ok([1008, 0].includes(gone.code), `closed with ${gone.code}`);
    r.vanish();
  });
  await check('frame: what comes in one piece with the handshake is read', async () => {
    const r = await RawStream.open(d, id, { also: PING });
    await until('the answer', () => r.texts.some((t) => JSON.parse(t).type === 'pong'));
    r.vanish();
  });
  await check('frame: a client that vanishes inside a message of its own', async () => {
    for (let i = 0; i < 8; i++) {
      const r = await RawStream.open(d, id);
      r.send(text('{"type":"prompt"', { size: 1000 }));
      await sleep(10);
      r.vanish();
    }
    await until('them to be forgotten', async () => (await call(d, 'GET', here)).json().viewers <= 3);
  });
});

// ---- messages ----

const messages = [
  ['no JSON', '{', 400, /column 2/],
  ['nothing', '', 400, /empty/],
  ['an array', '[]', 400, /object, found an array/],
  ['a text', '"ping"', 400, /object/],
  ['two objects', '{"type":"pause"}{"type":"resume"}', 400, /column 17/],
  ['the same name twice', '{"type":"ping","type":"pause","t":1}', 400, /twice/],
  ['NUL', '{"type":"prompt","text":"a\\u0000"}', 400, /u0000/],
  ['a byte order mark', '\ufeff{"type":"pause"}', 400, /byte order/],
  ['nested 17 deep', `{"type":"ping","t":${'['.repeat(16)}${']'.repeat(16)}}`, 400, /deeper/],
  ['no type', '{}', 422, /type.*missing/, '/type'],
  ['an unknown type', '{"type":"explode"}', 422, /"explode"/, '/type'],
  ['a type in capitals', '{"type":"PAUSE"}', 422, /"PAUSE"/, '/type'],
  ['a type that is a number', '{"type":1}', 422, /type/, '/type'],
  ['a type of the other direction', '{"type":"hello"}', 422, /"hello"/, '/type'],
  ['pause with more', '{"type":"pause","now":true}', 422, /now/, '/now'],
  ['a prompt without text', '{"type":"prompt"}', 422, /text.*missing/, '/text'],
  ['a prompt in the field of HTTP', '{"type":"prompt","prompt":"x"}', 422, /text/, '/prompt'],
  ['an empty prompt', '{"type":"prompt","text":""}', 422, /empty/, '/text'],
  ['a prompt of 4097 bytes', `{"type":"prompt","text":"${'x'.repeat(4097)}"}`, 422, /4097/, '/text'],
  ['a prompt with an escape sequence', '{"type":"prompt","text":"\\u001b[1m"}', 422, /0x1b/, '/text'],
  ['a prompt that is a list', '{"type":"prompt","text":["x"]}', 422, /array/, '/text'],
  ['an unknown transition', '{"type":"prompt","text":"x","transition":"wipe"}', 422, /"wipe"/, '/transition'],
  ['a ref of 65 bytes', `{"type":"prompt","text":"x","ref":"${'r'.repeat(65)}"}`, 422, /64/, '/ref'],
  ['an empty ref', '{"type":"prompt","text":"x","ref":""}', 422, /ref/, '/ref'],
  ['a ref that is a number', '{"type":"prompt","text":"x","ref":1}', 422, /ref/, '/ref'],
  ['ack without a frame', '{"type":"ack"}', 422, /frame.*missing/, '/frame'],
  ['ack of a negative frame', '{"type":"ack","frame":-1}', 422, /found -1/, '/frame'],
  ['ack of half a frame', '{"type":"ack","frame":0.5}', 422, /found 0.5/, '/frame'],
  ['ack of frame 2^53', '{"type":"ack","frame":9007199254740992}', 422, /9007199254740991/, '/frame'],
  ['ack as a text', '{"type":"ack","frame":"0"}', 422, /frame/, '/frame'],
  ['ping without t', '{"type":"ping"}', 422, /t.*missing/, '/t'],
  ['ping with a text', '{"type":"ping","t":"now"}', 422, /number/, '/t'],
  ['ping beyond a double', '{"type":"ping","t":1e400}', 400, /too large/],
  ['quality 0', '{"type":"quality","jpeg_quality":0}', 422, /1 to 100/, '/jpeg_quality'],
  ['quality 101', '{"type":"quality","jpeg_quality":101}', 422, /1 to 100/, '/jpeg_quality'],
  ['no quality', '{"type":"quality"}', 422, /missing/, '/jpeg_quality'],
];

await group('messages', async () => {
  const v = await Viewer.open(d, id, { silent: true });
  for (const [name, message, status, words, pointer] of messages) {
    await check(`message: ${name}: error ${status}, and the stream lives on`, async () => {
      const from = v.events.length;
      await sleep(70); // twenty a second are allowed
      v.ws.send(message);
      const e = await v.event('an error', (x) => x.type === 'error', { from });
      assert.equal(e.problem.status, status, JSON.stringify(e));
      assert.match(e.problem.detail, words);
      if (pointer) assert.ok(e.problem.errors.some((x) => x.pointer === pointer), JSON.stringify(e));
    });
  }
  await check('message: the error of a prompt repeats its ref; ack of a frame that was never sent is harmless', async () => {
    const from = v.events.length;
    v.say({ type: 'prompt', text: 'x', transition: 'wipe', ref: 'mine' });
    assert.equal((await v.event('an error', (x) => x.type === 'error', { from })).ref, 'mine');
    await sleep(200);
    v.say({ type: 'ack', frame: 9007199254740991 });
    v.say({ type: 'ping', t: -0.5 });
    await v.event('pong', (e) => e.type === 'pong' && e.t === -0.5, { from });
  });
  await check('message: nothing of all that happened', async () => {
    const s = (await call(d, 'GET', here)).json();
    assert.deepEqual([s.prompt_seq, s.state, s.jpeg_quality], [1, 'running', 100]);
    v.sane();
    await v.close();
  });
});

// ---- many ----

await group('crowds', async () => {
  await check('65 viewers where 64 are allowed: 503 with Retry-After for one more', async () => {
    const crowd = [];
    let refusal = null;
    for (let i = 0; i < 70 && !refusal; i++) await RawStream.open(d, id).then((r) => crowd.push(r), (e) => (refusal = e));
    problem(refusal?.answer ?? { status: 0, headers: {}, text: String(refusal) }, { status: 503, detail: /viewer/i });
    assert.ok(crowd.length >= 55 && crowd.length <= 64, `${crowd.length} were let in`);
    for (const r of crowd) r.vanish();
    await until('them to be forgotten', async () => (await call(d, 'GET', here)).json().viewers <= 3);
  });
  await check('100 connections that send nothing, 100 that send half a line: others are served, and they are closed in time', async () => {
    const open = (text) => new Promise((done) => {
      const socket = connect(d.target, () => {
        if (text) socket.write(text);
        done({ ended: new Promise((over) => socket.on('close', over)) });
      }).on('error', () => {}).resume();
    });
    const silent = await Promise.all(Array.from({ length: 200 }, (_, i) => open(i % 2 ? 'GET /he' : '')));
    await until('them to be counted', async () => (await metric('pending_sockets')) >= 100);
    for (let i = 0; i < 5; i++) assert.equal((await call(d, 'GET', '/healthz')).status, 200);
    await within('the silent ones to be closed', Promise.all(silent.map((s) => s.ended)));
    await until('none to wait', async () => (await metric('pending_sockets')) === 0);
  });
  await check('200 requests at once are all answered', async () => {
    const answers = await Promise.all(Array.from({ length: 200 }, () => call(d, 'GET', '/v1/sessions')));
    for (const a of answers) if (a.status !== 200) problem(a, { status: [429, 503] });
    assert.ok(answers.filter((a) => a.status === 200).length >= 100);
  });
  await check('30 sessions asked for at once: as many as there is room for, 503 for the others', async () => {
    const answers = await Promise.all(Array.from({ length: 30 }, () => call(d, 'POST', '/v1/sessions', { body: { prompt: PROMPT } })));
    const got = answers.filter((a) => a.status === 201);
    assert.equal(got.length, 1);
    for (const a of answers) if (a.status !== 201) problem(a, { status: 503 });
    assert.equal((await call(d, 'DELETE', got[0].headers.location)).status, 204);
  });
});

// ---- those who took their time ----

for (const [name, answer] of Object.entries(slow)) {
  await check(`slow: ${name} is cut off`, async () => {
    const end = await answer;
    assert.ok(end.closed || end.status >= 400, `answered with ${end.status}`);
    if (name.includes('kept')) assert.equal(end.status, 200);
    else if (end.status) problem(end, { status: [400, 408] });
  });
}

await check('slow: a client that never reads is closed (1013) and counted, the first viewer missed nothing for it', async () => {
  await until('it to be closed', async () => (await metric('streams_closed_slow_total')) >= 1);
  never.socket.resume();
  const end = await never.end();
  assert.ok([1013, 0].includes(end.code), `closed with ${end.code} "${end.reason}"`);
  assert.ok(never.frames < good.frames.length, `${never.frames} frames were taken by nobody`);
  good.sane();
});

await check('slow: a client of stream.mjpg that never reads is no burden', async () => {
  neverHttp.resetAndDestroy();
  await until('only the first viewer to be left', async () => (await call(d, 'GET', here)).json().viewers === 1);
});

await check('after all of it: the stream was whole, the session is the same, SIGTERM ends the daemon cleanly', async () => {
  await good.frame();
  good.sane();
  const s = (await call(d, 'GET', here)).json();
  assert.deepEqual([s.state, s.prompt_seq, s.viewers], ['running', 1, 1]);
  const ending = d.stop();
  assert.equal((await within('the viewer to be closed', good.ended)).code, 1001);
  await ending;
});

finish();
