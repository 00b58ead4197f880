// page.mjs - the viewer in a real browser against the fake daemon. SHOT=1 also writes pictures of the page to tests/artifacts.
import assert from 'node:assert/strict';
import { FakeServer } from './fake_server.mjs';
import { ARTIFACTS, check, distance, finish, look, moves, noticeHas, openBrowser, openPage, phase, text, until } from './harness.mjs';

const browser = await openBrowser();
const shot = (page, name) => (process.env.SHOT ? page.screenshot({ path: `${ARTIFACTS}${name}.png` }) : null);

/** Frames of a little landscape, drawn by the browser itself: a sun or moon goes by over hills. */
async function paint(night) {
  const page = await openPage(browser);
  const urls = await page.evaluate((dark) => {
    const canvas = document.createElement('canvas');
    canvas.width = 256;
    canvas.height = 160;
    const c = canvas.getContext('2d');
    return Array.from({ length: 48 }, (_, i) => {
      const t = i / 48;
      const sky = c.createLinearGradient(0, 0, 0, 130);
      sky.addColorStop(0, dark ? '#070b22' : '#4a6fc4');
      sky.addColorStop(1, dark ? '#1d2650' : '#ffb27a');
      c.fillStyle = sky;
      c.fillRect(0, 0, 256, 160);
      c.fillStyle = dark ? '#e8ecff' : '#fff1c4';
      c.beginPath();
      c.arc(20 + 216 * t, 60 - 30 * Math.sin(Math.PI * t), 13, 0, 7);
      c.fill();
      for (const [n, colour] of [dark ? '#16204a' : '#7d7fb8', dark ? '#101838' : '#4e5f8f', dark ? '#0a1026' : '#2c3f66'].entries()) {
        c.fillStyle = colour;
        c.beginPath();
        c.moveTo(0, 160);
        for (let x = 0; x <= 256; x += 4) c.lineTo(x, 92 + 20 * n - 13 * Math.sin(x / (26 + 9 * n) + n * 2 + 6.28 * t * (n === 2 ? 1 : 0)));
        c.lineTo(256, 160);
        c.fill();
      }
      return canvas.toDataURL('image/jpeg', 0.85);
    });
  }, night);
  await page.context().close();
  return urls.map((u) => Buffer.from(u.split(',')[1], 'base64'));
}

const day = await paint(false);
const night = await paint(true);
const server = new FakeServer((prompt) => (/night/.test(prompt) ? night : day));
await server.start();
let page = await openPage(browser);
const again = async (hash = '', options) => {
  await page.context().close();
  page = await openPage(browser, options);
  await page.goto(server.url + hash);
};
const last = (type) => server.received.filter((m) => m.type === type).at(-1);
const count = (type) => server.received.filter((m) => m.type === type).length;

await check('makes a session with an example prompt and shows a moving picture', async () => {
  await page.goto(server.url);
  await moves(page);
  assert.equal(await phase(page), 'live');
  assert.equal(await text(page, 'state'), 'running');
  assert.match(page.url(), /#fake1$/);
  assert.equal(await text(page, 'now'), server.sessions.get('fake1').prompt);
  assert.equal(await page.locator('#notice').isVisible(), false);
});

await check('acknowledges frames and pings, without being too talkative', async () => {
  await until('two acks', () => count('ack') >= 2);
  const began = count('ack') + count('ping');
  await page.waitForTimeout(3000);
  const sent = count('ack') + count('ping') - began;
  assert.ok(sent >= 3 && sent <= 20, `${sent} messages in 3 s`);
  assert.ok(last('ack').frame > 0);
});

await check('a typed prompt is sent with Enter, shown, and timed', async () => {
  const before = await look(page);
  await page.keyboard.press('/');
  assert.equal(await page.evaluate(() => document.activeElement.id), 'prompt');
  await page.keyboard.type('a boat at night, snowing');
  await page.keyboard.press('Enter');
  assert.equal(await page.inputValue('#prompt'), '');
  await until('prompt-to-picture', async () => /^[\d.]+ m?s$/.test(await text(page, 'latency')));
  await page.waitForSelector('#history li[data-state="shown"]');
  assert.equal(last('prompt').text, 'a boat at night, snowing');
  assert.equal(await text(page, 'now'), 'a boat at night, snowing');
  await until('another picture', async () => distance((await look(page)).mean, before.mean) > 40);
  await page.keyboard.press('Escape');
  await shot(page, 'fake_live');
});

await check('stage times, frames a second and the chunk are shown', async () => {
  await until('frames a second', async () => Number(await text(page, 'fps')) > 2);
  assert.match(await text(page, 'denoise'), /^40\d ms$/);
  assert.match(await text(page, 'delivery'), /m?s$/);
  assert.ok(Number(await text(page, 'chunk')) >= 1);
});

await check('prompt text is text, never markup', async () => {
  const evil = '<img src=x onerror="document.title=1"><b>hi</b>';
  await page.fill('#prompt', evil);
  await page.press('#prompt', 'Enter');
  await until('the prompt in force', async () => (await text(page, 'now')) === evil);
  assert.equal(await page.locator('#history img, #history b, #now b, #now img').count(), 0);
});

await check('Shift+Enter makes a line, Esc clears, then leaves', async () => {
  const sent = count('prompt');
  await page.focus('#prompt');
  await page.keyboard.type('one');
  await page.keyboard.press('Shift+Enter');
  await page.keyboard.type('two');
  assert.equal(await page.inputValue('#prompt'), 'one\ntwo');
  await page.keyboard.press('Escape');
  assert.equal(await page.inputValue('#prompt'), '');
  assert.equal(await page.evaluate(() => document.activeElement.id), 'prompt');
  await page.keyboard.press('Escape');
  assert.notEqual(await page.evaluate(() => document.activeElement.id), 'prompt');
  assert.equal(count('prompt'), sent);
});

await check('space pauses and resumes, but not while writing', async () => {
  await page.keyboard.press('Space');
  await until('paused', async () => (await text(page, 'state')) === 'paused');
  assert.equal(await text(page, 'pause'), 'Resume');
  const still = await (await page.waitForTimeout(700), look(page));
  await page.waitForTimeout(600);
  assert.equal(distance((await look(page)).pixels, still.pixels), 0);
  await page.focus('#prompt');
  await page.keyboard.press('Space');
  assert.equal(await page.inputValue('#prompt'), ' ');
  await page.keyboard.press('Escape');
  await page.keyboard.press('Escape');
  assert.equal(await text(page, 'state'), 'paused');
  await page.click('#pause');
  await moves(page);
  assert.equal(await text(page, 'state'), 'running');
});

await check('an example prompt is one click, an error of the daemon is shown', async () => {
  const chip = page.locator('#examples button').nth(1);
  await chip.click();
  await until('the example', async () => last('prompt').text === (await chip.textContent()));
  server.say({ type: 'error', problem: { title: 'Too many', status: 429, detail: 'At most 20 messages a second.' } });
  await until('the error', async () => /At most 20 messages/.test(await text(page, 'toast')));
});

await check('a bad frame does not stop the stream', async () => {
  for (const client of server.ws.clients) {
    client.send(Buffer.from('rubbish'));
    client.send(Buffer.concat([server.message(client.session, 0).subarray(0, 72), Buffer.from('no jpeg')]));
  }
  await moves(page);
});

await check('chunks that arrive at once are played frame by frame', async () => {
  server.burst = true;
  await page.waitForTimeout(2500);
  await until('a steady picture', async () => Number(await text(page, 'fps')) > 8);
  await moves(page);
  server.burst = false;
  await moves(page);
});

await check('reload keeps the session', async () => {
  const made = server.made;
  await page.reload();
  await moves(page);
  assert.match(page.url(), /#fake1$/);
  assert.equal(server.made, made);
});

await check('says that the connection is lost, counts down, and comes back to the same session', async () => {
  await server.die();
  await noticeHas(page, /Connection lost.*Trying again in \d+ s/);
  assert.equal(await phase(page), 'waiting');
  assert.equal(await page.locator('#notice-action').textContent(), 'Try now');
  await page.fill('#prompt', 'kept');
  await page.press('#prompt', 'Enter');
  assert.match(await text(page, 'toast'), /Not connected/);
  assert.equal(await page.inputValue('#prompt'), 'kept');
  await page.fill('#prompt', '');
  await shot(page, 'fake_lost');
  await server.start();
  await moves(page);
  assert.match(page.url(), /#fake1$/);
});

await check('close codes: too slow reconnects, replaced waits for a click', async () => {
  server.closeAll(1013);
  await noticeHas(page, /too slow/);
  await moves(page);
  server.closeAll(4409);
  await noticeHas(page, /opened somewhere else/);
  await page.click('#notice-action');
  await moves(page);
});

await check('an ended session offers a new one, which is made on a click', async () => {
  server.end();
  await noticeHas(page, /session has ended/);
  assert.equal(await phase(page), 'over');
  await shot(page, 'fake_ended');
  await page.click('text=Start a new session');
  await moves(page);
  assert.match(page.url(), /#fake2$/);
});

await check('a daemon that forgot the session says so after the reconnect', async () => {
  await server.die({ forget: true });
  await noticeHas(page, /Connection lost/);
  await server.start();
  await noticeHas(page, /no longer exists/);
  await page.click('text=Start a new session');
  await moves(page);
});

await check('New session ends the old one, which nobody else watches', async () => {
  const old = page.url().split('#')[1];
  await page.click('#new');
  await until('another session', () => !page.url().endsWith(old));
  await moves(page);
  assert.ok(server.requests.includes(`DELETE /v1/sessions/${old}`));
});

const forkOf = async (of) => {
  const opened = of.context().waitForEvent('page');
  await of.click('#fork');
  const other = await opened;
  await other.waitForURL(/#fake\d+$/);
  await other.waitForSelector('body[data-phase="live"]');
  return other;
};

await check('Fork opens a second stream in a window of its own, with what was written as its prompt; the first goes on', async () => {
  const mine = page.url();
  await page.fill('#prompt', 'the same at night');
  const other = await forkOf(page);
  await moves(other);
  assert.notEqual(other.url(), mine);
  assert.match(other.url(), /#fake\d+$/);
  assert.ok(server.requests.includes(`POST /v1/sessions/${mine.split('#')[1]}/fork`));
  assert.equal(await text(other, 'now'), 'the same at night');
  assert.match(await text(page, 'toast'), /fork goes on from chunk \d+, in a window of its own\. Open it$/);
  assert.equal(await page.locator('#toast a').getAttribute('href'), other.url());
  assert.equal(await page.inputValue('#prompt'), '');
  assert.equal(page.url(), mine);
  await moves(page);
  const before = server.sessions.get(mine.split('#')[1]).prompt;
  const third = await forkOf(page); // nothing is written: as it is
  await moves(third);
  assert.equal(await text(third, 'now'), before);
  await shot(page, 'fake_forked');
  for (const p of [other, third]) await p.close();
});

await check('a fork that is refused says why, keeps what was written and leaves no window', async () => {
  server.problem = { status: 503, body: { title: 'Service unavailable', status: 503, detail: 'All 4 places are taken; try again later.' }, headers: { 'Retry-After': '1' } };
  await page.fill('#prompt', 'kept');
  await page.click('#fork');
  await until('the reason', async () => /All 4 places are taken/.test(await text(page, 'toast')));
  await until('one window', () => page.context().pages().length === 1);
  assert.equal(await page.inputValue('#prompt'), 'kept');
  assert.equal(await page.locator('#fork').isDisabled(), false);
  server.problem = null;
  await page.fill('#prompt', '');
});

const asked = () => server.requests.filter((r) => r.endsWith('/memory')).length;
const remembers = (over = {}) => ({
  chunk: 12, layers: 2, heads: 3, capacity: 8, persistent: 4, rows: 2, columns: 3, tile_width: 96, tile_height: 96,
  map: [[0, 4, 8], [2, 0, 10]], oldest_chunk: [[null, 7, 5], [4, null, 11]], by_layer: [], ...over,
});
/* Each tile with its size as a share of the picture's, at one moment. */
const tiles = (of) =>
  of.evaluate(() => {
    const all = document.getElementById('picture').getBoundingClientRect();
    return [...document.querySelectorAll('#map i')].map((i) => {
      const { width, height } = i.getBoundingClientRect();
      return { width: width / all.width, height: height / all.height, words: i.textContent, colour: getComputedStyle(i).backgroundColor };
    });
  });

await check('Memory shows what is kept as tiles over the picture, asks once a chunk and not at all when off', async () => {
  let answers = 0;
  server.memory = () => remembers({ persistent: 4 + answers++ });
  await moves(page);
  assert.equal(asked(), 0);
  assert.equal(await page.locator('#map').isVisible(), false);
  await page.click('#memory');
  assert.equal(await page.locator('#memory').getAttribute('aria-pressed'), 'true');
  await page.waitForSelector('#map i');
  const [first, , last] = await tiles(page);
  assert.deepEqual((await tiles(page)).map((t) => t.words), ['', '4', '8', '2', '', '10']);
  const near = (got, want) => assert.ok(Math.abs(got - want) < 0.01, `${got}, not ${want}`);
  near(first.width, 96 / 256);
  near(first.height, 96 / 160);
  near(last.width, 64 / 256); // what is left
  assert.equal(first.colour, 'rgba(0, 0, 0, 0)');
  assert.notEqual(last.colour, first.colour);
  assert.match(await text(page, 'map-legend'), /^\d+ of 8 blocks kept by each of 6 heads, the oldest 6 s old; most at the bottom right\.$/);
  assert.equal(await page.locator('#map').getAttribute('aria-label'), await text(page, 'map-legend'));
  await shot(page, 'fake_memory');
  const [questions, chunk] = [asked(), Number(await text(page, 'chunk'))];
  await until('three chunks later', async () => Number(await text(page, 'chunk')) >= chunk + 3);
  const [more, chunks] = [asked() - questions, Number(await text(page, 'chunk')) - chunk];
  assert.ok(more >= 1 && more <= chunks + 1, `${more} questions in ${chunks} chunks`);
  await until('the newest answer', async () => Number((await text(page, 'map-legend')).split(' ')[0]) >= 6);
  await page.evaluate(() => document.activeElement.blur());
  await page.keyboard.press('m');
  assert.equal(await page.locator('#memory').getAttribute('aria-pressed'), 'false');
  assert.equal(await page.locator('#map').isVisible(), false);
  const off = asked();
  await until('two chunks without it', async () => Number(await text(page, 'chunk')) >= chunk + chunks + 2);
  assert.equal(asked(), off);
});

await check('an answer that does not come is not asked for again; one that comes too late is not shown', async () => {
  let answer;
  server.memory = () => new Promise((resolve) => (answer = resolve));
  const before = asked();
  await page.click('#memory');
  await until('the question', () => asked() === before + 1);
  const chunk = Number(await text(page, 'chunk'));
  await until('two chunks later', async () => Number(await text(page, 'chunk')) >= chunk + 2);
  assert.equal(asked(), before + 1);
  await page.click('#memory');
  answer(remembers());
  await moves(page);
  assert.equal(await page.locator('#map').isVisible(), false);
});

await check('a model without such memory, and a refusal, are said once', async () => {
  server.memory = () => remembers({ capacity: 0, persistent: 0, rows: 0, columns: 0, map: [], oldest_chunk: [] });
  await page.click('#memory');
  await until('the words', async () => (await text(page, 'map-legend')) === 'This model keeps nothing for good.');
  assert.equal(await page.locator('#map').isVisible(), false);
  server.memory = () => ({ status: 429, body: { title: 'Too many', status: 429, detail: 'Ask less often.' } });
  await until('the refusal', async () => /Ask less often/.test(await text(page, 'toast')));
  assert.equal(await page.locator('#memory').getAttribute('aria-pressed'), 'false');
  const off = asked();
  await moves(page);
  assert.equal(asked(), off);
});

await check('503 shows its detail and is tried again after Retry-After', async () => {
  const detail = 'All 4 sessions are taken; the next ends in about a minute.';
  server.problem = { status: 503, body: { type: 'about:blank', title: 'Service unavailable', status: 503, detail }, headers: { 'Retry-After': '2' } };
  await again();
  await noticeHas(page, /All 4 sessions are taken.*Trying again in \d s/);
  await shot(page, 'fake_busy');
  server.problem = null;
  await moves(page);
});

await check('a refused field is named', async () => {
  server.problem = { status: 422, body: { title: 'Bad request', status: 422, errors: [{ pointer: '/prompt', detail: 'is longer than 32 tokens' }] } };
  await again();
  await noticeHas(page, /prompt: is longer than 32 tokens/);
  server.problem = null;
  await page.click('text=Try again');
  await moves(page);
});

await check('a daemon with keys is asked with a key and a ticket', async () => {
  server.key = 'sesame';
  await again();
  await page.waitForSelector('#key');
  await page.fill('#key', 'wrong');
  await page.press('#key', 'Enter');
  await noticeHas(page, /missing or wrong/);
  await page.fill('#key', 'sesame');
  await page.press('#key', 'Enter');
  await moves(page);
  const other = await forkOf(page); // which knows the key
  await moves(other);
  await other.close();
  server.key = null;
});

await check('a watcher has no controls', async () => {
  server.role = 'watch';
  await again(`#${[...server.sessions.keys()].at(-1)}`);
  await moves(page);
  await until('a disabled prompt', () => page.locator('#prompt').isDisabled());
  assert.ok(await page.locator('#pause').isDisabled());
  assert.ok(await page.locator('#fork').isDisabled());
  server.role = undefined;
});

await check('a phone and reduced motion are served too', async () => {
  await again('', { viewport: { width: 390, height: 800 }, reducedMotion: 'reduce' });
  await moves(page);
  const wide = await page.evaluate(() => document.documentElement.scrollWidth);
  assert.ok(wide <= 390, `the page is ${wide} pixels wide`);
  await shot(page, 'fake_phone');
});

await check('no script failed and the content security policy was kept', async () => {
  assert.deepEqual(page.faults, []);
});

await browser.close();
finish();
