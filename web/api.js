// api.js - the HTTP half of the daemon.
//
// Every failure becomes an ApiError whose message may be shown as it is. `unreachable` = no answer at all, `status` = the answer's.
// A daemon with keys wants `Authorization: Bearer`; the key lives in this tab only and is never part of a URL.

import { problemInWords } from './words.js';

const KEY = 'sparsecast.key';
const PATIENCE_MS = 30000; // a server that takes the connection and says nothing is as good as gone

export class ApiError extends Error {
  constructor(message, { status = 0, problem = null, retryAfterS = NaN } = {}) {
    super(message);
    Object.assign(this, { status, problem, retryAfterS });
  }

  get unreachable() {
    return this.status === 0;
  }
}

export const apiKey = {
  get: () => sessionStorage.getItem(KEY) ?? '',
  set: (key) => sessionStorage.setItem(KEY, key),
};

async function call(method, path, body, headers = {}) {
  const init = { method, signal: AbortSignal.timeout(PATIENCE_MS), headers: { Accept: 'application/json, application/problem+json', ...headers }, cache: 'no-store' };
  if (apiKey.get()) init.headers.Authorization = `Bearer ${apiKey.get()}`;
  if (body !== undefined) {
    init.headers['Content-Type'] = 'application/json';
    init.body = JSON.stringify(body);
  }
  let answer;
  let text;
  try {
    answer = await fetch(path, init);
    text = await answer.text();
  } catch {
    throw new ApiError('The server cannot be reached');
  }
  let json = null;
  try {
    json = text ? JSON.parse(text) : null;
  } catch {
    // A front proxy may answer in HTML; the status says enough then.
  }
  if (!answer.ok) {
    throw new ApiError(problemInWords(json, answer.status), {
      status: answer.status,
      problem: json,
      retryAfterS: Number.parseFloat(answer.headers.get('Retry-After') ?? ''),
    });
  }
  return json;
}

const session = (id) => `/v1/sessions/${encodeURIComponent(id)}`;

export const api = {
  createSession: (settings, key) => call('POST', '/v1/sessions', settings, { 'Idempotency-Key': key }),
  getSession: (id) => call('GET', session(id)),
  forkSession: (id, settings, key) => call('POST', `${session(id)}/fork`, settings, { 'Idempotency-Key': key }),
  memory: (id) => call('GET', `${session(id)}/memory`),
  deleteSession: (id) => call('DELETE', session(id)),
  ticket: (id) => call('POST', `${session(id)}/tickets`, { role: 'control' }),
};
