// schedule.mjs - prompts to come, against the real pocket model: SPARSECASTD=... node schedule.mjs
//
// Nothing here waits for a time: what counts are the numbers of chunks and prompts in events, frames and answers. A chunk that is to be missed by
// nobody is scheduled a few chunks ahead of the newest that was seen, or for a session that is paused.
import assert from 'node:assert/strict';
import { check, Daemon, finish, until } from './harness.mjs';
import { conforms, problem } from './schema.mjs';
import { call, firstOf, Viewer } from './wire.mjs';

const BALL = 'a red ball bouncing right over green hills at noon';
const BOAT = 'a white sailboat sailing right on the sea at night';
const BIRD = 'a blue bird over the city at dawn in the rain';
const CAR = 'a yellow car driving left in the desert at sunset';
const NOBODY = 'aaaaaaaaaaaaaaaaaaaaaaaaaa';

const d = await Daemon.start(['--max-sessions', '3']);
const PATH = '/v1/sessions/{id}/schedule';
const put = async (id, body, headers, who = d) => {
  const answer = await call(who, 'PUT', `/v1/sessions/${id}/schedule`, { body, headers });
  return Object.assign(answer, { said: conforms(answer, 'PUT', PATH) });
};
const taken = async (id, body) => {
  const answer = await put(id, body);
  assert.equal(answer.status, 200, answer.text);
  return answer.said;
};
const refused = async (id, body, expected, headers, who) => problem(await put(id, body, headers, who), expected);
const coming = async (id) => conforms(await call(d, 'GET', `/v1/sessions/${id}/schedule`), 'GET', PATH);
const create = async (body, headers, status = 201) => {
  const answer = await call(d, 'POST', '/v1/sessions', { body, headers });
  assert.equal(answer.status, status, answer.text);
  return conforms(answer, 'POST', '/v1/sessions');
};
const look = async (id) => conforms(await call(d, 'GET', `/v1/sessions/${id}`), 'GET', '/v1/sessions/{id}');
const change = async (id, body) => conforms(await call(d, 'PATCH', `/v1/sessions/${id}`, { body }), 'PATCH', '/v1/sessions/{id}');
const remove = async (id) => assert.equal((await call(d, 'DELETE', `/v1/sessions/${id}`)).status, 204);
const fork = (id, body) => call(d, 'POST', `/v1/sessions/${id}/fork`, { body });
const until409 = (answer) => Number(/with (\d+) to/.exec(problem(answer, { status: 409, pointer: '/at_chunk' }).detail)[1]);
/** Paused, and no pass of it left to run: the chunk that comes next. */
const standing = async (id) => {
  await change(id, { state: 'paused' });
  return until409(await fork(id, { at_chunk: Number.MAX_SAFE_INTEGER }));
};
const prompts = (viewer, seq) => viewer.events.filter((e) => e.type === 'prompt' && e.seq === seq).map((e) => [e.state, e.chunk, e.prompt]);
const shown = (viewer, seq) => viewer.event(`prompt ${seq} to be shown`, (e) => e.type === 'prompt' && e.seq === seq && e.state === 'shown');
const nothing = { loop: false, in_force: null, prompts: [] };

// ---- from the beginning ----

const tour = { prompts: [{ at_chunk: 4, prompt: BOAT }, { at_s: 4.5, prompt: BIRD, transition: 'cut' }, { at_chunk: 9, prompt: BALL }] };
let id;
let viewer;

await check('POST takes a schedule; GET says what comes and at which chunk', async () => {
  const s = await create({ prompt: BALL, seed: 5, schedule: tour, run_without_viewers: false });
  id = s.id;
  assert.deepEqual([s.prompt, s.prompt_seq], [BALL, 1]);
  const list = await coming(id);
  assert.deepEqual(list, { loop: false, in_force: null, prompts: [
    { entry: 0, at_chunk: 4, prompt: BOAT, transition: null, seq: null },
    { entry: 1, at_chunk: 6, prompt: BIRD, transition: 'cut', seq: null },
    { entry: 2, at_chunk: 9, prompt: BALL, transition: null, seq: null },
  ] });
  viewer = await Viewer.open(d, id);
});

await check('each is received before its chunk, applied to it and shown, and the session shows it', async () => {
  for (const [seq, chunk, prompt] of [[2, 4, BOAT], [3, 6, BIRD], [4, 9, BALL]]) {
    await shown(viewer, seq);
    assert.deepEqual(prompts(viewer, seq), ['received', 'applied', 'shown'].map((state) => [state, chunk, prompt]));
    const s = await look(id);
    if (s.prompt_seq === seq) assert.deepEqual([s.prompt, s.prompt_chunk], [prompt, chunk]);
  }
  await viewer.until('a frame of the last one', () => viewer.newest.seq === 4);
  for (const f of viewer.frames) assert.equal(f.seq, f.chunk < 4 ? 1 : f.chunk < 6 ? 2 : f.chunk < 9 ? 3 : 4, `frame ${f.frame} of chunk ${f.chunk}`);
  for (const f of viewer.frames.filter((g) => g.flags & 1)) assert.equal(Boolean(f.flags & 2), [0, 4, 6, 9].includes(f.chunk), `flags of chunk ${f.chunk}`);
  assert.deepEqual(await coming(id), { loop: false, in_force: { entry: 2, prompt: BALL, seq: 4 }, prompts: [] });
});

await check('a prompt is handed over while the chunk before its own is made, not earlier', async () => {
  const next = await standing(id);
  const list = await taken(id, { prompts: [{ at_chunk: next, prompt: BOAT }, { at_chunk: next + 1, prompt: BIRD }] });
  assert.deepEqual(list.prompts.map((e) => [e.at_chunk, e.seq]), [[next, 5], [next + 1, null]]);
  assert.equal(list.in_force, null);
  await viewer.event('the first', (e) => e.type === 'prompt' && e.seq === 5);
  assert.deepEqual(prompts(viewer, 5), [['received', next, BOAT]]);
  assert.deepEqual(prompts(viewer, 6), []);
  assert.equal((await look(id)).prompt_seq, 4);
});

await check('what a person says before that chunk replaces it, and the schedule goes on at its next entry', async () => {
  const next = await standing(id);
  assert.deepEqual(await change(id, { prompt: CAR }), { seq: 6, applies_at_chunk: next });
  assert.deepEqual((await coming(id)).prompts.map((e) => [e.entry, e.at_chunk, e.seq]), [[1, next + 1, null]]);
  await change(id, { state: 'running' });
  await shown(viewer, 7);
  assert.deepEqual(prompts(viewer, 5).map((e) => e[0]), ['received', 'superseded']);
  assert.deepEqual(prompts(viewer, 6), ['received', 'applied', 'shown'].map((state) => [state, next, CAR]));
  assert.deepEqual(prompts(viewer, 7), ['received', 'applied', 'shown'].map((state) => [state, next + 1, BIRD]));
});

await check('a pause stops it: it counts chunks', async () => {
  await standing(id);
  await taken(id, { text: `${BOAT}[1.5s] | ${CAR}` });
  const [first, then] = (await coming(id)).prompts;
  assert.deepEqual([first.seq, then.seq, then.at_chunk - first.at_chunk], [8, null, 2]);
  for (let i = 0; i < 3; i++) { // paused and made to go on again and again
    await change(id, { state: 'running' });
    const at = viewer.newest?.frame ?? 0;
    await viewer.until('a little more', () => viewer.newest.frame > at);
    await change(id, { state: 'paused' });
  }
  await change(id, { state: 'running' });
  await shown(viewer, 9);
  assert.deepEqual(prompts(viewer, 8).map((e) => e[1]), [first.at_chunk, first.at_chunk, first.at_chunk]);
  assert.deepEqual(prompts(viewer, 9).map((e) => e[1]), [then.at_chunk, then.at_chunk, then.at_chunk]);
});

await check('seconds are the stream\'s own, so a change of fps moves what is to come', async () => {
  const next = await standing(id);
  const start = await call(d, 'GET', `/v1/sessions/${id}/snapshot.jpg`);
  assert.equal(start.status, 200);
  const moment = (firstOf(next) / 16) + 6.01; // six seconds behind where the stream stands: 8 chunks of 0.75 s
  assert.equal((await taken(id, { prompts: [{ at_s: moment, prompt: BALL }] })).prompts[0].at_chunk, next + 8);
  await change(id, { fps: 8 });
  assert.equal((await coming(id)).prompts[0].at_chunk, next + 4);
  await change(id, { fps: 16 });
  assert.equal((await coming(id)).prompts[0].at_chunk, next + 8);
});

await check('an empty list clears it', async () => {
  assert.deepEqual(await taken(id, { prompts: [] }), nothing);
  assert.deepEqual(await coming(id), nothing);
});

// ---- loops ----

await check('a loop begins again behind its last prompt', async () => {
  const next = await standing(id);
  const before = (await look(id)).prompt_seq;
  await taken(id, { prompts: [{ at_chunk: next + 1, prompt: BOAT }, { at_chunk: next + 3, prompt: BIRD, for_chunks: 1 }], loop: true });
  await change(id, { state: 'running' });
  await shown(viewer, before + 4);
  for (const [i, chunk, prompt] of [[1, 1, BOAT], [2, 3, BIRD], [3, 4, BOAT], [4, 6, BIRD]]) {
    assert.deepEqual(prompts(viewer, before + i)[1], ['applied', next + chunk, prompt]);
  }
  const list = await coming(id);
  assert.equal(list.loop, true);
  assert.ok(list.in_force && list.prompts.length === 2, JSON.stringify(list));
});

await check('a text that loops, from the first chunk on', async () => {
  const s = await create({ prompt: CAR, seed: 1, schedule: { text: `${BOAT}[1.5s] | ${BIRD} [0.75s]`, loop: true } });
  assert.equal((await coming(s.id)).prompts.length, 2);
  const v = await Viewer.open(d, s.id);
  await shown(v, 5);
  for (const [seq, chunk, prompt] of [[3, 2, BIRD], [4, 3, BOAT], [5, 5, BIRD]]) { // 1.5, 2.25, 3.75 s
    assert.deepEqual(prompts(v, seq).find((e) => e[0] === 'applied'), ['applied', chunk, prompt]);
  }
  assert.ok(v.frames.every((f) => f.seq >= 2), 'frames of a prompt that the first entry replaced');
  await v.close();
  await remove(s.id);
});

// ---- forks, keys of calls, ends ----

await check('a fork inherits what is to come, also what was handed over, and both go on by themselves', async () => {
  const next = await standing(id);
  const list = await taken(id, { prompts: [{ at_chunk: next, prompt: CAR }, { at_chunk: next + 2, prompt: BALL, transition: 'recache' }] });
  const { seq } = list.prompts[0];
  const answer = await fork(id, {});
  assert.equal(answer.status, 201, answer.text);
  const f = answer.json();
  assert.deepEqual([f.prompt, f.prompt_seq, f.prompt_chunk], [CAR, seq, next]);
  assert.deepEqual(await coming(f.id), { loop: false, in_force: { entry: 0, prompt: CAR, seq }, prompts: [
    { entry: 1, at_chunk: next + 2, prompt: BALL, transition: 'recache', seq: null },
  ] });
  assert.deepEqual(await taken(id, { prompts: [] }), nothing);
  assert.equal((await coming(f.id)).prompts.length, 1);
  const v = await Viewer.open(d, f.id);
  await shown(v, seq + 1);
  assert.deepEqual(prompts(v, seq + 1)[1], ['applied', next + 2, BALL]);
  await v.close();
  await remove(f.id);
  await change(id, { state: 'running' });
  await shown(viewer, seq);
  assert.deepEqual(prompts(viewer, seq + 1), [], 'a prompt of a schedule that was cleared');
});

await check('Idempotency-Key: the schedule belongs to the request', async () => {
  const headers = { 'Idempotency-Key': 'with-a-schedule' };
  const body = { prompt: BALL, seed: 1, schedule: tour };
  const s = await create(body, headers);
  assert.equal((await create(body, headers)).id, s.id);
  await create({ ...body, schedule: { prompts: tour.prompts.slice(1) } }, headers, 422);
  await create({ prompt: BALL, seed: 1 }, headers, 422);
  await remove(s.id);
  assert.equal((await call(d, 'GET', `/v1/sessions/${s.id}/schedule`)).status, 404);
});

// ---- what is wrong ----

await check('an entry whose chunk has begun is named, with the earliest there is; the schedule stays as it was', async () => {
  const next = await standing(id);
  const kept = await taken(id, { prompts: [{ at_chunk: next + 50, prompt: CAR }] });
  const earliest = new RegExp(`The earliest is chunk ${next},`);
  await refused(id, { prompts: [{ at_chunk: next - 1, prompt: BALL }] }, { status: 409, pointer: '/prompts/0/at_chunk', detail: earliest });
  const p = await refused(id, { prompts: [{ at_chunk: 0, prompt: BALL }, { at_s: 0, prompt: BALL }, { at_chunk: next + 3, prompt: BALL }] }, { status: 409, pointer: '/prompts/1/at_s', detail: earliest });
  assert.deepEqual(p.errors.map((e) => e.pointer), ['/prompts/0/at_chunk', '/prompts/1/at_s']);
  await refused(id, { prompts: [{ at_chunk: next + 3, prompt: BALL }, { at_chunk: next + 3, prompt: CAR }] }, { status: 422, pointer: '/prompts/1/at_chunk', detail: /must rise/ });
  await refused(id, { text: `${BALL}[0.1s] | ${CAR}` }, { status: 422, pointer: '/text', detail: /a chunk takes 0.75/ });
  await refused(id, { text: `${BALL}[5s] | ${CAR}`, loop: true }, { status: 422, pointer: '/text', detail: /prompt 1 needs a length/ });
  await refused(id, '{"prompts":', { status: 400, detail: /column/ });
  await refused(id, { prompts: [] }, { status: 415 }, { 'Content-Type': 'text/plain' });
  await refused(NOBODY, { prompts: [] }, { status: 404 });
  problem(await call(d, 'GET', `/v1/sessions/${NOBODY}/schedule`), { status: 404 });
  problem(await call(d, 'POST', `/v1/sessions/${id}/schedule`, { body: { prompts: [] } }), { status: 405 });
  problem(await call(d, 'POST', '/v1/sessions', { body: { prompt: BALL, schedule: { prompts: [{ at_s: -1, prompt: BALL }] } } }), { status: 422, pointer: '/schedule/prompts/0/at_s' });
  problem(await call(d, 'POST', '/v1/sessions', { body: { prompt: BALL, schedule: { prompts: [{ at_chunk: 2, prompt: BALL }, { at_chunk: 1, prompt: BALL }] } } }), { status: 422, pointer: '/schedule/prompts/1/at_chunk' });
  problem(await call(d, 'POST', '/v1/sessions', { body: { prompt: BALL, schedule: { text: 'a | b' } } }), { status: 422, pointer: '/schedule/text' });
  assert.deepEqual(await coming(id), kept);
});

await check('sixty-four prompts, one a chunk', async () => {
  const next = await standing(id);
  const list = await taken(id, { prompts: Array.from({ length: 64 }, (_, i) => ({ at_chunk: next + 1 + i, prompt: `${i} birds` })) });
  assert.equal(list.prompts.length, 64);
  const before = (await look(id)).prompt_seq;
  await change(id, { state: 'running' });
  await viewer.event('four of them', (e) => e.type === 'prompt' && e.state === 'applied' && e.prompt === '3 birds');
  const applied = viewer.events.filter((e) => e.type === 'prompt' && e.state === 'applied' && / birds$/.test(e.prompt)).slice(0, 4);
  assert.deepEqual(applied.map((e) => [e.chunk, e.prompt]), [0, 1, 2, 3].map((i) => [next + 1 + i, `${i} birds`]));
  assert.ok(applied[0].seq > before);
});

await check('SIGTERM in the middle of it, and all is in order', async () => {
  viewer.sane();
  d.terminate();
  await until('the viewer to be closed', () => viewer.gone);
  assert.equal(viewer.gone.code, 1001);
  await d.stop();
});

await check('with keys it needs one', async () => {
  const k = await Daemon.start(['--max-sessions', '2'], { key: 'key-for-the-tests-0123456789' });
  const made = await call(k, 'POST', '/v1/sessions', { body: { prompt: BALL } });
  assert.equal(made.status, 201);
  const open = { ...k, host: k.host, target: k.target, key: null };
  await refused(made.json().id, { prompts: [] }, { status: 401, detail: /key/ }, {}, open);
  assert.equal((await call(open, 'GET', `/v1/sessions/${made.json().id}/schedule`)).status, 401);
  assert.equal((await put(made.json().id, { prompts: [] }, {}, k)).status, 200);
  await k.stop();
});

finish();
