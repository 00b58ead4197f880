// daemon.mjs - the viewer against the real daemon: SPARSECASTD=build/server/sparsecastd node daemon.mjs
// SPARSECASTD_ARGS adds options, separated by spaces. Without SPARSECASTD nothing is run and nothing passes.
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { ARTIFACTS, check, distance, failures, finish, LIMIT, look, moves, openBrowser, openPage, phase, text, until } from './harness.mjs';

const ROOT = fileURLToPath(new URL('../../', import.meta.url));
if (!process.env.SPARSECASTD) {
  console.log('SPARSECASTD names no daemon to test\n0 passed, 1 failed');
  process.exit(1);
}
const binary = resolve(process.env.SPARSECASTD);
const state = mkdtempSync(join(tmpdir(), 'sparsecast-browser-'));
const port = await new Promise((done) => {
  const probe = createServer().listen(0, '127.0.0.1', () => {
    const free = probe.address().port;
    probe.close(() => done(free));
  });
});
const url = `http://127.0.0.1:${port}/`;
let daemon = null;
let log = '';

async function startDaemon() {
  const more = (process.env.SPARSECASTD_ARGS ?? '').split(' ').filter(Boolean);
  const child = spawn(binary, ['--listen', `127.0.0.1:${port}`, '--model', 'models/pocket', ...more], {
    cwd: ROOT,
    env: { ...process.env, STATE_DIRECTORY: state, XDG_STATE_HOME: state },
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  daemon = child;
  let out = '';
  let gone = null;
  child.stdout.on('data', (data) => (out += data));
  child.stderr.on('data', (data) => (log = (log + data).slice(-4000)));
  child.on('error', (e) => (gone = e.message));
  child.on('exit', (code, signal) => (gone = signal ?? `exit ${code}`));
  await until('the daemon to be ready', async () => {
    if (gone) throw new Error(`the daemon stopped: ${gone}`);
    return fetch(`${url}readyz`).then((answer) => answer.ok, () => false);
  });
  await until(`a line with ${url} on stdout`, () => out.includes(url));
}

const killDaemon = () =>
  new Promise((done) => {
    if (!daemon || daemon.exitCode !== null || daemon.signalCode !== null) return done();
    daemon.on('exit', done);
    daemon.kill('SIGKILL');
  });

/** Mean colour over a few pictures, so that one passing object does not decide. */
async function meanColour(page) {
  const sum = [0, 0, 0];
  for (let i = 0; i < 8; i++) {
    (await look(page)).mean.forEach((v, c) => (sum[c] += v / 8));
    await page.waitForTimeout(120);
  }
  return sum;
}

async function end() {
  await killDaemon();
  await browser.close();
  rmSync(state, { recursive: true, force: true });
  if (failures()) console.log(`the daemon's last words:\n${log}`);
  finish();
}

const browser = await openBrowser();
const page = await openPage(browser);
const latency = () => text(page, 'latency');

await check('the daemon starts, prints its URL and serves the page under a strict policy', async () => {
  await startDaemon();
  const answer = await page.goto(url);
  assert.equal(answer.status(), 200);
  assert.match(answer.headers()['content-security-policy'] ?? '', /default-src 'none'.*script-src 'self'/);
});

if (failures()) await end(); // nothing below could work

await check('a session starts by itself and its picture moves', async () => {
  await moves(page);
  assert.equal(await phase(page), 'live');
  assert.match(page.url(), /#\w{10,}$/);
});

await check('a typed prompt reaches the picture and is timed', async () => {
  await page.waitForTimeout(2000);
  const before = await meanColour(page);
  assert.doesNotMatch(await latency(), /\d/);
  await page.fill('#prompt', 'two red balloons drifting left over the sea at night, snowing');
  await page.press('#prompt', 'Enter');
  await until('prompt to picture', async () => /^[\d.]+ m?s$/.test(await latency()));
  assert.match(await text(page, 'now'), /at night, snowing$/);
  let after = before;
  await until('another mean colour', async () => distance((after = await meanColour(page)), before) > 25);
  const round = (c) => c.map(Math.round).join(' ');
  console.log(`        prompt to picture ${await latency()}, mean colour ${round(before)} -> ${round(after)}, ${await text(page, 'fps')} frames a second`);
  await page.keyboard.press('Escape');
  await page.screenshot({ path: `${ARTIFACTS}viewer.png` });
});

await check('pause holds the picture, resume lets it go', async () => {
  await page.keyboard.press('Space');
  await until('paused', async () => (await text(page, 'state')) === 'paused');
  await until('a still picture', async () => {
    const one = await look(page);
    await page.waitForTimeout(2500);
    return distance(one.pixels, (await look(page)).pixels) === 0;
  });
  await page.keyboard.press('Space');
  await moves(page);
  assert.equal(await text(page, 'state'), 'running');
});

await check('a reload stays with the session', async () => {
  const before = page.url();
  await page.reload();
  await moves(page);
  assert.equal(page.url(), before);
});

await check('Fork: another window goes on from this picture under a prompt of its own, and this one goes on as before', async () => {
  const words = await text(page, 'now');
  await page.fill('#prompt', 'two red balloons drifting left over the sea at noon');
  const opened = page.context().waitForEvent('page');
  await page.click('#fork');
  const other = await opened;
  await other.waitForURL(/#[a-z2-7]{26}$/);
  await moves(other);
  assert.notEqual(other.url(), page.url());
  assert.match(await text(other, 'now'), /at noon$/);
  await moves(page);
  assert.equal(await text(page, 'now'), words);
  await until('another mean colour than here', async () => distance(await meanColour(other), await meanColour(page)) > 25);
  await other.screenshot({ path: `${ARTIFACTS}viewer_fork.png` });
  await other.close();
});

await check('a killed daemon is announced in plain words', async () => {
  await killDaemon();
  await until('words about it', async () => {
    const words = `${await text(page, 'notice-text')} ${await text(page, 'notice-more')}`;
    return /Connection lost.*Trying again in \d+ s/.test(words) && (await page.locator('#notice').isVisible());
  });
});

await check('with the daemon back the session goes on, or a new one is offered', async () => {
  await startDaemon();
  await until('live or over', async () => ['live', 'over'].includes(await phase(page)), 2 * LIMIT);
  const kept = (await phase(page)) === 'live';
  if (!kept) await page.click('#notice-action');
  await moves(page);
  console.log(`        ${kept ? 'the session came back' : 'a new session was offered'}`);
});

await check('no script failed and the content security policy was kept', async () => {
  assert.deepEqual(page.faults, []);
});

await end();
