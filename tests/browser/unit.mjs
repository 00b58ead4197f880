// unit.mjs - the viewer's pure modules. Run: node unit.mjs, or node --test unit.mjs
import assert from 'node:assert/strict';
import { test as nodeTest } from 'node:test';
import { Backoff } from '../../web/backoff.js';
import { parseFrame } from '../../web/frame.js';
import { heat, summary, tracks } from '../../web/memory.js';
import { Playout } from '../../web/playout.js';
import { Stats } from '../../web/stats.js';
import { Stream } from '../../web/socket.js';
import { clock, closeInWords, millis, problemInWords } from '../../web/words.js';

let passed = 0;
let failed = 0;
const test = (name, body) =>
  nodeTest(name, async () => {
    try {
      await body();
      passed += 1;
    } catch (e) {
      failed += 1;
      throw e;
    }
  });
process.on('exit', () => console.log(`${passed} passed, ${failed} failed`));

// Offsets of PROTOCOL, written out by hand; two JPEG bytes behind.
const GOLDEN = [
  '53434631', '4000', '0300', // magic, header bytes, flags 1 + 2
  '2a00000001000000', // frame 2^32 + 42
  '07000000', '03000000', // chunk 7, prompt seq 3
  '40420f0000000000', // 1 000 000 us
  '15cd5b0700000000', // 123 456 789 us
  '01000000', '10270000', 'e8030000', 'f4010000', // wait 1, denoise 10000, decode 1000, encode 500
  '0001', 'a000', '05000000', // 256 x 160, 5 dropped
].join('');
const bytes = (hex) => Uint8Array.from(Buffer.from(hex, 'hex')).buffer;

test('a golden frame header is read field by field', () => {
  const { jpeg, ...h } = parseFrame(bytes(`${GOLDEN}ffd8`));
  assert.deepEqual(h, {
    headerBytes: 64, flags: 3, firstOfChunk: true, firstOfPrompt: true, repeat: false, frame: 2 ** 32 + 42, chunk: 7, promptSeq: 3,
    ptsUs: 1000000, sentUs: 123456789, waitUs: 1, denoiseUs: 10000, decodeUs: 1000, encodeUs: 500, width: 256, height: 160, dropped: 5,
  });
  assert.deepEqual([...jpeg], [0xff, 0xd8]);
});

test('a longer header is skipped to its end', () => {
  const hex = `${GOLDEN.replace('534346314000', '534346314800')}1122334455667788ffd8ff`;
  const h = parseFrame(bytes(hex));
  assert.equal(h.headerBytes, 72);
  assert.equal(h.dropped, 5);
  assert.deepEqual([...h.jpeg], [0xff, 0xd8, 0xff]);
});

test('what is not a frame is refused with a reason', () => {
  assert.throws(() => parseFrame(new ArrayBuffer(0)), /0 bytes is shorter/);
  assert.throws(() => parseFrame(bytes(GOLDEN.slice(0, 126))), /63 bytes is shorter/);
  assert.throws(() => parseFrame(bytes(`54${GOLDEN.slice(2)}ff`)), /not with SCF1/);
  assert.throws(() => parseFrame(bytes(`${GOLDEN.replace('534346314000', '534346313f00')}ff`)), /at least 64/);
  assert.throws(() => parseFrame(bytes(`${GOLDEN.replace('534346314000', '53434631ffff')}ff`)), /no picture/);
  assert.throws(() => parseFrame(bytes(GOLDEN)), /no picture/);
});

test('flag 4 marks a repeat for a late joiner', () => {
  const h = parseFrame(bytes(`${GOLDEN.replace('40000300', '40000400')}ff`));
  assert.deepEqual([h.firstOfChunk, h.firstOfPrompt, h.repeat], [false, false, true]);
});

test('backoff doubles up to its limit and starts over after a reset', () => {
  const b = new Backoff({ random: () => 0 });
  assert.deepEqual(Array.from({ length: 6 }, () => b.next()), [1, 2, 4, 8, 15, 15]);
  b.reset();
  assert.equal(b.next(), 1);
});

test('backoff is spread and believes Retry-After within reason', () => {
  assert.equal(new Backoff({ random: () => 1 }).next(), 1.25);
  const b = new Backoff({ random: () => 0 });
  assert.equal(b.next(7), 7);
  assert.equal(b.next(NaN), 2);
  assert.equal(b.next(1e9), 120);
  for (let i = 0; i < 2000; i++) assert.ok(b.next() <= 15);
});

test('even frames are drawn at their own pace', () => {
  const p = new Playout({ targetMs: 50 });
  for (let i = 0; i < 100; i++) assert.equal(Math.round(p.arrive(i * 62500, 1000 + i * 62.5)), Math.round(1050 + i * 62.5));
});

test('a burst is played at its own pace, not at once', () => {
  const p = new Playout({ targetMs: 50 });
  for (let chunk = 0; chunk < 20; chunk++) {
    const now = chunk * 750;
    for (let i = 0; i < 12; i++) assert.equal(Math.round(p.arrive((chunk * 12 + i) * 62500, now)), Math.round(now + 50 + i * 62.5));
  }
});

test('a late frame pushes the clock back, spare time is given back slowly', () => {
  const p = new Playout({ targetMs: 50 });
  for (let i = 0; i < 16; i++) p.arrive(i * 62500, i * 62.5);
  assert.equal(p.arrive(1e6, 1500), 1500); // 450 ms too late for its 1050
  let due = 0;
  for (let i = 17; i < 900; i++) {
    const now = i * 62.5;
    const next = p.arrive(i * 62500, now);
    assert.ok(next >= due && next >= now);
    due = next;
    if (i === 900 - 1) assert.ok(next - now < 60, `still ${next - now} ms behind`);
  }
});

test('a jump in presentation time begins anew', () => {
  const p = new Playout({ targetMs: 50 });
  p.arrive(9e6, 100);
  assert.equal(p.arrive(0, 200), 250);
  assert.equal(p.arrive(3600e6, 300), 350);
});

const drawn = (promptSeq, more = {}) => ({ promptSeq, dropped: 0, sentUs: 0, ...more });

test('prompt to picture runs from sending to the first frame under the prompt', () => {
  const s = new Stats();
  s.frameDrawn(drawn(1), 900);
  s.promptSent('a', 1000);
  s.promptNamed('a', 2);
  s.frameDrawn(drawn(1), 1100);
  assert.equal(s.promptToPictureMs, null);
  s.frameDrawn(drawn(2), 1400);
  s.frameDrawn(drawn(2), 1500);
  assert.equal(s.promptToPictureMs, 400);
  assert.deepEqual(s.takeAnswers(), [['a', 400]]);
  assert.deepEqual(s.takeAnswers(), []);
});

test('the frame may come before the answer that names the prompt', () => {
  const s = new Stats();
  s.frameDrawn(drawn(1), 0);
  s.promptSent('a', 100);
  s.frameDrawn(drawn(2), 350);
  s.promptNamed('a', 2);
  assert.equal(s.promptToPictureMs, 250);
});

test('a skipped first frame and a superseded prompt do not hang the measurement', () => {
  const s = new Stats();
  s.promptSent('a', 0);
  s.promptSent('b', 100);
  s.promptNamed('a', 2);
  s.promptNamed('b', 3);
  s.promptGone('a');
  s.frameDrawn(drawn(3), 700);
  assert.deepEqual(s.takeAnswers(), [['b', 600]]);
  assert.equal(s.asked.size, 0);
});

test('frames a second follow the last two seconds and fall to nothing', () => {
  const s = new Stats();
  for (let i = 0; i < 160; i++) s.frameDrawn(drawn(1), i * 62.5);
  assert.ok(Math.abs(s.fps(159 * 62.5) - 16) < 0.6);
  assert.equal(s.fps(159 * 62.5 + 3000), 0);
});

test('dropped frames are the daemon\'s and our own together', () => {
  const s = new Stats();
  s.skipped = 2;
  s.frameDrawn(drawn(1, { dropped: 5 }), 0);
  assert.equal(s.dropped(), 7);
});

test('server to screen uses the quickest ping to compare clocks', () => {
  const s = new Stats();
  s.pong(1000, 5_000_000 + 5_000, 1010); // server 5005 ms in the middle, at 1005 of ours
  s.pong(2000, 9_999_999, 2400); // slow, so not believed
  assert.equal(s.clockMs, 4000);
  s.frameDrawn(drawn(1, { sentUs: 5_100_000 }), 1130);
  assert.equal(s.deliveryMs, 30);
});

test('every close code of the protocol has words and says what follows', () => {
  for (const code of [1000, 1001, 1006, 1008, 1009, 1011, 1012, 1013, 4404, 4409]) assert.ok(closeInWords(code).text.length > 10);
  assert.deepEqual([1001, 1006, 1009, 1011, 1012, 1013].map((c) => closeInWords(c).again), Array(6).fill(true));
  assert.deepEqual([1000, 4404].map((c) => closeInWords(c).over), [true, true]);
  assert.equal(closeInWords(4409).again, false);
  assert.match(closeInWords(1008, 'too many messages').text, /too many messages/);
});

test('problem documents become sentences', () => {
  assert.equal(problemInWords({ title: 'Busy', detail: 'All 4 sessions are taken.' }, 503), 'All 4 sessions are taken.');
  assert.equal(problemInWords({ title: 'Bad', errors: [{ pointer: '/prompt', detail: 'is empty' }] }, 422), 'Bad - prompt: is empty');
  assert.equal(problemInWords(null, 502), 'The server answered 502');
});

test('times read well', () => {
  assert.deepEqual([millis(NaN), millis(null), millis(3.14), millis(84.4), millis(1240)], ['–', '–', '3.1 ms', '84 ms', '1.24 s']);
  assert.deepEqual([clock(42), clock(727), clock(3723)], ['0:42', '12:07', '1:02:03']);
});

// A fake socket: the stream without a browser.
function fakeStream(probe) {
  const sockets = [];
  const seen = [];
  class FakeSocket {
    constructor(url, protocols) {
      Object.assign(this, { url, protocols, readyState: 0, sent: [] });
      sockets.push(this);
    }
    send(text) {
      this.sent.push(JSON.parse(text));
    }
    close() {
      this.readyState = 3;
    }
    open() {
      this.readyState = 1;
      this.onopen();
    }
  }
  const on = {};
  for (const name of ['onOpen', 'onFrame', 'onEvent', 'onDown', 'onWait']) on[name] = (value) => seen.push([name, value]);
  const stream = new Stream('abc', {
    probe, on, url: () => 'ws://host/v1/sessions/abc/stream', WebSocketType: FakeSocket, backoff: new Backoff({ firstS: 0.02, random: () => 0 }),
  });
  return { stream, sockets, seen };
}
const until = async (what) => {
  for (let i = 0; i < 500 && !what(); i++) await new Promise((r) => setTimeout(r, 10));
  assert.ok(what());
};

test('the stream asks for the subprotocol, sends ping and ack, and comes back after a loss', async () => {
  const { stream, sockets, seen } = fakeStream(async () => ({ id: 'abc', state: 'running' }));
  await stream.connect();
  assert.deepEqual(sockets[0].protocols, ['sparsecast.v1']);
  sockets[0].open();
  assert.equal(sockets[0].sent[0].type, 'ping');
  stream.playback = 12;
  await until(() => sockets[0].sent.some((m) => m.type === 'ack' && m.frame === 12));
  sockets[0].onmessage({ data: 'not json' });
  sockets[0].onmessage({ data: '{"type":"viewers","count":2}' });
  assert.deepEqual(seen.at(-1), ['onEvent', { type: 'viewers', count: 2 }]);
  sockets[0].onclose({ code: 1006, reason: '' });
  await until(() => sockets.length === 2);
  assert.ok(seen.some(([name, v]) => name === 'onDown' && v.again));
  stream.stop();
});

test('a session that is gone is over, an unreachable server is tried again', async () => {
  const gone = fakeStream(async () => Promise.reject(Object.assign(new Error('no such session'), { status: 404 })));
  await gone.stream.connect();
  assert.equal(gone.seen[0][1].over, true);
  let tries = 0;
  const away = fakeStream(async () => {
    tries += 1;
    throw Object.assign(new Error('down'), { status: 0, unreachable: true });
  });
  await away.stream.connect();
  await until(() => tries >= 3);
  away.stream.stop();
  assert.equal(away.seen[0][1].text, 'Connection lost');
});

test('a map of the memory: colours, tiles at the edge, and in words', () => {
  assert.equal(heat(0), 'transparent');
  const [weak, strong] = [heat(0.1), heat(1)];
  assert.notEqual(weak, strong);
  assert.equal(heat(7), strong);
  const alpha = (c) => Number(/\/ ([\d.]+)\)/.exec(c)[1]);
  assert.ok(alpha(weak) < alpha(strong) && alpha(strong) < 1);
  assert.deepEqual(tracks(3, 100, 256), [100, 100, 56]);
  assert.deepEqual(tracks(2, 128, 256), [128, 128]);
  const memory = { chunk: 20, layers: 2, heads: 2, capacity: 8, persistent: 3, rows: 3, columns: 3, map: [[0, 1, 0], [0, 5, 0], [0, 0, 0]], oldest_chunk: [[null, 12, null], [null, 18, null], [null, null, null]] };
  assert.equal(summary(memory, 0.75), '3 of 8 blocks kept by each of 4 heads, the oldest 6 s old; most at the middle.');
  assert.equal(summary({ ...memory, map: [[0, 9, 0], [0, 5, 0], [0, 0, 0]] }, NaN), '3 of 8 blocks kept by each of 4 heads; most at the top middle.');
  assert.equal(summary({ ...memory, persistent: 0, map: [[0, 0, 0], [0, 0, 0], [0, 0, 0]] }, 1), '0 of 8 blocks kept by each of 4 heads.');
  assert.match(summary({ ...memory, capacity: 0 }, 1), /nothing for good/);
});
