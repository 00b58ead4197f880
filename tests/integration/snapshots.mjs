// snapshots.mjs - sessions to the state directory and back, and over the end of a daemon, against the real pocket model: SPARSECASTD=... node snapshots.mjs
//
// Chunks are deterministic on one machine, so a session that is restored must make the chunks that the saved one went on to make: the hashes of their logs say
// so. Nothing here waits for a time: numbers of chunks count.
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { mkdtempSync, readdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { logLines } from './events.mjs';
import { BINARY, check, Daemon, finish, LIMIT, ROOT, runToEnd, until, within } from './harness.mjs';
import { conforms, problem } from './schema.mjs';
import { call, firstOf } from './wire.mjs';

const BALL = 'a red ball bouncing right over green hills at noon';
const BOAT = 'a white sailboat sailing right on the sea at night';
const NOBODY = 'aaaaaaaaaaaaaaaaaaaaaaaaaa';
const PATIENCE = 10 * LIMIT; // a dozen chunks of a sanitized build

const state = mkdtempSync(join(tmpdir(), 'sparsecast-snapshots-'));
const folder = join(state, 'snapshots');
let d = await Daemon.start(['--max-sessions', '2'], { state });

const save = (id, body) => call(d, 'POST', `/v1/sessions/${id}/save`, { body, limit: PATIENCE });
const restore = (body) => call(d, 'POST', '/v1/sessions/restore', { body, limit: PATIENCE });
const saved = async (id, name) => {
  const answer = await save(id, { name });
  assert.equal(answer.status, 201, answer.text);
  return conforms(answer, 'POST', '/v1/sessions/{id}/save');
};
const restored = async (name) => {
  const answer = await restore({ name });
  assert.equal(answer.status, 201, answer.text);
  const session = conforms(answer, 'POST', '/v1/sessions/restore');
  assert.equal(answer.headers.location, `/v1/sessions/${session.id}`);
  return session;
};
const refused = (answer, path, expected) => {
  conforms(answer, 'POST', path);
  return problem(answer, expected);
};
const create = async (body) => {
  const answer = await call(d, 'POST', '/v1/sessions', { body });
  assert.equal(answer.status, 201, answer.text);
  return answer.json().id;
};
const look = async (id) => conforms(await call(d, 'GET', `/v1/sessions/${id}`), 'GET', '/v1/sessions/{id}');
const remove = async (id) => assert.equal((await call(d, 'DELETE', `/v1/sessions/${id}`)).status, 204);
const lines = async (id) => logLines((await call(d, 'GET', `/v1/sessions/${id}/log`)).text);
/** The map of what a session keeps for good; each head of each layer keeps as many blocks as any other. */
const memory = async (id) => {
  const m = conforms(await call(d, 'GET', `/v1/sessions/${id}/memory`, { limit: PATIENCE }), 'GET', '/v1/sessions/{id}/memory');
  const sum = (map) => map.flat().reduce((a, b) => a + b, 0);
  assert.equal(m.by_layer.length, m.layers);
  for (const layer of m.by_layer) assert.equal(sum(layer), m.heads * m.persistent);
  for (const map of [m.map, m.oldest_chunk, ...m.by_layer]) assert.deepEqual(map.map((row) => row.length), Array(m.rows).fill(m.columns));
  m.map.forEach((row, r) => row.forEach((n, c) => {
    assert.equal(n, m.by_layer.reduce((a, layer) => a + layer[r][c], 0));
    assert.equal(n > 0, m.oldest_chunk[r][c] !== null);
  }));
  return m;
};
const reaches = (id, chunk) => until(`chunk ${chunk}`, async () => ((await look(id)).chunk ?? -1) >= chunk, PATIENCE);
const picture = (id) => until('a picture', async () => {
  const answer = await call(d, 'GET', `/v1/sessions/${id}/snapshot.jpg`);
  return answer.status === 200 && answer;
});
/** What made the frames, without who it is: each chunk's hash, each prompt. */
const story = (all, until) => all.filter((l) => (l.type === 'chunk' || l.type === 'prompt') && l.chunk <= until).map(({ event, ...rest }) => rest);
const replays = async (text) => {
  const child = spawn(join(dirname(BINARY), '../cli/sparsecast'), ['replay', '-'], { cwd: ROOT, stdio: ['pipe', 'ignore', 'ignore'] });
  child.stdin.on('error', () => {});
  child.stdin.end(text);
  assert.equal(await within('replay', new Promise((done) => child.on('close', done)), PATIENCE), 0);
};

const LAST = 5;
const settings = { seed: '18446744073709551615', fps: 60, jpeg_quality: 77, lookahead_chunks: 2, idle_timeout_s: 1234, transition: 'blend', run_without_viewers: true };
const schedule = { prompts: [{ at_chunk: 1, prompt: BOAT }, { at_chunk: 4, prompt: 'the same, snowing', transition: 'cut' }] };
let id;
let first;
let want;

await check('a session in a blend is saved as it runs: 201, a file, and it goes on; a name may be used again', async () => {
  id = await create({ prompt: BALL, ...settings, schedule });
  await reaches(id, 1);
  first = await saved(id, 'dawn');
  assert.deepEqual([first.name, first.session], ['dawn', id]);
  assert.ok(first.chunk >= 2);
  assert.deepEqual(readdirSync(folder), ['dawn.snapshot']);
  assert.equal(readFileSync(join(folder, 'dawn.snapshot')).length, first.bytes);
  await saved(id, 'other');
  await saved(id, 'other');
  assert.deepEqual(readdirSync(folder).sort(), ['dawn.snapshot', 'other.snapshot']);
  await reaches(id, LAST);
  want = story(await lines(id), LAST);
});

async function goesOn(name) {
  const session = await restored(name);
  const { id: other, chunk, forked_from: from, prompt, ...rest } = session;
  assert.notEqual(other, id);
  assert.deepEqual(from, { id, chunk: first.chunk });
  assert.equal(chunk, first.chunk - 1);
  assert.deepEqual(Object.fromEntries(Object.keys(settings).map((k) => [k, rest[k]])), settings);
  await reaches(other, LAST);
  const log = await lines(other);
  assert.deepEqual(story(log, LAST), want);
  log.forEach((l, i) => assert.equal(l.event, i + 1));
  const forks = log.filter((l) => l.type === 'fork');
  assert.deepEqual(forks.map((l) => [l.session, l.from, l.chunk, l.seed]), [[other, id, first.chunk, settings.seed]]);
  return other;
}

await check('restored beside it, it makes the chunks that the saved one made, prompts of the schedule among them', async () => {
  const other = await goesOn('dawn');
  await replays((await call(d, 'GET', `/v1/sessions/${other}/log`)).text);
  await remove(other);
});

await check('another daemon on the same directory goes on, after a kill', async () => {
  d.child.kill('SIGKILL');
  await d.ended;
  d = await Daemon.start(['--max-sessions', '2'], { state });
  await remove(await goesOn('dawn'));
  assert.match((await call(d, 'GET', '/metrics')).text, /^sparsecast_sessions_restored_total 1$/m);
});

await check('a paused session is saved where it stands, and shows its last picture when it is restored', async () => {
  const one = await create({ prompt: BALL, seed: 5 });
  await picture(one);
  const at = await saved(one, 'still');
  assert.equal(at.chunk, 1);
  const other = (await restored('still')).id;
  const shown = await picture(other);
  assert.equal(Number(shown.headers['x-frame']), firstOf(1) - 1);
  const kept = await memory(one);
  assert.deepEqual([kept.persistent, kept.chunk], [0, 1]); // the window is not full
  assert.deepEqual(await memory(other), kept);
  assert.deepEqual((await lines(other)).slice(0, 2), (await lines(one)).slice(0, 2));
  problem(await restore({ name: 'still' }), { status: 503 }); // two places, both taken
  await remove(one);
  await remove(other);
});

await check('what a session keeps for good, tile by tile', async () => {
  const one = await create({ prompt: BALL, seed: 5, run_without_viewers: true });
  await reaches(one, 5);
  assert.equal((await call(d, 'PATCH', `/v1/sessions/${one}`, { body: { state: 'paused' } })).status, 202);
  const m = await memory(one);
  assert.ok(m.persistent > 0 && m.persistent <= m.capacity);
  assert.deepEqual([m.columns * m.tile_width, m.rows * m.tile_height], [256, 160]);
  for (const chunk of m.oldest_chunk.flat()) assert.ok(chunk < m.chunk);
  await remove(one);
  problem(await call(d, 'GET', `/v1/sessions/${one}/memory`), { status: 404 });
});

await check('what cannot be: no such session, no such name, names that are paths, bodies', async () => {
  const path = '/v1/sessions/{id}/save';
  refused(await save(NOBODY, { name: 'a' }), path, { status: 404 });
  refused(await restore({ name: 'nothing' }), '/v1/sessions/restore', { status: 404 });
  for (const name of ['', '.', '..', '../dawn', 'a/b', 'dawn.snapshot', 'n\u00e4chts', 'a'.repeat(65), 7, null]) {
    refused(await save(NOBODY, { name }), path, { status: 422, pointer: '/name' });
    refused(await restore({ name }), '/v1/sessions/restore', { status: 422, pointer: '/name' });
  }
  refused(await save(NOBODY, {}), path, { status: 422, pointer: '/name' });
  refused(await restore({ name: 'dawn', seed: 1 }), '/v1/sessions/restore', { status: 422, pointer: '/seed' });
});

await check('files that are damaged, none, or of another memory: 409, and they stay', async () => {
  const whole = readFileSync(join(folder, 'dawn.snapshot'));
  const bad = Buffer.from(whole);
  bad[bad.length >> 1] ^= 1;
  writeFileSync(join(folder, 'bad.snapshot'), bad);
  writeFileSync(join(folder, 'short.snapshot'), whole.subarray(0, whole.length - 1));
  writeFileSync(join(folder, 'empty.snapshot'), '');
  symlinkSync('dawn.snapshot', join(folder, 'link.snapshot'));
  for (const name of ['bad', 'short', 'empty', 'link']) refused(await restore({ name }), '/v1/sessions/restore', { status: 409 });
  assert.equal(readdirSync(folder).length, 7);
  await d.stop();
  d = await Daemon.start(['--memory', 'window'], { state });
  assert.match(refused(await restore({ name: 'dawn' }), '/v1/sessions/restore', { status: 409 }).detail, /kind of memory/);
  const one = await create({ prompt: BALL, seed: 5, run_without_viewers: true, fps: 60 });
  await reaches(one, 2);
  const at = await saved(one, 'window');
  await reaches(one, at.chunk + 1);
  const other = (await restored('window')).id;
  await reaches(other, at.chunk + 1);
  assert.deepEqual(story(await lines(other), at.chunk + 1), story(await lines(one), at.chunk + 1));
  await d.stop();
});

await check('without a state directory: 501; one that cannot be made: exit 78', async () => {
  d = await Daemon.start();
  const one = await create({ prompt: BALL });
  refused(await save(one, { name: 'a' }), '/v1/sessions/{id}/save', { status: 501 });
  refused(await restore({ name: 'a' }), '/v1/sessions/restore', { status: 501 });
  await d.stop();
  const ended = await runToEnd(['--listen', '127.0.0.1:0', '--model', 'models/pocket', '--state-dir', '/dev/null/x']);
  assert.equal(ended.code, 78);
  assert.match(ended.err, /state-dir: \/dev\/null\/x/);
});

// ---- the end of a daemon ----

const home = mkdtempSync(join(tmpdir(), 'sparsecast-sessions-'));
const kept = () => readdirSync(join(home, 'sessions')).sort();
const start = (...args) => Daemon.start(args, { state: home });
let live;
let still;

await check('SIGTERM saves all sessions, and a daemon that starts has them again: ids, settings, logs, a pause', async () => {
  d = await start('--max-sessions', '3');
  live = await create({ prompt: BALL, ...settings, schedule });
  still = await create({ prompt: BALL, seed: 5, run_without_viewers: true });
  await reaches(live, 2);
  await reaches(still, 0);
  await call(d, 'PATCH', `/v1/sessions/${still}`, { body: { state: 'paused' } });
  const before = await look(live);
  await d.stop();
  assert.deepEqual(kept(), [live, still].sort().map((one) => `${one}.snapshot`));
  d = await start('--max-sessions', '3');
  const { created, forked_from: from, chunk, ...rest } = await look(live);
  assert.deepEqual([created, from], [before.created, undefined]);
  assert.ok(chunk >= before.chunk);
  assert.deepEqual(Object.fromEntries(Object.keys(settings).map((k) => [k, rest[k]])), settings);
  const paused = await look(still);
  assert.equal(paused.state, 'paused');
  assert.equal(Number((await picture(still)).headers['x-frame']), firstOf(paused.chunk + 1) - 1);
  await reaches(live, LAST);
  const log = await lines(live);
  log.forEach((l, i) => assert.equal(l.event, i + 1));
  assert.deepEqual(log.filter((l) => l.type === 'fork' || l.type === 'end'), []);
  assert.deepEqual(story(log, LAST), want);
});

await check('one that ends by itself does not come back; after a kill the others do as they were last saved', async () => {
  const at = (await look(still)).chunk;
  await remove(live);
  assert.deepEqual(kept(), [`${still}.snapshot`]);
  d.child.kill('SIGKILL');
  await d.ended;
  d = await start('--max-sessions', '3');
  assert.deepEqual((await call(d, 'GET', '/v1/sessions')).json().data.map((one) => [one.id, one.chunk]), [[still, at]]);
});

await check('what does not load is reported and stays, and the daemon starts', async () => {
  const other = await create({ prompt: BOAT });
  await picture(other);
  await d.stop();
  const file = join(home, 'sessions', `${other}.snapshot`);
  const bytes = readFileSync(file);
  bytes[bytes.length - 1] ^= 1;
  writeFileSync(file, bytes);
  writeFileSync(join(home, 'sessions', `${NOBODY}.snapshot`), 'none');
  d = await start('--max-sessions', '3');
  assert.deepEqual((await call(d, 'GET', '/v1/sessions')).json().data.map((one) => one.id), [still]);
  assert.match(d.log, new RegExp(`session ${other} does not come back, its file stays: .*damaged`));
  assert.match(d.log, new RegExp(`session ${NOBODY} does not come back`));
  assert.equal(kept().length, 3);
  await d.stop();
});

rmSync(home, { recursive: true, force: true });
rmSync(state, { recursive: true, force: true });
finish();
