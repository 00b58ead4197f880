// events.mjs - a reader of server-sent events, field by field as the WHATWG's text says, and of a log's lines.
import assert from 'node:assert/strict';
import { request } from 'node:http';
import { until, within } from './harness.mjs';
import { faults, schemaOf } from './schema.mjs';

/** A line of a log, held against openapi.json. */
export function logLine(text) {
  const line = JSON.parse(text);
  assert.deepEqual(faults(schemaOf('LogLine'), line), [], text);
  return line;
}

/** The lines of GET /log. */
export function logLines(text) {
  assert.ok(text.endsWith('\n'), 'a log ends with a newline');
  return text.slice(0, -1).split('\n').map(logLine);
}

/** {answer, lines: what came so far, comments, until(what, test), ended, close()}; a refusal resolves, too, with its status and no lines. */
export async function openEvents(d, id, { after, key = d.key } = {}) {
  const state = { lines: [], comments: 0, fault: null, over: false };
  const headers = { Host: d.host, ...(key ? { Authorization: `Bearer ${key}` } : {}), ...(after === undefined ? {} : { 'Last-Event-ID': String(after) }) };
  const req = request({ ...d.target, path: `/v1/sessions/${id}/events`, headers, agent: false });
  let over;
  state.ended = new Promise((done) => (over = done));
  state.ended.then(() => (state.over = true));
  const answer = await within('events to begin', new Promise((done, fail) => req.on('response', done).on('error', fail).end()));
  req.on('error', over);
  state.answer = { status: answer.statusCode, headers: answer.headers, text: '', body: Buffer.alloc(0) };

  function take(block) {
    const field = {};
    for (const line of block.split('\n')) {
      if (line.startsWith(':')) { state.comments += 1; continue; }
      const at = line.indexOf(': ');
      assert.ok(at > 0 && !(line.slice(0, at) in field), `a line of an event: ${line}`);
      field[line.slice(0, at)] = line.slice(at + 2);
    }
    if (!Object.keys(field).length) return;
    assert.deepEqual(Object.keys(field), ['id', 'event', 'data']);
    const line = logLine(field.data);
    assert.deepEqual([field.event, Number(field.id)], [line.type, line.type === 'lost' ? line.to : line.event]);
    state.lines.push(line);
  }
  let rest = '';
  answer.setEncoding('utf8');
  answer.on('data', (data) => {
    if (state.answer.status !== 200) { state.answer.text += data; return; }
    rest += data;
    try {
      for (let end; (end = rest.indexOf('\n\n')) >= 0; rest = rest.slice(end + 2)) take(rest.slice(0, end));
    } catch (e) {
      state.fault = e;
    }
  });
  answer.on('error', over);
  answer.on('close', () => { state.answer.body = Buffer.from(state.answer.text); over(); });
  state.close = () => req.destroy();
  state.until = (what, test) => until(`${what} (of ${state.lines.length} events)`, () => {
    if (state.fault) throw state.fault;
    const got = test(state);
    if (!got && state.over) throw new Error(`the events ended while waiting for: ${what}`);
    return got;
  });
  if (state.answer.status !== 200) await within('the refusal', state.ended);
  return state;
}
