// harness.mjs - what api.mjs, fork.mjs, schedule.mjs, log.mjs and hostile.mjs share: a real daemon on a free port, counted checks, waits with generous limits.
//
// SPARSECASTD names the binary. The sanitized one is several times slower than real time, so nothing here measures speed: a wait is a
// limit, never an expectation. A daemon that is stopped must exit with 0 and must not have left a sanitizer's report on stderr.
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { call } from './wire.mjs';

export const ROOT = fileURLToPath(new URL('../../', import.meta.url));
export const LIMIT = 60000;
const REPORT = /AddressSanitizer|LeakSanitizer|UndefinedBehaviorSanitizer|ThreadSanitizer|runtime error:|Assertion .* failed|stack smashing/;
const LOG_BYTES = 8 << 20;

if (!process.env.SPARSECASTD) {
  console.log('SPARSECASTD names no daemon to test\n0 passed, 1 failed');
  process.exit(1);
}
export const BINARY = resolve(process.env.SPARSECASTD);
const VERBOSE = Boolean(process.env.VERBOSE);

export const sleep = (ms) => new Promise((done) => setTimeout(done, ms));

/** Polls `test` until it gives something true, and gives that. */
export async function until(what, test, limit = LIMIT) {
  const end = Date.now() + limit;
  for (;;) {
    const got = await test();
    if (got) return got;
    if (Date.now() > end) throw new assert.AssertionError({ message: `waited ${limit / 1000} s for: ${typeof what === 'function' ? what() : what}` });
    await sleep(40);
  }
}

/** A promise that gives up after `limit`. */
export function within(what, promise, limit = LIMIT) {
  let timer;
  const late = new Promise((_, fail) => {
    timer = setTimeout(() => fail(new assert.AssertionError({ message: `waited ${limit / 1000} s for: ${what}` })), limit);
  });
  return Promise.race([promise, late]).finally(() => clearTimeout(timer));
}

const running = new Set();

/** The binary with these arguments, run to its end: {code, signal, out, err}. */
export function runToEnd(args, { limit = LIMIT } = {}) {
  const child = spawn(BINARY, args, { cwd: ROOT, stdio: ['ignore', 'pipe', 'pipe'] });
  const result = { out: '', err: '' };
  child.stdout.on('data', (data) => (result.out += data));
  child.stderr.on('data', (data) => (result.err += data));
  const end = new Promise((done, fail) => {
    child.on('error', fail);
    child.on('close', (code, signal) => done({ ...result, code, signal }));
  });
  return within(`sparsecastd ${args.join(' ')} to end`, end, limit).finally(() => child.kill('SIGKILL'));
}

export class Daemon {
  /** Starts one and waits until it takes sessions. `listen`: 127.0.0.1:0 unless told otherwise; "none" needs unixPath. `state`: its state directory. */
  static async start(args = [], { listen = '127.0.0.1:0', unixPath = null, key = null, state = null } = {}) {
    const d = new Daemon();
    d.unixPath = unixPath;
    d.key = key;
    d.state = mkdtempSync(join(tmpdir(), 'sparsecast-test-'));
    const env = { ...process.env, STATE_DIRECTORY: state, XDG_STATE_HOME: d.state };
    if (!state) delete env.STATE_DIRECTORY;
    d.log = '';
    d.out = '';
    d.gone = null;
    const all = ['--listen', listen, '--model', 'models/pocket', ...(unixPath ? ['--unix', unixPath] : []), ...(key ? ['--key', key] : []), ...args];
    d.child = spawn(BINARY, all, { cwd: ROOT, env, stdio: ['ignore', 'pipe', 'pipe'] });
    running.add(d);
    d.child.stdout.on('data', (data) => (d.out += data));
    d.child.stderr.on('data', (data) => (d.log = (d.log + data).slice(-LOG_BYTES)));
    d.ended = new Promise((done) => {
      d.child.on('error', (e) => done((d.gone = { error: e.message })));
      d.child.on('close', (code, signal) => done((d.gone = { code, signal })));
    });
    const alive = () => {
      if (d.gone) throw new Error(`the daemon stopped: ${JSON.stringify(d.gone)}\n${d.log.slice(-2000)}`);
    };
    if (listen !== 'none') {
      const line = await until('a line with the URL on stdout', () => (alive(), /http:\/\/127\.0\.0\.1:(\d+)\//.exec(d.out)));
      d.port = Number(line[1]);
    }
    await until('the daemon to be ready', async () => {
      alive();
      const answer = await call(d, 'GET', '/readyz').catch(() => null);
      if (answer && answer.status !== 200) assert.equal(answer.status, 503, answer.text);
      return answer?.status === 200;
    });
    return d;
  }

  get url() {
    return `http://127.0.0.1:${this.port}/`;
  }

  /** How node:http and node:net reach it. */
  get target() {
    return this.port ? { host: '127.0.0.1', port: this.port } : { path: this.unixPath, socketPath: this.unixPath };
  }

  get host() {
    return this.port ? `127.0.0.1:${this.port}` : 'localhost';
  }

  /** SIGTERM, once: a second one means "at once". */
  terminate() {
    if (!this.gone && !this.told) this.child.kill('SIGTERM');
    this.told = true;
  }

  /** What a sanitizer or an assertion said, with some lines around it; null when all is well. */
  report() {
    const at = this.log.search(REPORT);
    return at < 0 ? null : this.log.slice(Math.max(0, at - 400), at + 4000);
  }

  /** SIGTERM, then: exit code 0, nothing to complain about. */
  async stop() {
    this.terminate();
    await within('the daemon to end after SIGTERM', this.ended).catch((e) => {
      this.child.kill('SIGKILL');
      throw e;
    });
    running.delete(this);
    rmSync(this.state, { recursive: true, force: true });
    assert.equal(this.report(), null);
    assert.deepEqual(this.gone, { code: 0, signal: null }, this.log.slice(-2000));
  }
}

process.on('exit', () => {
  for (const d of running) d.child.kill('SIGKILL');
});

let passed = 0;
let failed = 0;

/** One case. Prints a line when it fails (with VERBOSE also when it passes); gives whether it passed. */
export async function check(name, body) {
  const began = Date.now();
  try {
    await body();
    passed += 1;
    if (VERBOSE) console.log(`ok      ${name} (${Date.now() - began} ms)`);
    return true;
  } catch (e) {
    failed += 1;
    const where = e.stack?.split('\n').find((l) => /at .*(api|fork|schedule|log|snapshots|videos|fault|hostile)\.mjs/.test(l))?.trim() ?? '';
    console.log(`NOT OK  ${name}: ${String(e.message).replaceAll('\n', ' | ').slice(0, 1500)} ${where}`);
    return false;
  }
}

export function finish() {
  if (failed) for (const d of running) console.log(`the daemon's last words:\n${d.log.slice(-3000)}`);
  console.log(`${passed} passed, ${failed} failed`);
  process.exit(failed ? 1 : 0);
}
