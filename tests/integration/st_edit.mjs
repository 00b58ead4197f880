// st_edit.mjs - an altered copy of a safetensors file, for tests of whoever reads such files.
//
//   node st_edit.mjs IN OUT OP...
//   poke NAME INDEX VALUE    one value (F32, F16 bits, BF16, I32, U8); VALUE may be NaN or Infinity
//   head NAME AXIS N         the first N along an axis          drop NAME      without the tensor
//   meta KEY PATH VALUE      __metadata__[KEY] is JSON: set PATH (a.b or a.0) to VALUE (JSON); PATH "" sets the string itself
//   cut BYTES                the result is that much shorter    grow BYTES     or longer
//   header TEXT              the header is TEXT, whatever it says
import fs from 'node:fs';

const [, , input, output, ...ops] = process.argv;
const bytes = {F64: 8, F32: 4, F16: 2, BF16: 2, I64: 8, I32: 4, U8: 1, BOOL: 1};
const file = fs.readFileSync(input), headerLength = Number(file.readBigUInt64LE(0));
const header = JSON.parse(file.subarray(8, 8 + headerLength)), meta = header.__metadata__ ?? {};
const tensors = new Map();
for (const [name, t] of Object.entries(header))
  if (name !== '__metadata__') tensors.set(name, {dtype: t.dtype, shape: t.shape, data: Buffer.from(file.subarray(8 + headerLength + t.data_offsets[0], 8 + headerLength + t.data_offsets[1]))});

const need = (name) => tensors.get(name) ?? (() => { throw new Error(`no tensor ${name}`); })();

function poke(t, index, value) {
  const x = Number(value);
  if (t.dtype === 'F32') t.data.writeFloatLE(x, 4 * index);
  else if (t.dtype === 'I32') t.data.writeInt32LE(x, 4 * index);
  else if (t.dtype === 'U8' || t.dtype === 'BOOL') t.data.writeUInt8(x, index);
  else if (t.dtype === 'BF16') {
    const b = Buffer.alloc(4);
    b.writeFloatLE(x);
    t.data.writeUInt16LE(b.readUInt16LE(2), 2 * index);
  } else t.data.writeUInt16LE(x, 2 * index);
}

function head(t, axis, n) {
  const item = bytes[t.dtype] * t.shape.slice(axis + 1).reduce((a, b) => a * b, 1);
  const outer = t.shape.slice(0, axis).reduce((a, b) => a * b, 1), row = item * t.shape[axis];
  t.data = Buffer.concat(Array.from({length: outer}, (_, i) => t.data.subarray(i * row, i * row + n * item)));
  t.shape = t.shape.with(axis, n);
}

function setMeta(key, path, value) {
  if (!path) { meta[key] = value; return; }
  const root = JSON.parse(meta[key]), steps = path.split('.');
  let at = root;
  for (const step of steps.slice(0, -1)) at = at[step];
  at[steps.at(-1)] = JSON.parse(value);
  meta[key] = JSON.stringify(root);
}

let size = 0, text = null;
while (ops.length) {
  const op = ops.shift();
  if (op === 'poke') poke(need(ops.shift()), Number(ops.shift()), ops.shift());
  else if (op === 'head') head(need(ops.shift()), Number(ops.shift()), Number(ops.shift()));
  else if (op === 'drop') tensors.delete(ops.shift());
  else if (op === 'meta') setMeta(ops.shift(), ops.shift(), ops.shift());
  else if (op === 'cut') size -= Number(ops.shift());
  else if (op === 'grow') size += Number(ops.shift());
  else if (op === 'header') text = ops.shift();
  else throw new Error(`no operation ${op}`);
}

const out = Object.keys(meta).length ? {__metadata__: meta} : {};
let at = 0;
for (const [name, t] of tensors) {
  out[name] = {dtype: t.dtype, shape: t.shape, data_offsets: [at, at + t.data.length]};
  at += t.data.length;
}
const json = Buffer.from(text ?? JSON.stringify(out)), length = Buffer.alloc(8);
length.writeBigUInt64LE(BigInt(json.length));
let all = Buffer.concat([length, json, ...[...tensors.values()].map((t) => t.data)]);
all = size < 0 ? all.subarray(0, all.length + size) : Buffer.concat([all, Buffer.alloc(size)]);
fs.writeFileSync(output, all);
