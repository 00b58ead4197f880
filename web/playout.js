// playout.js - when a frame is due on this screen.
//
// Presentation time runs on the daemon's clock, drawing on ours; `offsetMs` maps one to the other. It starts at arrival plus a small
// buffer. A late frame pushes it back, since every frame behind it would be late as well; spare time that no frame of the last seconds
// needed is given back slowly, because a picture shown later than necessary is a prompt answered later than necessary.
//
//     slack = due - now      < 0: late, offset grows by it        smallest of the last windowMs > targetMs: offset shrinks
//
// Frames of a chunk may come in a burst; only the tightest of the window counts, so a burst is played at its own speed.
// Pure: the caller passes the time.

export class Playout {
  constructor({ targetMs = 50, windowMs = 4000, mostAheadMs = 4000, giveBack = 0.05 } = {}) {
    Object.assign(this, { targetMs, windowMs, mostAheadMs, giveBack });
    this.reset();
  }

  reset() {
    this.offsetMs = null;
    this.lastPtsMs = 0;
    this.lastMs = 0;
    this.slacks = []; // [time, slack] of the last windowMs
  }

  /** A frame with this presentation time has arrived; returns the local time at which to draw it. */
  arrive(ptsUs, nowMs) {
    const ptsMs = ptsUs / 1000;
    if (this.offsetMs === null || ptsMs < this.lastPtsMs || ptsMs + this.offsetMs - nowMs > this.mostAheadMs) {
      this.slacks = [];
      this.offsetMs = nowMs + this.targetMs - ptsMs; // first frame, rewind, or a jump in time: begin anew
    } else {
      const slack = ptsMs + this.offsetMs - nowMs;
      if (slack < 0) {
        this.offsetMs -= slack;
        this.slacks = [];
      }
      this.slacks.push([nowMs, Math.max(0, slack)]);
      while (this.slacks[0][0] < nowMs - this.windowMs) this.slacks.shift();
      if (nowMs - this.slacks[0][0] > this.windowMs / 2) {
        const spare = Math.min(...this.slacks.map((s) => s[1])) - this.targetMs;
        if (spare > 0) {
          const step = Math.min(spare, (nowMs - this.lastMs) * this.giveBack);
          this.offsetMs -= step;
          for (const s of this.slacks) s[1] -= step;
        }
      }
    }
    this.lastPtsMs = ptsMs;
    this.lastMs = nowMs;
    return ptsMs + this.offsetMs;
  }
}
