// log.mjs - the log of a session, its events, and `sparsecast replay`, against the real pocket model: SPARSECASTD=... node log.mjs
//
// The program beside the daemon (../cli/sparsecast) makes the streams again: chunks are deterministic on one machine, so the hashes must be the same. Nothing
// here waits for a time, but for the comment that a silent stream of events brings: numbers of chunks and events count.
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { dirname, join } from 'node:path';
import { openEvents, logLines } from './events.mjs';
import { BINARY, check, Daemon, finish, LIMIT, ROOT, until, within } from './harness.mjs';
import { conforms, problem } from './schema.mjs';
import { call, firstOf, Viewer } from './wire.mjs';

const BALL = 'a red ball bouncing right over green hills at noon';
const BOAT = 'a white sailboat sailing right on the sea at night';
const BIRD = 'a blue bird over the city at dawn in the rain';
const CAR = 'a yellow car driving left in the desert\tat "sunset"\n';
const NOBODY = 'aaaaaaaaaaaaaaaaaaaaaaaaaa';
const PATIENCE = 10 * LIMIT; // a dozen chunks of a sanitized build

/** `sparsecast replay -` with this log: {code, out, err}. */
function replay(log, args = []) {
  const child = spawn(join(dirname(BINARY), '../cli/sparsecast'), ['replay', ...args, '-'], { cwd: ROOT, stdio: ['pipe', 'pipe', 'pipe'] });
  const result = { out: '', err: '' };
  child.stdout.on('data', (data) => (result.out += data));
  child.stderr.on('data', (data) => (result.err += data));
  child.stdin.on('error', () => {}); // it need not read all of a bad one
  child.stdin.end(log);
  const end = new Promise((done, fail) => child.on('error', fail).on('close', (code) => done({ ...result, code })));
  return within('sparsecast replay to end', end, PATIENCE).finally(() => child.kill('SIGKILL'));
}

const d = await Daemon.start(['--max-sessions', '3']);
const create = async (body) => {
  const answer = await call(d, 'POST', '/v1/sessions', { body });
  assert.equal(answer.status, 201, answer.text);
  return answer.json().id;
};
const change = async (id, body) => conforms(await call(d, 'PATCH', `/v1/sessions/${id}`, { body }), 'PATCH', '/v1/sessions/{id}');
const getLog = async (id) => {
  const answer = await call(d, 'GET', `/v1/sessions/${id}/log`);
  conforms(answer, 'GET', '/v1/sessions/{id}/log');
  return answer.text;
};
const read = async (id) => logLines(await getLog(id));
const fork = (id, body) => call(d, 'POST', `/v1/sessions/${id}/fork`, { body, limit: PATIENCE });
/** Paused, and no pass of it left to run: the chunk that comes next. */
const standing = async (id) => {
  await change(id, { state: 'paused' });
  return Number(/with (\d+) to/.exec(problem(await fork(id, { at_chunk: Number.MAX_SAFE_INTEGER }), { status: 409 }).detail)[1]);
};
const oneReader = async () => /^sparsecast_event_readers 1$/m.test((await call(d, 'GET', '/metrics')).text);
const ofType = (lines, type) => lines.filter((l) => l.type === type);
/** Numbered from 1 on; chunk after chunk, each behind the prompt that it is the first of. */
function inOrder(lines) {
  let chunk = 0;
  lines.forEach((l, i) => {
    assert.equal(l.event, i + 1);
    if (l.chunk !== undefined) assert.equal(l.chunk, chunk, JSON.stringify(l));
    if (l.type !== 'chunk') return;
    assert.deepEqual([l.first_frame, l.frames], [firstOf(chunk), firstOf(chunk + 1) - firstOf(chunk)]);
    chunk += 1;
  });
}

// ---- a session that hears prompts from everywhere ----

let id;
let viewer;
let events;

await check('the first line says what made the stream', async () => {
  id = await create({ prompt: BALL, seed: '18446744073709551615', transition: 'recache', schedule: { prompts: [{ at_chunk: 1, prompt: BOAT, transition: 'blend' }] } });
  events = await openEvents(d, id);
  conforms({ ...events.answer, text: '' }, 'GET', '/v1/sessions/{id}/events');
  assert.equal(events.answer.status, 200);
  viewer = await Viewer.open(d, id);
  const model = (await call(d, 'GET', '/v1/models')).json().data[0];
  const [first] = await read(id);
  assert.deepEqual([first.type, first.session, first.seed, first.seq, first.prompt], ['session', id, '18446744073709551615', 1, BALL]);
  assert.deepEqual([first.model, first.digest, first.machine, first.width, first.height], [model.id, model.digest, model.device, model.width, model.height]);
  assert.deepEqual([first.device, first.memory, first.text_device], ['cpu', 'model', 'model']);
});

await check('prompts of a schedule, a WebSocket and PATCH are written down at their chunks, in their order; those that were replaced are not', async () => {
  await viewer.event('the scheduled one', (e) => e.type === 'prompt' && e.seq === 2 && e.state === 'applied');
  viewer.say({ type: 'prompt', text: BIRD, transition: 'flush' });
  await viewer.event('the one of the viewer', (e) => e.type === 'prompt' && e.seq === 3 && e.state === 'applied');
  const next = await standing(id);
  assert.deepEqual(await change(id, { prompt: BIRD, transition: 'cut' }), { seq: 4, applies_at_chunk: next });
  assert.deepEqual(await change(id, { prompt: CAR }), { seq: 5, applies_at_chunk: next });
  await change(id, { state: 'running', fps: 24, jpeg_quality: 30 }); // nothing of the stream itself
  viewer.fps = null;
  await viewer.event('the last one', (e) => e.type === 'prompt' && e.seq === 5 && e.state === 'applied');
  await viewer.event('its first chunk', (e) => e.type === 'chunk' && e.chunk === next);
  await standing(id);
  const lines = await read(id);
  inOrder(lines);
  const applied = viewer.events.filter((e) => e.type === 'prompt' && e.state === 'applied').map((e) => [e.chunk, e.seq, e.prompt, e.transition]);
  const logged = ofType(lines, 'prompt');
  assert.deepEqual(logged.map((l) => [l.chunk, l.seq, l.prompt, l.transition]), applied);
  assert.deepEqual(logged.map((l) => [l.seq, l.prompt, l.transition, l.blend_chunks]),
    [[2, BOAT, 'blend', 4], [3, BIRD, 'flush', undefined], [5, CAR, 'recache', undefined]]);
  assert.equal(logged[0].chunk, 1);
  assert.equal(logged[2].chunk, next);
});

await check('events are the same lines, and come as they are written', async () => {
  const lines = await read(id);
  await events.until('all of the log', (e) => e.lines.length >= lines.length);
  assert.deepEqual(events.lines, lines);
});

await check('a reader goes on behind Last-Event-ID', async () => {
  const lines = await read(id);
  for (const after of [0, 1, 4, lines.length - 1]) {
    const again = await openEvents(d, id, { after });
    await again.until('the rest', (e) => e.lines.length >= lines.length - after);
    assert.deepEqual(again.lines, lines.slice(after));
    again.close();
  }
  const newest = await openEvents(d, id, { after: lines.length });
  const had = events.lines.length;
  await change(id, { state: 'running' });
  await events.until('news', (e) => e.lines.length > had);
  await newest.until('the same news', (e) => e.lines.length > 0);
  assert.deepEqual(newest.lines[0], events.lines[had]);
  newest.close();
  await standing(id);
  for (const after of ['x', '-1', '1.0', '+1', '999999', '1'.repeat(19), '99999999999999999999999999']) {
    const refused = await openEvents(d, id, { after });
    conforms(refused.answer, 'GET', '/v1/sessions/{id}/events');
    problem(refused.answer, { status: 400, detail: /Last-Event-ID must be the number of an event .* the newest is \d+/ });
  }
});

await check('a silent stream brings a comment, and readers do not count as viewers', async () => {
  const seen = events.comments;
  await events.until('a comment', (e) => e.comments > seen);
  const s = (await call(d, 'GET', `/v1/sessions/${id}`)).json();
  assert.equal(s.viewers, 1);
  await until('those that left to be noticed', oneReader);
});

// ---- made again ----

let forked;
await check('a fork\'s log begins with its source\'s, then says whose it is and from which chunk on', async () => {
  const next = await standing(id);
  const made = await fork(id, { prompt: BALL, seed: 9 });
  assert.equal(made.status, 201, made.text);
  forked = made.json().id;
  await change(id, { state: 'running' });
  const watching = await Viewer.open(d, forked, { fps: null });
  await watching.event('two chunks', (e) => e.type === 'chunk' && e.chunk === next + 1);
  await standing(forked);
  await standing(id);
  const [past, lines] = [await read(id), await read(forked)];
  inOrder(lines);
  const at = lines.findIndex((l) => l.type === 'fork');
  assert.deepEqual(lines.slice(0, at), past.slice(0, at));
  assert.deepEqual([lines[at].session, lines[at].from, lines[at].chunk, lines[at].seed], [forked, id, next, '9']);
  assert.deepEqual([lines[at + 1].type, lines[at + 1].prompt, lines[at + 1].transition, lines[at + 1].chunk], ['prompt', BALL, 'switch', next]);
  assert.notEqual(lines[at + 2].hash, past.find((l) => l.type === 'chunk' && l.chunk === next)?.hash);
  await watching.close();
});

let log;
await check('replay makes the same stream again, on one thread, too, and that of the fork with its other seed', async () => {
  log = await getLog(id);
  const count = ofType(logLines(log), 'chunk').length;
  assert.deepEqual(await replay(log, ['--threads', '1']), { code: 0, out: `standard input: session ${id}, ${count} chunks: the same\n`, err: '' });
  const theirs = await getLog(forked);
  const chunks = ofType(logLines(theirs), 'chunk').length;
  assert.deepEqual(await replay(theirs), { code: 0, out: `standard input: session ${forked}, ${chunks} chunks: the same\n`, err: '' });
});

await check('what was changed in a log is found, with its line', async () => {
  const lines = log.slice(0, -1).split('\n');
  const edit = (test, change_) => {
    const at = lines.findIndex((l) => test(JSON.parse(l)));
    const line = JSON.parse(lines[at]);
    change_(line);
    return [[...lines.slice(0, at), JSON.stringify(line), ...lines.slice(at + 1)].join('\n'), at + 1];
  };
  const differs = async ([text, at], chunk) => {
    const end = await replay(text);
    assert.equal(end.code, 1, end.err);
    assert.match(end.out, new RegExp(`line ${at}: chunk ${chunk} is the first that differs: the log has [0-9a-f]{32}, here it is [0-9a-f]{32}\n$`));
  };
  await differs(edit((l) => l.chunk === 1 && l.type === 'chunk', (l) => { l.hash = '0'.repeat(32); }), 1);
  await differs([edit((l) => l.type === 'prompt', (l) => { l.prompt = BIRD; })[0], 4], 1); // session, chunk 0, prompt, chunk 1
  await differs([edit((l) => l.type === 'session', (l) => { l.seed = '5'; })[0], 2], 0);
  const refused = async (text, code, detail) => {
    const end = await replay(text);
    assert.equal(end.code, code, end.err);
    assert.match(end.err, detail);
  };
  await refused(lines.toSpliced(2, 1).join('\n'), 2, /standard input: line 3: event 4 behind event 2/);
  await refused(log.slice(0, log.length - 20), 2, new RegExp(`line ${lines.length}: the line is not JSON`));
  await refused(edit((l) => l.type === 'session', (l) => { l.digest = '0'.repeat(64); })[0], 78, /the log is of model pocket with digest 0{12}/);
  await refused(edit((l) => l.type === 'session', (l) => { l.width = 264; })[0], 78, /the log is of 264x160/);
  await refused(edit((l) => l.type === 'session', (l) => { l.model = 'elsewhere'; })[0], 78, /models\/elsewhere/);
});

await check('with the hashes of its past lost a log is compared from where they begin', async () => {
  const lines = log.slice(0, -1).split('\n');
  const text = [lines[0], JSON.stringify({ type: 'lost', from: 2, to: 2, prompts: false }), ...lines.slice(2)].join('\n');
  const count = ofType(logLines(log), 'chunk').length;
  assert.equal((await replay(text)).out, `standard input: session ${id}, ${count} chunks: ${count - 1} of them compared, the hashes of the others are lost: the same\n`);
});

// ---- asked wrongly, and ends ----

await check('HEAD, methods, queries, and sessions that are not there', async () => {
  for (const [name, type] of [['log', 'application/jsonl'], ['events', 'text/event-stream']]) {
    const head = await call(d, 'HEAD', `/v1/sessions/${id}/${name}`);
    assert.deepEqual([head.status, head.headers['content-type'], head.text], [200, type, '']);
    const path = `/v1/sessions/{id}/${name}`;
    const none = await call(d, 'GET', `/v1/sessions/${NOBODY}/${name}`);
    conforms(none, 'GET', path);
    problem(none, { status: 404, detail: /session/ });
    problem(await call(d, 'POST', `/v1/sessions/${id}/${name}`, { body: {} }), { status: 405 });
    const query = await call(d, 'GET', `/v1/sessions/${id}/${name}?since=4`);
    conforms(query, 'GET', path);
    problem(query, { status: 400, detail: /since/ });
  }
});

await check('a reader that goes away is forgotten', async () => {
  const leaving = await Promise.all([1, 2, 3].map(() => openEvents(d, id)));
  for (const reader of leaving) reader.close();
  await change(id, { state: 'running' });
  await until('the one reader', oneReader);
});

await check('DELETE: the end is the last event, and the stream of them closes', async () => {
  assert.equal((await call(d, 'DELETE', `/v1/sessions/${id}`)).status, 204);
  await within('the events to end', events.ended);
  inOrder(events.lines);
  const last = events.lines.at(-1);
  assert.deepEqual([last.type, last.state, last.reason], ['end', 'ended', 'session deleted']);
  assert.equal((await openEvents(d, id, { after: last.event })).answer.status, 404);
  problem(await call(d, 'GET', `/v1/sessions/${id}/log`), { status: 404 });
});

await check('SIGTERM: a reader gets the end', async () => {
  const reader = await openEvents(d, forked);
  await reader.until('the past', (e) => e.lines.length > 2);
  d.terminate();
  await within('the events to end', reader.ended);
  assert.deepEqual([reader.lines.at(-1).type, reader.lines.at(-1).reason], ['end', 'shutting down']);
  await d.stop();
});

await check('with keys it needs one; there are as many places as for viewers', async () => {
  const k = await Daemon.start(['--max-sessions', '1', '--max-viewers', '2'], { key: 'key-for-the-tests-0123456789' });
  const mine = (await call(k, 'POST', '/v1/sessions', { body: { prompt: BALL } })).json().id;
  for (const name of ['log', 'events']) {
    const refused = await call(k, 'GET', `/v1/sessions/${mine}/${name}`, { key: null });
    conforms(refused, 'GET', `/v1/sessions/{id}/${name}`);
    problem(refused, { status: 401, detail: /key/ });
  }
  const two = [await openEvents(k, mine), await openEvents(k, mine)];
  const third = await openEvents(k, mine);
  conforms(third.answer, 'GET', '/v1/sessions/{id}/events');
  problem(third.answer, { status: 503, detail: /places/ });
  two[0].close();
  await until('a place', async () => {
    const reader = await openEvents(k, mine);
    if (reader.answer.status === 200) reader.close();
    return reader.answer.status === 200;
  });
  two[1].close();
  await k.stop();
});

finish();
