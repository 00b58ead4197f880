// stream.mjs - watches the real daemon as viewers would and says what they saw: the figures of docs/performance.md.
//
//   node tests/bench/stream.mjs build/server/sparsecastd [--seconds 120] [--viewers 1] [--sessions 1] [--prompt-every 10]
//
// Starts the daemon on a free port with the pocket model and measures: ready time, POST to first frame, frames shown and lost, the gaps
// between frames (a stall is a gap above 2.5 frames), prompt to the first frame that shows it in milliseconds and chunks, resident memory
// at 30 s, in the middle and at the end, chunk times as the daemon reports them. A measurement, not a test: it passes no judgement.
import { spawn } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { parseArgs } from 'node:util';

const { WebSocket } = createRequire(new URL('../integration/package.json', import.meta.url))('ws');
const { values: opt, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    seconds: { type: 'string', default: '120' },
    viewers: { type: 'string', default: '1' },
    sessions: { type: 'string', default: '1' },
    'prompt-every': { type: 'string', default: '10' },
    model: { type: 'string', default: 'models/pocket' },
    device: { type: 'string', default: 'cpu' },
  },
});
const seconds = Number(opt.seconds), viewers = Number(opt.viewers), sessions = Number(opt.sessions), every = Number(opt['prompt-every']);
const PROMPTS = ['two yellow birds flying left over the sea at sunset', 'a blue car driving right in the city at night in the rain',
  'a purple hot air balloon drifting left over snowy mountains at dawn, snowing', 'a white sailboat sailing right on the sea in fog'];
const sleep = (ms) => new Promise((done) => setTimeout(done, ms));
const quantile = (list, q) => (list.length ? [...list].sort((a, b) => a - b)[Math.min(list.length - 1, Math.floor(q * list.length))] : NaN);
const ms = (v) => (Number.isFinite(v) ? v.toFixed(1) : '-');

const begin = performance.now();
const daemon = spawn(positionals[0] ?? 'build/server/sparsecastd',
  ['--listen', '127.0.0.1:0', '--model', opt.model, '--device', opt.device, '--max-sessions', String(Math.max(4, sessions))], { stdio: ['ignore', 'pipe', 'pipe'] });
let out = '', log = '';
daemon.stdout.on('data', (d) => (out += d));
daemon.stderr.on('data', (d) => (log += d));
process.on('exit', () => daemon.kill());
let url;
for (;;) {
  url = /http:\/\/127\.0\.0\.1:\d+/.exec(out + log)?.[0];
  if (url && (await fetch(`${url}/readyz`).then((r) => r.ok, () => false))) break;
  if (daemon.exitCode !== null) throw new Error(`the daemon stopped: ${log}`);
  await sleep(10);
}
console.log(`ready_ms ${ms(performance.now() - begin)}`);
const rss = () => Number(/VmRSS:\s+(\d+)/.exec(readFileSync(`/proc/${daemon.pid}/status`, 'latin1'))[1]) / 1024;

/** One session with its viewers; resolves to what the viewers saw. */
async function watch(index) {
  const posted = performance.now();
  const session = await fetch(`${url}/v1/sessions`, {
    method: 'POST', headers: { 'Content-Type': 'application/json' }, body: JSON.stringify({ prompt: 'a red balloon over the sea at sunset', seed: index + 1 }),
  }).then((r) => r.json());
  const seen = { first: NaN, frames: 0, lost: 0, gaps: [], firstPrompt: [], promptChunks: [], denoise: [], decode: [], late: [], dropped: 0, bytes: 0 };
  const sockets = [], asked = new Map();
  for (let v = 0; v < viewers; v++) {
    const socket = new WebSocket(`${url.replace('http', 'ws')}/v1/sessions/${session.id}/stream`, 'sparsecast.v1');
    let last = null, at = 0;
    socket.binaryType = 'nodebuffer';
    socket.on('error', (e) => console.log(`viewer ${index}.${v}: ${e.message}`));
    socket.on('message', (data, binary) => {
      const now = performance.now();
      if (!binary) {
        const m = JSON.parse(data);
        if (v === 0 && m.type === 'chunk') seen.denoise.push(m.denoise_ms), seen.decode.push(m.decode_ms), seen.late.push(m.lateness_ms);
        return;
      }
      const frame = Number(data.readBigUInt64LE(8)), chunk = data.readUInt32LE(16), seq = data.readUInt32LE(20), flags = data.readUInt16LE(6);
      seen.bytes += data.length;
      if (!Number.isFinite(seen.first)) seen.first = now - posted;
      if (!(flags & 4)) {
        seen.frames++;
        if (last !== null) {
          if (chunk > 1) seen.gaps.push(now - at); // the first chunk has a pause of its own: one picture at once, the rest when playback can go on
          seen.lost += Math.max(0, frame - last - 1);
        }
        last = frame;
        at = now;
        const wait = asked.get(seq);
        if (v === 0 && wait) {
          seen.firstPrompt.push(now - wait.at);
          seen.promptChunks.push(chunk - wait.chunk);
          asked.delete(seq);
        }
        if (v === 0) seen.chunk = chunk;
      }
      seen.dropped = Math.max(seen.dropped, data.readUInt32LE(60));
    });
    sockets.push(socket);
    setInterval(() => socket.readyState === 1 && last !== null && socket.send(JSON.stringify({ type: 'ack', frame: last })), 500).unref();
  }
  const until = performance.now() + seconds * 1000;
  let n = 0, next = performance.now() + every * 1000;
  while (performance.now() < until) {
    await sleep(20);
    if (every > 0 && performance.now() >= next && next + 5000 < until) {
      next += every * 1000 + 137; // drifts through the phase of the chunks
      const at = performance.now(), chunk = seen.chunk ?? 0;
      const receipt = await fetch(`${url}/v1/sessions/${session.id}`, {
        method: 'PATCH', headers: { 'Content-Type': 'application/json' }, body: JSON.stringify({ prompt: PROMPTS[n++ % PROMPTS.length] }),
      }).then((r) => r.json());
      asked.set(receipt.seq, { at, chunk });
    }
  }
  for (const s of sockets) s.close();
  return seen;
}

const memory = [];
const sampler = setInterval(() => memory.push([(performance.now() - begin) / 1000, rss()]), 1000);
const all = await Promise.all(Array.from({ length: sessions }, (_, i) => watch(i)));
clearInterval(sampler);
const near = (s) => memory.reduce((a, b) => (Math.abs(b[0] - s) < Math.abs(a[0] - s) ? b : a), memory[0]);
all.forEach((s, i) => {
  const period = 1000 / 16;
  console.log(`session ${i}: first_frame_ms ${ms(s.first)}  frames ${s.frames}  fps ${(s.frames / viewers / seconds).toFixed(2)}  lost ${s.lost}  dropped ${s.dropped}  ` +
    `KB/frame ${(s.bytes / Math.max(1, s.frames) / 1024).toFixed(1)}`);
  console.log(`  gap_ms p50 ${ms(quantile(s.gaps, 0.5))} p99 ${ms(quantile(s.gaps, 0.99))} max ${ms(Math.max(...s.gaps))}  stalls ${s.gaps.filter((g) => g > 2.5 * period).length}`);
  console.log(`  prompt_to_frame n ${s.firstPrompt.length}  ms p50 ${ms(quantile(s.firstPrompt, 0.5))} p95 ${ms(quantile(s.firstPrompt, 0.95))}  chunks p50 ` +
    `${quantile(s.promptChunks, 0.5)} p95 ${quantile(s.promptChunks, 0.95)} max ${Math.max(...s.promptChunks)}`);
  console.log(`  chunk_ms denoise p50 ${ms(quantile(s.denoise, 0.5))} decode p50 ${ms(quantile(s.decode, 0.5))}  lateness p50 ${ms(quantile(s.late, 0.5))} max ${ms(Math.max(...s.late))}`);
});
const [early, middle, end] = [near(30), near(seconds / 2), memory.at(-1)];
console.log(`rss_mb at ${early[0].toFixed(0)} s ${early[1].toFixed(1)}  at ${middle[0].toFixed(0)} s ${middle[1].toFixed(1)}  at ${end[0].toFixed(0)} s ${end[1].toFixed(1)}`);
const gone = new Promise((done) => daemon.on('exit', (code, signal) => done(signal ?? code)));
daemon.kill('SIGTERM');
console.log(`exit ${await gone}`);
