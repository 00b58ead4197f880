// rawstream.mjs - a WebSocket client without manners: sends any bytes as frames, reads what the daemon sends frame by frame.
import { connect } from 'node:net';
import { LIMIT, within } from './harness.mjs';
import { readAnswer } from './wire.mjs';

export const KEY = 'dGhlIHNhbXBsZSBub25jZQ==';
const MASK = Buffer.from([0x37, 0xfa, 0x21, 0x3d]);

/** One frame. `size` lies about the payload's length, `wide` (126 or 127) takes a longer form than needed. */
export function frame(opcode, payload = '', { fin = true, rsv = 0, mask = true, size = null, wide = 0 } = {}) {
  const data = Buffer.from(payload);
  const n = BigInt(size ?? data.length);
  const form = wide || (n < 126n ? Number(n) : n < 65536n ? 126 : 127);
  const head = [(fin ? 0x80 : 0) | (rsv << 4) | opcode, (mask ? 0x80 : 0) | form];
  const extended = Buffer.alloc(form === 126 ? 2 : form === 127 ? 8 : 0);
  if (form === 126) extended.writeUInt16BE(Number(n));
  if (form === 127) extended.writeBigUInt64BE(n);
  return Buffer.concat([Buffer.from(head), extended, mask ? MASK : Buffer.alloc(0), mask ? data.map((v, i) => v ^ MASK[i % 4]) : data]);
}

export const closeFrame = (code, reason = '', options = {}) => {
  const head = Buffer.alloc(2);
  head.writeUInt16BE(code);
  return frame(8, Buffer.concat([head, Buffer.from(reason)]), options);
};

export const handshake = (d, id, lines = []) =>
  [
    `GET /v1/sessions/${id}/stream HTTP/1.1`, `Host: ${d.host}`, 'Upgrade: websocket', 'Connection: Upgrade', `Sec-WebSocket-Key: ${KEY}`,
    'Sec-WebSocket-Version: 13', 'Sec-WebSocket-Protocol: sparsecast.v1', ...lines, '', '',
  ].join('\r\n');

export class RawStream {
  /** Resolves after the 101. `reading` false: nothing is read after it. `also`: bytes sent in one piece with the handshake. */
  static open(d, id, { reading = true, also = Buffer.alloc(0) } = {}) {
    const r = new RawStream();
    Object.assign(r, { texts: [], frames: 0, bytes: 0, code: null, reason: null, pongs: 0, data: Buffer.alloc(0), up: false });
    r.socket = connect(d.target);
    r.socket.on('error', () => {});
    r.ended = new Promise((done) => r.socket.on('close', () => done((r.gone = { code: r.code ?? 0, reason: r.reason ?? '' }))));
    const open = new Promise((done, fail) => {
      r.socket.on('connect', () => r.socket.write(Buffer.concat([Buffer.from(handshake(d, id)), also])));
      r.socket.on('data', (part) => {
        r.bytes += part.length;
        r.data = Buffer.concat([r.data, part]);
        if (!r.up) {
          const answer = readAnswer(r.data);
          if (!answer) return;
          if (answer.status !== 101) return fail(Object.assign(new Error(`refused with ${answer.status} ${answer.text}`), { answer }));
          r.up = true;
          r.data = Buffer.from(answer.rest);
          if (!reading) r.socket.pause();
          done(r);
        }
        r.read();
      });
      r.ended.then(() => fail(new Error('the connection ended before the handshake was answered')));
    });
    return within('a raw stream to open', open);
  }

  read() {
    for (;;) {
      const d = this.data;
      if (d.length < 2) return;
      let n = d[1] & 0x7f;
      let at = 2;
      if (n === 126) {
        if (d.length < 4) return;
        n = d.readUInt16BE(2);
        at = 4;
      } else if (n === 127) {
        if (d.length < 10) return;
        n = Number(d.readBigUInt64BE(2));
        at = 10;
      }
      if (d.length < at + n) return;
      const payload = d.subarray(at, at + n);
      const opcode = d[0] & 15;
      if (opcode === 1) this.texts.push(payload.toString());
      else if (opcode === 2) this.frames += 1;
      else if (opcode === 10) this.pongs += 1;
      else if (opcode === 8) {
        this.code = n >= 2 ? payload.readUInt16BE(0) : 1005;
        this.reason = payload.subarray(2).toString();
        this.socket.end(frame(8, payload.subarray(0, 2)));
      }
      this.data = d.subarray(at + n);
    }
  }

  send(...parts) {
    for (const part of parts) if (!this.socket.destroyed) this.socket.write(part);
    return this;
  }

  /** {code, reason} of the close; code 0: the connection ended without one. */
  end(limit = LIMIT) {
    return within('the stream to be closed', this.ended, limit).finally(() => this.socket.destroy());
  }

  vanish() {
    this.socket.resetAndDestroy();
  }
}
