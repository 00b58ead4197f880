// page.js - everything the page shows besides the picture. Text reaches the document through textContent only.

import { clock, millis } from './words.js';

const $ = (id) => document.getElementById(id);
const HISTORY = 30;

const PROMPT_WORDS = {
  sent: 'sent',
  received: 'received',
  applied: 'being drawn',
  shown: 'on screen',
  past: 'seen',
  superseded: 'replaced',
  refused: 'refused',
  lost: 'lost',
};

function text(id, value) {
  const node = $(id);
  if (node.textContent !== value) node.textContent = value;
}

export class Page {
  constructor() {
    this.prompts = []; // {ref, seq, state, node, badge}
    this.onAction = null;
    $('notice-action').addEventListener('click', () => this.onAction?.());
    this.toastTimer = 0;
  }

  /** phase: starting, connecting, live, waiting, over, problem, key. */
  phase(phase) {
    document.body.dataset.phase = phase;
    if (phase === 'live') this.state(this.sessionState ?? 'running');
    else text('state', { starting: 'starting', connecting: 'connecting', waiting: 'not connected', over: 'ended' }[phase] ?? 'stopped');
  }

  state(state) {
    this.sessionState = state;
    document.body.dataset.state = state;
    if (document.body.dataset.phase === 'live') text('state', state);
    text('pause', state === 'paused' ? 'Resume' : 'Pause');
  }

  notice(line, { more = '', busy = false, action = '', onAction = null, key = false } = {}) {
    $('notice').hidden = false;
    text('notice-text', line);
    text('notice-more', more);
    $('spinner').hidden = !busy;
    $('key-form').hidden = !key;
    $('notice-action').hidden = !action;
    text('notice-action', action);
    this.onAction = onAction;
  }

  noticeMore(more) {
    text('notice-more', more);
  }

  clearNotice() {
    $('notice').hidden = true;
    text('notice-text', '');
    text('notice-more', '');
    this.onAction = null;
  }

  /** link: {text, href}, opens beside this page. */
  toast(line, bad = false, link = null) {
    clearTimeout(this.toastTimer);
    text('toast', line);
    if (link) {
      const a = document.createElement('a');
      a.textContent = link.text;
      a.href = link.href;
      a.target = '_blank';
      $('toast').append(' ', a);
    }
    $('toast').classList.toggle('bad', bad);
    if (line) this.toastTimer = setTimeout(() => text('toast', ''), 12000);
  }

  session(session) {
    text('model', [session.model, session.width && `${session.width}×${session.height}`].filter(Boolean).join(' · '));
    if (Number.isInteger(session.viewers)) this.viewers(session.viewers);
    if (session.prompt) this.now(session.prompt);
  }

  memory(on) {
    $('memory').setAttribute('aria-pressed', String(on));
  }

  viewers(count) {
    text('viewers', count === 1 ? '1 viewer' : `${count} viewers`);
  }

  now(prompt) {
    text('now', prompt);
    $('picture').setAttribute('aria-label', `Video made from the prompt: ${prompt}`);
  }

  role(role) {
    const watch = role === 'watch';
    for (const id of ['prompt', 'send', 'transition', 'pause', 'fork']) $(id).disabled = watch;
    $('prompt').placeholder = watch ? 'You are watching only' : 'What should happen next?';
  }

  /** One line per prompt; `find` is {ref} or {seq}. */
  prompt(find, { prompt, state, seq, took }) {
    let entry = this.prompts.find((p) => (find.ref !== undefined && p.ref === find.ref) || (seq !== undefined && p.seq === seq));
    if (!entry) {
      if (!prompt) return;
      entry = { ref: find.ref, node: document.createElement('li'), words: document.createElement('span'), badge: document.createElement('span') };
      entry.words.className = 'words';
      entry.words.textContent = prompt;
      entry.badge.className = 'badge';
      entry.node.append(entry.words, entry.badge);
      $('history').prepend(entry.node);
      this.prompts.unshift(entry);
      for (const old of this.prompts.splice(HISTORY)) old.node.remove();
      $('history-empty').hidden = true;
    }
    if (seq !== undefined) entry.seq = seq;
    if (took !== undefined) entry.took = took;
    const seen = entry.state === 'shown' || entry.state === 'past';
    if (state && !seen) entry.state = state; // an event may come after the picture it announces
    if (entry.state === 'shown') for (const p of this.prompts) if (p !== entry && p.state === 'shown') this.badge(p, 'past');
    this.badge(entry, entry.state);
  }

  badge(entry, state) {
    entry.state = state;
    entry.node.dataset.state = state;
    entry.badge.textContent = entry.took !== undefined ? millis(entry.took) : PROMPT_WORDS[state] ?? state;
  }

  /** Prompts that went down with the connection before the daemon named them. */
  promptsLost() {
    for (const p of this.prompts) if (p.state === 'sent') this.prompt({ ref: p.ref }, { state: 'lost' });
  }

  promptsClear() {
    this.prompts = [];
    $('history').replaceChildren();
    $('history-empty').hidden = false;
  }

  stats(stats, nowMs) {
    text('latency', millis(stats.promptToPictureMs));
    text('fps', document.body.dataset.phase === 'live' ? stats.fps(nowMs).toFixed(1) : '–');
    text('dropped', String(stats.dropped()));
    text('delivery', millis(stats.deliveryMs ?? NaN));
    const h = stats.header;
    text('chunk', h ? String(h.chunk) : '–');
    text('time', h ? clock(h.ptsUs / 1e6) : '');
    const stages = { wait: h?.waitUs, denoise: h?.denoiseUs, decode: h?.decodeUs, encode: h?.encodeUs };
    const sum = Object.values(stages).reduce((a, b) => a + (b ?? 0), 0);
    for (const [name, us] of Object.entries(stages)) {
      text(name, us === undefined ? '–' : millis(us / 1000));
      $('stages').querySelector(`.${name}`).style.flexGrow = sum ? String((us ?? 0) / sum) : '0';
    }
  }
}
