// mjpeg.mjs - a client of stream.mjpg that reads part by part, as <img> and ffmpeg do.
import assert from 'node:assert/strict';
import { request } from 'node:http';
import { LIMIT, until, within } from './harness.mjs';

/** {answer, take(n): the next n parts, close(), ended} */
export async function openParts(d, id) {
  const state = { data: Buffer.alloc(0), parts: [], fault: null, over: false };
  const req = request({ ...d.target, path: `/v1/sessions/${id}/stream.mjpg`, headers: { Host: d.host, ...(d.key ? { Authorization: `Bearer ${d.key}` } : {}) }, agent: false });
  let over;
  const ended = new Promise((done) => (over = done));
  ended.then(() => (state.over = true));
  const answer = await within('stream.mjpg to begin', new Promise((done, fail) => req.on('response', done).on('error', fail).end()));
  req.on('error', over);
  const boundary = /boundary="?([^";]+)"?/.exec(answer.headers['content-type'] ?? '')?.[1];

  /** One part after the other: --boundary CRLF headers CRLF CRLF picture CRLF. */
  function cut() {
    for (;;) {
      const end = state.data.indexOf('\r\n\r\n');
      if (end < 0) return;
      const headers = state.data.subarray(0, end).toString('latin1').replace(/^\r\n/, '');
      assert.ok(headers.startsWith(`--${boundary}\r\n`), `a part begins with ${JSON.stringify(headers.slice(0, 60))}`);
      const size = Number(/content-length: *(\d+)/i.exec(headers)?.[1] ?? NaN);
      assert.ok(size > 0, `a part without its length: ${JSON.stringify(headers)}`);
      if (state.data.length < end + 4 + size) return;
      state.parts.push({ headers, jpeg: Buffer.from(state.data.subarray(end + 4, end + 4 + size)) });
      state.data = state.data.subarray(end + 4 + size);
    }
  }
  answer.on('data', (data) => {
    state.data = Buffer.concat([state.data, data]);
    if (state.fault) return;
    try {
      if (boundary) cut();
    } catch (e) {
      state.fault = e;
    }
  });
  answer.on('error', over);
  answer.on('close', over);
  answer.status = answer.statusCode;
  return {
    answer,
    ended,
    close: () => req.destroy(),
    take: (n) =>
      until(`${n} parts of stream.mjpg`, () => {
        if (state.fault) throw state.fault;
        if (state.over && state.parts.length < n) throw new Error('stream.mjpg ended');
        return state.parts.length >= n && state.parts.splice(0, n);
      }, LIMIT),
  };
}
