// backoff.js - how long to wait before the next try.
//
// Doubles from one second to fifteen. The spread keeps many viewers of one daemon from coming back in the same instant; a daemon that
// says Retry-After is believed.   Pure: random numbers come from outside.

export class Backoff {
  constructor({ firstS = 1, mostS = 15, spread = 0.25, random = Math.random } = {}) {
    Object.assign(this, { firstS, mostS, spread, random });
    this.tries = 0;
  }

  /** Seconds until the next try; `askedS` is the server's Retry-After, if it gave one. */
  next(askedS) {
    const base = Math.min(this.mostS, this.firstS * 2 ** Math.min(this.tries, 16));
    this.tries += 1;
    const wait = base * (1 + this.spread * this.random());
    return Number.isFinite(askedS) && askedS > 0 ? Math.max(Math.min(askedS, 120), wait) : wait;
  }

  reset() {
    this.tries = 0;
  }
}
