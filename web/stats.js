// stats.js - numbers about the stream, measured at the eye.
//
// Prompt to picture: from handing the prompt to the socket to drawing the first frame made under it. The daemon names a prompt by `seq`
// in its answer, which repeats our `ref`; answer and frame may come in either order, and the flagged frame may be among those skipped,
// so any drawn frame with that seq or a later one ends the measurement.
// Pure: no DOM, the caller passes the time.

export class Stats {
  constructor({ windowMs = 2000 } = {}) {
    this.windowMs = windowMs;
    this.asked = new Map(); // ref -> {sentMs, seq}, not yet seen
    this.promptToPictureMs = null;
    this.answers = []; // [ref, milliseconds] since the last takeAnswers()
    this.clear();
  }

  /** New stream: counters of the old connection mean nothing, measurements done remain. */
  clear() {
    this.asked.clear();
    this.firstDrawn = []; // [seq, time] of the newest prompts drawn
    this.drawnAt = [];
    this.sinceMs = null;
    this.bestTripMs = Infinity;
    this.skipped = 0;
    this.droppedByServer = 0;
    this.bad = 0;
    this.header = null;
    this.clockMs = null; // server clock minus ours
    this.roundTripMs = null;
    this.deliveryMs = null;
  }

  promptSent(ref, nowMs) {
    this.asked.set(ref, { sentMs: nowMs, seq: null });
  }

  /** The daemon's answer, which may come after the frame itself. */
  promptNamed(ref, seq) {
    const asked = this.asked.get(ref);
    if (!asked || !Number.isInteger(seq)) return;
    asked.seq = seq;
    const drawn = this.firstDrawn.find(([s]) => s >= seq);
    if (drawn) this.settle(drawn[0], drawn[1]);
  }

  /** A prompt that will never be seen: superseded or refused. */
  promptGone(ref) {
    this.asked.delete(ref);
  }

  /** A frame is on the screen. */
  frameDrawn(header, nowMs) {
    this.header = header;
    this.droppedByServer = header.dropped;
    this.drawnAt.push(nowMs);
    this.sinceMs ??= nowMs;
    while (this.drawnAt[0] < nowMs - this.windowMs) this.drawnAt.shift();
    if (this.clockMs !== null && !header.repeat) {
      const took = nowMs + this.clockMs - header.sentUs / 1000;
      this.deliveryMs = this.deliveryMs === null ? took : this.deliveryMs + 0.1 * (took - this.deliveryMs);
    }
    const newest = this.firstDrawn.at(-1);
    if (!newest || header.promptSeq > newest[0]) {
      this.firstDrawn.push([header.promptSeq, nowMs]);
      if (this.firstDrawn.length > 16) this.firstDrawn.shift();
    }
    this.settle(header.promptSeq, nowMs);
  }

  settle(seq, drawnMs) {
    for (const [ref, asked] of this.asked) {
      if (asked.seq === null || asked.seq > seq) continue;
      this.asked.delete(ref);
      this.promptToPictureMs = Math.max(0, drawnMs - asked.sentMs); // in the order of sending: the newest stays
      this.answers.push([ref, this.promptToPictureMs]);
    }
  }

  takeAnswers() {
    return this.answers.splice(0);
  }

  pong(sentMs, serverUs, nowMs) {
    const trip = nowMs - sentMs;
    if (!(trip >= 0)) return;
    // The quickest exchange knows the clocks best; its bound is loosened slowly so that drift is followed.
    if (this.roundTripMs === null || trip <= this.bestTripMs) {
      this.bestTripMs = trip;
      this.clockMs = serverUs / 1000 - (sentMs + nowMs) / 2;
    } else {
      this.bestTripMs *= 1.05;
    }
    this.roundTripMs = trip;
  }

  /** Frames drawn a second over the last window. */
  fps(nowMs) {
    const recent = this.drawnAt.filter((t) => t > nowMs - this.windowMs);
    if (recent.length < 2) return 0;
    const began = this.sinceMs ?? recent[0];
    return (recent.length * 1000) / Math.min(this.windowMs, Math.max(nowMs - began, 250));
  }

  dropped() {
    return this.skipped + this.droppedByServer;
  }
}
