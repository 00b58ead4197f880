// api.mjs - the daemon as PROTOCOL.md describes it, call by call, against the real pocket model: SPARSECASTD=... node api.mjs
//
// Answers are held against proto/openapi.json (schema.mjs), streams against the frame header (wire.mjs). Few chunks are made, because a
// sanitized one takes seconds; what a chunk shows is looked at from several sides at once.
import assert from 'node:assert/strict';
import { existsSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { tmpdir } from 'node:os';
import { check, Daemon, finish, LIMIT, runToEnd, until, within } from './harness.mjs';
import { conforms, problem, SPEC } from './schema.mjs';
import { openParts } from './mjpeg.mjs';
import { call, chunkOf, exchange, firstOf, jpegSize, Viewer } from './wire.mjs';

const LISTED = 'https://studio.example';
const PROMPT = 'a red ball bouncing right over green hills at noon';
const OTHER = 'a white sailboat sailing right on the sea in fog';

const create = async (d, body, headers) => conforms(await call(d, 'POST', '/v1/sessions', { body, headers }), 'POST', '/v1/sessions');
const look = async (d, id) => conforms(await call(d, 'GET', `/v1/sessions/${id}`), 'GET', '/v1/sessions/{id}');
const change = async (d, id, body, query = '') => conforms(await call(d, 'PATCH', `/v1/sessions/${id}${query}`, { body }), 'PATCH', '/v1/sessions/{id}');
const remove = async (d, id) => {
  const answer = await call(d, 'DELETE', `/v1/sessions/${id}`);
  assert.equal(answer.status, 204, answer.text);
  return conforms(answer, 'DELETE', '/v1/sessions/{id}');
};
const snapshot = (d, id) =>
  until('a snapshot', async () => {
    const answer = await call(d, 'GET', `/v1/sessions/${id}/snapshot.jpg`);
    conforms(answer, 'GET', '/v1/sessions/{id}/snapshot.jpg');
    return answer.status === 200 && answer;
  });
const metric = async (d, name) => Number(new RegExp(`^sparsecast_${name} (\\S+)$`, 'm').exec((await call(d, 'GET', '/metrics')).text)?.[1]);

// ---- starting ----

await check('--version and --help say what they should', async () => {
  const version = await runToEnd(['--version']);
  assert.equal(version.code, 0, version.err);
  assert.match(version.out, /sparsecastd? \d+\.\d+\.\d+/);
  const help = await runToEnd(['--help']);
  assert.equal(help.code, 0, help.err);
  for (const word of ['--listen', '--unix', '--model', '--device', '--max-sessions', '--allow-origin', '--allow-host', '--key']) assert.ok(help.out.includes(word), word);
});

for (const [name, args, words] of [
  ['an option that does not exist', ['--nonsense', '1'], /nonsense/],
  ['a number out of range', ['--max-sessions', '0'], /max-sessions.*1 to 64/],
  ['an address others can reach, without a key', ['--listen', '0.0.0.0:0'], /key/],
  ['an address that is none', ['--listen', 'somewhere'], /listen/],
  ['a key that is too short', ['--key', 'short'], /key.*16/],
  ['a model that is not there', ['--listen', '127.0.0.1:0', '--model', '/nonexistent/model'], /\/nonexistent\/model/],
  ['a configuration file that is not there', ['--config', '/nonexistent.conf'], /\/nonexistent\.conf/],
  ...(existsSync('/dev/nvidiactl') ? [] : [['a GPU that is not there', ['--listen', '127.0.0.1:0', '--device', 'cuda'], /cuda|GPU/i]]),
]) {
  await check(`refuses to start with ${name}: exit code 78 and a reason`, async () => {
    const end = await runToEnd(args);
    assert.equal(end.code, 78, `exit code ${end.code ?? end.signal}: ${end.err.slice(-500)}`);
    assert.match(end.err, words);
    assert.doesNotMatch(end.err, /Sanitizer|runtime error/);
  });
}

const d = await Daemon.start(['--max-sessions', '3', '--allow-origin', LISTED, '--allow-host', 'stream.example']);

await check('a port that is taken ends a second daemon, with the address in the message', async () => {
  const end = await runToEnd(['--listen', `127.0.0.1:${d.port}`, '--model', 'models/pocket']);
  assert.ok(end.code > 0, `exit code ${end.code ?? end.signal}`);
  assert.match(end.err, new RegExp(`${d.port}`));
});

// ---- what needs no session ----

await check('healthz and readyz', async () => {
  assert.deepEqual(conforms(await call(d, 'GET', '/healthz'), 'GET', '/healthz'), { status: 'ok' });
  assert.deepEqual(conforms(await call(d, 'GET', '/readyz'), 'GET', '/readyz'), { status: 'ready' });
});

await check('openapi.json is the file of the source tree', async () => {
  assert.deepEqual(conforms(await call(d, 'GET', '/openapi.json'), 'GET', '/openapi.json'), SPEC);
});

await check('models: the pocket model in the shape of OpenAI', async () => {
  const list = conforms(await call(d, 'GET', '/v1/models'), 'GET', '/v1/models');
  assert.equal(list.data.length, 1);
  const { id, owned_by: owner, width, height, fps, first_chunk_frames: first, chunk_frames: later, ...rest } = list.data[0];
  assert.deepEqual({ id, owner, width, height, fps, first, later }, { id: 'pocket', owner: 'sparsecast', width: 256, height: 160, fps: 16, first: 9, later: 12 });
  assert.ok(rest.parameters > 13e6 && rest.session_bytes > 1e6 && rest.weight_bytes > 1e7, JSON.stringify(rest));
  assert.match(rest.digest, /^[0-9a-f]{64}$/);
});

await check('capacity of an idle daemon', async () => {
  const c = conforms(await call(d, 'GET', '/v1/capacity'), 'GET', '/v1/capacity');
  assert.deepEqual([c.sessions, c.sessions_max, c.fit_memory, c.pages_used], [0, 3, 3, 0]);
  assert.ok(c.pages_free > 0);
});

await check('metrics are Prometheus text with our prefix', async () => {
  const answer = await call(d, 'GET', '/metrics');
  conforms(answer, 'GET', '/metrics');
  const typed = new Set();
  for (const line of answer.text.trimEnd().split('\n')) {
    if (line.startsWith('# TYPE ')) typed.add(line.split(' ')[2]);
    if (line.startsWith('#')) continue;
    const m = /^(sparsecast_[a-z0-9_]+?)(_sum|_count)?(\{[a-z]+="[^"]*"(,[a-z]+="[^"]*")*\})? (\S+)$/.exec(line);
    assert.ok(m && Number.isFinite(Number(m[5])), line);
    assert.ok(typed.has(m[1]) || typed.has(m[1] + (m[2] ?? '')), `${line}: no TYPE before it`);
  }
  assert.ok((await metric(d, 'http_requests_total')) > 3);
});

await check('the page comes with everything it asks for, under a strict policy', async () => {
  const page = await call(d, 'GET', '/');
  conforms(page, 'GET', '/');
  assert.match(page.headers['content-security-policy'] ?? '', /default-src 'none'.*script-src 'self'/);
  assert.equal(page.headers['x-content-type-options'], 'nosniff');
  const types = { js: /^text\/javascript/, css: /^text\/css/, svg: /^image\/svg\+xml/ };
  const wanted = new Set([...page.text.matchAll(/(?:src|href)="(\/viewer\/[a-z_]+\.(?:js|css|svg))"/g)].map((m) => m[1]));
  assert.ok(wanted.size >= 2, page.text.slice(0, 500));
  for (const path of wanted) {
    const file = await call(d, 'GET', path);
    conforms(file, 'GET', '/viewer/{file}');
    assert.equal(file.status, 200, path);
    assert.match(file.headers['content-type'], types[path.split('.').pop()], path);
    for (const m of file.text.matchAll(/from '\.\/([a-z_]+\.js)'/g)) wanted.add(`/viewer/${m[1]}`);
    const again = await call(d, 'GET', path, { headers: { 'If-None-Match': file.headers.etag } });
    assert.deepEqual([again.status, again.body.length], [304, 0], path);
  }
  assert.ok(wanted.size >= 8, `only ${[...wanted]}`);
});

await check('X-Request-Id: our own where it is well formed, else a fresh one', async () => {
  const ids = [];
  for (const sent of ['abc-123', undefined, undefined, 'no spaces', `${'x'.repeat(65)}`]) {
    const answer = await call(d, 'GET', '/healthz', { headers: sent ? { 'X-Request-Id': sent } : {} });
    ids.push(answer.headers['x-request-id']);
  }
  assert.equal(ids[0], 'abc-123');
  assert.equal(new Set(ids).size, 5);
  for (const id of ids) assert.match(id, /^[A-Za-z0-9-]{1,64}$/);
});

await check('HEAD answers as GET does, without the body', async () => {
  for (const path of ['/', '/healthz', '/v1/models', '/openapi.json']) {
    const get = await call(d, 'GET', path);
    const head = await exchange(d, `HEAD ${path} HTTP/1.1\r\nHost: ${d.host}\r\nConnection: close\r\n\r\n`, { head: true, untilClosed: true });
    assert.equal(head.status, 200, path);
    for (const name of ['content-type', 'content-length']) assert.equal(head.headers[name], get.headers[name], `${name} of ${path}`);
    assert.equal(head.rest.length, 0, `HEAD ${path} has a body`);
  }
});

await check('one request a connection: what is sent behind it is not answered', async () => {
  const get = (path) => `GET ${path} HTTP/1.1\r\nHost: ${d.host}\r\n\r\n`;
  const one = await exchange(d, get('/healthz') + get('/v1/capacity') + get('/readyz'), { untilClosed: true });
  assert.deepEqual([one.status, one.headers.connection, one.text, one.rest.length], [200, 'close', '{"status":"ok"}', 0]);
});

await check('CORS: a listed origin gets its headers, with and without a preflight', async () => {
  const ask = { Origin: LISTED, 'Access-Control-Request-Method': 'PATCH', 'Access-Control-Request-Headers': 'content-type' };
  for (const [path, methods] of [['/v1/sessions', ['GET', 'POST']], ['/v1/sessions/aaaaaaaaaaaaaaaaaaaaaaaaaa', ['GET', 'PATCH', 'DELETE']], ['/v1/sessions/aaaaaaaaaaaaaaaaaaaaaaaaaa/tickets', ['POST']]]) {
    const pre = await call(d, 'OPTIONS', path, { headers: ask });
    assert.equal(pre.status, 204, `${path}: ${pre.text}`);
    assert.equal(pre.headers['access-control-allow-origin'], LISTED);
    for (const method of methods) assert.match(pre.headers['access-control-allow-methods'], new RegExp(`\\b${method}\\b`), path);
    for (const name of ['content-type', 'authorization', 'idempotency-key']) assert.match(pre.headers['access-control-allow-headers'], new RegExp(`\\b${name}\\b`, 'i'), path);
  }
  for (const path of ['/healthz', '/v1/sessions', '/v1/models', '/nowhere']) {
    const answer = await call(d, 'GET', path, { headers: { Origin: LISTED } });
    assert.equal(answer.headers['access-control-allow-origin'], LISTED, path);
    assert.match(answer.headers.vary ?? '', /\bOrigin\b/i, path);
  }
});

await check('CORS: our own page needs none, a foreign origin gets 403 and no headers, not even for a preflight', async () => {
  const own = await call(d, 'GET', '/v1/sessions', { headers: { Origin: `http://${d.host}` } });
  assert.deepEqual([own.status, own.headers['access-control-allow-origin']], [200, undefined]);
  for (const method of ['GET', 'OPTIONS', 'POST']) {
    for (const origin of ['https://evil.example', 'null', 'https://studio.example.evil.example', 'http://studio.example', `http://${d.host}.evil.example`]) {
      const answer = await call(d, method, '/v1/sessions', { headers: { Origin: origin, 'Access-Control-Request-Method': 'POST' }, body: method === 'POST' ? { prompt: PROMPT } : undefined });
      problem(answer, { status: 403, detail: /origin/i });
      for (const name of Object.keys(answer.headers)) assert.doesNotMatch(name, /^access-control/);
    }
  }
});

await check('hosts: ours and the allowed ones', async () => {
  for (const host of [`127.0.0.1:${d.port}`, `localhost:${d.port}`, `LOCALHOST:${d.port}`, `[::1]:${d.port}`, 'stream.example', 'stream.example:443']) {
    assert.equal((await call(d, 'GET', '/healthz', { headers: { Host: host } })).status, 200, host);
  }
  for (const host of ['evil.example', `evil.example:${d.port}`, '127.0.0.1:1', 'stream.example.evil.example']) {
    conforms(await call(d, 'GET', '/healthz', { headers: { Host: host } }), 'GET', '/healthz');
    assert.equal((await call(d, 'GET', '/healthz', { headers: { Host: host } })).status, 421, host);
  }
});

await check('the list of sessions is empty', async () => {
  assert.deepEqual(conforms(await call(d, 'GET', '/v1/sessions'), 'GET', '/v1/sessions'), { object: 'list', data: [] });
});

// ---- one session ----

let one; // the session most of the rest looks at
let a; // its first viewer
let b; // its second
let frame0; // the JPEG that a snapshot gave

await check('POST /v1/sessions with all fields: 201, Location, every field as asked for', async () => {
  const body = { prompt: PROMPT, seed: 42, model: 'pocket', transition: 'recache', fps: 16, jpeg_quality: 80, lookahead_chunks: 1, run_without_viewers: false, idle_timeout_s: 600 };
  const before = Math.floor(Date.now() / 1000);
  const answer = await call(d, 'POST', '/v1/sessions', { body });
  one = conforms(answer, 'POST', '/v1/sessions');
  assert.equal(answer.status, 201);
  assert.equal(answer.headers.location, `/v1/sessions/${one.id}`);
  const { id, created, reason, stage_ms: stages, memory_bytes: memory, state, chunk, frame, ...rest } = one;
  assert.deepEqual(rest, {
    model: 'pocket', prompt: PROMPT, prompt_seq: 1, prompt_chunk: 0, transition: 'recache', seed: '42', width: 256, height: 160, fps: 16, chunk_frames: 12, viewers: 0,
    stream: `/v1/sessions/${id}/stream`, jpeg_quality: 80, lookahead_chunks: 1, idle_timeout_s: 600, run_without_viewers: false,
  });
  assert.ok(created >= before - 1 && created <= before + 60, `created ${created}`);
  assert.ok(memory > 1e6, `memory ${memory}`);
  assert.equal(state, 'starting');
  assert.deepEqual([chunk, frame], [null, null]);
  assert.ok(reason === undefined && stages.encode, 'stages');
});

await check('a stream opened before the first frame begins with frame 0, which is no repeat', async () => {
  a = await Viewer.open(d, one.id);
  const hello = await a.event('hello', (e) => e.type === 'hello');
  assert.deepEqual(hello, { type: 'hello', session: one.id, role: 'control', protocol: 1, newest_frame: hello.newest_frame, after: 0 });
  const first = await a.frame(0);
  assert.equal(first.frame, 0);
  assert.equal(first.flags & 1, 1);
  assert.equal(Boolean(first.flags & 4), hello.newest_frame === 0, `flags ${first.flags}, newest frame at hello ${hello.newest_frame}`);
  assert.equal(first.seq, 1);
  frame0 = first.jpeg;
});

await check('snapshot.jpg is the newest frame, a whole JPEG', async () => {
  const answer = await snapshot(d, one.id);
  assert.equal(answer.headers['content-type'], 'image/jpeg');
  assert.match(answer.headers['cache-control'] ?? '', /no-store/);
  assert.deepEqual(jpegSize(answer.body), { width: 256, height: 160 });
  const newest = Number(answer.headers['x-frame'] ?? NaN);
  await a.until('the frame of the snapshot', () => a.frames.some((f) => f.jpeg.equals(answer.body)));
  assert.ok(!Number.isFinite(newest) || newest >= 0);
});

await check('chunk 0 has nine frames, chunk 1 begins with frame 9; chunk and state events', async () => {
  await a.frame(firstOf(1));
  const ones = a.frames.filter((f) => f.chunk === 0);
  assert.ok(ones.length + a.newest.dropped >= 9, `${ones.length} frames of chunk 0, ${a.newest.dropped} dropped`);
  assert.ok(ones.every((f) => f.frame < 9));
  await a.event('a chunk event', (e) => e.type === 'chunk' && e.chunk === 1 && e.denoise_ms > 0 && e.decode_ms > 0 && e.encode_ms > 0);
  await a.event('the state running', (e) => e.type === 'state' && e.state === 'running');
  await a.event('one viewer', (e) => e.type === 'viewers' && e.count === 1);
  assert.equal(new Set(a.frames.map((f) => f.jpeg.toString('base64'))).size, a.frames.length, 'frames differ');
});

await check('GET tells the same as the stream', async () => {
  const s = await look(d, one.id);
  assert.deepEqual([s.state, s.viewers, s.prompt, s.prompt_seq], ['running', 1, PROMPT, 1]);
  assert.ok(s.chunk >= 1 && s.frame >= 9 && chunkOf(s.frame) <= s.chunk, `chunk ${s.chunk}, frame ${s.frame}`);
  for (const stage of ['denoise', 'decode', 'encode']) assert.ok(s.stage_ms[stage].p50 > 0 && s.stage_ms[stage].p95 >= s.stage_ms[stage].p50, stage);
  const list = conforms(await call(d, 'GET', '/v1/sessions'), 'GET', '/v1/sessions');
  assert.deepEqual(list.data.map((x) => x.id), [one.id]);
  const c = conforms(await call(d, 'GET', '/v1/capacity'), 'GET', '/v1/capacity');
  assert.deepEqual([c.sessions, c.fit_memory], [1, 2]);
  assert.ok(c.pages_used > 0);
});

let parts; // a Motion-JPEG stream of it

await check('a late joiner gets the newest frame at once, marked as a repeat, then the same frames as the first', async () => {
  b = await Viewer.open(d, one.id);
  const repeat = await b.frame(0);
  const newest = b.events[0].newest_frame;
  assert.ok(repeat.frame - newest <= 1, `newest ${newest} at hello, then frame ${repeat.frame}`);
  assert.equal(Boolean(repeat.flags & 4), repeat.frame === newest, `flags ${repeat.flags}`);
  await a.event('two viewers', (e) => e.type === 'viewers' && e.count === 2);
  parts = await openParts(d, one.id);
  assert.equal(parts.answer.status, 200);
  assert.match(parts.answer.headers['content-type'], /^multipart\/x-mixed-replace; ?boundary=/);
  const target = firstOf(2) + 5;
  await Promise.all([a.frame(target), b.frame(target)]);
  const mine = new Map(a.frames.map((f) => [f.frame, f]));
  const common = b.frames.filter((f) => mine.has(f.frame));
  assert.ok(common.length >= 5, `${common.length} common frames`);
  for (const f of common) {
    const { jpeg, chunk, seq, pts } = mine.get(f.frame);
    assert.ok(jpeg.equals(f.jpeg) && chunk === f.chunk && seq === f.seq && pts === f.pts, `frame ${f.frame} differs between viewers`);
  }
});

await check('stream.mjpg: whole JPEGs, the same ones, and a viewer like the others', async () => {
  const pictures = await parts.take(4);
  const known = new Set(a.frames.map((f) => f.jpeg.toString('base64')));
  for (const { headers, jpeg } of pictures) {
    assert.match(headers, /content-type: image\/jpeg/i);
    assert.match(headers, new RegExp(`content-length: ${jpeg.length}\\b`, 'i'));
    assert.deepEqual(jpegSize(jpeg), { width: 256, height: 160 });
  }
  assert.equal(new Set(pictures.map((p) => p.jpeg.toString('base64'))).size, pictures.length, 'parts differ');
  assert.ok(pictures.filter((p) => known.has(p.jpeg.toString('base64'))).length >= pictures.length - 1, 'parts are frames of the stream');
  assert.equal((await look(d, one.id)).viewers, 3);
  parts.close();
  await until('its leaving to be seen', async () => (await look(d, one.id)).viewers === 2);
});

await check('a prompt over the WebSocket: received, applied within two chunks, shown; frames carry its number', async () => {
  const from = a.events.length;
  const fromB = b.events.length;
  const chunkNow = a.newest.chunk;
  a.say({ type: 'prompt', text: OTHER, transition: 'switch', ref: 'r-1' });
  const [received, applied, shown] = await Promise.all(['received', 'applied', 'shown'].map((state) => a.event(`prompt ${state}`, (e) => e.type === 'prompt' && e.state === state && e.ref === 'r-1', { from })));
  for (const e of [received, applied, shown]) assert.deepEqual([e.seq, e.prompt, e.transition], [2, OTHER, 'switch']);
  const order = ['received', 'applied', 'shown'].map((state) => a.events.findIndex((e) => e.type === 'prompt' && e.state === state && e.seq === 2));
  assert.deepEqual(order, [...order].sort((x, y) => x - y), 'order of the events');
  assert.ok(applied.chunk - chunkNow <= 2, `asked in chunk ${chunkNow}, applied in ${applied.chunk}`);
  const first = await a.until('a frame under it', () => a.frames.find((f) => f.seq === 2));
  assert.equal(first.chunk, applied.chunk);
  if (first.frame === firstOf(first.chunk)) assert.equal(first.flags & 3, 3, 'first frame of a new prompt');
  for (const f of a.frames) assert.equal(f.seq, f.chunk < applied.chunk ? 1 : 2, `frame ${f.frame}`);
  const told = ['received', 'applied', 'shown'].map((state) => b.events.slice(fromB).find((e) => e.type === 'prompt' && e.state === state));
  await b.event('the other viewer hears of it', (e) => e.type === 'prompt' && e.state === 'shown', { from: fromB });
  for (const e of told) if (e) assert.ok(e.seq === 2 && !('ref' in e), `the other viewer was told ${JSON.stringify(e)}`);
  const s = await look(d, one.id);
  assert.deepEqual([s.prompt, s.prompt_seq, s.prompt_chunk], [OTHER, 2, applied.chunk]);
});

await check('pause over the WebSocket holds the picture; two prompts meanwhile: the first is superseded; resume shows the second', async () => {
  let from = a.events.length;
  a.say({ type: 'pause' });
  for (const v of [a, b]) await v.event('paused', (e) => e.type === 'state' && e.state === 'paused' && e.reason === 'asked to', { from: v === a ? from : 0 });
  assert.equal((await look(d, one.id)).state, 'paused');
  const still = a.newest.frame;
  from = a.events.length;
  a.say({ type: 'prompt', text: 'never to be seen', ref: 'r-2' });
  a.say({ type: 'prompt', text: PROMPT, ref: 'r-3' });
  await a.event('the first is superseded', (e) => e.type === 'prompt' && e.state === 'superseded' && e.ref === 'r-2' && e.seq === 3, { from });
  await a.event('the second is received', (e) => e.type === 'prompt' && e.state === 'received' && e.ref === 'r-3' && e.seq === 4, { from });
  a.say({ type: 'ping', t: 12.5 });
  await a.event('pong', (e) => e.type === 'pong' && e.t === 12.5 && e.server_us >= a.newest.sent, { from });
  assert.ok(a.newest.frame - still <= 2, `paused at ${still}, now at ${a.newest.frame}`);
  assert.ok(!a.events.some((e) => e.type === 'prompt' && e.state === 'shown' && e.seq > 2), 'shown while paused');
  b.say({ type: 'resume' });
  await a.event('running', (e) => e.type === 'state' && e.state === 'running', { from });
  const shown = await a.event('the second is shown', (e) => e.type === 'prompt' && e.state === 'shown' && e.seq === 4, { from });
  assert.equal(shown.ref, 'r-3');
  assert.ok(!a.frames.some((f) => f.seq === 3), 'frames of the superseded prompt');
  assert.ok(!a.events.some((e) => e.type === 'prompt' && e.seq === 3 && ['applied', 'shown'].includes(e.state)), 'events of the superseded prompt');
});

await check('PATCH with ?wait=applied answers when the prompt is seen, and says where; fps sets the pace of presentation times', async () => {
  a.fps = b.fps = null; // from here on the pace is another
  const receipt = await change(d, one.id, { prompt: OTHER, transition: 'cut', fps: 8 }, '?wait=applied');
  assert.equal(receipt.seq, 5);
  const first = await a.until('a frame under it', () => a.frames.find((f) => f.seq === 5));
  assert.equal(receipt.applies_at_chunk, first.chunk);
  const pace = (x, y) => (y.pts - x.pts) / (y.frame - x.frame);
  await a.until('three frames of its chunk', () => a.frames.filter((f) => f.chunk === first.chunk).length >= 3);
  for (const f of a.frames) if (f.chunk === first.chunk && f !== first) assert.ok(Math.abs(pace(first, f) - 125000) < 2, `frame ${f.frame} has pts ${f.pts}, the first of its chunk ${first.pts}`);
  await a.event('shown, without a ref', (e) => e.type === 'prompt' && e.state === 'shown' && e.seq === 5 && !('ref' in e) && e.transition === 'cut');
});

await check('PATCH of settings: both numbers of the receipt are null, GET has the new values', async () => {
  assert.deepEqual(await change(d, one.id, { jpeg_quality: 60, idle_timeout_s: 300 }), { seq: null, applies_at_chunk: null });
  const s = await look(d, one.id);
  assert.deepEqual([s.jpeg_quality, s.idle_timeout_s, s.prompt_seq, s.fps], [60, 300, 5, 8]);
});

await check('PATCH pauses and resumes', async () => {
  let from = a.events.length;
  assert.deepEqual(await change(d, one.id, { state: 'paused' }), { seq: null, applies_at_chunk: null });
  await a.event('paused', (e) => e.type === 'state' && e.state === 'paused', { from });
  assert.deepEqual([(await look(d, one.id)).state, (await look(d, one.id)).reason], ['paused', 'asked to']);
  from = a.events.length;
  await change(d, one.id, { state: 'running' });
  await a.event('running', (e) => e.type === 'state' && e.state === 'running', { from });
});

await check('stats come by themselves and know the acknowledged frame', async () => {
  const e = await a.event('stats', (x) => x.type === 'stats' && x.lag_frames !== null);
  assert.ok(e.viewers >= 1 && e.sent >= 1 && e.frame >= 0 && e.chunk >= 0 && e.lookahead_s >= 0, JSON.stringify(e));
});

await check('two clients pulled away in the middle of a frame disturb nobody', async () => {
  const lost = await Promise.all([0, 1].map(() => Viewer.open(d, one.id, { silent: true, fps: null })));
  await until('four viewers', async () => (await look(d, one.id)).viewers === 4);
  for (const v of lost) {
    await v.frame(0);
    v.ws._socket.pause();
  }
  const from = a.frames.length;
  await a.until('a frame that they do not take', () => a.frames.length > from);
  lost[0].vanish({ reset: true });
  lost[1].vanish();
  await until('two viewers', async () => (await look(d, one.id)).viewers === 2);
  await a.frame();
  b.sane();
});

await check('without viewers the session pauses and says why; the first one to come back starts it again', async () => {
  await a.close();
  assert.equal((await b.close()).code, 1000);
  const s = await until('paused', async () => {
    const now = await look(d, one.id);
    return now.state === 'paused' && now;
  });
  assert.deepEqual([s.reason, s.viewers], ['no viewers', 0]);
  a = await Viewer.open(d, one.id, { fps: null });
  const hello = await a.event('hello', (e) => e.type === 'hello');
  const first = await a.frame(0);
  assert.equal(Boolean(first.flags & 4), first.frame === hello.newest_frame, `frame ${first.frame} with flags ${first.flags}, newest ${hello.newest_frame} at hello`);
  assert.ok(first.frame >= s.frame, `frame ${first.frame}, ${s.frame} had been shown`);
  await a.event('running', (e) => e.type === 'state' && e.state === 'running');
  const next = await a.until('the next frame', () => a.frames[1]);
  assert.ok(next.frame > first.frame && next.frame <= first.frame + 3, `after ${first.frame} came ${next.frame}`);
});

// ---- several sessions ----

let two;
let three;

await check('the same seed and prompt give the same picture, another prompt gives another', async () => {
  await change(d, one.id, { state: 'paused' });
  two = await create(d, { prompt: PROMPT, seed: '42', jpeg_quality: 80 });
  three = await create(d, { prompt: OTHER, seed: '18446744073709551615', jpeg_quality: 80, run_without_viewers: true });
  assert.deepEqual([two.seed, three.seed, three.run_without_viewers], ['42', '18446744073709551615', true]);
  assert.equal(new Set([one.id, two.id, three.id]).size, 3);
  const same = await snapshot(d, two.id);
  assert.ok(same.body.equals(frame0), 'frame 0 of the second session is frame 0 of the first');
  const other = await snapshot(d, three.id);
  assert.ok(!other.body.equals(frame0), 'the third session has a picture of its own');
});

await check('all places taken: 503 with Retry-After for one more, and capacity says so', async () => {
  const c = conforms(await call(d, 'GET', '/v1/capacity'), 'GET', '/v1/capacity');
  assert.deepEqual([c.sessions, c.sessions_max, c.fit_memory], [3, 3, 0]);
  const answer = await call(d, 'POST', '/v1/sessions', { body: { prompt: PROMPT } });
  conforms(answer, 'POST', '/v1/sessions');
  problem(answer, { status: 503, detail: /3 places/ });
  assert.deepEqual(conforms(await call(d, 'GET', '/v1/sessions'), 'GET', '/v1/sessions').data.map((s) => s.id), [one.id, two.id, three.id]);
});

await check('several sessions at once: each stream has its own frames, a prompt to one leaves the others alone', async () => {
  const [v2, v3] = await Promise.all([Viewer.open(d, two.id), Viewer.open(d, three.id)]);
  assert.equal((await change(d, three.id, { prompt: PROMPT })).seq, 2);
  await Promise.all([v2.frame(firstOf(1), 2 * LIMIT), v3.frame(firstOf(1), 2 * LIMIT)]); // they take turns
  const mine = new Map(v2.frames.map((f) => [f.frame, f.jpeg.toString('base64')]));
  const common = v3.frames.filter((f) => mine.has(f.frame));
  for (const f of common) assert.notEqual(mine.get(f.frame), f.jpeg.toString('base64'), `frame ${f.frame} is in both sessions`);
  assert.ok(v2.frames.every((f) => f.seq === 1) && !v2.events.some((e) => e.type === 'prompt'), 'the other session heard of the prompt');
  assert.equal((await look(d, two.id)).prompt, PROMPT);
  await Promise.all([v2.close(), v3.close()]);
});

await check('run_without_viewers: a session nobody watches goes on', async () => {
  const before = await look(d, three.id);
  assert.equal(before.viewers, 0);
  await until('a later frame', async () => (await look(d, three.id)).frame > before.frame);
  assert.equal((await look(d, three.id)).state, 'running');
  await remove(d, three.id);
});

await check('DELETE: 204, viewers are closed with 1000, the Motion-JPEG ends, the session is gone', async () => {
  const watching = await openParts(d, one.id);
  await watching.take(1);
  await remove(d, one.id);
  assert.equal((await within('the viewer to be closed', a.ended)).code, 1000);
  await within('the Motion-JPEG to end', watching.ended);
  assert.equal(a.events.findLast((e) => e.type === 'state')?.state, 'ended');
  for (const [method, path, body] of [['GET', ''], ['PATCH', '', { fps: 8 }], ['DELETE', ''], ['GET', '/snapshot.jpg'], ['GET', '/stream.mjpg']]) {
    const answer = await call(d, method, `/v1/sessions/${one.id}${path}`, { body });
    conforms(answer, method, `/v1/sessions/{id}${path}`);
    problem(answer, { status: 404, detail: /session/i });
    assert.equal(answer.json().instance, `/v1/sessions/${one.id}${path}`);
  }
  const refusal = await Viewer.open(d, one.id).catch((e) => e);
  conforms(refusal.answer, 'GET', '/v1/sessions/{id}/stream');
  assert.equal(refusal.answer.status, 404);
});

await check('Idempotency-Key: the same call again gives the same session, another body is refused', async () => {
  const headers = { 'Idempotency-Key': 'take-1' };
  const first = await create(d, { prompt: OTHER, seed: 7 }, headers);
  const again = await call(d, 'POST', '/v1/sessions', { body: { prompt: OTHER, seed: 7 }, headers });
  assert.equal(conforms(again, 'POST', '/v1/sessions').id, first.id);
  assert.equal(again.headers.location, `/v1/sessions/${first.id}`);
  problem(await call(d, 'POST', '/v1/sessions', { body: { prompt: OTHER, seed: 8 }, headers }), { status: [409, 422], detail: /Idempotency-Key/ });
  assert.equal(conforms(await call(d, 'GET', '/v1/sessions'), 'GET', '/v1/sessions').data.length, 2);
  for (const bad of ['x'.repeat(129), '']) problem(await call(d, 'POST', '/v1/sessions', { body: { prompt: OTHER }, headers: { 'Idempotency-Key': bad } }), { status: [400, 422], detail: /Idempotency-Key/ });
  await remove(d, first.id);
  const fresh = await create(d, { prompt: OTHER, seed: 7 }, headers);
  assert.notEqual(fresh.id, first.id, 'a session that ended is not given again');
  await remove(d, fresh.id);
});

await check('without a seed a session gets a random one; defaults are said', async () => {
  const [x, y] = [await create(d, { prompt: OTHER }), await create(d, { prompt: OTHER })];
  assert.notEqual(x.seed, y.seed);
  assert.deepEqual([x.fps, x.jpeg_quality, x.lookahead_chunks, x.run_without_viewers, x.transition, x.idle_timeout_s], [16, 85, 1, false, null, 300]);
  await remove(d, y.id);
  await change(d, x.id, { idle_timeout_s: 1 });
  await until('the idle session to end', async () => (await call(d, 'GET', `/v1/sessions/${x.id}`)).status === 404);
});

await check('seeds: integers below 2^53 and decimal strings', async () => {
  for (const [seed, said] of [[0, '0'], ['0', '0'], [9007199254740991, '9007199254740991'], ['9007199254740993', '9007199254740993']]) {
    const s = await create(d, { prompt: OTHER, seed });
    assert.equal(s.seed, said);
    await remove(d, s.id);
  }
});

await check('prompts of other scripts come back as they were sent', async () => {
  const prompt = 'zwei rote Bälle — 二つの赤いボール 🎈\n\tat night';
  const s = await create(d, { prompt });
  assert.equal(s.prompt, prompt);
  assert.equal((await look(d, s.id)).prompt, prompt);
  await remove(d, s.id);
});

await check('SIGTERM closes viewers with 1001, ends Motion-JPEG and exits with 0, its memory in order', async () => {
  const v = await Viewer.open(d, two.id);
  await v.frame(0);
  const watching = await openParts(d, two.id);
  await watching.take(1);
  d.terminate();
  assert.equal((await within('the viewer to be closed', v.ended)).code, 1001);
  await within('the Motion-JPEG to end', watching.ended);
  v.sane();
  await d.stop();
});

// ---- keys, tickets, the UNIX socket ----

const KEY = 'key-for-the-tests-0123456789';
const path = join(tmpdir(), `sparsecast-test-${process.pid}.sock`);
const k = await Daemon.start(['--max-sessions', '1', '--log-level', 'debug'], { key: KEY, unixPath: path });
const open = { ...k, host: k.host, target: k.target, key: null }; // the same daemon, for clients without the key
let s1;

await check('with keys the API wants one; page and health do not', async () => {
  const calls = [['GET', '/v1/sessions'], ['POST', '/v1/sessions', { prompt: PROMPT }], ['GET', '/v1/models'], ['GET', '/v1/capacity'], ['GET', '/metrics'], ['GET', '/v1/sessions/aaaaaaaaaaaaaaaaaaaaaaaaaa'],
    ['GET', '/v1/sessions/aaaaaaaaaaaaaaaaaaaaaaaaaa/memory']];
  for (const [method, where, body] of calls) {
    const wrong = where !== '/v1/sessions' ? [] : ['Bearer wrong-key-0123456789', `Basic ${KEY}`, KEY, `Bearer ${KEY}x`, `Bearer ${KEY.slice(0, -1)}`, 'Bearer '];
    for (const authorization of [undefined, ...wrong]) {
      const answer = await call(open, method, where, { body, headers: authorization === undefined ? {} : { Authorization: authorization } });
      problem(answer, { status: 401, detail: /key/ });
      conforms(answer, method, where.replace(/a{26}/, '{id}'));
      assert.match(answer.headers['www-authenticate'] ?? '', /^Bearer/);
      assert.ok(!answer.text.includes(KEY.slice(0, 12)), 'the answer tells the key');
    }
  }
  for (const where of ['/', '/healthz', '/readyz']) assert.equal((await call(open, 'GET', where)).status, 200, where);
  assert.equal((await call(open, 'GET', '/v1/sessions', { headers: { Authorization: `bearer ${KEY}` } })).status, 200);
  s1 = await create(k, { prompt: PROMPT });
});

await check('a flood of wrong keys is slowed down, and locks nobody out who has the right one', async () => {
  const guesses = await Promise.all(Array.from({ length: 40 }, (_, i) => call(open, 'GET', '/v1/models', { headers: { Authorization: `Bearer guess-number-${i}-of-many` } })));
  for (const answer of guesses) conforms(answer, 'GET', '/v1/models');
  for (const answer of guesses) problem(answer, { status: [401, 429] });
  assert.ok(guesses.some((answer) => answer.status === 429), 'none was slowed down');
  assert.equal((await call(k, 'GET', '/v1/models')).status, 200);
});

const ticket = async (role) => {
  const answer = await call(k, 'POST', `/v1/sessions/${s1.id}/tickets`, { body: { role } });
  const made = conforms(answer, 'POST', '/v1/sessions/{id}/tickets');
  assert.deepEqual([answer.status, made.role, made.expires_in_s], [201, role, 30]);
  assert.match(made.ticket, /^[a-z2-7]{26}$/);
  return made.ticket;
};

await check('a ticket opens one stream, once', async () => {
  const t = await ticket('control');
  const v = await Viewer.open(open, s1.id, { protocols: ['sparsecast.v1', `ticket.${t}`] });
  assert.equal((await v.event('hello', (e) => e.type === 'hello')).role, 'control');
  v.say({ type: 'pause' });
  await v.event('paused', (e) => e.type === 'state' && e.state === 'paused');
  v.say({ type: 'resume' });
  for (const protocols of [['sparsecast.v1', `ticket.${t}`], ['sparsecast.v1'], ['sparsecast.v1', 'ticket.aaaaaaaaaaaaaaaaaaaaaaaaaa'], ['sparsecast.v1', `ticket.${KEY}`]]) {
    const refusal = await Viewer.open(open, s1.id, { protocols }).catch((e) => e);
    problem(refusal.answer, { status: 401, detail: /ticket/i });
  }
  await v.close();
});

await check('a watcher may look, acknowledge, ping and ask for a quality, but not change anything', async () => {
  const v = await Viewer.open(open, s1.id, { protocols: [`ticket.${await ticket('watch')}`, 'sparsecast.v1'] });
  assert.equal((await v.event('hello', (e) => e.type === 'hello')).role, 'watch');
  await v.frame(0);
  for (const message of [{ type: 'prompt', text: OTHER, ref: 'w' }, { type: 'pause' }, { type: 'resume' }]) {
    const from = v.events.length;
    v.say(message);
    const e = await v.event(`${message.type} to be refused`, (x) => x.type === 'error', { from });
    assert.equal(e.problem.status, 403, JSON.stringify(e));
    assert.match(e.problem.detail, /watch|control/i);
    if (message.ref) assert.equal(e.ref, 'w');
  }
  const from = v.events.length;
  v.say({ type: 'ack', frame: 0 });
  v.say({ type: 'quality', jpeg_quality: 5 });
  v.say({ type: 'ping', t: 1 });
  await v.event('pong', (e) => e.type === 'pong' && e.t === 1, { from });
  assert.ok(!v.events.slice(from).some((e) => e.type === 'error'), 'refused what a watcher may do');
  const usual = v.frames[0].jpeg.length;
  await v.until('smaller pictures after the wish for less quality', () => v.newest.jpeg.length < usual / 2);
  assert.equal((await look(k, s1.id)).prompt_seq, 1);
  await v.close();
});

await check('tickets: bad requests are told what is wrong', async () => {
  const tickets = `/v1/sessions/${s1.id}/tickets`;
  for (const [who, path, body, expected] of [
    [k, tickets, {}, { status: 422, pointer: '/role' }],
    [k, tickets, { role: 'king' }, { status: 422, pointer: '/role' }],
    [k, tickets, { role: 'watch', for: 'me' }, { status: 422, pointer: '/for' }],
    [k, tickets, '[', { status: 400, detail: /column 2/ }],
    [open, tickets, { role: 'watch' }, { status: 401 }],
    [k, '/v1/sessions/aaaaaaaaaaaaaaaaaaaaaaaaaa/tickets', { role: 'watch' }, { status: 404 }],
  ]) {
    const answer = await call(who, 'POST', path, { body });
    conforms(answer, 'POST', '/v1/sessions/{id}/tickets');
    problem(answer, expected);
  }
  problem(await call(k, 'GET', tickets), { status: 405 });
});

await check('the UNIX socket serves HTTP and streams alike, for its owner only', async () => {
  assert.equal(statSync(path).mode & 0o007, 0, 'others may connect');
  const u = { port: 0, unixPath: path, key: KEY, host: `localhost:${k.port}`, target: { path, socketPath: path } };
  assert.deepEqual(conforms(await call(u, 'GET', '/healthz'), 'GET', '/healthz'), { status: 'ok' });
  assert.equal((await look(u, s1.id)).id, s1.id);
  const v = await Viewer.open(u, s1.id, { protocols: ['sparsecast.v1', `ticket.${await ticket('watch')}`] });
  await v.frame(0);
  v.sane();
  await v.close();
});

await check('stopped and started again on the same port: viewers hear 1001, the socket file is gone in between', async () => {
  const v = await Viewer.open(open, s1.id, { protocols: ['sparsecast.v1', `ticket.${await ticket('watch')}`] });
  await v.frame(0);
  const ending = k.stop();
  assert.equal((await within('the viewer to be closed', v.ended)).code, 1001);
  await ending;
  assert.ok(!existsSync(path), 'the socket file stayed');
  for (const word of [KEY, PROMPT]) assert.ok(!k.log.includes(word) && !k.out.includes(word), `the log tells "${word}"`);
  const n = await Daemon.start([], { listen: `127.0.0.1:${k.port}`, unixPath: path });
  problem(await call(n, 'GET', `/v1/sessions/${s1.id}`), { status: 404 });
  const s = await create(n, { prompt: OTHER });
  const w = await Viewer.open(n, s.id);
  await w.frame(0);
  w.sane();
  await n.stop();
});

await check('without TCP, behind the UNIX socket alone', async () => {
  const n = await Daemon.start([], { listen: 'none', unixPath: path });
  assert.equal((await call(n, 'GET', '/v1/models')).status, 200);
  problem(await call(n, 'GET', '/v1/models', { headers: { Host: 'evil.example' } }), { status: 421 });
  await n.stop();
});

finish();
