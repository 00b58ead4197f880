// socket.js - one session's stream: connects, keeps alive, comes back.
//
// A refused upgrade looks like a lost connection to a browser (code 1006, no status). So every try asks for the session over HTTP first:
// its answer tells "gone" from "not reachable" from "busy", and it is what the page shows about the session.
//
//     idle -> probing -> opening -> open -> waiting (backoff) -> probing ...        over: needs a person
//
// The daemon speaks at least every 5 s; 15 s of silence count as a lost connection, which TCP alone would notice minutes later.
// Events: onOpen(session), onFrame(ArrayBuffer), onEvent(object), onDown({text, again, over, status}), onWait(secondsLeft), onTry().

import { Backoff } from './backoff.js';
import { closeInWords } from './words.js';

const SILENCE_MS = 15000;
const PING_MS = 2000;
const ACK_MS = 500;
const OPENING_MS = 15000;

export class Stream {
  constructor(id, { probe, ticket, url, on, WebSocketType = globalThis.WebSocket, backoff = new Backoff() }) {
    Object.assign(this, { id, probe, ticket, url, on, WebSocketType, backoff });
    this.socket = null;
    this.attempt = 0; // an answer that belongs to an older try is ignored
    this.timer = 0;
    this.beat = 0;
    this.playback = -1;
    this.acked = 0;
    this.stopped = false;
  }

  async connect() {
    if (this.stopped) return;
    this.drop();
    this.on.onTry?.();
    const attempt = ++this.attempt;
    const current = () => attempt === this.attempt && !this.stopped;
    let session;
    let protocols = ['sparsecast.v1'];
    try {
      session = await this.probe(this.id);
      if (!current()) return;
      if (session.state === 'ended' || session.state === 'failed') {
        const text = session.state === 'ended' ? 'This session has ended.' : 'This session has failed.';
        this.stop();
        return this.on.onDown({ text, again: false, over: true });
      }
      const ticket = await this.ticket?.(this.id);
      if (!current()) return;
      if (ticket) protocols = [...protocols, `ticket.${ticket}`];
    } catch (e) {
      if (!current()) return;
      return this.refused(e);
    }
    const socket = new this.WebSocketType(this.url(session), protocols);
    socket.binaryType = 'arraybuffer';
    this.socket = socket;
    this.heardAt = performance.now();
    this.timer = setTimeout(() => socket.onclose?.({ code: 1006, reason: '' }), OPENING_MS);
    socket.onopen = () => {
      if (!current()) return;
      clearTimeout(this.timer);
      this.backoff.reset();
      this.playback = -1;
      this.beat = setInterval(() => this.tick(), ACK_MS);
      this.pingAt = -Infinity;
      this.on.onOpen(session);
      this.tick();
    };
    socket.onmessage = ({ data }) => {
      if (!current()) return;
      this.heardAt = performance.now();
      if (typeof data !== 'string') {
        this.on.onFrame(data);
        if (this.heardAt - this.acked > ACK_MS) this.ack(); // timers of a hidden tab are slowed down, messages are not
        return;
      }
      let event;
      try {
        event = JSON.parse(data);
      } catch {
        return; // nothing a viewer could do about it
      }
      if (event && typeof event === 'object') this.on.onEvent(event);
    };
    socket.onclose = ({ code, reason }) => {
      if (!current()) return;
      this.closed(closeInWords(code, reason));
    };
  }

  closed(why) {
    this.drop();
    if (why.again) this.wait(why, NaN);
    else {
      this.stop();
      this.on.onDown(why);
    }
  }

  refused(e) {
    if (e.status === 404 || e.status === 410) this.closed(closeInWords(4404));
    else if (e.status === 401 || e.status === 403) this.closed({ text: e.message, again: false, over: false, status: e.status });
    else this.wait({ text: e.unreachable ? 'Connection lost' : e.message, again: true, over: false }, e.retryAfterS);
  }

  wait(why, askedS) {
    const until = performance.now() + this.backoff.next(askedS) * 1000;
    this.on.onDown(why);
    const step = () => {
      const leftMs = until - performance.now();
      if (leftMs <= 0) return this.connect();
      this.on.onWait(Math.ceil(leftMs / 1000));
      this.timer = setTimeout(step, Math.min(leftMs, 1000));
    };
    step();
  }

  tick() {
    const now = performance.now();
    if (now - this.heardAt > SILENCE_MS) {
      return this.closed({ text: 'The server has gone quiet', again: true, over: false });
    }
    this.ack();
    if (now - this.pingAt >= PING_MS) {
      this.pingAt = now;
      this.send({ type: 'ping', t: Math.round(now * 1000) });
    }
  }

  ack() {
    if (this.playback < 0) return;
    this.acked = performance.now();
    this.send({ type: 'ack', frame: this.playback });
  }

  get open() {
    return this.socket?.readyState === 1;
  }

  send(message) {
    if (this.open) this.socket.send(JSON.stringify(message));
    return this.open;
  }

  drop() {
    clearTimeout(this.timer);
    clearInterval(this.beat);
    const socket = this.socket;
    this.socket = null;
    if (!socket) return;
    socket.onopen = socket.onmessage = socket.onclose = null;
    if (socket.readyState < 2) socket.close();
  }

  stop() {
    this.stopped = true;
    this.drop();
  }
}
