// fault.mjs - the daemon whose device fails on demand (tests/fault/faulty_daemon.c): SPARSECASTD=.../sparsecastd_faulty node fault.mjs
//
// A call that fails is one session's or one request's failure, and everybody else streams on. A device that is lost, or does not come back from a
// call, ends the daemon: not ready, 503, close code 1012, exit status 70 within 2 s. The limits here are wider, since a loaded machine is no failure;
// the time that passed is printed.
import assert from 'node:assert/strict';
import { check, Daemon, finish, LIMIT, runToEnd, sleep, until, within } from './harness.mjs';
import { problem } from './schema.mjs';
import { logLines, openEvents } from './events.mjs';
import { RawStream } from './rawstream.mjs';
import { call, Viewer } from './wire.mjs';

const GONE_MS = 10000;

async function start(fault, args = []) {
  process.env.SC_FAULT = fault;
  return Daemon.start(['--max-sessions', '3', ...args]);
}

async function session(d, seed, prompt = 'a red ball bouncing right over green hills at noon') {
  const made = await call(d, 'POST', '/v1/sessions', { body: { prompt, seed } });
  assert.equal(made.status, 201, made.text);
  return made.json().id;
}

/** Ends by itself with this status, without a sanitizer's report. Gives the milliseconds it took. */
async function dies(d, code, since) {
  const gone = await within('the daemon to end', d.ended, GONE_MS);
  const took = Date.now() - since;
  assert.equal(d.report(), null);
  assert.deepEqual(gone, { code, signal: null }, d.log.slice(-2000));
  return took;
}

// ---- not sticky ----

for (const [device, late] of [['cpu', ''], ['cuda', ''], ['cuda', ' late=40']]) {
  // Four calls of noise a chunk: the ninth begins the session's third chunk. As "cuda" both sessions share their passes; late: frames come 40 ms
  // after they were asked for, as from a card that runs behind its calls.
  const d = await start(`op=noise seed=13 nth=9 times=-1 what=gpu${late}`, ['--device', device]);
  await check(`device ${device}${late}: the session whose calls fail is closed with 1011, the other streams on`, async () => {
    const well = await session(d, 12);
    const good = await Viewer.open(d, well);
    const bad = await session(d, 13);
    const viewer = await Viewer.open(d, bad);
    assert.equal((await within('the failed session to be closed', viewer.ended)).code, 1011);
    assert.ok(viewer.frames.length > 0 && viewer.newest.chunk < 2, `newest chunk ${viewer.newest?.chunk}`);
    const state = (await call(d, 'GET', `/v1/sessions/${bad}`)).json();
    assert.deepEqual([state.state, state.chunk], ['failed', 1]);
    const refused = await Viewer.open(d, bad).catch((e) => e);
    assert.equal(refused.answer?.status, 409);
    problem(await call(d, 'PATCH', `/v1/sessions/${bad}`, { body: { prompt: 'snow' } }), { status: 409 });
    const log = logLines((await call(d, 'GET', `/v1/sessions/${bad}/log`)).text);
    assert.deepEqual(log.map((l) => [l.event, l.type, l.chunk]), [[1, 'session', undefined], [2, 'chunk', 0], [3, 'chunk', 1], [4, 'end', undefined]]);
    assert.equal(log[3].state, 'failed');
    const events = await openEvents(d, bad, { after: 1 });
    await within('the events of the failed session to end', events.ended);
    assert.deepEqual(events.lines, log.slice(1));
    assert.equal((await openEvents(d, bad, { after: 4 })).answer.status, 204); // a browser asks no more
    const chunk = good.newest?.chunk ?? 0;
    await good.until('two more chunks', () => good.newest?.chunk >= chunk + 2);
    const others = logLines((await call(d, 'GET', `/v1/sessions/${well}/log`)).text);
    assert.deepEqual(others.slice(1).map((l) => [l.event, l.type, l.chunk]), others.slice(1).map((l, i) => [i + 2, 'chunk', i]));
    assert.equal((await call(d, 'GET', '/readyz')).status, 200);
    assert.equal((await call(d, 'DELETE', `/v1/sessions/${bad}`)).status, 204);
    const again = await Viewer.open(d, await session(d, 14)); // in its place
    await again.frame(9);
    await again.close();
    await good.close();
  });
  await d.stop();
}

{
  const d = await start('op=attention nth=20 times=1 what=gpu', ['--device', 'cuda']);
  await check('one call that fails in a shared pass fails nobody', async () => {
    const viewers = [];
    for (const seed of [1, 2]) viewers.push(await Viewer.open(d, await session(d, seed)));
    for (const v of viewers) await v.until('the fourth chunk', () => v.newest?.chunk >= 3);
    for (const v of viewers) await v.close();
  });
  await d.stop();
}

{
  const d = await start('op=text_attention nth=1 times=2 what=gpu arm=usr1');
  await check('a prompt that fails is an error to whoever sent it; the stream goes on and takes the next', async () => {
    const id = await session(d, 1);
    const v = await Viewer.open(d, id);
    await v.frame(0);
    d.child.kill('SIGUSR1');
    await until('the first request to fail', async () => {
      const answer = await call(d, 'PATCH', `/v1/sessions/${id}`, { body: { prompt: `snow over a city, try ${Math.random()}` } });
      if (answer.status === 202) return false; // the signal was not there yet
      problem(answer, { status: 500 });
      assert.doesNotMatch(answer.text, /text_attention|says the test/);
      return true;
    });
    const from = v.events.length;
    v.say({ type: 'prompt', text: 'two blue cars in the rain', ref: 'r1' });
    const e = await v.event('the second to fail', (m) => m.type === 'error', { from });
    assert.equal(e.problem.status, 500);
    await v.frame();
    v.say({ type: 'prompt', text: 'two blue cars in the rain', ref: 'r2' });
    await v.event('the third to apply', (m) => m.type === 'prompt' && m.state === 'applied' && m.prompt === 'two blue cars in the rain', { from });
    await v.frame();
    await v.close();
  });
  await d.stop();
}

// ---- clips ----

for (const late of ['', ' late=40']) {
  const d = await start(`op=noise seed=13 nth=9 times=-1 what=gpu${late}`, ['--device', late ? 'cuda' : 'cpu']);
  await check(`${late ? 'device cuda late=40' : 'device cpu'}: a clip whose calls fail has failed, the next one is made, and the session beside them goes on`, async () => {
    const id = await session(d, 12);
    const ids = [];
    for (const seed of [13, 14]) {
      const made = await call(d, 'POST', '/v1/videos', { body: { prompt: 'a red ball', seconds: 2, seed } });
      assert.equal(made.status, 201, made.text);
      ids.push(made.json().id);
    }
    const ends = (one) => until(`${one} to end`, async () => {
      const v = (await call(d, 'GET', `/v1/videos/${one}`)).json();
      return (v.completed_at || v.error) && v;
    });
    const bad = await ends(ids[0]);
    assert.deepEqual([bad.status, bad.error.code], ['failed', 'server_error']);
    assert.doesNotMatch(bad.error.message, /noise|says the test/);
    problem(await call(d, 'GET', `/v1/videos/${ids[0]}/content`), { status: 409 });
    assert.equal((await ends(ids[1])).status, 'completed');
    const viewer = await Viewer.open(d, id);
    await viewer.frame(9);
    await viewer.close();
  });
  await d.stop();
}

for (const late of ['', ' late=40']) {
  const d = await start(`op=noise seed=13 nth=9 times=1 what=lost${late}`, ['--device', 'cuda']);
  await check(`device cuda${late}: a clip that finds the device lost ends the daemon with 70`, async () => {
    const made = await call(d, 'POST', '/v1/videos', { body: { prompt: 'a red ball', seconds: 4, seed: 13 } });
    assert.equal(made.status, 201, made.text);
    await dies(d, 70, Date.now());
  });
}

// ---- forks ----

const forkOf = (d, id, body = {}) => call(d, 'POST', `/v1/sessions/${id}/fork`, { body });
const waits = (d) => until('a fork that waits', async () => /^sparsecast_forks_waiting 1$/m.test((await call(d, 'GET', '/metrics')).text));

for (const late of ['', ' late=40']) {
  const d = await start(`op=noise seed=14 nth=5 times=-1 what=gpu${late}`, ['--device', 'cuda']);
  await check(`device cuda${late}: in one batch with its source a fork sends the same pictures; one that fails, fails alone`, async () => {
    const id = await session(d, 13);
    const source = await Viewer.open(d, id);
    await source.frame(9);
    const made = await forkOf(d, id);
    assert.equal(made.status, 201, made.text);
    const fork = await Viewer.open(d, made.json().id);
    const at = made.json().forked_from.chunk;
    await fork.until('its second chunk', () => fork.newest?.chunk > at);
    await source.until('the same', () => source.newest?.chunk > at);
    const theirs = new Map(source.frames.map((f) => [f.frame, f.jpeg]));
    const common = fork.frames.filter((f) => theirs.has(f.frame));
    assert.ok(common.length >= 6 && common.every((f) => theirs.get(f.frame).equals(f.jpeg)), `${common.length} common frames`);
    const bad = await forkOf(d, id, { seed: 14 });
    assert.equal(bad.status, 201, bad.text);
    const failing = await Viewer.open(d, bad.json().id);
    assert.equal((await within('the fork to fail', failing.ended)).code, 1011);
    assert.ok(failing.newest.chunk <= bad.json().forked_from.chunk, 'its second chunk');
    problem(await forkOf(d, bad.json().id), { status: 409, detail: /failed/ });
    for (const v of [source, fork]) {
      await v.frame();
      await v.close();
    }
  });
  await d.stop();
}

{
  const d = await start('op=noise seed=13 nth=25 times=-1 what=gpu');
  await check('a source that fails ends the wait of its fork', async () => {
    const id = await session(d, 13);
    const v = await Viewer.open(d, id);
    const answer = forkOf(d, id, { at_chunk: 12 });
    assert.equal((await within('the source to fail', v.ended)).code, 1011);
    problem(await answer, { status: 409, detail: /failed/ });
  });
  await d.stop();
}

for (const op of ['alloc', 'alloc_host', 'download']) {
  const d = await start(`op=${op} nth=1 times=1 what=gpu arm=usr1 late=5`, ['--device', 'cuda']);
  await check(`a fork whose ${op} fails is an error to whoever asked; the source streams on and is forked at the next try`, async () => {
    const id = await session(d, 1);
    const v = await Viewer.open(d, id);
    await v.frame(9);
    d.child.kill('SIGUSR1');
    await until('a fork to fail', async () => {
      const answer = await forkOf(d, id, { prompt: 'a red ball bouncing right over green hills at noon' });
      if (answer.status === 201) { // the signal was not there yet
        assert.equal((await call(d, 'DELETE', `/v1/sessions/${answer.json().id}`)).status, 204);
        return false;
      }
      problem(answer, { status: 500 });
      return true;
    });
    assert.match((await call(d, 'GET', '/metrics')).text, /^sparsecast_sessions 1$/m);
    await v.frame();
    const made = await forkOf(d, id);
    assert.equal(made.status, 201, made.text);
    const fork = await Viewer.open(d, made.json().id);
    await fork.until('its first chunk', () => fork.newest?.chunk >= made.json().forked_from.chunk);
    for (const x of [v, fork]) await x.close();
  });
  await d.stop();
}

// ---- schedules ----

const putSchedule = async (d, id, body) => {
  const answer = await call(d, 'PUT', `/v1/sessions/${id}/schedule`, { body });
  assert.equal(answer.status, 200, answer.text);
};
const applied = (v, prompt) => v.event(prompt, (e) => e.type === 'prompt' && e.state === 'applied' && e.prompt === prompt);

{
  const d = await start('op=text_attention nth=1 times=1 what=gpu arm=usr1');
  await check('an entry of a schedule that cannot be taken is an error to the viewers and left out', async () => {
    const id = await session(d, 1);
    const v = await Viewer.open(d, id);
    await v.frame(9);
    d.child.kill('SIGUSR1');
    const at = v.newest.chunk + 4;
    await putSchedule(d, id, { prompts: [{ at_chunk: at, prompt: 'a green car in the desert' }, { at_chunk: at + 2, prompt: 'two white birds over the sea in fog' }] });
    const { problem: said } = await v.event('an error', (e) => e.type === 'error');
    assert.equal(said.status, 500);
    assert.match(said.detail, /^Prompt 0 of the schedule is left out: /);
    const second = await applied(v, 'two white birds over the sea in fog');
    assert.deepEqual([second.seq, second.chunk], [2, at + 2]);
    assert.ok(!v.events.some((e) => e.prompt === 'a green car in the desert'));
    await v.close();
  });
  await d.stop();
}

{
  const d = await start('op=text_attention nth=1 times=-1 slow=150 on=twin arm=usr1', ['--text-device', 'twin']);
  await check('a text encoder that takes long reads the words of an entry ahead, one of a schedule that was cleared is not handed over', async () => {
    const id = await session(d, 1);
    const v = await Viewer.open(d, id);
    await v.frame(9);
    d.child.kill('SIGUSR1');
    const at = v.newest.chunk + 8;
    await putSchedule(d, id, { prompts: [{ at_chunk: at, prompt: 'a green car in the desert', transition: 'cut' }] });
    const first = await applied(v, 'a green car in the desert');
    assert.deepEqual([first.seq, first.chunk, first.transition], [2, at, 'cut']);
    assert.equal((await call(d, 'PATCH', `/v1/sessions/${id}`, { body: { state: 'paused' } })).status, 202);
    await putSchedule(d, id, { text: 'two white birds over the sea in fog' }); // is being read now
    await putSchedule(d, id, { text: 'a purple balloon over the desert at dawn' });
    assert.equal((await call(d, 'PATCH', `/v1/sessions/${id}`, { body: { state: 'running' } })).status, 202);
    assert.equal((await applied(v, 'a purple balloon over the desert at dawn')).seq, 3);
    assert.ok(!v.events.some((e) => e.prompt === 'two white birds over the sea in fog'));
    await putSchedule(d, id, { text: 'a last wish' });
    await v.close();
    d.terminate(); // with words on their way
  });
  await d.stop();
}

// ---- slow ----

{
  const d = await start('op=text_attention nth=1 times=-1 slow=150 on=twin arm=usr1', ['--text-device', 'twin']);
  await check('a prompt that the text encoder takes long for holds up nobody else', async () => {
    const first = 'a red ball bouncing right over green hills at noon';
    const [id, other, gone] = [await session(d, 1, first), await session(d, 2, first), await session(d, 3, first)];
    const v = await Viewer.open(d, other);
    await v.frame(0);
    d.child.kill('SIGUSR1');
    await sleep(100);
    const order = [];
    const ask = (name, method, path, body) => call(d, method, path, { body }).then((answer) => (order.push(name), answer));
    const slow = ask('slow', 'PATCH', `/v1/sessions/${id}`, { prompt: 'two white birds over the sea in fog' });
    await sleep(50); // it is being read now
    const known = ask('known words behind it', 'PATCH', `/v1/sessions/${id}`, { prompt: first });
    const orphan = ask('for a session that goes', 'PATCH', `/v1/sessions/${gone}`, { prompt: 'a green car in the desert' });
    await sleep(20);
    const paused = await ask('pause', 'PATCH', `/v1/sessions/${other}`, { state: 'paused' });
    const elsewhere = await ask('known words elsewhere', 'PATCH', `/v1/sessions/${other}`, { prompt: first, state: 'running' });
    assert.equal((await ask('delete', 'DELETE', `/v1/sessions/${gone}`)).status, 204);
    assert.deepEqual(order, ['pause', 'known words elsewhere', 'delete']);
    assert.deepEqual([paused.status, elsewhere.status], [202, 202]);
    const [a, b] = [await slow, await known];
    assert.deepEqual([a.status, b.status], [202, 202], `${a.text} ${b.text}`);
    assert.ok(b.json().seq > a.json().seq, 'the newer words are the later ones');
    problem(await orphan, { status: 404 });
    assert.deepEqual(order.slice(3), ['slow', 'known words behind it', 'for a session that goes']);
    const words = ask('words', 'PATCH', `/v1/sessions/${id}`, { prompt: 'a purple balloon over the desert at dawn' });
    await sleep(50);
    const behind = forkOf(d, id); // has the words that are being read
    const made = await behind;
    assert.equal(made.status, 201, made.text);
    assert.equal((await words).status, 202);
    assert.equal(made.json().prompt, 'a purple balloon over the desert at dawn');
    assert.equal((await call(d, 'DELETE', `/v1/sessions/${made.json().id}`)).status, 204);
    const own = await forkOf(d, id, { prompt: 'a white bird over the city in the rain' });
    assert.deepEqual([own.status, own.json().prompt], [201, 'a white bird over the city in the rain']);
    assert.equal((await call(d, 'DELETE', `/v1/sessions/${own.json().id}`)).status, 204);
    const created = await call(d, 'POST', '/v1/sessions', { body: { prompt: 'a yellow saucer over snowy mountains at night', seed: 4 } });
    assert.equal(created.status, 201);
    problem(await call(d, 'PATCH', `/v1/sessions/${id}`, { body: { prompt: 'x'.repeat(5000) } }), { status: 422 });
    await v.frame();
    await v.close();
    d.terminate(); // with words on their way
    await call(d, 'PATCH', `/v1/sessions/${id}`, { body: { prompt: 'a last wish' } }).catch(() => null);
  });
  await d.stop();
}

// ---- sticky ----

for (const [what, fault, args] of [
  ['a call says the device is lost', 'op=attention what=lost arm=usr1', []],
  ['a shared pass says the device is lost', 'op=unpatchify what=lost arm=usr1', ['--device', 'cuda']],
  ['a call does not come back', 'op=attention what=hang arm=usr1', ['--device', 'cuda']],
  ['frames that come later say the device is lost', 'op=wait what=lost arm=usr1 late=40', ['--device', 'cuda']],
]) {
  const d = await start(fault, args);
  await check(`${what}: not ready, viewers get 1012, exit 70`, async () => {
    const viewers = [];
    for (const seed of [1, 2]) viewers.push(await Viewer.open(d, await session(d, seed)));
    for (const v of viewers) await v.frame(0);
    const deaf = await RawStream.open(d, await session(d, 3), { reading: false }); // does not answer the close: the daemon is there a little longer
    let unready = null;
    let refused = null;
    const since = Date.now();
    d.child.kill('SIGUSR1');
    while (!d.gone && Date.now() - since < LIMIT && !(unready && refused)) {
      const ready = await call(d, 'GET', '/readyz').catch(() => null);
      if (ready?.status === 503) unready ??= { ready, at: Date.now() };
      if (unready) refused = await call(d, 'POST', '/v1/sessions', { body: { prompt: 'snow' }, limit: 3000 }).catch(() => null);
      else await sleep(5);
    }
    assert.ok(unready, 'GET /readyz never said 503');
    problem(unready.ready, { status: 503, detail: /^failed/ });
    if (refused) problem(refused, { status: 503 });
    for (const v of viewers) assert.equal((await within('a viewer to be closed', v.ended, GONE_MS)).code, 1012);
    const took = await dies(d, 70, unready.at);
    console.log(`        exit ${took} ms after GET /readyz said 503, ${unready.at - since} ms after the signal`);
    assert.match(d.log, /device fault/);
    deaf.socket.destroy();
  });
}

{
  const d = await start('op=text_attention what=lost arm=usr1');
  await check('a prompt that finds the device lost gets 503, viewers 1012, exit 70', async () => {
    const id = await session(d, 1);
    const v = await Viewer.open(d, id);
    await v.frame(0);
    d.child.kill('SIGUSR1');
    await sleep(200);
    const since = Date.now();
    problem(await call(d, 'PATCH', `/v1/sessions/${id}`, { body: { prompt: 'something else' } }), { status: 503 });
    assert.equal((await within('the viewer to be closed', v.ended, GONE_MS)).code, 1012);
    console.log(`        exit ${await dies(d, 70, since)} ms after the request`);
  });
}

{
  const d = await start('op=alloc_host what=lost arm=usr1');
  await check('a fork that finds the device lost gets 503, so does one that waits; viewers 1012, exit 70', async () => {
    const id = await session(d, 1);
    const v = await Viewer.open(d, id);
    await v.frame(0);
    const waiting = forkOf(d, id, { at_chunk: 16 }).catch(() => null);
    await waits(d);
    d.child.kill('SIGUSR1');
    await sleep(200);
    const since = Date.now();
    problem(await forkOf(d, id), { status: 503 });
    const other = await waiting;
    if (other) problem(other, { status: 503 });
    assert.equal((await within('the viewer to be closed', v.ended, GONE_MS)).code, 1012);
    console.log(`        exit ${await dies(d, 70, since)} ms after the request`);
  });
}

await check('a device lost while the model loads is exit 70, a call that fails there is exit 78', async () => {
  for (const [what, code] of [['lost', 70], ['gpu', 78]]) {
    process.env.SC_FAULT = `op=matrix_create nth=7 what=${what}`;
    const end = await runToEnd(['--listen', '127.0.0.1:0', '--model', 'models/pocket']);
    assert.equal(end.code, code, end.err);
    assert.match(end.err, /matrix_create: call 7 fails/);
  }
});

finish();
