/* text_clean.c - the text cleaning that the UMT5 checkpoints were trained with.
 *
 * Wan's tokenizers.py does: ftfy.fix_text, html.unescape twice, strip, runs of white space to one space, strip. Here the same
 * steps run on an array of code points that may shrink or grow in place:
 *
 *     per line, until nothing changes:  entities with ';' (until a line has shown a '<')
 *                                       mojibake -> C1 controls as cp1252 -> ligatures -> width -> quotes
 *                                       -> line breaks -> terminal escapes -> control characters -> NFC
 *     whole text:                       html.unescape, html.unescape, white space
 *
 * Mojibake (UTF-8 read as Latin-1 or cp1252: "cafÃ©", "itâ€™s") is undone only where it is hard to doubt. Every maximal run
 * of characters whose cp1252 bytes are well-formed multi-byte UTF-8 is a candidate; it is decoded when it holds two sequences
 * or more, or one that real text hardly has: a C1 control inside, a lead of A-tilde or A-circumflex (not in capitals before a
 * closing quote), an a-circumflex whose second byte is no ellipsis or closing quote, or a four-byte one. So "CAFÉ™" and
 * "at the café…”" stay.
 *
 * Not covered of ftfy 6: text misread by other code pages (cp1251, macroman, cp437), bytes lost on the way (A0 turned into a
 * plain space, U+FFFD or '?' in the middle of a sequence), CESU-8 surrogates, its statistical "badness" of whole strings;
 * HTML5's names beyond HTML 4; half-width Hangul; NFC outside the BMP, of the CJK compatibility block, of Hangul jamo and of the few
 * letters excluded from composition.
 * Cost is linear in the text: rounds stop at 8, and a combining mark looks back over 30 others at most.
 * Thread: any, no state.   Source: ftfy 6 documentation of its fixers; Python's html.unescape; Wan 2.1 tokenizers.py. */
#include "engine/tokenizer.h"
#include "engine/text_tables.h"
#include "engine/utf8.h"
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_ROUNDS = 8, MAX_ENTITY = 32 };

typedef struct {
    uint32_t *at;
    size_t n, room;
} points;

#define COUNT(a) (sizeof(a) / sizeof *(a))

/* 0x80..0x9f of cp1252; its five free bytes stand for themselves. */
static const uint16_t cp1252[32] = {0x20ac, 0x81,   0x201a, 0x192,  0x201e, 0x2026, 0x2020, 0x2021, 0x2c6,  0x2030, 0x160,
                                    0x2039, 0x152,  0x8d,   0x17d,  0x8f,   0x90,   0x2018, 0x2019, 0x201c, 0x201d, 0x2022,
                                    0x2013, 0x2014, 0x2dc,  0x2122, 0x161,  0x203a, 0x153,  0x9d,   0x17e,  0x178};

/* The byte that cp1252 (or, for C1 controls, Latin-1) reads as `cp`; -1 when there is none. */
static int cp1252_byte(uint32_t cp) {
    if (cp < 0x100) return (int)cp;
    for (int i = 0; i < 32; i++)
        if (cp1252[i] == cp) return 0x80 + i;
    return -1;
}

static bool is_space(uint32_t c) { /* \s of Python's re */
    return (c >= 9 && c <= 13) || (c >= 0x1c && c <= 0x20) || c == 0x85 || c == 0xa0 || c == 0x1680 || (c >= 0x2000 && c <= 0x200a) ||
           c == 0x2028 || c == 0x2029 || c == 0x202f || c == 0x205f || c == 0x3000;
}

static bool is_digit(uint32_t c) { return c >= '0' && c <= '9'; }
static bool is_letter(uint32_t c) { return (c | 32) >= 'a' && (c | 32) <= 'z'; }

/* --- HTML entities --- */

static int find_name(const char *name, bool bare) {
    int lo = 0, hi = (int)COUNT(html_names);

    while (lo < hi) {
        int mid = (lo + hi) / 2, order = strcmp(name, html_names[mid].name);
        if (!order) return !bare || html_names[mid].bare ? mid : -1;
        if (order < 0) hi = mid;
        else lo = mid + 1;
    }
    return -1;
}

/* &#...: what the number stands for; 0 = nothing at all. As html.unescape. */
static uint32_t numeric(uint32_t v) {
    if (v == 0 || (v >= 0xd800 && v <= 0xdfff) || v > 0x10ffff) return 0xfffd;
    if (v >= 0x80 && v <= 0x9f) return cp1252[v - 0x80];
    if ((v < 0x20 && v != '\t' && v != '\n' && v != '\f' && v != '\r') || v == 0x7f || (v >= 0xfdd0 && v <= 0xfdef) || (v & 0xfffe) == 0xfffe)
        return 0;
    return v;
}

/* An entity at in[0] == '&': how many points it takes (0: none) and what it gives in *out (0: nothing). `strict` wants the
 * semicolon, as ftfy does; otherwise old names do without it. */
static size_t entity(const uint32_t *in, size_t n, bool strict, uint32_t *out) {
    char name[MAX_ENTITY + 1];
    size_t i = 1, len = 0;

    if (n > 2 && in[1] == '#') {
        bool hex = (in[2] | 32) == 'x';
        uint32_t v = 0;
        size_t first = i = hex ? 3 : 2;
        for (; i < n && (is_digit(in[i]) || (hex && (in[i] | 32) >= 'a' && (in[i] | 32) <= 'f')); i++)
            if (v <= 0x10ffff) v = v * (hex ? 16 : 10) + (is_digit(in[i]) ? in[i] - '0' : (in[i] | 32) - 'a' + 10);
        if (i == first || (strict && (i == n || in[i] != ';'))) return 0;
        *out = numeric(v);
        return i + (i < n && in[i] == ';');
    }
    while (i < n && len < MAX_ENTITY && (is_letter(in[i]) || is_digit(in[i]))) name[len++] = (char)in[i++];
    name[len] = 0;
    if (i < n && in[i] == ';') {
        int at = find_name(name, false);
        if (at >= 0) {
            *out = html_names[at].cp;
            return i + 1;
        }
        if (strict && len && name[0] >= 'A' && name[0] <= 'Z') { /* &EACUTE; is a capital &eacute; */
            for (size_t k = 0; k < len; k++) {
                if (name[k] >= 'a' && name[k] <= 'z') return 0;
                if (name[k] >= 'A') name[k] = (char)(name[k] | 32);
            }
            at = find_name(name, false);
            if (at >= 0 && html_names[at].cp >= 0xe0 && html_names[at].cp <= 0xfe && html_names[at].cp != 0xf7) {
                *out = html_names[at].cp - 32u;
                return i + 1;
            }
        }
    }
    if (strict) return 0;
    for (; len > 1; len--) {
        int at;
        name[len] = 0;
        at = find_name(name, true);
        if (at >= 0) {
            *out = html_names[at].cp;
            return len + 1;
        }
    }
    return 0;
}

static void unescape(points *t, bool strict) {
    size_t w = 0, used;
    uint32_t cp;

    for (size_t r = 0; r < t->n; r += used) {
        used = t->at[r] == '&' ? entity(t->at + r, t->n - r, strict, &cp) : 0;
        if (used && cp) t->at[w++] = cp;
        if (!used) {
            t->at[w++] = t->at[r];
            used = 1;
        }
    }
    t->n = w;
}

/* --- mojibake --- */

/* A UTF-8 sequence of 2 to 4 bytes hidden in the characters at in[0..n): its length and number, or 0. */
static int hidden_sequence(const uint32_t *in, size_t n, uint32_t *cp) {
    char bytes[4];
    int b = cp1252_byte(in[0]), len = b < 0xc2 ? 0 : b < 0xe0 ? 2 : b < 0xf0 ? 3 : b < 0xf5 ? 4 : 0;

    if (!len || n < (size_t)len) return 0;
    for (int i = 0; i < len; i++) {
        b = cp1252_byte(in[i]);
        if (b < 0x80) return 0;
        bytes[i] = (char)b;
    }
    return sc_utf8_next(bytes, (size_t)len, cp) == len ? len : 0;
}

static bool closes_a_word(uint32_t c) { /* what may well follow a letter in real text */
    return c == 0x2019 || c == 0x201d || c == 0x201c || c == 0x2018 || c == 0x2026 || c == 0xbb || c == 0x203a || c == 0x2122 || c == 0xae;
}

/* Is this one sequence enough to be sure? `before` is the character in front, 0 at the start. */
static bool beyond_doubt(const uint32_t *in, int len, uint32_t before) {
    for (int i = 1; i < len; i++)
        if (in[i] >= 0x80 && in[i] < 0xa0) return true;
    if (len == 4) return true;
    if (in[0] == 0xc2 || in[0] == 0xc3) return !(before >= 'A' && before <= 'Z' && closes_a_word(in[1]));
    return in[0] == 0xe2 && !closes_a_word(in[1]);
}

static void undo_mojibake(points *t) {
    size_t w = 0, r = 0;

    while (r < t->n) {
        size_t end = r, sequences = 0;
        bool sure = false;
        uint32_t cp;
        int len;
        while (end < t->n && (len = hidden_sequence(t->at + end, t->n - end, &cp))) {
            sure |= beyond_doubt(t->at + end, len, end ? t->at[end - 1] : 0);
            end += (size_t)len;
            sequences++;
        }
        if (sequences >= 2 || sure) {
            for (; r < end; r += (size_t)len) {
                len = hidden_sequence(t->at + r, t->n - r, &cp);
                t->at[w++] = cp;
            }
        } else {
            if (end == r) end++;
            while (r < end) t->at[w++] = t->at[r++];
        }
    }
    t->n = w;
}

/* --- single characters --- */

/* What a ligature stands for, as up to three ASCII-or-so characters; NULL for any other character. */
static const uint16_t *ligature(uint32_t c) {
    static const uint16_t table[][4] = {
        {0x132, 'I', 'J', 0}, {0x133, 'i', 'j', 0}, {0x149, 0x2bc, 'n', 0}, {0x1c4, 'D', 0x17d, 0}, {0x1c5, 'D', 0x17e, 0},
        {0x1c6, 'd', 0x17e, 0}, {0x1c7, 'L', 'J', 0}, {0x1c8, 'L', 'j', 0}, {0x1c9, 'l', 'j', 0}, {0x1ca, 'N', 'J', 0},
        {0x1cb, 'N', 'j', 0}, {0x1cc, 'n', 'j', 0}, {0x1f1, 'D', 'Z', 0}, {0x1f2, 'D', 'z', 0}, {0x1f3, 'd', 'z', 0},
        {0xfb00, 'f', 'f', 0}, {0xfb01, 'f', 'i', 0}, {0xfb02, 'f', 'l', 0}, {0xfb03, 'f', 'f', 'i'}, {0xfb04, 'f', 'f', 'l'},
        {0xfb05, 0x17f, 't', 0}, {0xfb06, 's', 't', 0},
    };

    for (size_t i = 0; i < COUNT(table); i++)
        if (table[i][0] == c) return table[i] + 1;
    return NULL;
}

static uint32_t usual_width(uint32_t c) {
    static const uint16_t kana[] = { /* U+FF5F.. U+FF9F */
        0x2985, 0x2986, 0x3002, 0x300c, 0x300d, 0x3001, 0x30fb, 0x30f2, 0x30a1, 0x30a3, 0x30a5, 0x30a7, 0x30a9, 0x30e3, 0x30e5, 0x30e7,
        0x30c3, 0x30fc, 0x30a2, 0x30a4, 0x30a6, 0x30a8, 0x30aa, 0x30ab, 0x30ad, 0x30af, 0x30b1, 0x30b3, 0x30b5, 0x30b7, 0x30b9, 0x30bb,
        0x30bd, 0x30bf, 0x30c1, 0x30c4, 0x30c6, 0x30c8, 0x30ca, 0x30cb, 0x30cc, 0x30cd, 0x30ce, 0x30cf, 0x30d2, 0x30d5, 0x30d8, 0x30db,
        0x30de, 0x30df, 0x30e0, 0x30e1, 0x30e2, 0x30e4, 0x30e6, 0x30e8, 0x30e9, 0x30ea, 0x30eb, 0x30ec, 0x30ed, 0x30ef, 0x30f3, 0x3099,
        0x309a};
    static const uint16_t signs[] = {0xa2, 0xa3, 0xac, 0xffe3, 0xa6, 0xa5, 0x20a9, 0xffe7, 0x2502, 0x2190, 0x2191, 0x2192, 0x2193, 0x25a0, 0x25cb};

    if (c == 0x3000) return ' ';
    if (c >= 0xff01 && c <= 0xff5e) return c - 0xff01 + '!';
    if (c >= 0xff5f && c <= 0xff9f) return kana[c - 0xff5f];
    if (c >= 0xffe0 && c <= 0xffee) return signs[c - 0xffe0];
    return c;
}

static uint32_t plain_quote(uint32_t c) {
    if (c == 0x2bc || (c >= 0x2018 && c <= 0x201b)) return '\'';
    return c >= 0x201c && c <= 0x201f ? '"' : c;
}

static bool is_control(uint32_t c) {
    return c < 9 || c == 0xb || (c >= 0xe && c < 0x20) || c == 0x7f || (c >= 0x206a && c <= 0x206f) || c == 0xfeff || (c >= 0xfff9 && c <= 0xfffc);
}

/* Ligatures grow the text, so this one writes to `to`, which has room for three times as much. */
static void fix_characters(const points *from, points *to) {
    to->n = 0;
    for (size_t i = 0; i < from->n; i++) {
        uint32_t c = from->at[i];
        const uint16_t *parts;
        if (c >= 0x80 && c <= 0x9f) c = cp1252[c - 0x80];
        parts = ligature(c);
        if (parts) {
            for (int k = 0; k < 3 && parts[k]; k++) to->at[to->n++] = plain_quote(parts[k]);
            continue;
        }
        if (c == 0xffe3) { /* the full-width macron is a space with U+0304 */
            to->at[to->n++] = ' ';
            to->at[to->n++] = 0x304;
            continue;
        }
        c = plain_quote(usual_width(c));
        if (c == '\r') {
            if (i + 1 < from->n && from->at[i + 1] == '\n') continue;
            c = '\n';
        }
        to->at[to->n++] = c == 0x2028 || c == 0x2029 ? '\n' : c;
    }
}

/* ESC [ digits and semicolons, one letter; then every control character that means nothing in text. */
static void drop_controls(points *t) {
    size_t w = 0, r = 0;

    while (r < t->n) {
        if (t->at[r] == 0x1b && r + 1 < t->n && t->at[r + 1] == '[') {
            size_t end = r + 2;
            while (end < t->n && (is_digit(t->at[end]) || t->at[end] == ';')) end++;
            if (end < t->n && is_letter(t->at[end])) {
                r = end + 1;
                continue;
            }
        }
        if (!is_control(t->at[r])) t->at[w++] = t->at[r];
        r++;
    }
    t->n = w;
}

/* --- NFC --- */

static int mark_class(uint32_t c) {
    int lo = 0, hi = (int)COUNT(mark_classes);

    while (lo < hi) {
        int mid = (lo + hi) / 2;
        if (c < mark_classes[mid][0]) hi = mid;
        else if (c > mark_classes[mid][1]) lo = mid + 1;
        else return mark_classes[mid][2];
    }
    return 0;
}

static uint32_t compose(uint32_t base, uint32_t mark) {
    int lo = 0, hi = (int)COUNT(compositions);

    while (lo < hi) {
        int mid = (lo + hi) / 2;
        const uint16_t *c = compositions[mid];
        if (c[0] == base && c[1] == mark) return c[2];
        if (base < c[0] || (base == c[0] && mark < c[1])) hi = mid;
        else lo = mid + 1;
    }
    return 0;
}

/* The parts of `c`, most basic first; at most 4 deep in Unicode, so the stack of calls is bounded by the data. */
static void decompose(uint32_t c, points *to) {
    for (size_t i = 0; i < COUNT(singletons); i++)
        if (singletons[i][0] == c) c = singletons[i][1];
    if (c == 0x344) { /* the one mark of two that never comes back together */
        to->at[to->n++] = 0x308;
        c = 0x301;
    }
    for (size_t i = 0; c >= 0xc0 && i < COUNT(compositions); i++)
        if (compositions[i][2] == c) {
            decompose(compositions[i][0], to);
            to->at[to->n++] = compositions[i][1];
            return;
        }
    to->at[to->n++] = c;
}

/* `from` in NFC, into `to` (four times the room). Marks of one base are ordered by class, then joined to it one by one. */
static void normalise(const points *from, points *to) {
    size_t w = 0, base = SIZE_MAX;
    int last = 0;

    to->n = 0;
    for (size_t i = 0; i < from->n; i++)
        if (from->at[i] < 0xc0) to->at[to->n++] = from->at[i];
        else decompose(from->at[i], to);
    for (size_t i = 1; i < to->n; i++) { /* insertion by class; 30 marks a base are Unicode's limit for stream-safe text */
        uint32_t c = to->at[i];
        int class = mark_class(c);
        size_t k = i;
        if (!class) continue;
        while (k > 0 && i - k < 30 && mark_class(to->at[k - 1]) > class) {
            to->at[k] = to->at[k - 1];
            k--;
        }
        to->at[k] = c;
    }
    for (size_t i = 0; i < to->n; i++) {
        uint32_t c = to->at[i], joined = 0;
        int class = mark_class(c);
        bool adjacent = base != SIZE_MAX && w == base + 1;
        if (base != SIZE_MAX && (adjacent || (class && last < class))) joined = compose(to->at[base], c);
        if (joined) {
            to->at[base] = joined;
            continue;
        }
        if (!class) base = w;
        last = class;
        to->at[w++] = c;
    }
    to->n = w;
}

/* --- the whole --- */

static bool same(const points *a, const uint32_t *b, size_t n) { return a->n == n && (!n || !memcmp(a->at, b, n * sizeof *b)); }

static bool grow(points *p, size_t room) {
    uint32_t *more;

    if (p->room >= room) return true;
    more = realloc(p->at, room * sizeof *more);
    if (!more) return false;
    p->at = more;
    p->room = room;
    return true;
}

/* Fix one line in place, as ftfy.fix_and_explain; false when memory is out. */
static bool fix_line(points *line, points *spare, points *before, bool entities) {
    for (int round = 0; round < MAX_ROUNDS; round++) {
        if (!grow(before, line->n + 1)) return false;
        memcpy(before->at, line->at, line->n * sizeof *line->at);
        before->n = line->n;
        if (entities) unescape(line, true);
        undo_mojibake(line);
        if (!grow(spare, 4 * line->n + 4)) return false;
        fix_characters(line, spare);
        drop_controls(spare);
        if (!grow(line, 4 * spare->n + 4)) return false;
        normalise(spare, line);
        if (same(line, before->at, before->n)) break;
    }
    return true;
}

static void collapse_space(points *t) {
    size_t w = 0;
    bool gap = false;

    for (size_t r = 0; r < t->n; r++) {
        if (is_space(t->at[r])) {
            gap = w > 0;
            continue;
        }
        if (gap) t->at[w++] = ' ';
        gap = false;
        t->at[w++] = t->at[r];
    }
    t->n = w;
}

sc_status sc_text_clean(const char *text, size_t n, char **out, size_t *out_n, sc_error *err) {
    points whole = {0}, line = {0}, spare = {0}, before = {0};
    size_t bad = sc_utf8_bad(text, n), i = 0;
    bool entities = true;
    sc_status rc = SC_OK;
    char *done = NULL;

    *out = NULL;
    *out_n = 0;
    if (bad < n) return sc_fail(err, SC_EINVAL, "text: bad UTF-8 at byte %zu", bad);
    if (n > SIZE_MAX / 256 || !grow(&whole, n + 1)) goto no_memory;
    while (i < n) {
        line.n = 0;
        if (!grow(&line, n - i + 1)) goto no_memory;
        for (uint32_t cp = 0; i < n && cp != '\n';) {
            i += (size_t)sc_utf8_next(text + i, n - i, &cp);
            line.at[line.n++] = cp;
            if (cp == '<') entities = false; /* looks like HTML: ftfy leaves its entities, from here on */
        }
        if (!fix_line(&line, &spare, &before, entities)) goto no_memory;
        if (!grow(&whole, whole.n + line.n + (n - i) + 1)) goto no_memory;
        memcpy(whole.at + whole.n, line.at, line.n * sizeof *line.at);
        whole.n += line.n;
    }
    unescape(&whole, false);
    unescape(&whole, false);
    collapse_space(&whole);
    done = malloc(4 * whole.n + 1);
    if (!done) goto no_memory;
    for (i = 0; i < whole.n; i++) *out_n += (size_t)sc_utf8_put(done + *out_n, whole.at[i]);
    done[*out_n] = 0;
    *out = done;
    goto cleanup;
no_memory:
    rc = sc_fail(err, SC_ENOMEM, "text: out of memory for %zu bytes", n);
cleanup:
    free(whole.at);
    free(line.at);
    free(spare.at);
    free(before.at);
    return rc;
}
