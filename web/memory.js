// memory.js - what the session remembers for good, as tiles over the picture.
//
// Every head of every layer keeps some blocks of earlier chunks and lets the others go. A tile's colour says how many blocks of that place are kept, of
// all heads together, against the tile that has the most; its number how many. Off, nothing is asked for; on, once for every chunk that is
// seen, and never again before the last answer is there.

/** 0..1 to a colour that shows on light and on dark pictures: violet, red, orange, yellow; nothing kept, nothing painted. */
export function heat(share) {
  if (!(share > 0)) return 'transparent';
  const s = Math.min(share, 1);
  return `hsl(${Math.round((280 + 140 * s) % 360)} 95% ${Math.round(45 + 15 * s)}% / ${(0.15 + 0.4 * s).toFixed(2)})`;
}

/** Widths (or heights) of `count` tiles of `size` pixels over `all`: the last is what is left. */
export function tracks(count, size, all) {
  return Array.from({ length: count }, (_, i) => Math.max(0, Math.min(size, all - i * size)));
}

const ROWS = ['top', 'middle', 'bottom'];
const COLUMNS = ['left', 'middle', 'right'];
const third = (i, n) => Math.floor(((i + 0.5) * 3) / n);

/** In words: how much is kept, how old the oldest is, where most of it lies. `seconds`: of a chunk. */
export function summary(memory, seconds) {
  if (!memory.capacity) return 'This model keeps nothing for good.';
  const kept = `${memory.persistent} of ${memory.capacity} blocks kept by each of ${memory.layers * memory.heads} heads`;
  let most = null;
  let oldest = Infinity;
  memory.map.forEach((row, y) =>
    row.forEach((n, x) => {
      if (n > 0 && (!most || n > most.n)) most = { n, x, y };
      if (n > 0) oldest = Math.min(oldest, memory.oldest_chunk[y][x] ?? Infinity);
    }),
  );
  if (!most) return `${kept}.`;
  const place = [ROWS[third(most.y, memory.rows)], COLUMNS[third(most.x, memory.columns)]];
  const age = Number.isFinite(oldest) && Number.isFinite(seconds) ? `, the oldest ${Math.round((memory.chunk - oldest) * seconds)} s old` : '';
  return `${kept}${age}; most at the ${[...new Set(place)].join(' ')}.`;
}

export class MemoryMap {
  /** read(): a promise of the daemon's answer. onFailed(error): it is off then. onToggled(on). */
  constructor(node, legend, { read, onFailed, onToggled }) {
    Object.assign(this, { node, legend, read, onFailed, onToggled });
    this.on = false;
    this.busy = false;
    this.turn = 0; // answers to an older one are ignored
    this.chunk = null;
    this.info = {};
  }

  /** Of another session, or the same after a break: what was known is not for it. */
  session(info) {
    this.info = info;
    this.forget();
  }

  forget() {
    this.turn += 1;
    this.busy = false;
    this.chunk = null;
    this.hide();
  }

  toggle(on = !this.on) {
    this.on = on;
    this.onToggled(on);
    this.forget();
  }

  /** A frame of this chunk was drawn. */
  seen(chunk) {
    if (!this.on || this.busy || chunk === this.chunk) return;
    this.chunk = chunk;
    this.refresh();
  }

  async refresh() {
    const mine = this.turn;
    this.busy = true;
    try {
      const memory = await this.read();
      if (mine === this.turn) this.show(memory);
    } catch (e) {
      if (mine !== this.turn) return;
      this.toggle(false);
      this.onFailed(e);
    } finally {
      if (mine === this.turn) this.busy = false;
    }
  }

  hide() {
    this.node.hidden = this.legend.hidden = true;
  }

  show(memory) {
    const { width, height, fps, chunk_frames: frames } = this.info;
    const words = summary(memory, frames / fps);
    const fr = (of) => of.map((n) => `minmax(0, ${n}fr)`).join(' ');
    const most = Math.max(1, ...memory.map.flat());
    const tiles = memory.map.flat().map((n) => {
      const tile = document.createElement('i');
      tile.style.background = heat(n / most);
      tile.textContent = n ? String(n) : '';
      return tile;
    });
    this.node.style.gridTemplateColumns = fr(tracks(memory.columns, memory.tile_width, width));
    this.node.style.gridTemplateRows = fr(tracks(memory.rows, memory.tile_height, height));
    this.node.replaceChildren(...tiles);
    this.node.setAttribute('aria-label', words);
    this.legend.textContent = words;
    this.node.hidden = !memory.capacity;
    this.legend.hidden = false;
  }
}
