// fake_server.mjs - a stand-in for the daemon: serves web/ and speaks the protocol with given JPEGs. What it does wrong, it does on purpose:
// the fields `problem`, `dead` and the methods below set that up.
import { readFile } from 'node:fs/promises';
import { createServer } from 'node:http';
import { WebSocketServer } from 'ws';

const WEB = new URL('../../web/', import.meta.url);
const TYPES = { html: 'text/html; charset=utf-8', css: 'text/css; charset=utf-8', js: 'text/javascript; charset=utf-8', svg: 'image/svg+xml' };
const POLICY =
  "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' blob:; frame-ancestors 'none'";
const CHUNK = 12;
const FPS = 16;

export class FakeServer {
  /** `jpegs(prompt)` gives the frames, played in a circle, for a prompt. */
  constructor(jpegs) {
    this.jpegs = jpegs;
    this.sessions = new Map();
    this.problem = null; // {status, body, headers}: the answer to POST /v1/sessions and /fork
    this.key = null; // API key asked for
    this.memory = null; // (session) => what GET /memory answers, or {status, body}
    this.received = []; // every message of every client
    this.requests = [];
    this.burst = false; // send a chunk at once instead of frame by frame
    this.beat = 0;
    this.made = 0;
    this.port = 0;
  }

  async start() {
    this.http = createServer((req, res) => this.answer(req, res).catch((e) => res.writeHead(500).end(String(e))));
    this.ws = new WebSocketServer({ noServer: true, handleProtocols: () => 'sparsecast.v1' });
    this.http.on('upgrade', (req, socket, head) => {
      const session = this.sessions.get(/^\/v1\/sessions\/(\w+)\/stream$/.exec(req.url)?.[1]);
      const offered = String(req.headers['sec-websocket-protocol']).split(/, */);
      const allowed = offered[0] === 'sparsecast.v1' && (!this.key || offered[1] === 'ticket.T1');
      if (!session || !allowed) return socket.end(`HTTP/1.1 ${session ? 403 : 404} no\r\nConnection: close\r\n\r\n`);
      this.ws.handleUpgrade(req, socket, head, (client) => this.join(session, client));
    });
    await new Promise((resolve) => this.http.listen(this.port, '127.0.0.1', resolve));
    this.port = this.http.address().port;
    this.timer = setInterval(() => this.tick(), 1000 / FPS);
    return this.url;
  }

  get url() {
    return `http://127.0.0.1:${this.port}/`;
  }

  /** As after kill -9: connections break without a word. */
  async die({ forget = false } = {}) {
    clearInterval(this.timer);
    for (const client of this.ws.clients) client.terminate();
    this.http.closeAllConnections();
    await new Promise((resolve) => this.http.close(resolve));
    if (forget) this.sessions.clear();
  }

  closeAll(code, reason = '') {
    for (const client of this.ws.clients) client.close(code, reason);
  }

  end() {
    this.sessions.clear();
    this.closeAll(1000);
  }

  say(event) {
    for (const client of this.ws.clients) client.send(JSON.stringify(event));
  }

  async answer(req, res) {
    const { pathname } = new URL(req.url, this.url);
    const json = (status, body, headers = {}) => {
      const type = status >= 400 ? 'application/problem+json' : 'application/json';
      res.writeHead(status, { 'Content-Type': type, ...headers }).end(body === undefined ? '' : JSON.stringify(body));
    };
    if (req.method === 'GET' && (pathname === '/' || /^\/viewer\/[a-z]+\.[a-z]+$/.test(pathname))) {
      const name = pathname === '/' ? 'index.html' : pathname.slice(8);
      const data = await readFile(new URL(name, WEB)).catch(() => null);
      if (!data) return json(404, { title: 'Not found', status: 404 });
      return res.writeHead(200, { 'Content-Type': TYPES[name.split('.')[1]], 'Content-Security-Policy': POLICY, 'X-Content-Type-Options': 'nosniff' }).end(data);
    }
    let text = '';
    for await (const part of req) text += part;
    this.requests.push(`${req.method} ${pathname}`);
    if (this.key && req.headers.authorization !== `Bearer ${this.key}`) {
      return json(401, { title: 'Unauthorized', status: 401, detail: 'The API key is missing or wrong.' });
    }
    if (req.method === 'POST' && pathname === '/v1/sessions') {
      if (this.problem) return json(this.problem.status, this.problem.body, this.problem.headers);
      if (req.headers['content-type'] !== 'application/json') return json(415, { title: 'Unsupported media type', status: 415 });
      const id = `fake${++this.made}`;
      const session = { id, state: 'running', prompt: JSON.parse(text).prompt, seq: 1, frame: 0, created: Date.now(), waiting: null };
      this.sessions.set(id, session);
      return json(201, this.describe(session), { Location: `/v1/sessions/${id}` });
    }
    const [, id, rest] = /^\/v1\/sessions\/(\w+)(\/\w+)?$/.exec(pathname) ?? [];
    const session = this.sessions.get(id);
    if (!session) return json(404, { title: 'No such session', status: 404, detail: `There is no session ${id}.` });
    if (rest === '/fork') {
      if (this.problem) return json(this.problem.status, this.problem.body, this.problem.headers);
      const made = { ...session, id: `fake${++this.made}`, prompt: JSON.parse(text).prompt ?? session.prompt, state: 'running', waiting: null };
      this.sessions.set(made.id, made);
      return json(201, { ...this.describe(made), forked_from: { id, chunk: Math.floor(session.frame / CHUNK) + 1 } }, { Location: `/v1/sessions/${made.id}` });
    }
    if (rest === '/memory') {
      const answer = await this.memory(session);
      return json(answer.status ?? 200, answer.body ?? answer);
    }
    if (rest === '/tickets') return json(201, { ticket: 'T1' });
    if (req.method === 'DELETE') {
      this.sessions.delete(id);
      for (const client of this.ws.clients) if (client.session === session) client.close(1000);
      return json(204);
    }
    return json(200, this.describe(session));
  }

  describe({ id, state, prompt, frame }) {
    return {
      id, state, model: 'fake', prompt, seed: '1', width: 256, height: 160, fps: FPS, chunk_frames: CHUNK, chunk: Math.floor(frame / CHUNK), frame,
      viewers: this.ws.clients.size, stream: `/v1/sessions/${id}/stream`,
    };
  }

  join(session, client) {
    client.session = session;
    const tell = (event) => client.send(JSON.stringify(event));
    tell({ type: 'hello', session: session.id, role: this.role ?? 'control', protocol: 1, newest_frame: session.frame });
    tell({ type: 'viewers', count: this.ws.clients.size });
    if (session.frame > 0) client.send(this.message(session, 4));
    client.on('message', (data) => {
      const message = JSON.parse(data);
      this.received.push(message);
      if (message.type === 'ping') tell({ type: 'pong', t: message.t, server_us: Math.round(performance.now() * 1000) });
      if (message.type === 'pause' || message.type === 'resume') {
        session.state = message.type === 'pause' ? 'paused' : 'running';
        this.say({ type: 'state', state: session.state, reason: '' });
      }
      if (message.type === 'prompt') {
        const waiting = { seq: ++session.seq, prompt: message.text, ref: message.ref };
        if (session.waiting) tell({ type: 'prompt', ...session.waiting, state: 'superseded' });
        session.waiting = waiting;
        tell({ type: 'prompt', ...waiting, state: 'received', chunk: Math.floor(session.frame / CHUNK) + 1, transition: 'recache' });
      }
    });
  }

  message(session, flags) {
    const jpegs = this.jpegs(session.prompt);
    const jpeg = jpegs[session.frame % jpegs.length];
    const h = Buffer.alloc(72); // eight bytes that no viewer knows yet
    h.write('SCF1');
    h.writeUInt16LE(72, 4);
    h.writeUInt16LE(flags, 6);
    h.writeBigUInt64LE(BigInt(session.frame), 8);
    h.writeUInt32LE(Math.floor(session.frame / CHUNK), 16);
    h.writeUInt32LE(session.shown ?? 1, 20);
    h.writeBigUInt64LE(BigInt(Math.round((session.frame * 1e6) / FPS)), 24);
    h.writeBigUInt64LE(BigInt(Math.round(performance.now() * 1000)), 32);
    [1800, 402000, 31000, 2400].forEach((us, i) => h.writeUInt32LE(us + ((session.frame * 37) % 900), 40 + 4 * i));
    h.writeUInt16LE(256, 56);
    h.writeUInt16LE(160, 58);
    return Buffer.concat([h, jpeg]);
  }

  tick() {
    this.beat += 1;
    if (!this.burst) return this.step();
    if (this.beat % CHUNK === 0) for (let i = 0; i < CHUNK; i++) this.step();
  }

  step() {
    for (const session of this.sessions.values()) {
      if (session.state !== 'running') continue;
      session.frame += 1;
      const first = session.frame % CHUNK === 0;
      let flags = first ? 1 : 0;
      const applied = first ? session.waiting : null;
      if (applied) {
        flags |= 2;
        session.prompt = applied.prompt;
        session.shown = applied.seq;
        session.waiting = null;
      }
      const message = this.message(session, flags);
      for (const client of this.ws.clients) {
        if (client.session !== session || client.readyState !== 1) continue;
        client.send(message);
        if (applied) client.send(JSON.stringify({ type: 'prompt', ...applied, state: 'shown', chunk: session.frame / CHUNK, transition: 'recache' }));
      }
    }
  }
}
