// fork.mjs - forks of sessions, against the real pocket model: SPARSECASTD=... node fork.mjs
//
// Chunks are deterministic on one machine, so a fork with its source's seed and prompts must send the very JPEGs that its source sends. Nothing here
// waits for a time: a fork that waits is seen in /metrics, a chunk in a stream.
import assert from 'node:assert/strict';
import { check, Daemon, finish, LIMIT, until, within } from './harness.mjs';
import { conforms, problem } from './schema.mjs';
import { call, firstOf, Viewer } from './wire.mjs';

const PROMPT = 'a red ball bouncing right over green hills at noon';
const OTHER = 'a white sailboat sailing right on the sea at night';
const NOBODY = 'aaaaaaaaaaaaaaaaaaaaaaaaaa';
const AHEAD = 16;
const PATIENCE = 10 * LIMIT; // six chunks of a sanitized build

const d = await Daemon.start(['--max-sessions', '3']);
const send = (id, body, headers, who = d) => call(who, 'POST', `/v1/sessions/${id}/fork`, { body, headers, limit: PATIENCE });
const made = (answer, path = '/v1/sessions/{id}/fork') => {
  assert.equal(answer.status, 201, answer.text);
  const session = conforms(answer, 'POST', path);
  assert.equal(answer.headers.location, `/v1/sessions/${session.id}`);
  return session;
};
const refused = (answer, expected) => {
  conforms(answer, 'POST', '/v1/sessions/{id}/fork');
  return problem(answer, expected);
};
const fork = async (id, body, headers) => made(await send(id, body, headers));
const create = async (body) => made(await call(d, 'POST', '/v1/sessions', { body }), '/v1/sessions');
const look = async (id) => conforms(await call(d, 'GET', `/v1/sessions/${id}`), 'GET', '/v1/sessions/{id}');
const change = async (id, body) => conforms(await call(d, 'PATCH', `/v1/sessions/${id}`, { body }), 'PATCH', '/v1/sessions/{id}');
const remove = async (id) => assert.equal((await call(d, 'DELETE', `/v1/sessions/${id}`)).status, 204);
const metric = async (name) => Number(new RegExp(`^sparsecast_${name} (\\S+)$`, 'm').exec((await call(d, 'GET', '/metrics')).text)?.[1]);
const waiting = (count) => until(`${count} forks that wait`, async () => (await metric('forks_waiting')) === count);
const snapshot = (id) => until('a snapshot', async () => {
  const answer = await call(d, 'GET', `/v1/sessions/${id}/snapshot.jpg`);
  return answer.status === 200 && answer;
});
/** Paused, and no pass of it left to run: the chunk that a fork begins with. */
const standing = async (id) => {
  await change(id, { state: 'paused' });
  const refusal = refused(await send(id, { at_chunk: Number.MAX_SAFE_INTEGER }), { status: 409, pointer: '/at_chunk' });
  return Number(/with (\d+) to/.exec(refusal.detail)[1]);
};

// ---- a source that runs ----

const settings = { seed: '18446744073709551615', fps: 15, jpeg_quality: 77, lookahead_chunks: 2, idle_timeout_s: 1234, transition: 'recache', run_without_viewers: false };
const source = await create({ prompt: PROMPT, ...settings });
const watching = await Viewer.open(d, source.id, { fps: 15 });
let one;
let alike;

await check('a fork of a running session, without a body: 201, Location, all as its source has it, chunks numbered on', async () => {
  await watching.frame(firstOf(1));
  one = await fork(source.id);
  const { id, model, prompt, prompt_seq: seq, prompt_chunk: since, width, height, viewers, chunk, forked_from: from, memory_bytes: memory, stream, ...rest } = one;
  assert.notEqual(id, source.id);
  assert.deepEqual([model, prompt, seq, since, width, height, viewers, memory], ['pocket', PROMPT, 1, 0, 256, 160, 0, source.memory_bytes]);
  assert.deepEqual(Object.fromEntries(Object.keys(settings).map((k) => [k, rest[k]])), settings);
  assert.equal(from.id, source.id);
  assert.ok(from.chunk >= 2, `begins with chunk ${from.chunk}`);
  assert.equal(chunk, from.chunk - 1);
  assert.equal(stream, `/v1/sessions/${id}/stream`);
  assert.ok(!('forked_from' in (await look(source.id))));
  assert.deepEqual((await look(id)).forked_from, from);
  assert.deepEqual([await metric('forks_total'), await metric('sessions')], [1, 2]);
});

await check('before its own first frame it shows the last picture that both have', async () => {
  const last = firstOf(one.forked_from.chunk) - 1;
  const picture = await snapshot(one.id);
  assert.equal(Number(picture.headers['x-frame']), last);
  assert.ok((await watching.until('that picture', () => watching.frames.find((f) => f.frame === last))).jpeg.equals(picture.body), 'another picture');
  assert.equal((await look(one.id)).frame, last);
  await until('its pause', async () => (await look(one.id)).reason === 'no viewers');
});

await check('with the same seed and prompts both send the same pictures, and the source leaves none out', async () => {
  const last = firstOf(one.forked_from.chunk) - 1;
  alike = await Viewer.open(d, one.id, { fps: 15 });
  assert.equal((await alike.event('hello', (e) => e.type === 'hello')).newest_frame, last);
  const first = await alike.frame(0);
  assert.deepEqual([first.frame, first.flags], [last, 4]);
  const next = await alike.frame(last + 1);
  assert.deepEqual([next.chunk, next.seq], [one.forked_from.chunk, 1]);
  assert.equal((await alike.event('its first chunk', (e) => e.type === 'chunk')).chunk, one.forked_from.chunk);
  assert.equal(alike.events.find((e) => e.type === 'chunk').lateness_ms, 0, 'the clock begins with it');
  const target = firstOf(one.forked_from.chunk + 1) + 2;
  await Promise.all([alike.frame(target), watching.frame(target)]);
  const theirs = new Map(watching.frames.map((f) => [f.frame, f]));
  const common = alike.frames.filter((f) => theirs.has(f.frame));
  assert.ok(common.length >= 10, `${common.length} common frames`);
  for (const f of common) assert.ok(f.jpeg.equals(theirs.get(f.frame).jpeg) && f.pts === theirs.get(f.frame).pts && f.seq === 1, `frame ${f.frame} differs`);
  watching.sane();
});

// ---- a source that stands ----

let two;

await check('a fork of a paused session, with a prompt and a seed of its own, runs', async () => {
  await alike.close();
  const next = await standing(source.id);
  two = await fork(source.id, { prompt: OTHER, seed: 5 });
  assert.deepEqual(two.forked_from, { id: source.id, chunk: next });
  assert.deepEqual([two.prompt, two.prompt_seq, two.prompt_chunk, two.seed, two.chunk], [OTHER, 2, next, '5', next - 1]);
  const s = await look(source.id);
  assert.deepEqual([s.prompt, s.prompt_seq, s.state, s.reason], [PROMPT, 1, 'paused', 'asked to']);
  const viewer = await Viewer.open(d, two.id, { fps: 15 });
  const first = await viewer.frame(firstOf(next));
  assert.deepEqual([first.chunk, first.seq], [next, 2]);
  if (first.frame === firstOf(next)) assert.equal(first.flags, 3, 'the first frame of its prompt');
  assert.equal((await look(two.id)).state, 'running');
  assert.equal((await look(source.id)).state, 'paused');
  await viewer.close();
});

await check('a full house is said with Retry-After', async () => {
  const p = refused(await send(source.id, {}), { status: 503 });
  assert.match(p.detail, /All 3 places are taken/);
  assert.equal(await metric('forks_total'), 2);
  await remove(two.id);
});

await check('what is wrong is named, and which chunks there are', async () => {
  const next = await standing(source.id);
  const here = `/v1/sessions/${source.id}/fork`;
  for (const [id, body, expected] of [
    [NOBODY, {}, { status: 404 }],
    ['short', {}, { status: 404 }],
    [source.id, { at_chunk: 0 }, { status: 409, pointer: '/at_chunk', detail: new RegExp(`Chunk 0 has begun.* earliest .* ${next}\\.`) }],
    [source.id, { at_chunk: next - 1 }, { status: 409, pointer: '/at_chunk', detail: new RegExp(`Chunk ${next - 1} has begun.* ${next}\\.`) }],
    [source.id, { at_chunk: next + AHEAD + 1 }, { status: 409, pointer: '/at_chunk', detail: new RegExp(`too far ahead.* ${next} to ${next + AHEAD}\\.`) }],
    [source.id, { at_chunk: next + 1 }, { status: 409, pointer: '/at_chunk', detail: /does not come while the session is paused/ }],
    [source.id, { at_chunk: -1 }, { status: 422, pointer: '/at_chunk', detail: /found -1/ }],
    [source.id, { at_chunk: 0.5 }, { status: 422, pointer: '/at_chunk', detail: /found 0.5/ }],
    [source.id, '{"at_chunk":9007199254740992}', { status: 422, pointer: '/at_chunk' }],
    [source.id, { at_chunk: null }, { status: 422, pointer: '/at_chunk', detail: /found null/ }],
    [source.id, { at_chunk: '7' }, { status: 422, pointer: '/at_chunk', detail: /whole number/ }],
    [source.id, { prompt: '' }, { status: 422, pointer: '/prompt', detail: /found an empty one/ }],
    [source.id, { prompt: 'x'.repeat(4097) }, { status: 422, pointer: '/prompt', detail: /4096 bytes/ }],
    [source.id, { prompt: '\u0007' }, { status: 422, pointer: '/prompt', detail: /0x07/ }],
    [source.id, { seed: -1 }, { status: 422, pointer: '/seed' }],
    [source.id, { seed: '18446744073709551616' }, { status: 422, pointer: '/seed' }],
    [source.id, { fps: 16 }, { status: 422, pointer: '/fps', detail: /unknown field "fps"; known are at_chunk, prompt, seed/ }],
    [source.id, '{"at_chunk":', { status: 400, detail: /column 13/ }],
    [source.id, '[]', { status: 400, detail: /object, found an array/ }],
    [source.id, `{"prompt":"${'x'.repeat(70000)}"}`, { status: 413 }],
  ]) {
    refused(await send(id, body), expected);
  }
  refused(await call(d, 'POST', here, { body: '{}', headers: { 'Content-Type': 'text/plain' } }), { status: 415 });
  refused(await call(d, 'POST', `${here}?at_chunk=3`), { status: 400, detail: /at_chunk/ });
  refused(await send(source.id, {}, { 'Idempotency-Key': 'white space' }), { status: 400, detail: /Idempotency-Key/ });
  problem(await call(d, 'GET', here), { status: 405 });
  assert.equal(await metric('sessions'), 2);
});

await check('a prompt that waits is the fork\'s from the beginning; at_chunk may name the chunk that comes next', async () => {
  const next = await standing(source.id);
  const receipt = await change(source.id, { prompt: OTHER });
  assert.deepEqual(receipt, { seq: 2, applies_at_chunk: next });
  const s = await fork(source.id, { at_chunk: next });
  assert.deepEqual([s.prompt, s.prompt_seq, s.prompt_chunk, s.transition, s.forked_from.chunk], [OTHER, 2, next, 'recache', next]);
  assert.equal((await look(source.id)).prompt_seq, 1);
  assert.equal((await change(s.id, { prompt: PROMPT })).seq, 3);
  await remove(s.id);
});

await check('a fork of a fork that has made nothing yet', async () => {
  const last = await snapshot(one.id);
  const next = await standing(one.id);
  const s = await fork(one.id);
  assert.deepEqual(s.forked_from, { id: one.id, chunk: next });
  await remove(one.id);
  const t = await fork(s.id, { seed: 1 });
  assert.deepEqual(t.forked_from, { id: s.id, chunk: next });
  assert.equal(Number((await snapshot(t.id)).headers['x-frame']), firstOf(next) - 1);
  assert.ok(Number(last.headers['x-frame']) <= firstOf(next) - 1);
  await remove(s.id);
  await remove(t.id);
});

await check('a fork of a session that has only just begun', async () => {
  const s = await create({ prompt: PROMPT, seed: 3 });
  await change(s.id, { state: 'paused' });
  const next = await standing(s.id);
  const t = await fork(s.id);
  assert.equal(t.forked_from.chunk, next);
  await snapshot(t.id);
  await remove(s.id);
  await remove(t.id);
});

// ---- forks that wait ----

await check('a later chunk is waited for', async () => {
  await change(source.id, { state: 'running' });
  await watching.frame();
  const at = watching.newest.chunk + 6;
  const answer = send(source.id, { at_chunk: at });
  await waiting(1);
  const s = made(await answer);
  assert.deepEqual([s.forked_from, s.chunk], [{ id: source.id, chunk: at }, at - 1]);
  assert.equal(await metric('forks_waiting'), 0);
  await remove(s.id);
});

await check('Idempotency-Key: one fork for one key, whether it waits or is made', async () => {
  const headers = { 'Idempotency-Key': 'fork-1' };
  const body = { at_chunk: watching.newest.chunk + 6, prompt: OTHER };
  const both = [send(source.id, body, headers), send(source.id, body, headers)];
  await waiting(2);
  const [x, y] = (await Promise.all(both)).map((answer) => made(answer));
  assert.equal(x.id, y.id);
  assert.equal((await fork(source.id, body, headers)).id, x.id);
  refused(await send(source.id, { ...body, seed: 1 }, headers), { status: 422, detail: /Idempotency-Key/ });
  refused(await send(x.id, body, headers), { status: 422, detail: /Idempotency-Key/ });
  problem(await call(d, 'POST', '/v1/sessions', { body: { prompt: OTHER }, headers }), { status: 422, detail: /Idempotency-Key/ });
  await remove(x.id);
});

await check('a source that is paused ends the wait', async () => {
  await watching.frame();
  const answer = send(source.id, { at_chunk: watching.newest.chunk + AHEAD });
  await waiting(1);
  await change(source.id, { state: 'paused' });
  refused(await answer, { status: 409, pointer: '/at_chunk', detail: /paused/ });
  await change(source.id, { state: 'running' });
});

await check('so does its end', async () => {
  const s = await create({ prompt: PROMPT, run_without_viewers: true });
  await snapshot(s.id);
  const answer = send(s.id, { at_chunk: (await look(s.id)).chunk + AHEAD });
  await waiting(1);
  await remove(s.id);
  refused(await answer, { status: 409, detail: /ended before chunk \d+ began/ });
  assert.deepEqual([await metric('forks_waiting'), await metric('sessions')], [0, 1]);
});

await check('who asks and goes away leaves a fork that ends like any other session', async () => {
  await watching.frame();
  const before = await metric('forks_total');
  const gone = new AbortController();
  const answer = send(source.id, { at_chunk: watching.newest.chunk + 6 }).catch(() => null);
  const left = call(d, 'POST', `/v1/sessions/${source.id}/fork`, { body: { at_chunk: watching.newest.chunk + 6 }, signal: gone.signal }).catch(() => null);
  await waiting(2);
  gone.abort();
  await left;
  made(await answer);
  await until('both forks', async () => (await metric('forks_total')) === before + 2, PATIENCE);
  const list = (await call(d, 'GET', '/v1/sessions')).json().data.filter((s) => s.forked_from);
  assert.equal(list.length, 2);
  for (const s of list) await remove(s.id);
});

await check('SIGTERM ends a fork that waits, and all is in order', async () => {
  await watching.frame();
  const answer = send(source.id, { at_chunk: watching.newest.chunk + AHEAD }).catch(() => null);
  await waiting(1);
  d.terminate();
  const got = await within('an answer or the end of the connection', answer);
  if (got) refused(got, { status: 503 });
  assert.equal((await within('the viewer to be closed', watching.ended)).code, 1001);
  watching.sane();
  await d.stop();
});

// ---- keys ----

await check('with keys a fork needs one', async () => {
  const k = await Daemon.start(['--max-sessions', '2'], { key: 'key-for-the-tests-0123456789' });
  const s = made(await call(k, 'POST', '/v1/sessions', { body: { prompt: PROMPT } }), '/v1/sessions');
  const open = { ...k, host: k.host, target: k.target, key: null };
  refused(await send(s.id, {}, {}, open), { status: 401, detail: /key/ });
  refused(await send(s.id, {}, { Authorization: 'Bearer wrong-key-0123456789' }, open), { status: 401, detail: /key/ });
  made(await send(s.id, {}, {}, k));
  await k.stop();
});

finish();
