// videos.mjs - whole clips as jobs, against the real pocket model: SPARSECASTD=... node videos.mjs
//
// A clip must hold the JPEGs that a viewer of a session with the same seed gets. Nothing here waits for a time: what counts is what the daemon says of its jobs.
import assert from 'node:assert/strict';
import { mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { check, Daemon, finish, LIMIT, until } from './harness.mjs';
import { conforms, problem } from './schema.mjs';
import { call, exchange, jpegSize, Viewer } from './wire.mjs';

const BALL = 'a red ball bouncing right over green hills at noon';
const BOAT = 'a white sailboat sailing right on the sea at night';
const NOBODY = 'video_aaaaaaaaaaaaaaaaaaaaaaaaaa';
const PATIENCE = 10 * LIMIT; // a clip of a sanitized build
const FPS = 16;

const state = mkdtempSync(join(tmpdir(), 'sparsecast-videos-'));
let d = await Daemon.start(['--max-sessions', '2'], { state });

const ask = (body, options) => call(d, 'POST', '/v1/videos', { body, ...options });
const asked = async (body) => {
  const answer = await ask(body);
  assert.equal(answer.status, 201, answer.text);
  const video = conforms(answer, 'POST', '/v1/videos');
  assert.equal(answer.headers.location, `/v1/videos/${video.id}`);
  return video;
};
const look = async (id) => conforms(await call(d, 'GET', `/v1/videos/${id}`), 'GET', '/v1/videos/{video_id}');
const list = async (query = '') => conforms(await call(d, 'GET', `/v1/videos${query}`), 'GET', '/v1/videos');
const content = async (id, headers = {}, method = 'GET') => call(d, method, `/v1/videos/${id}/content`, { headers });
const fetched = async (id, headers, status = 200) => {
  const answer = await content(id, headers);
  assert.equal(answer.status, status, answer.text.slice(0, 300));
  conforms(answer, 'GET', '/v1/videos/{video_id}/content');
  return answer;
};
const remove = async (id) => {
  const answer = await call(d, 'DELETE', `/v1/videos/${id}`);
  assert.equal(answer.status, 200, answer.text);
  assert.equal(conforms(answer, 'DELETE', '/v1/videos/{video_id}').id, id);
};
const becomes = (id, test, what = 'completed') => until(() => `${id} to be ${what}`, async () => {
  const video = await look(id);
  assert.ok(video.status !== 'failed' || what === 'failed', JSON.stringify(video.error));
  return (test ? test(video) : video.status === what) && video;
}, PATIENCE);
const session = async (body) => {
  const answer = await call(d, 'POST', '/v1/sessions', { body, limit: PATIENCE });
  assert.equal(answer.status, 201, answer.text);
  return answer.json().id;
};
const end = async (id) => assert.equal((await call(d, 'DELETE', `/v1/sessions/${id}`)).status, 204);
const metric = async (name) => Number(new RegExp(`^sparsecast_${name} (\\S+)$`, 'm').exec((await call(d, 'GET', '/metrics')).text)?.[1]);

/** The frames of a file, by its own index: one table of sizes, and frames one behind the other. */
function framesOf(file) {
  const index = file.indexOf('stsz');
  const data = file.indexOf('mdat');
  assert.ok(file.indexOf('ftyp') === 4 && index > 0 && index < data, 'the index stands in front');
  assert.equal(file.readUInt32BE(index + 8), 0);
  let at = data + 4;
  const frames = Array.from({ length: file.readUInt32BE(index + 12) }, (_, i) => {
    const size = file.readUInt32BE(index + 16 + 4 * i);
    at += size;
    return file.subarray(at - size, at);
  });
  assert.equal(at, file.length);
  return frames;
}

let first;
let file;

await check('a clip is queued, made, and its file has the frames that it was asked for', async () => {
  const asks = await asked({ prompt: BALL, seconds: '2', seed: 7, size: '256x160', model: (await call(d, 'GET', '/v1/models')).json().data[0].id });
  assert.deepEqual([asks.status, asks.progress, asks.seconds, asks.seed, asks.completed_at, asks.expires_at], ['queued', 0, '2', '7', null, null]);
  first = await becomes(asks.id);
  assert.deepEqual([first.progress, first.error, first.expires_at - first.completed_at], [100, null, 86400]);
  const answer = await fetched(first.id);
  file = answer.body;
  assert.equal(Number(answer.headers['content-length']), file.length);
  assert.match(answer.headers['content-disposition'], new RegExp(`"${first.id}\\.mp4"`));
  const frames = framesOf(file);
  assert.equal(frames.length, 2 * FPS);
  for (const jpeg of frames) assert.deepEqual(jpegSize(jpeg), { width: 256, height: 160 });
});

await check('they are the JPEGs that a viewer of the same seed gets', async () => {
  const id = await session({ prompt: BALL, seed: 7 });
  const viewer = await Viewer.open(d, id);
  await viewer.frame(2 * FPS, PATIENCE);
  const frames = framesOf(file);
  const seen = viewer.frames.filter((f) => f.frame < frames.length);
  assert.ok(new Set(seen.map((f) => f.chunk)).size > 1, `${seen.length} frames seen`);
  for (const f of seen) assert.ok(f.jpeg.equals(frames[f.frame]), `frame ${f.frame}`);
  await viewer.close();
  await end(id);
});

await check('the same words and seed make the same file; without a seed it is another', async () => {
  const again = await asked({ prompt: BALL, seconds: 2, seed: '7' });
  const other = await asked({ prompt: BALL, seconds: 1 });
  await becomes(again.id);
  assert.ok((await fetched(again.id)).body.equals(file));
  const one = await becomes(other.id);
  assert.ok(!framesOf((await fetched(one.id)).body)[0].equals(framesOf(file)[0]));
  assert.equal(await metric('videos_made_total'), 3);
});

await check('parts of the file, HEAD, and If-None-Match', async () => {
  const n = file.length;
  for (const [range, from, to] of [['0-99', 0, 100], [`${n - 5}-`, n - 5, n], ['-7', n - 7, n], [`10-${n + 10}`, 10, n], [`-${2 * n}`, 0, n]]) {
    const part = await fetched(first.id, { Range: `bytes=${range}` }, 206);
    assert.equal(part.headers['content-range'], `bytes ${from}-${to - 1}/${n}`);
    assert.ok(part.body.equals(file.subarray(from, to)), range);
  }
  for (const range of ['bytes=0-1,5-6', 'bytes=5-4', 'bytes=', 'bytes=-', 'lines=1-2', 'bytes=0x1-2', 'bytes=99999999999999999999999-'])
    assert.ok((await fetched(first.id, { Range: range })).body.equals(file), range);
  for (const range of [`${n}-`, '-0', `${n + 5}-${n + 9}`]) {
    const none = await fetched(first.id, { Range: `bytes=${range}` }, 416);
    assert.equal(none.headers['content-range'], `bytes */${n}`);
  }
  const head = await content(first.id, {}, 'HEAD');
  assert.deepEqual([head.status, Number(head.headers['content-length']), head.body.length], [200, n, 0]);
  const { etag } = (await fetched(first.id)).headers;
  assert.equal((await fetched(first.id, { 'If-None-Match': etag }, 304)).body.length, 0);
  await fetched(first.id, { 'If-Range': etag, Range: 'bytes=0-0' }, 206);
  await fetched(first.id, { 'If-Range': '"other"', Range: 'bytes=0-0' });
});

await check('the list, from both ends and in parts', async () => {
  const all = await list();
  assert.equal(all.data.length, 3);
  assert.deepEqual([all.data[2].id, all.first_id, all.last_id, all.has_more], [first.id, all.data[0].id, first.id, false]);
  assert.deepEqual((await list('?order=asc')).data.map((v) => v.id), all.data.map((v) => v.id).reverse());
  const one = await list('?limit=1');
  assert.deepEqual([one.data.length, one.has_more], [1, true]);
  const rest = await list(`?after=${one.last_id}&limit=100&order=desc`);
  assert.deepEqual([rest.data.map((v) => v.id), rest.has_more], [all.data.slice(1).map((v) => v.id), false]);
  for (const query of ['?limit=0', '?limit=101', '?limit=x', '?limit=', '?order=up', '?after=7', '?page=2']) problem(await call(d, 'GET', `/v1/videos${query}`), { status: 400 });
  problem(await call(d, 'GET', `/v1/videos?after=${NOBODY}`), { status: 404 });
});

await check('what cannot be is refused with its reason', async () => {
  const size = problem(await ask({ prompt: BALL, size: '832x480', model: 'sora-2' }), { status: 422, pointer: '/size' });
  assert.ok(size.errors.some((e) => e.pointer === '/model'));
  for (const [body, pointer] of [[{}, '/prompt'], [{ prompt: BALL, seconds: '121' }, '/seconds'], [{ prompt: BALL, seconds: 0 }, '/seconds'], [{ prompt: BALL, size: '256' }, '/size'],
    [{ prompt: BALL, input_reference: 'x' }, '/input_reference']]) {
    const answer = await ask(body);
    conforms(answer, 'POST', '/v1/videos');
    problem(answer, { status: 422, pointer });
  }
  const form = await ask('--x\r\nContent-Disposition: form-data; name="prompt"\r\n\r\na\r\n--x--\r\n', { headers: { 'Content-Type': 'multipart/form-data; boundary=x' } });
  problem(form, { status: 415, detail: /application\/json/ });
  for (const path of [`/v1/videos/${NOBODY}`, '/v1/videos/video_', '/v1/videos/1', `/v1/videos/${NOBODY}x`, `/v1/videos/${NOBODY.slice(6)}`]) problem(await call(d, 'GET', path), { status: 404 });
  problem(await call(d, 'GET', `/v1/videos/${NOBODY}/content`), { status: 404 });
  problem(await call(d, 'DELETE', `/v1/videos/${NOBODY}`), { status: 404 });
  problem(await call(d, 'PUT', '/v1/videos'), { status: 405 });
  problem(await exchange(d, `GET /v1/videos HTTP/1.1\r\nHost: evil.example\r\n\r\n`), { status: 421 });
});

await check('one in work is deleted, and leaves nothing', async () => {
  const { id } = await asked({ prompt: BOAT, seconds: 120 });
  await becomes(id, (v) => v.status === 'in_progress' && v.progress > 0, 'begun');
  problem(await content(id), { status: 409, detail: /in_progress/ });
  assert.equal(await metric('videos_in_progress'), 1);
  await remove(id);
  problem(await call(d, 'GET', `/v1/videos/${id}`), { status: 404 });
  problem(await content(id), { status: 404 });
  for (const v of (await list()).data) await remove(v.id);
  assert.equal(await metric('videos_in_progress'), 0);
  assert.deepEqual(readdirSync(join(state, 'videos')), []);
});

await check('sessions first: one that wants the last place gets it, the clip waits and begins again', async () => {
  const { id } = await asked({ prompt: BALL, seconds: 4, seed: 7 });
  await becomes(id, (v) => v.progress > 0, 'begun');
  const one = await session({ prompt: BOAT });
  const two = await session({ prompt: BOAT });
  const waits = await look(id);
  assert.deepEqual([waits.status, waits.progress], ['queued', 0]);
  problem(await content(id), { status: 409, detail: /queued/ });
  assert.equal((await call(d, 'GET', '/v1/capacity')).json().sessions, 2);
  problem(await call(d, 'POST', '/v1/sessions', { body: { prompt: BOAT } }), { status: 503 });
  await end(one);
  await becomes(id);
  const frames = framesOf((await fetched(id)).body);
  assert.equal(frames.length, 4 * FPS);
  framesOf(file).forEach((jpeg, i) => assert.ok(jpeg.equals(frames[i]), `frame ${i}`));
  await end(two);
});

await check('so many wait and no more', async () => {
  const places = [await session({ prompt: BOAT }), await session({ prompt: BOAT })];
  const ids = [];
  for (let i = 0; i < 16; i++) ids.push((await asked({ prompt: BOAT, seconds: 1 })).id);
  const full = await ask({ prompt: BOAT });
  conforms(full, 'POST', '/v1/videos');
  problem(full, { status: 429, detail: /16/ });
  assert.equal(await metric('videos_queued'), 16);
  for (const id of ids) await remove(id);
  assert.equal(await metric('videos_queued'), 0);
  await Promise.all(places.map(end));
});

await check('the end of a daemon with one in work and one that waits', async () => {
  const { id } = await asked({ prompt: BOAT, seconds: 120 });
  await asked({ prompt: BOAT, seconds: 1 });
  await becomes(id, (v) => v.progress > 0, 'begun');
  await d.stop();
  assert.deepEqual(readdirSync(join(state, 'videos')), []);
  d = await Daemon.start([], { key: 'a key of the test 123', state });
  assert.equal((await list()).data.length, 0);
  for (const [method, path] of [['GET', ''], ['POST', ''], ['GET', `/${NOBODY}`], ['GET', `/${NOBODY}/content`], ['DELETE', `/${NOBODY}`]])
    problem(await call(d, method, `/v1/videos${path}`, { key: null }), { status: 401 });
  await d.stop();
});

await check('in memory, with a text encoder that stands apart', async () => {
  d = await Daemon.start(['--device', 'cpu', '--text-device', 'twin']);
  const { id } = await asked({ prompt: BALL, seconds: 1, seed: 7 });
  await becomes(id);
  assert.equal(framesOf((await fetched(id)).body).length, FPS);
  await d.stop();
});

rmSync(state, { recursive: true, force: true });
finish();
