// words.js - what the daemon says, in words for people.   Pure.

/* `again`: connect once more by itself. `over`: the session will not come back. */
const CLOSES = {
  1000: { text: 'This session has ended.', over: true },
  1001: { text: 'The server is shutting down for maintenance', again: true },
  1008: { text: 'The server refused this connection.' },
  1009: { text: 'A message was too big for the server.', again: true },
  1011: { text: 'The server ran into a problem of its own', again: true },
  1012: { text: 'The server is restarting', again: true },
  1013: { text: 'This connection was too slow for the stream', again: true },
  4404: { text: 'This session no longer exists.', over: true },
  4409: { text: 'This stream was opened somewhere else.' },
};

/** What a WebSocket close code means: {text, again, over}. Anything unknown is a lost connection. */
export function closeInWords(code, reason = '') {
  const known = CLOSES[code] ?? { text: 'Connection lost', again: true };
  const text = reason && (code === 1008 || code === 1011) ? `${known.text.replace(/\.$/, '')}: ${reason}` : known.text;
  return { code, again: false, over: false, ...known, text };
}

/** A problem document (RFC 9457) as one or two sentences. */
export function problemInWords(problem, status) {
  const parts = [];
  const title = problem?.title || (status ? `The server answered ${status}` : 'The request failed');
  const fields = (problem?.errors ?? []).map((e) => {
    const name = String(e.pointer ?? '').replace(/^#?\//, '');
    return name ? `${name}: ${e.detail}` : String(e.detail);
  });
  parts.push(problem?.detail || title);
  for (const f of fields) if (!parts[0].includes(f)) parts.push(f);
  return parts.map((p) => String(p).replace(/\s+/g, ' ').trim()).filter(Boolean).join(' - ');
}

/** 84 ms, 1.24 s; a dash for nothing. */
export function millis(ms) {
  if (!Number.isFinite(ms)) return '–';
  if (ms < 1000) return `${ms < 10 ? ms.toFixed(1) : Math.round(ms)} ms`;
  return `${(ms / 1000).toFixed(2)} s`;
}

/** 0:42, 12:07, 1:02:03. */
export function clock(seconds) {
  const s = Math.max(0, Math.floor(seconds));
  const two = (n) => String(n).padStart(2, '0');
  const h = Math.floor(s / 3600);
  return h ? `${h}:${two(Math.floor(s / 60) % 60)}:${two(s % 60)}` : `${Math.floor(s / 60)}:${two(s % 60)}`;
}
