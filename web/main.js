// main.js - ties socket, screen, controls and page together.
//
// The session's id is the fragment of the URL: a reload keeps the session, a link shares it. Without one a session is made.

import { api, apiKey, ApiError } from './api.js';
import { Backoff } from './backoff.js';
import { Controls, EXAMPLES } from './controls.js';
import { Screen } from './draw.js';
import { parseFrame } from './frame.js';
import { MemoryMap } from './memory.js';
import { Page } from './page.js';
import { Stream } from './socket.js';
import { Stats } from './stats.js';
import { problemInWords } from './words.js';

const page = new Page();
const stats = new Stats();
let stream = null;
let session = null;
let role = 'control';
let askedPrompt = EXAMPLES[0]; // what a new session begins with
let viewers = 1;
let turn = 0; // every start of a session; answers to an older one are ignored
let refs = 0;
let picture = false; // a frame of this connection was drawn

const screen = new Screen(document.getElementById('picture'), document.getElementById('glow'), {
  onDrawn(header, nowMs) {
    if (stream) stream.playback = Math.max(stream.playback, header.frame);
    if (!picture && stream?.open) {
      picture = true;
      page.clearNotice();
    }
    stats.frameDrawn(header, nowMs);
    if (stream?.open) memory.seen(header.chunk);
    for (const [ref, took] of stats.takeAnswers()) page.prompt({ ref }, { state: 'shown', took });
  },
  onSkipped: (count) => (stats.skipped += count),
  onBad: () => (stats.bad += 1),
});

const memory = new MemoryMap(document.getElementById('map'), document.getElementById('map-legend'), {
  read: () => api.memory(stream.id),
  onFailed: (e) => page.toast(e.message, true),
  onToggled: (on) => page.memory(on),
});

const controls = new Controls({
  prompt(text, transition) {
    const ref = `p${++refs}`;
    const sentMs = performance.now();
    if (!stream?.send({ type: 'prompt', text, ref, ...(transition && { transition }) })) {
      page.toast('Not connected. The prompt stays in the box until the stream is back.', true);
      return false;
    }
    stats.promptSent(ref, sentMs);
    page.prompt({ ref }, { prompt: text, state: 'sent' });
    page.toast('');
    askedPrompt = text;
    return true;
  },
  fork,
  pause() {
    stream?.send({ type: page.sessionState === 'paused' ? 'resume' : 'pause' });
  },
  memory: () => memory.toggle(),
  restart,
  key(key) {
    apiKey.set(key);
    begin();
  },
});

function randomKey() {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (b) => b.toString(16).padStart(2, '0')).join('');
}

const idInUrl = () => decodeURIComponent(location.hash.slice(1)).replace(/[^A-Za-z0-9_-]/g, '');

function begin() {
  const id = idInUrl();
  if (id) attach(id);
  else create();
}

function leave() {
  turn += 1;
  stream?.stop();
  stream = null;
  picture = false;
  controls.live(false);
  screen.reset();
  memory.forget();
  stats.clear();
}

function askForKey(text) {
  page.phase('key');
  page.notice('This server asks for an API key', { more: apiKey.get() ? text : '', key: true });
}

async function create() {
  leave();
  const mine = turn;
  const idempotencyKey = randomKey();
  const backoff = new Backoff();
  page.promptsClear();
  page.phase('starting');
  page.notice('Starting a session', { busy: true });
  while (mine === turn) {
    try {
      const made = await api.createSession({ prompt: askedPrompt }, idempotencyKey);
      if (mine !== turn) return;
      history.replaceState(null, '', `#${made.id}`);
      return attach(made.id);
    } catch (e) {
      if (!(e instanceof ApiError)) throw e;
      if (mine !== turn) return;
      if (e.status === 401) return askForKey(e.message);
      if (!e.unreachable && e.status !== 503 && e.status !== 429) {
        page.phase('problem');
        return page.notice(e.message, { action: 'Try again', onAction: create });
      }
      page.phase('waiting');
      await countdown(mine, e.message, backoff.next(e.retryAfterS));
      if (mine === turn) page.notice('Starting a session', { busy: true, more: e.message });
    }
  }
}

/** Shows `text` and the seconds left; ends early when the person wants to try now. */
function countdown(mine, text, seconds) {
  return new Promise((resolve) => {
    const until = performance.now() + seconds * 1000;
    let timer = 0;
    const done = () => {
      clearInterval(timer);
      resolve();
    };
    page.notice(text, { busy: true, action: 'Try now', onAction: done });
    const step = () => {
      const left = Math.ceil((until - performance.now()) / 1000);
      if (left <= 0 || mine !== turn) done();
      else page.noticeMore(`Trying again in ${left} s`);
    };
    timer = setInterval(step, 250);
    step();
  });
}

function attach(id) {
  leave();
  role = 'control';
  page.phase('connecting');
  page.notice('Connecting', { busy: true });
  stream = new Stream(id, {
    probe: api.getSession,
    ticket: apiKey.get() ? async (of) => (await api.ticket(of)).ticket : null,
    url: () => `${location.protocol === 'https:' ? 'wss' : 'ws'}://${location.host}/v1/sessions/${encodeURIComponent(id)}/stream`,
    on: { onOpen, onFrame, onEvent, onDown, onWait, onTry },
  });
  stream.connect();
}

function onOpen(info) {
  session = info;
  picture = false;
  stats.clear();
  screen.reset();
  screen.setShape(info.width, info.height);
  memory.session(info);
  page.session(info);
  page.state(info.state);
  page.phase('live');
  page.notice('Waiting for the first picture', { busy: true });
  page.toast('');
  controls.live(true);
}

function onFrame(buffer) {
  let header;
  try {
    header = parseFrame(buffer);
  } catch {
    stats.bad += 1;
    return;
  }
  if (document.hidden) stream.playback = Math.max(stream.playback, header.frame); // nobody looks: taken is as good as seen
  screen.push(header);
}

function onEvent(event) {
  switch (event.type) {
    case 'hello':
      role = event.role ?? role;
      page.role(role);
      break;
    case 'prompt':
      onPrompt(event);
      break;
    case 'state':
      page.state(event.state);
      if (session) session.state = event.state;
      if (event.state === 'failed') page.toast(event.reason || 'The session has failed.', true);
      else if (event.state === 'paused' && event.reason && event.reason !== 'no viewers') page.toast(`Paused: ${event.reason}`);
      break;
    case 'viewers':
      viewers = event.count;
      page.viewers(event.count);
      break;
    case 'pong':
      stats.pong(event.t / 1000, event.server_us, performance.now());
      break;
    case 'error':
      page.toast(problemInWords(event.problem ?? event, 0), true);
      if (event.ref) {
        stats.promptGone(event.ref);
        page.prompt({ ref: event.ref }, { state: 'refused' });
      }
      break;
    default: // `chunk` and `stats` repeat what frames say; what is newer than this page is not for it
  }
}

function onPrompt({ ref, seq, state, prompt }) {
  if (ref !== undefined) stats.promptNamed(ref, seq);
  page.prompt({ ref }, { prompt, state, seq });
  if (state === 'superseded') stats.promptGone(ref);
  if (prompt && (state === 'applied' || state === 'shown')) page.now(prompt);
  for (const [answered, took] of stats.takeAnswers()) page.prompt({ ref: answered }, { state: 'shown', took });
}

function onDown({ text, again, over, status }) {
  controls.live(false);
  picture = false;
  screen.reset();
  memory.forget();
  page.promptsLost();
  if (status === 401) askForKey(text);
  else if (again) {
    page.phase('waiting');
    page.notice(text, { busy: true, action: 'Try now', onAction: () => stream?.connect() }); // the countdown follows
  } else if (over) {
    page.phase('over');
    page.notice(text, { action: 'Start a new session', onAction: create });
  } else {
    page.phase('problem');
    page.notice(text, { action: 'Connect again', onAction: () => attach(stream.id) });
  }
}

function onWait(seconds) {
  page.noticeMore(`Trying again in ${seconds} s`);
}

function onTry() {
  page.noticeMore('');
}

/* A window may only be opened while the click is being handled, so it waits, empty, for its session. It gets a copy of this tab's key. */
async function fork(prompt) {
  const there = open('', '_blank');
  try {
    const made = await api.forkSession(stream.id, prompt ? { prompt } : {}, randomKey());
    const href = `${location.origin}${location.pathname}#${made.id}`;
    there?.location.replace(href);
    page.toast(`A fork goes on from chunk ${made.forked_from?.chunk}, ${there ? 'in a window of its own' : 'but the browser opens no window'}.`, false, { text: 'Open it', href });
    return true;
  } catch (e) {
    there?.close();
    if (!(e instanceof ApiError)) throw e;
    page.toast(e.message, true);
    return false;
  }
}

/* A session that only we watch would hold its memory until it times out, and the new one may need that. */
async function restart() {
  const old = stream?.open && role === 'control' && viewers <= 1 ? stream.id : null;
  leave();
  page.phase('starting');
  page.notice('Starting a session', { busy: true });
  if (old) await api.deleteSession(old).catch(() => {});
  create();
}

addEventListener('hashchange', () => {
  if (idInUrl() && idInUrl() !== stream?.id) begin();
});
addEventListener('online', () => {
  if (stream && !stream.open && !stream.stopped) stream.connect();
});
setInterval(() => page.stats(stats, performance.now()), 250);
begin();
