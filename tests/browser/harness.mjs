// harness.mjs - what page.mjs and daemon.mjs share: a browser, checks with generous limits, and the count at the end.
import assert from 'node:assert/strict';
import { mkdirSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { chromium } from 'playwright-core';

export const LIMIT = 90000;
export const ARTIFACTS = fileURLToPath(new URL('../artifacts/', import.meta.url));
mkdirSync(ARTIFACTS, { recursive: true });

const faults = [];

export function openBrowser() {
  return chromium.launch({
    executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium',
    headless: true,
    args: ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking', '--disable-component-update', '--disable-sync'],
  });
}

/** A page that remembers every error and every breach of its content security policy. */
export async function openPage(browser, options = {}) {
  const context = await browser.newContext({ viewport: { width: 1360, height: 850 }, ...options });
  const page = await context.newPage();
  page.setDefaultTimeout(LIMIT);
  page.faults = faults; // of all pages of a run
  page.on('pageerror', (e) => page.faults.push(String(e)));
  page.on('console', (m) => {
    if (m.type() === 'error' && /Content Security Policy|Uncaught/.test(m.text())) page.faults.push(m.text());
  });
  return page;
}

export async function until(what, test, limit = LIMIT) {
  const end = Date.now() + limit;
  for (;;) {
    if (await test()) return;
    if (Date.now() > end) throw new assert.AssertionError({ message: `waited ${limit / 1000} s for: ${what}` });
    await new Promise((r) => setTimeout(r, 100));
  }
}

export const text = (page, id) => page.locator(`#${id}`).textContent();
export const phase = (page) => page.evaluate(() => document.body.dataset.phase);
export const noticeHas = (page, words) =>
  until(`a notice with ${words}`, async () => words.test(`${await text(page, 'notice-text')} ${await text(page, 'notice-more')}`));

/** The picture in numbers: mean colour, spread, and a small copy of its pixels. */
export function look(page) {
  return page.evaluate(() => {
    const small = new OffscreenCanvas(32, 20).getContext('2d');
    small.drawImage(document.getElementById('picture'), 0, 0, 32, 20);
    const { data } = small.getImageData(0, 0, 32, 20);
    const mean = [0, 1, 2].map((c) => data.reduce((sum, v, i) => (i % 4 === c ? sum + v : sum), 0) / 640);
    const spread = Math.sqrt(data.reduce((sum, v, i) => (i % 4 < 3 ? sum + (v - mean[i % 4]) ** 2 : sum), 0) / 1920);
    return { mean, spread, pixels: Array.from(data) };
  });
}

export const distance = (a, b) => Math.hypot(...a.map((v, i) => v - b[i]));

/** Waits until the picture is neither uniform nor still. */
export async function moves(page) {
  let before = null;
  await until('a moving picture', async () => {
    const now = await look(page);
    const moved = before && now.spread > 4 && distance(now.pixels, before.pixels) > 20;
    before = now;
    return moved;
  });
}

let passed = 0;
let failed = 0;

export async function check(name, body) {
  const began = Date.now();
  try {
    await body();
    passed += 1;
    console.log(`ok      ${name} (${Date.now() - began} ms)`);
  } catch (e) {
    failed += 1;
    console.log(`NOT OK  ${name}\n${e.stack}`);
  }
}

export const failures = () => failed;

export function finish() {
  console.log(`${passed} passed, ${failed} failed`);
  process.exit(failed ? 1 : 0);
}
