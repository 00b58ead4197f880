// controls.js - what a person can do: write a prompt, pick an example, pause, fork, start anew. Keyboard:
//   /  to the prompt     Enter  send (Shift+Enter: new line)     Esc  clear, then leave     Space  pause or go on, M  memory, when not writing

const $ = (id) => document.getElementById(id);

export const EXAMPLES = [
  'two red balloons drifting left over the sea at sunset',
  'a red ball bouncing right over green hills at noon',
  'two yellow birds flying left over the sea at dawn, cloudy',
  'a blue car driving right in the city at night in the rain',
  'a purple hot air balloon drifting left over snowy mountains at dawn, snowing',
  'a white boat sailing right on the sea at sunset, foggy',
  'two green saucers flying left over the desert at night',
];

const takesKeys = (node) =>
  node instanceof Element && node.closest('input, textarea, select, button, a[href], [contenteditable]') !== null;

export class Controls {
  /** on: prompt(text, transition) -> true when sent; fork(text) -> a promise of true when there is one; pause(), memory(), restart(), key(text). */
  constructor(on) {
    this.on = on;
    this.box = $('prompt');
    $('prompt-form').addEventListener('submit', (e) => {
      e.preventDefault();
      this.submit();
    });
    this.box.addEventListener('keydown', (e) => this.boxKey(e));
    this.box.addEventListener('input', () => this.fit());
    $('pause').addEventListener('click', () => on.pause());
    $('fork').addEventListener('click', () => this.fork());
    $('memory').addEventListener('click', () => on.memory());
    $('new').addEventListener('click', () => on.restart());
    $('full').addEventListener('click', () => this.fullScreen());
    $('key-form').addEventListener('submit', (e) => {
      e.preventDefault();
      on.key($('key').value.trim());
      $('key').value = '';
    });
    if (!document.fullscreenEnabled) $('full').hidden = true;
    document.addEventListener('keydown', (e) => this.pageKey(e));
    for (const example of EXAMPLES) {
      const chip = document.createElement('button');
      chip.type = 'button';
      chip.className = 'chip';
      chip.textContent = example;
      chip.addEventListener('click', () => {
        this.box.value = example;
        this.submit();
      });
      $('examples').append(chip);
    }
  }

  written() {
    return this.box.value.trim().replace(/\s+/g, ' ');
  }

  async fork() {
    const prompt = this.written();
    $('fork').disabled = true;
    if ((await this.on.fork(prompt)) && this.written() === prompt) this.box.value = '';
    $('fork').disabled = $('pause').disabled;
    this.fit();
  }

  submit() {
    const prompt = this.written();
    if (!prompt || this.box.disabled) return;
    if (this.on.prompt(prompt, $('transition').value)) this.box.value = '';
    this.fit();
  }

  boxKey(e) {
    if (e.isComposing) return; // an input method uses Enter and Esc for itself
    if (e.key === 'Enter' && !e.shiftKey) {
      e.preventDefault();
      this.submit();
    } else if (e.key === 'Escape') {
      e.preventDefault();
      if (this.box.value) this.box.value = '';
      else this.box.blur();
      this.fit();
    }
  }

  pageKey(e) {
    if (e.defaultPrevented || e.ctrlKey || e.metaKey || e.altKey || takesKeys(e.target)) return;
    if (e.key === '/') {
      e.preventDefault();
      this.box.focus();
    } else if (e.key === ' ') {
      e.preventDefault(); // the page would scroll
      if (!e.repeat && !$('pause').disabled) this.on.pause();
    } else if (e.key.toLowerCase() === 'm' && !e.repeat && !$('memory').disabled) this.on.memory();
  }

  fit() {
    this.box.style.height = 'auto';
    this.box.style.height = `${Math.min(this.box.scrollHeight, 160)}px`;
  }

  live(live) {
    for (const id of ['pause', 'fork', 'memory']) $(id).disabled = !live;
  }

  fullScreen() {
    if (document.fullscreenElement) document.exitFullscreen();
    else $('stage').requestFullscreen().catch(() => {});
  }
}
