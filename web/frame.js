// frame.js - the header in front of every JPEG of the stream.
//
// Little-endian, 64 bytes today; `headerBytes` says how many there are, so a longer header of a later daemon is read by skipping its
// tail. 64-bit fields become numbers: microseconds and frame counters stay below 2^53 for centuries.
// Pure: no DOM, tested with golden bytes in tests/browser/unit.mjs.

export const MAGIC = 0x31464353; // "SCF1"
export const HEADER_BYTES = 64;
export const FLAG_CHUNK = 1; // first frame of a chunk
export const FLAG_PROMPT = 2; // first frame under a new prompt
export const FLAG_REPEAT = 4; // the newest frame again, for a late joiner

const u64 = (view, at) => Number(view.getBigUint64(at, true));

/** Reads one binary message. Returns the fields and `jpeg`, a view into the message; throws RangeError with a reason. */
export function parseFrame(buffer) {
  if (buffer.byteLength < HEADER_BYTES) throw new RangeError(`frame of ${buffer.byteLength} bytes is shorter than its header`);
  const view = new DataView(buffer);
  const magic = view.getUint32(0, true);
  if (magic !== MAGIC) throw new RangeError(`frame begins with 0x${magic.toString(16).padStart(8, '0')}, not with SCF1`);
  const headerBytes = view.getUint16(4, true);
  if (headerBytes < HEADER_BYTES) throw new RangeError(`frame header says ${headerBytes} bytes, at least ${HEADER_BYTES} are needed`);
  if (headerBytes >= buffer.byteLength) throw new RangeError('frame holds a header and no picture');
  const flags = view.getUint16(6, true);
  return {
    headerBytes,
    flags,
    firstOfChunk: (flags & FLAG_CHUNK) !== 0,
    firstOfPrompt: (flags & FLAG_PROMPT) !== 0,
    repeat: (flags & FLAG_REPEAT) !== 0,
    frame: u64(view, 8),
    chunk: view.getUint32(16, true),
    promptSeq: view.getUint32(20, true),
    ptsUs: u64(view, 24),
    sentUs: u64(view, 32),
    waitUs: view.getUint32(40, true),
    denoiseUs: view.getUint32(44, true),
    decodeUs: view.getUint32(48, true),
    encodeUs: view.getUint32(52, true),
    width: view.getUint16(56, true),
    height: view.getUint16(58, true),
    dropped: view.getUint32(60, true),
    jpeg: new Uint8Array(buffer, headerBytes),
  };
}
