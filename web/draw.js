// draw.js - from JPEG to screen.
//
//     arrive -> queue (JPEGs, by presentation time) -> one pending bitmap -> canvas on the animation frame it is due
//
// Only one frame is decoded ahead. When several are due at once the newest is taken and the others count as skipped; a bitmap that is
// overtaken is closed, as its memory is not the garbage collector's. A hidden tab gets no animation frames: there only the newest JPEG
// is kept, so coming back shows the present, not a backlog.

import { Playout } from './playout.js';

const QUEUE_FRAMES = 64;
const GLOW_MS = 250;

export class Screen {
  constructor(canvas, glow, { onDrawn, onSkipped, onBad }) {
    Object.assign(this, { canvas, glow, onDrawn, onSkipped, onBad });
    this.context = canvas.getContext('2d', { alpha: false });
    this.glowContext = glow?.getContext('2d', { alpha: false });
    this.glowAt = 0;
    this.playout = new Playout();
    this.queue = [];
    this.pending = null; // {header, dueMs, bitmap}
    this.last = null; // drawn, kept to draw again after a change of size
    this.decoding = false;
    this.generation = 0;
    this.ticking = false;
    this.still = matchMedia('(prefers-reduced-motion: reduce)');
    new ResizeObserver(() => this.resize()).observe(canvas);
    document.addEventListener('visibilitychange', () => {
      if (document.hidden) return;
      this.playout.reset();
      this.pump();
    });
  }

  /** Forget what is on its way; the picture on screen stays. */
  reset() {
    this.generation += 1;
    this.queue = [];
    this.pending?.bitmap.close();
    this.pending = null;
    this.playout.reset();
  }

  push(header) {
    const now = performance.now();
    // A repeat for a late joiner is old already: shown at once, and no measure for what follows.
    this.queue.push({ header, dueMs: header.repeat ? now : this.playout.arrive(header.ptsUs, now) });
    const keep = document.hidden ? 1 : QUEUE_FRAMES;
    if (this.queue.length > keep) {
      const late = this.queue.splice(0, this.queue.length - keep);
      if (!document.hidden) this.onSkipped(late.length);
    }
    this.pump();
  }

  async pump() {
    if (this.decoding || document.hidden) return;
    const now = performance.now();
    let next = this.queue.findLastIndex((f) => f.dueMs <= now);
    if (this.pending && next < 0) return;
    if (next < 0) next = 0;
    if (!this.queue.length) return;
    if (next > 0) this.onSkipped(next);
    const [item] = this.queue.splice(0, next + 1).slice(-1);
    const generation = this.generation;
    this.decoding = true;
    try {
      const bitmap = await createImageBitmap(new Blob([item.header.jpeg], { type: 'image/jpeg' }));
      if (generation !== this.generation) bitmap.close();
      else {
        if (this.pending) {
          this.pending.bitmap.close();
          this.onSkipped(1);
        }
        item.header.jpeg = null;
        this.pending = { ...item, bitmap };
        this.wake();
      }
    } catch {
      this.onBad(item.header);
    } finally {
      this.decoding = false;
    }
    if (!this.pending) this.pump();
  }

  wake() {
    if (this.ticking) return;
    this.ticking = true;
    requestAnimationFrame((t) => this.tick(t));
  }

  tick(now) {
    this.ticking = false;
    const p = this.pending;
    if (!p) return;
    if (p.dueMs <= now + 4) {
      this.pending = null;
      this.last?.close();
      this.last = p.bitmap;
      this.paint();
      if (this.glowContext && now - this.glowAt > GLOW_MS && !this.still.matches) {
        this.glowAt = now;
        this.glowContext.drawImage(p.bitmap, 0, 0, this.glow.width, this.glow.height);
      }
      this.onDrawn(p.header, performance.now());
    }
    this.pump();
    if (this.pending) this.wake();
  }

  paint() {
    const { canvas, context, last } = this;
    if (!last) return;
    context.imageSmoothingEnabled = true;
    context.imageSmoothingQuality = 'high';
    context.drawImage(last, 0, 0, canvas.width, canvas.height);
  }

  /** The canvas has as many pixels as it covers on the screen, so that it is smoothed once and well. */
  resize() {
    const { clientWidth, clientHeight } = this.canvas;
    if (!clientWidth || !clientHeight) return;
    const scale = Math.min(globalThis.devicePixelRatio || 1, 1920 / clientWidth);
    const width = Math.round(clientWidth * scale);
    const height = Math.round(clientHeight * scale);
    if (this.canvas.width === width && this.canvas.height === height) return;
    this.canvas.width = width;
    this.canvas.height = height;
    this.paint();
  }

  setShape(width, height) {
    if (width > 0 && height > 0) this.canvas.parentElement.style.setProperty('--shape', String(width / height));
  }
}
