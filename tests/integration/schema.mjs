// schema.mjs - proto/openapi.json as the judge of the daemon's answers: the part of JSON Schema 2020-12 that the file uses, no more. A keyword
// it does not know is an error of the test, so that nothing in the file is passed over in silence.
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';

export const SPEC = JSON.parse(readFileSync(new URL('../../proto/openapi.json', import.meta.url), 'utf8'));
const SILENT = new Set(['description', 'contentMediaType', 'contentEncoding']);

const kindOf = (v) => (v === null ? 'null' : Array.isArray(v) ? 'array' : typeof v);
const deref = (node) => {
  while (node.$ref) node = node.$ref.slice(2).split('/').reduce((at, key) => at[key], SPEC);
  return node;
};

const isType = (v, type) => (type === 'integer' ? Number.isInteger(v) : kindOf(v) === type);

const rules = {
  type: (t, v) => [t].flat().some((one) => isType(v, one)) || `is ${kindOf(v)} ${JSON.stringify(v)}, not ${t}`,
  enum: (list, v) => list.includes(v) || `is ${JSON.stringify(v)}, none of ${JSON.stringify(list)}`,
  const: (c, v) => v === c || `is ${JSON.stringify(v)}, not ${JSON.stringify(c)}`,
  minimum: (m, v) => typeof v !== 'number' || v >= m || `is ${v}, less than ${m}`,
  maximum: (m, v) => typeof v !== 'number' || v <= m || `is ${v}, more than ${m}`,
  minLength: (m, v) => typeof v !== 'string' || [...v].length >= m || `is shorter than ${m}`,
  maxLength: (m, v) => typeof v !== 'string' || [...v].length <= m || `is longer than ${m}`,
  pattern: (p, v) => typeof v !== 'string' || new RegExp(p, 'u').test(v) || `is ${JSON.stringify(v)}, which does not match ${p}`,
  minItems: (m, v) => !Array.isArray(v) || v.length >= m || `has fewer than ${m} items`,
  maxItems: (m, v) => !Array.isArray(v) || v.length <= m || `has more than ${m} items`,
  minProperties: (m, v) => kindOf(v) !== 'object' || Object.keys(v).length >= m || `has fewer than ${m} fields`,
  required: (names, v) => kindOf(v) !== 'object' || names.every((n) => n in v) || `lacks ${names.filter((n) => !(n in v))}`,
  dependentRequired: (map, v) => Object.entries(map).every(([n, needs]) => !(n in v) || needs.every((k) => k in v)) || 'lacks a field that goes with another',
};

/** What is wrong with `value`, as a list of texts. */
export function faults(schema, value, at = '') {
  const s = deref(schema);
  const found = [];
  for (const [word, rule] of Object.entries(s)) {
    if (SILENT.has(word)) continue;
    if (word === 'properties') {
      if (kindOf(value) === 'object') for (const [k, sub] of Object.entries(rule)) if (k in value) found.push(...faults(sub, value[k], `${at}/${k}`));
    } else if (word === 'additionalProperties') {
      assert.equal(rule, false);
      if (kindOf(value) === 'object') for (const k of Object.keys(value)) if (!(k in (s.properties ?? {}))) found.push(`${at}/${k} is not in the document`);
    } else if (word === 'items') {
      if (Array.isArray(value)) value.forEach((v, i) => found.push(...faults(rule, v, `${at}/${i}`)));
    } else if (word === 'oneOf') {
      const tries = rule.map((sub) => faults(sub, value, at));
      const good = tries.filter((t) => t.length === 0).length;
      if (good !== 1) found.push(`${at || 'value'} ${JSON.stringify(value)} fits ${good} of ${rule.length}: ${tries.map((t) => t[0]).join('; ')}`);
    } else {
      assert.ok(rules[word], `this test does not know the keyword ${word}`);
      const ok = rules[word](rule, value);
      if (ok !== true) found.push(`${at || 'value'} ${ok}`);
    }
  }
  return found;
}

export const schemaOf = (name) => SPEC.components.schemas[name];

/** Asserts that an answer is one the document describes for this operation; gives its JSON, or null where it has none. */
export function conforms(answer, method, path) {
  const operation = SPEC.paths[path]?.[method.toLowerCase()];
  assert.ok(operation, `${method} ${path} is not in the document`);
  const described = operation.responses[answer.status];
  assert.ok(described, `${method} ${path} answers ${answer.status}, which is not in the document: ${answer.text.slice(0, 300)}`);
  const response = deref(described);
  for (const [name, header] of Object.entries(response.headers ?? {})) {
    const h = deref(header);
    const value = answer.headers[name.toLowerCase()];
    if (value === undefined) assert.ok(!h.required, `${method} ${path} ${answer.status} lacks the header ${name}`);
    else if (h.schema) assert.deepEqual(faults(h.schema, deref(h.schema).type === 'integer' ? Number(value) : value, name), []);
  }
  if (!response.content) {
    assert.equal(answer.body.length, 0, `${method} ${path} ${answer.status} has a body`);
    return null;
  }
  const type = (answer.headers['content-type'] ?? '').split(';')[0].trim();
  const content = response.content[type];
  assert.ok(content, `${method} ${path} ${answer.status} has the type "${type}", not ${Object.keys(response.content)}`);
  if (!/json$/.test(type)) return null;
  const json = JSON.parse(answer.text);
  assert.deepEqual(faults(content.schema, json), [], `${method} ${path} ${answer.status}: ${answer.text.slice(0, 500)}`);
  if (answer.status >= 400) problem(answer, { status: answer.status });
  return json;
}

/** Asserts that an answer is a proper problem document, and gives it. */
export function problem(answer, { status, detail, pointer } = {}) {
  const about = `${answer.status} ${answer.text.slice(0, 400)}`;
  if (status) assert.ok([status].flat().includes(answer.status), `${[status].flat().join(' or ')} expected, got ${about}`);
  assert.match(answer.headers['content-type'] ?? '', /^application\/problem\+json(;|$)/, about);
  assert.match(answer.headers['x-request-id'] ?? '', /^[A-Za-z0-9-]{1,64}$/, `X-Request-Id of ${about}`);
  const p = JSON.parse(answer.text);
  assert.deepEqual(faults(schemaOf('Problem'), p), [], about);
  assert.equal(p.status, answer.status, about);
  if (answer.status === 429 || answer.status === 503) assert.match(answer.headers['retry-after'] ?? '', /^\d+$/, `Retry-After of ${about}`);
  if (answer.status === 405) assert.match(answer.headers.allow ?? '', /^[A-Z]+(, [A-Z]+)*$/, `Allow of ${about}`);
  if (detail) assert.match(p.detail, detail);
  if (pointer !== undefined) assert.ok(p.errors?.some((e) => e.pointer === pointer), `no error points to "${pointer}": ${about}`);
  return p;
}
