// wire.mjs - the daemon's wire as clients see it: HTTP through node:http, raw sockets for what no decent client does, viewers on `ws`.
//
// Every text message of a stream is held against openapi.json, every binary one against PROTOCOL's frame header, wherever a viewer stands:
// what is wrong is kept in `viewer.faults` and thrown by the next wait.
import assert from 'node:assert/strict';
import { request as httpRequest } from 'node:http';
import { connect } from 'node:net';
import WebSocket from 'ws';
import { LIMIT, sleep, within } from './harness.mjs';
import { faults, schemaOf } from './schema.mjs';

/** One HTTP call on a connection of its own: {status, headers, body, text}. A body that is no text or Buffer goes as JSON. */
export function call(d, method, path, { body, headers = {}, key = d.key, limit = LIMIT, signal } = {}) {
  const all = { Host: d.host, ...headers };
  let data = null;
  if (body !== undefined) {
    data = typeof body === 'string' || Buffer.isBuffer(body) ? Buffer.from(body) : Buffer.from(JSON.stringify(body));
    all['Content-Type'] ??= 'application/json';
    all['Content-Length'] ??= data.length;
  }
  if (key) all.Authorization ??= `Bearer ${key}`;
  const answer = new Promise((done, fail) => {
    const req = httpRequest({ ...d.target, method, path, headers: all, agent: false, signal }, (res) => {
      const parts = [];
      res.on('data', (part) => parts.push(part));
      res.on('error', fail);
      res.on('end', () => {
        const whole = Buffer.concat(parts);
        done({ status: res.statusCode, headers: res.headers, body: whole, text: whole.toString('utf8'), json: () => JSON.parse(whole.toString('utf8')) });
      });
    });
    req.on('error', fail);
    req.end(data);
  });
  return within(`${method} ${path}`, answer, limit);
}

// ---- raw sockets ----

/** The first answer in `data`, or null while it is not whole. `ended`: the peer sends no more. */
export function readAnswer(data, { ended = false, head = false } = {}) {
  const end = data.indexOf('\r\n\r\n');
  if (end < 0) return null;
  const [line, ...lines] = data.subarray(0, end).toString('latin1').split('\r\n');
  const first = /^HTTP\/1\.[01] (\d{3})( .*)?$/.exec(line);
  if (!first) throw new Error(`not an HTTP answer: ${JSON.stringify(line.slice(0, 80))}`);
  const headers = {};
  for (const l of lines) {
    const at = l.indexOf(':');
    const name = l.slice(0, at).toLowerCase();
    const value = l.slice(at + 1).trim();
    headers[name] = name in headers ? `${headers[name]}, ${value}` : value;
  }
  const status = Number(first[1]);
  let body = data.subarray(end + 4);
  const bare = head || status === 101 || status === 100 || status === 204 || status === 304;
  const size = Number(headers['content-length'] ?? NaN);
  if (bare) body = Buffer.alloc(0);
  else if (Number.isFinite(size)) {
    if (body.length < size && !ended) return null;
    body = body.subarray(0, size);
  } else if (!ended) return null;
  return { status, headers, body, text: body.toString('utf8'), rest: data.subarray(end + 4 + body.length) };
}

/** Bytes in, one answer out. {status 0} when the connection ends without one. `more`: what else to do with the open socket. */
export function exchange(d, bytes, { limit = LIMIT, head = false, more = null, untilClosed = false } = {}) {
  const socket = connect(d.target);
  let data = Buffer.alloc(0);
  const began = Date.now();
  const answer = new Promise((done, fail) => {
    const settle = (ended) => {
      let got = readAnswer(data, { ended, head });
      while (got?.status === 100) {
        data = got.rest;
        got = readAnswer(data, { ended, head });
      }
      if (got && (!untilClosed || ended)) done({ ...got, closed: ended, ms: Date.now() - began });
      else if (ended) done({ status: 0, headers: {}, text: '', body: Buffer.alloc(0), closed: true, ms: Date.now() - began });
    };
    socket.on('data', (part) => {
      data = Buffer.concat([data, part]);
      try {
        settle(false);
      } catch (e) {
        fail(e);
      }
    });
    socket.on('error', () => {}); // a reset is an end, too
    socket.on('close', () => {
      try {
        settle(true);
      } catch (e) {
        fail(e);
      }
    });
    socket.on('connect', () => {
      for (const part of [bytes].flat()) socket.write(part);
      more?.(socket);
    });
  });
  return within('an answer or the end of the connection', answer, limit).finally(() => socket.destroy());
}

// ---- frames ----

export function parseFrame(data) {
  assert.ok(data.length > 64, `a frame of ${data.length} bytes`);
  assert.equal(data.readUInt32LE(0), 0x31464353, 'magic');
  const bytes = data.readUInt16LE(4);
  assert.equal(bytes, 64, 'header bytes');
  const big = (at) => {
    const v = data.readBigUInt64LE(at);
    assert.ok(v < 1n << 53n, `field at ${at} is ${v}`);
    return Number(v);
  };
  return {
    flags: data.readUInt16LE(6), frame: big(8), chunk: data.readUInt32LE(16), seq: data.readUInt32LE(20), pts: big(24), sent: big(32),
    wait: data.readUInt32LE(40), denoise: data.readUInt32LE(44), decode: data.readUInt32LE(48), encode: data.readUInt32LE(52),
    width: data.readUInt16LE(56), height: data.readUInt16LE(58), dropped: data.readUInt32LE(60), jpeg: Buffer.from(data.subarray(bytes)),
  };
}

/** Width and height of a whole baseline JPEG: SOI first, EOI last, one frame header in between. */
export function jpegSize(jpeg) {
  assert.equal(jpeg.readUInt16BE(0), 0xffd8, 'SOI');
  assert.equal(jpeg.readUInt16BE(jpeg.length - 2), 0xffd9, 'EOI');
  for (let at = 2; at + 9 < jpeg.length;) {
    assert.equal(jpeg[at], 0xff, 'a marker');
    const marker = jpeg[at + 1];
    if (marker === 0xc0) return { width: jpeg.readUInt16BE(at + 7), height: jpeg.readUInt16BE(at + 5) };
    assert.notEqual(marker, 0xda, 'scan before the frame header');
    at += 2 + jpeg.readUInt16BE(at + 2);
  }
  throw new Error('no frame header in the JPEG');
}

const FIRST = 9; // frames of chunk 0, and of the later ones
const LATER = 12;
export const chunkOf = (frame) => (frame < FIRST ? 0 : 1 + Math.floor((frame - FIRST) / LATER));
export const firstOf = (chunk) => (chunk === 0 ? 0 : FIRST + (chunk - 1) * LATER);

// ---- viewers ----

export class Viewer {
  /** Resolves when open; a refusal rejects with an Error that carries `answer`. */
  static open(d, id, { protocols = ['sparsecast.v1'], headers = {}, origin, silent = false, fps = 16 } = {}) {
    const v = new Viewer();
    v.events = [];
    v.frames = [];
    v.faults = [];
    v.gone = null;
    v.fps = fps; // presentation times are checked while it is set
    const path = `/v1/sessions/${id}/stream`;
    const address = d.port ? `ws://127.0.0.1:${d.port}${path}` : `ws+unix://${d.unixPath}:${path}`;
    const all = d.port ? headers : { Host: d.host, ...headers };
    v.ws = new WebSocket(address, protocols, { headers: all, origin, handshakeTimeout: LIMIT });
    v.ended = new Promise((done) => v.ws.on('close', (code, reason) => done((v.gone = { code, reason: reason.toString() }))));
    v.ws.on('message', (data, binary) => v.take(data, binary));
    const opened = new Promise((done, fail) => {
      v.ws.on('open', () => {
        if (v.ws.protocol !== 'sparsecast.v1') v.faults.push(`subprotocol "${v.ws.protocol}"`);
        if (v.ws.extensions) v.faults.push(`extensions "${v.ws.extensions}"`);
        if (!silent) {
          v.beat = setInterval(() => v.newest && v.say({ type: 'ack', frame: v.newest.frame }), 900);
          v.beat.unref();
        }
        done(v);
      });
      v.ws.on('error', (e) => (v.gone ? null : fail(e)));
      v.ws.on('unexpected-response', (req, res) => {
        const parts = [];
        res.on('data', (part) => parts.push(part));
        res.on('end', () => {
          const body = Buffer.concat(parts);
          fail(Object.assign(new Error(`refused with ${res.statusCode}`), { answer: { status: res.statusCode, headers: res.headers, body, text: body.toString() } }));
        });
      });
    });
    return within(`a stream of ${id} to open`, opened);
  }

  take(data, binary) {
    try {
      if (!binary) {
        const event = JSON.parse(data.toString('utf8'));
        assert.deepEqual(faults(schemaOf('ServerMessage'), event), []);
        if (this.events.length === 0) assert.equal(event.type, 'hello', 'the first message');
        this.events.push({ ...event, after: this.frames.length });
        return;
      }
      assert.ok(this.events.length > 0, 'a frame before hello');
      const f = parseFrame(data);
      const { width, height } = jpegSize(f.jpeg);
      assert.deepEqual([f.width, f.height], [width, height], 'size in the header and in the JPEG');
      this.judge(f);
      this.newest = f;
      this.frames.push(f);
    } catch (e) {
      this.faults.push(e.message);
    }
  }

  /** Counters and flags of a frame, and its place after the one before. */
  judge(f) {
    const what = `frame ${f.frame} of chunk ${f.chunk}, flags ${f.flags}, dropped ${f.dropped}`;
    assert.equal(f.chunk, chunkOf(f.frame), what);
    assert.equal(f.flags & ~7, 0, what);
    assert.equal(Boolean(f.flags & 1), f.frame === firstOf(f.chunk), `${what}: first of its chunk`);
    if (f.flags & 2) assert.ok(f.flags & 1, `${what}: a new prompt begins with a chunk`);
    if (this.fps) assert.ok(Math.abs(f.pts - (f.frame * 1e6) / this.fps) <= 2, `${what}: pts ${f.pts}`);
    assert.ok(f.denoise > 0 && f.decode > 0 && f.encode > 0, `${what}: stage times`);
    const last = this.newest;
    if (f.flags & 4) return assert.equal(last, undefined, `${what}: a repeat comes first`);
    if (!last) return undefined;
    assert.ok(f.frame > last.frame, `${what}: after frame ${last.frame}`);
    assert.equal(f.frame - last.frame - 1, f.dropped - last.dropped, `${what}: after frame ${last.frame}, dropped ${last.dropped}`);
    assert.ok(f.sent >= last.sent && f.seq >= last.seq, `${what}: goes back`);
    return undefined;
  }

  say(message) {
    if (this.ws.readyState === WebSocket.OPEN) this.ws.send(typeof message === 'string' ? message : JSON.stringify(message));
  }

  /** Waits as long as the stream goes on: `limit` counts from the newest frame, so a slow machine is no failure and a stream that stands is. */
  async until(what, test, limit = LIMIT) {
    const most = Date.now() + 6 * limit;
    for (let since = Date.now(), seen = this.frames.length; ; await sleep(20)) {
      this.sane();
      const got = test(this);
      if (got) return got;
      if (this.gone) throw new Error(`closed with ${this.gone.code} "${this.gone.reason}" while waiting for: ${what}`);
      if (this.frames.length !== seen) [since, seen] = [Date.now(), this.frames.length];
      if (Date.now() - since < limit && Date.now() < most) continue;
      throw new assert.AssertionError({
        message: `waited ${limit / 1000} s without a frame for: ${what} (newest frame ${this.newest?.frame}, last events ${this.events.slice(-3).map((e) => JSON.stringify(e)).join(' ')})`,
      });
    }
  }

  sane() {
    if (this.faults.length) throw new Error(`on the stream: ${this.faults[0]}`);
  }

  event(what, test, { from = 0, limit = LIMIT } = {}) {
    return this.until(what, () => this.events.slice(from).find(test), limit);
  }

  /** The first frame beyond those there are now, or of this number at least. */
  frame(number = null, limit = LIMIT) {
    const from = this.frames.length;
    return this.until(number === null ? 'a new frame' : `frame ${number}`, () => (number === null ? this.frames[from] : this.frames.find((f) => f.frame >= number)), limit);
  }

  /** Gone without a word. */
  vanish({ reset = false } = {}) {
    clearInterval(this.beat);
    if (reset) this.ws._socket.resetAndDestroy();
    else this.ws.terminate();
  }

  async close() {
    clearInterval(this.beat);
    this.ws.close(1000);
    await within('the close to be answered', this.ended);
    return this.gone;
  }
}
