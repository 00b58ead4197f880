/* pickle.c - see pickle.h.
 *
 * Values live in one array and know each other by index, so a cycle is a number that points back and nothing is freed twice. A
 * container keeps its items in a run of one shared array that is copied to a larger run when it grows (doubling, so the total is
 * at most four times the items ever added). Strings point into the pickle.
 *
 *     GLOBAL -> value of kind "global" (one of the list)     BINPERSID -> "storage"     REDUCE -> "tensor", "dict", "tuple" or refused
 *     BUILD  -> its state is dropped when the object is a dict (OrderedDict's _metadata) or a tensor, else refused
 *
 * Source: CPython, Lib/pickletools.py; PyTorch, torch/_utils.py and torch/serialization.py (persistent ids). */
#include "import/pickle.h"
#include "engine/utf8.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef enum { NONE, BOOL, INT, REAL, TEXT, TUPLE, LIST, DICT, GLOBAL, STORAGE, TENSOR, MARK } kind;

typedef enum {
    G_ORDERED_DICT, G_TENSOR_V2, G_TENSOR_V3, G_TENSOR, G_PARAMETER, G_PARAMETER_STATE, G_SIZE, G_STORAGE, G_BYTES_STORAGE, G_DTYPE
} global_kind;

static const struct { const char *module, *name; global_kind kind; sc_dtype type; } globals[] = {
    {"collections", "OrderedDict", G_ORDERED_DICT, 0},
    {"torch._utils", "_rebuild_tensor_v2", G_TENSOR_V2, 0},
    {"torch._utils", "_rebuild_tensor_v3", G_TENSOR_V3, 0},
    {"torch._utils", "_rebuild_tensor", G_TENSOR, 0},
    {"torch._utils", "_rebuild_parameter", G_PARAMETER, 0},
    {"torch._utils", "_rebuild_parameter_with_state", G_PARAMETER_STATE, 0},
    {"torch", "Size", G_SIZE, 0},
    {"torch", "FloatStorage", G_STORAGE, SC_F32}, {"torch", "HalfStorage", G_STORAGE, SC_F16}, {"torch", "BFloat16Storage", G_STORAGE, SC_BF16},
    {"torch", "DoubleStorage", G_STORAGE, SC_F64}, {"torch", "IntStorage", G_STORAGE, SC_I32}, {"torch", "LongStorage", G_STORAGE, SC_I64},
    {"torch", "ShortStorage", G_STORAGE, SC_I16}, {"torch", "CharStorage", G_STORAGE, SC_I8}, {"torch", "ByteStorage", G_STORAGE, SC_U8},
    {"torch", "BoolStorage", G_STORAGE, SC_BOOL},
    {"torch.storage", "UntypedStorage", G_BYTES_STORAGE, SC_U8},
    {"torch", "float32", G_DTYPE, SC_F32}, {"torch", "float16", G_DTYPE, SC_F16}, {"torch", "bfloat16", G_DTYPE, SC_BF16},
    {"torch", "float64", G_DTYPE, SC_F64}, {"torch", "int32", G_DTYPE, SC_I32}, {"torch", "int64", G_DTYPE, SC_I64},
    {"torch", "int16", G_DTYPE, SC_I16}, {"torch", "int8", G_DTYPE, SC_I8}, {"torch", "uint8", G_DTYPE, SC_U8}, {"torch", "bool", G_DTYPE, SC_BOOL},
    {"torch", "float8_e4m3fn", G_DTYPE, SC_F8_E4M3}, {"torch", "float8_e5m2", G_DTYPE, SC_F8_E5M2},
};

/* An object that REDUCE made of a tensor: its numbers, checked. */
typedef struct {
    sc_dtype dtype;
    int rank;
    int64_t shape[8], stride[8], count, offset, storage_count;
    uint32_t key;              /* value of the storage's key */
} tensor;

typedef struct {
    kind kind;
    bool open;                 /* flattening is inside it: meeting it again is a cycle */
    union {
        int64_t number;        /* BOOL, INT; GLOBAL: row of `globals`; TENSOR: index into tensors */
        double real;
        struct { uint32_t at, n; } text;             /* in the pickle */
        struct { uint32_t first, n, room; } items;   /* run of `pool`; DICT: key, value, key, value */
        struct { uint32_t type, key; int64_t count; } storage;
    };
} value;

typedef struct {
    const uint8_t *b;
    size_t n, at;
    const char *where;
    sc_error *err;
    value *values;  uint32_t count, room;
    uint32_t *pool; uint32_t pool_count, pool_room;
    uint32_t *stack; uint32_t depth, stack_room;
    uint32_t *memo; uint32_t memo_room, memo_next;   /* value + 1; 0: empty */
    tensor *tensors; uint32_t tensor_count, tensor_room;
} machine;

struct sc_pickle {
    sc_pickle_tensor *tensors;
    int count, room;
    char *text;         /* names and keys, in one block */
    size_t text_n, text_room;
    int steps;
};

#define TRY(call) do { if ((rc = (call))) return rc; } while (0)

static sc_status fault(const machine *m, const char *what) {
    return sc_fail(m->err, SC_EINVAL, "%.200s: pickle, byte %zu: %s", m->where, m->at, what);
}

/* Room for `want` elements of `size` bytes in *p. */
static sc_status grow(const machine *m, void *p, uint32_t *room, uint64_t want, size_t size) {
    void **array = p, *more;
    uint64_t next = *room ? *room : 64;

    if (want <= *room) return SC_OK;
    while (next < want) next *= 2;
    if (next > UINT32_MAX / 2) return fault(m, "too many values");
    if (!(more = realloc(*array, (size_t)next * size))) return sc_fail(m->err, SC_ENOMEM, "%.200s: out of memory for a pickle", m->where);
    *array = more;
    *room = (uint32_t)next;
    return SC_OK;
}

static sc_status push(machine *m, uint32_t v) {
    sc_status rc = grow(m, &m->stack, &m->stack_room, (uint64_t)m->depth + 1, sizeof *m->stack);
    if (!rc) m->stack[m->depth++] = v;
    return rc;
}

/* A new value on the stack. */
static sc_status make(machine *m, value v) {
    sc_status rc = grow(m, &m->values, &m->room, (uint64_t)m->count + 1, sizeof *m->values);
    if (rc) return rc;
    m->values[m->count] = v;
    return push(m, m->count++);
}

static sc_status pop(machine *m, uint32_t *v) {
    *v = 0;
    if (!m->depth || m->values[m->stack[m->depth - 1]].kind == MARK) return fault(m, "an opcode takes more than the stack holds");
    *v = m->stack[--m->depth];
    return SC_OK;
}

/* The values above the topmost mark: stack[*first .. depth); the mark is at *first - 1. */
static sc_status above_mark(const machine *m, uint32_t *first) {
    uint32_t i = m->depth;

    *first = 0;
    while (i && m->values[m->stack[i - 1]].kind != MARK) i--;
    if (!i) return fault(m, "an opcode looks for a mark that is not there");
    *first = i;
    return SC_OK;
}

/* Append n indices to a container's run. */
static sc_status append(machine *m, uint32_t container, const uint32_t *items, uint32_t n) {
    value *c = &m->values[container];
    const uint64_t total = (uint64_t)c->items.n + n;
    sc_status rc;

    if (total > c->items.room) {
        uint64_t room = c->items.room ? c->items.room : 4;
        while (room < total) room *= 2;
        TRY(grow(m, &m->pool, &m->pool_room, m->pool_count + room, sizeof *m->pool));
        if (c->items.n) memcpy(m->pool + m->pool_count, m->pool + c->items.first, c->items.n * sizeof *m->pool);
        c->items.first = m->pool_count;
        c->items.room = (uint32_t)room;
        m->pool_count += (uint32_t)room;
    }
    if (n) memcpy(m->pool + c->items.first + c->items.n, items, n * sizeof *items);
    c->items.n = (uint32_t)total;
    return SC_OK;
}

/* ---- bytes ---------------------------------------------------------------------------------------------------------------- */

static sc_status take(machine *m, size_t n, const uint8_t **p) {
    *p = m->b;
    if (n > m->n - m->at) return fault(m, "the pickle ends inside an opcode");
    *p = m->b + m->at;
    m->at += n;
    return SC_OK;
}

static sc_status take_int(machine *m, int bytes, uint64_t *out) {
    const uint8_t *p;
    sc_status rc = take(m, (size_t)bytes, &p);

    *out = 0;
    for (int i = bytes - 1; !rc && i >= 0; i--) *out = *out << 8 | p[i];
    return rc;
}

/* A line without its newline. */
static sc_status take_line(machine *m, const char **s, size_t *n) {
    const uint8_t *p = m->b + m->at, *end = memchr(p, '\n', m->n - m->at);

    *s = (const char *)p;
    *n = 0;
    if (!end) return fault(m, "a line without an end");
    *n = (size_t)(end - p);
    m->at += *n + 1;
    return SC_OK;
}

static sc_status make_text(machine *m, uint64_t n) {
    const uint8_t *p;
    sc_status rc;

    if (n > m->n - m->at) return fault(m, "a string is longer than the pickle");
    TRY(take(m, (size_t)n, &p));
    if (sc_utf8_bad((const char *)p, (size_t)n) < n) return fault(m, "a string that is not UTF-8");
    return make(m, (value){.kind = TEXT, .text = {(uint32_t)(p - m->b), (uint32_t)n}});
}

static sc_status make_long(machine *m, uint64_t n) {
    const uint8_t *p;
    uint64_t v = 0;
    sc_status rc;

    if (n > 8) return fault(m, "a whole number of more than 8 bytes");
    TRY(take(m, (size_t)n, &p));
    for (uint64_t i = n; i-- > 0;) v = v << 8 | p[i];
    if (n && n < 8 && p[n - 1] & 0x80) v |= UINT64_MAX << (8 * n);
    return make(m, (value){.kind = INT, .number = (int64_t)v});
}

/* ---- globals, storages, tensors ------------------------------------------------------------------------------------------- */

static sc_status make_global(machine *m, const char *module, size_t module_n, const char *name, size_t name_n) {
    char shown[161];
    size_t at = 0;

    for (size_t i = 0; i < sizeof globals / sizeof *globals; i++)
        if (strlen(globals[i].module) == module_n && !memcmp(globals[i].module, module, module_n) && strlen(globals[i].name) == name_n &&
            !memcmp(globals[i].name, name, name_n))
            return make(m, (value){.kind = GLOBAL, .number = (int64_t)i});
    for (size_t i = 0; i < module_n && at < 80; i++, at++) shown[at] = (char)(module[i] < 0x20 || module[i] > 0x7e ? '?' : module[i]);
    shown[at++] = '.';
    for (size_t i = 0; i < name_n && at < 160; i++, at++) shown[at] = (char)(name[i] < 0x20 || name[i] > 0x7e ? '?' : name[i]);
    shown[at] = 0;
    return sc_fail(m->err, SC_EINVAL, "%.200s: pickle, byte %zu: %s is not a tensor's part; this file asks to run code and is refused", m->where,
                   m->at, shown);
}

static const value *item(const machine *m, const value *c, uint32_t i) { return &m->values[m->pool[c->items.first + i]]; }

static bool is_text(const machine *m, const value *v, const char *s) {
    return v->kind == TEXT && v->text.n == strlen(s) && !memcmp(m->b + v->text.at, s, v->text.n);
}

/* ('storage', type, key, location, count): the bytes of one or more tensors. */
static sc_status make_storage(machine *m) {
    uint32_t id;
    sc_status rc;

    TRY(pop(m, &id));
    const value *t = &m->values[id];
    if (t->kind != TUPLE || t->items.n != 5 || !is_text(m, item(m, t, 0), "storage")) return fault(m, "a persistent id that is no storage of 5 parts");
    const value *type = item(m, t, 1), *key = item(m, t, 2), *count = item(m, t, 4);
    if (type->kind != GLOBAL || (globals[type->number].kind != G_STORAGE && globals[type->number].kind != G_BYTES_STORAGE))
        return fault(m, "a storage of no known type");
    if (key->kind != TEXT || key->text.n < 1 || key->text.n > 64) return fault(m, "a storage key that is no text of 1 to 64 bytes");
    for (uint32_t i = 0; i < key->text.n; i++) {
        uint8_t c = m->b[key->text.at + i];
        if (!(c >= '0' && c <= '9') && !(c >= 'a' && c <= 'z') && !(c >= 'A' && c <= 'Z') && c != '_' && c != '-')
            return fault(m, "a storage key with something other than letters, digits, - and _");
    }
    if (count->kind != INT || count->number < 0) return fault(m, "a storage whose size is no number of 0 or more");
    return make(m, (value){.kind = STORAGE, .storage = {(uint32_t)type->number, m->pool[t->items.first + 2], count->number}});
}

static sc_status read_dims(const machine *m, const value *t, int64_t *out, int *rank) {
    if (t->kind != TUPLE && t->kind != LIST) return fault(m, "a tensor whose size or stride is no tuple");
    if (t->items.n > 8) return fault(m, "a tensor of more than 8 dimensions");
    for (uint32_t i = 0; i < t->items.n; i++) {
        const value *d = item(m, t, i);
        if (d->kind != INT || d->number < 0) return fault(m, "a tensor whose size or stride is no number of 0 or more");
        out[i] = d->number;
    }
    *rank = (int)t->items.n;
    return SC_OK;
}

/* (storage, offset, size, stride, ...) into a checked tensor on the stack. */
static sc_status rebuild(machine *m, const value *args, global_kind how) {
    const uint32_t least = how == G_TENSOR_V2 ? 6 : how == G_TENSOR_V3 ? 7 : 4, most = how == G_TENSOR_V2 ? 7 : how == G_TENSOR_V3 ? 8 : 4;
    tensor t = {0};
    int strides;
    int64_t last;
    sc_status rc;

    if (args->items.n < least || args->items.n > most) return fault(m, "a tensor is rebuilt of too few or too many parts");
    const value *s = item(m, args, 0), *offset = item(m, args, 1);
    if (s->kind != STORAGE) return fault(m, "a tensor is rebuilt of something that is no storage");
    if (offset->kind != INT || offset->number < 0) return fault(m, "a tensor's offset is no number of 0 or more");
    TRY(read_dims(m, item(m, args, 2), t.shape, &t.rank));
    TRY(read_dims(m, item(m, args, 3), t.stride, &strides));
    if (strides != t.rank) return fault(m, "a tensor with more strides than sizes, or fewer");
    t.dtype = globals[s->storage.type].type;
    t.storage_count = s->storage.count;
    if (how == G_TENSOR_V3) {
        const value *type = item(m, args, 6);
        if (type->kind != GLOBAL || globals[type->number].kind != G_DTYPE) return fault(m, "a tensor's type is none");
        t.dtype = globals[type->number].type;
    }
    if (globals[s->storage.type].kind == G_BYTES_STORAGE) t.storage_count /= (int64_t)sc_dtype_bytes(t.dtype);
    else if (t.dtype != globals[s->storage.type].type) return fault(m, "a tensor's type is not its storage's");
    t.offset = last = offset->number;
    t.count = 1;
    t.key = s->storage.key;
    for (int i = 0; i < t.rank; i++) {
        int64_t reach;
        if (__builtin_mul_overflow(t.count, t.shape[i], &t.count)) return fault(m, "the product of a tensor's sizes overflows");
        if (!t.shape[i]) continue;
        if (__builtin_mul_overflow(t.shape[i] - 1, t.stride[i], &reach) || __builtin_add_overflow(last, reach, &last))
            return fault(m, "a tensor's strides overflow");
    }
    if (t.count && last >= t.storage_count) return fault(m, "a tensor reaches past the end of its storage");
    if (t.count > t.storage_count) return fault(m, "a tensor has more elements than its storage");
    TRY(grow(m, &m->tensors, &m->tensor_room, (uint64_t)m->tensor_count + 1, sizeof *m->tensors));
    m->tensors[m->tensor_count] = t;
    return make(m, (value){.kind = TENSOR, .number = m->tensor_count++});
}

static sc_status reduce(machine *m) {
    uint32_t args_at, callee_at;
    sc_status rc;

    TRY(pop(m, &args_at));
    TRY(pop(m, &callee_at));
    const value *callee = &m->values[callee_at], args = m->values[args_at];
    if (args.kind != TUPLE) return fault(m, "a call whose arguments are no tuple");
    if (callee->kind != GLOBAL) return fault(m, "a call of something that is no name; this file asks to run code and is refused");
    switch (globals[callee->number].kind) {
    case G_TENSOR_V2: case G_TENSOR_V3: case G_TENSOR:
        return rebuild(m, &args, globals[callee->number].kind);
    case G_PARAMETER: case G_PARAMETER_STATE:
        if (args.items.n < 3 || args.items.n > 4 || item(m, &args, 0)->kind != TENSOR) return fault(m, "a parameter of something that is no tensor");
        return push(m, m->pool[args.items.first]);
    case G_ORDERED_DICT:
        if (args.items.n) return fault(m, "an OrderedDict with arguments");
        return make(m, (value){.kind = DICT});
    case G_SIZE:
        if (args.items.n != 1 || item(m, &args, 0)->kind != TUPLE) return fault(m, "a torch.Size of something that is no tuple");
        return push(m, m->pool[args.items.first]);
    default: return fault(m, "a call of a type");
    }
}

/* ---- opcodes -------------------------------------------------------------------------------------------------------------- */

static sc_status memo_put(machine *m, uint64_t index) {
    uint32_t old = m->memo_room;
    sc_status rc;

    if (!m->depth || m->values[m->stack[m->depth - 1]].kind == MARK) return fault(m, "nothing there to remember");
    /* CPython counts up from 0, so an index far past the bytes read so far is a lie made to allocate. */
    if (index >= SC_PICKLE_MEMO || index > m->at) return fault(m, "a memo index out of range");
    TRY(grow(m, &m->memo, &m->memo_room, index + 1, sizeof *m->memo));
    if (m->memo_room > old) memset(m->memo + old, 0, (m->memo_room - old) * sizeof *m->memo);
    m->memo[index] = m->stack[m->depth - 1] + 1;
    return SC_OK;
}

static sc_status memo_get(machine *m, uint64_t index) {
    if (index >= m->memo_room || !m->memo[index]) return fault(m, "a memo index that holds nothing");
    return push(m, m->memo[index] - 1);
}

static sc_status make_tuple(machine *m, uint32_t first, bool mark) {
    const uint32_t n = m->depth - first;
    uint32_t self;
    sc_status rc;

    TRY(grow(m, &m->values, &m->room, (uint64_t)m->count + 1, sizeof *m->values));
    self = m->count++;
    m->values[self] = (value){.kind = TUPLE};
    TRY(append(m, self, m->stack + first, n));
    m->depth = first - (mark ? 1 : 0);
    return push(m, self);
}

static sc_status short_tuple(machine *m, uint32_t n) {
    for (uint32_t i = 0; i < n; i++)
        if (m->depth <= i || m->values[m->stack[m->depth - 1 - i]].kind == MARK) return fault(m, "an opcode takes more than the stack holds");
    return make_tuple(m, m->depth - n, false);
}

/* APPENDS, SETITEMS, LIST, DICT: the values above the mark go into the container below it (or a new one). */
static sc_status fill(machine *m, kind k, bool fresh) {
    uint32_t first, container;
    sc_status rc;

    TRY(above_mark(m, &first));
    if (k == DICT && (m->depth - first) % 2) return fault(m, "a dictionary item without a value");
    if (fresh) {
        TRY(grow(m, &m->values, &m->room, (uint64_t)m->count + 1, sizeof *m->values));
        container = m->count++;
        m->values[container] = (value){.kind = k};
    } else {
        if (first < 2) return fault(m, "an opcode takes more than the stack holds");
        container = m->stack[first - 2];
        if (m->values[container].kind != k) return fault(m, k == DICT ? "items for something that is no dictionary" : "items for something that is no list");
    }
    TRY(append(m, container, m->stack + first, m->depth - first));
    m->depth = first - 1;
    return fresh ? push(m, container) : SC_OK;
}

static sc_status set_one(machine *m, kind k) {
    uint32_t parts[2] = {0}, container;
    sc_status rc;

    if (k == DICT) TRY(pop(m, &parts[1]));
    TRY(pop(m, &parts[0]));
    if (!m->depth) return fault(m, "an opcode takes more than the stack holds");
    container = m->stack[m->depth - 1];
    if (m->values[container].kind != k) return fault(m, k == DICT ? "an item for something that is no dictionary" : "an item for something that is no list");
    return append(m, container, parts, k == DICT ? 2 : 1);
}

static sc_status stack_global(machine *m) {
    uint32_t name, module;
    sc_status rc;

    TRY(pop(m, &name));
    TRY(pop(m, &module));
    const value *a = &m->values[module], *b = &m->values[name];
    if (a->kind != TEXT || b->kind != TEXT) return fault(m, "a global whose name is no text");
    return make_global(m, (const char *)m->b + a->text.at, a->text.n, (const char *)m->b + b->text.at, b->text.n);
}

static sc_status build(machine *m) {
    uint32_t state;
    kind k;
    sc_status rc;

    TRY(pop(m, &state));
    if (!m->depth) return fault(m, "an opcode takes more than the stack holds");
    k = m->values[m->stack[m->depth - 1]].kind;
    return k == DICT || k == TENSOR ? SC_OK : fault(m, "a state for something that is neither dictionary nor tensor; this file asks to run code and is refused");
}

static sc_status step(machine *m, uint8_t op, bool *stop) {
    const char *s[2];
    size_t n[2];
    const uint8_t *p;
    uint64_t u;
    uint32_t first;
    char text[64];
    sc_status rc;

    switch (op) {
    case 0x80: /* PROTO */
        TRY(take_int(m, 1, &u));
        return u < 2 || u > 5 ? fault(m, "a protocol that is not 2 to 5") : SC_OK;
    case 0x95: /* FRAME: a length for readers of streams */
        TRY(take_int(m, 8, &u));
        return u > m->n - m->at ? fault(m, "a frame that leaves the pickle") : SC_OK;
    case '.': *stop = true; return SC_OK;
    case '(': return make(m, (value){.kind = MARK});
    case '0': return pop(m, &first);
    case '1': TRY(above_mark(m, &first)); m->depth = first - 1; return SC_OK; /* POP_MARK */
    case 'N': return make(m, (value){.kind = NONE});
    case 0x88: case 0x89: return make(m, (value){.kind = BOOL, .number = op == 0x88});
    case 'J': TRY(take_int(m, 4, &u)); return make(m, (value){.kind = INT, .number = (int32_t)(uint32_t)u});
    case 'K': TRY(take_int(m, 1, &u)); return make(m, (value){.kind = INT, .number = (int64_t)u});
    case 'M': TRY(take_int(m, 2, &u)); return make(m, (value){.kind = INT, .number = (int64_t)u});
    case 0x8a: TRY(take_int(m, 1, &u)); return make_long(m, u);
    case 0x8b: TRY(take_int(m, 4, &u)); return make_long(m, u);
    case 'G': { /* BINFLOAT, big-endian */
        value v = {.kind = REAL};
        TRY(take(m, 8, &p));
        u = 0;
        for (int i = 0; i < 8; i++) u = u << 8 | p[i];
        memcpy(&v.real, &u, 8);
        return make(m, v);
    }
    case 'X': TRY(take_int(m, 4, &u)); return make_text(m, u);      /* BINUNICODE */
    case 0x8c: TRY(take_int(m, 1, &u)); return make_text(m, u);     /* SHORT_BINUNICODE */
    case 0x8d: TRY(take_int(m, 8, &u)); return make_text(m, u);     /* BINUNICODE8 */
    case 'U': TRY(take_int(m, 1, &u)); return make_text(m, u);      /* SHORT_BINSTRING: Python 2 wrote names so */
    case 'T': TRY(take_int(m, 4, &u)); return make_text(m, u);      /* BINSTRING */
    case ')': return make(m, (value){.kind = TUPLE});
    case ']': return make(m, (value){.kind = LIST});
    case '}': return make(m, (value){.kind = DICT});
    case 't': TRY(above_mark(m, &first)); return make_tuple(m, first, true);
    case 0x85: return short_tuple(m, 1);
    case 0x86: return short_tuple(m, 2);
    case 0x87: return short_tuple(m, 3);
    case 'l': return fill(m, LIST, true);
    case 'd': return fill(m, DICT, true);
    case 'a': return set_one(m, LIST);
    case 'e': return fill(m, LIST, false);
    case 's': return set_one(m, DICT);
    case 'u': return fill(m, DICT, false);
    case 'q': TRY(take_int(m, 1, &u)); return memo_put(m, u);
    case 'r': TRY(take_int(m, 4, &u)); return memo_put(m, u);
    case 0x94: return memo_put(m, m->memo_next++);
    case 'h': TRY(take_int(m, 1, &u)); return memo_get(m, u);
    case 'j': TRY(take_int(m, 4, &u)); return memo_get(m, u);
    case 'c':
        TRY(take_line(m, &s[0], &n[0]));
        TRY(take_line(m, &s[1], &n[1]));
        return make_global(m, s[0], n[0], s[1], n[1]);
    case 0x93: return stack_global(m);
    case 'Q': return make_storage(m);
    case 'R': return reduce(m);
    case 'b': return build(m);
    }
    snprintf(text, sizeof text, "opcode 0x%02x is not one that holds tensors", op);
    return fault(m, text);
}

/* ---- the table ------------------------------------------------------------------------------------------------------------ */

/* Text into the table's block, which may move: names are kept as offsets until the end. */
static sc_status keep_text(sc_pickle *p, const machine *m, const char *s, size_t n, size_t *at) {
    *at = p->text_n;
    if (p->text_n + n + 1 > p->text_room) {
        size_t room = p->text_room ? p->text_room : 4096;
        while (room < p->text_n + n + 1) room *= 2;
        char *more = realloc(p->text, room);
        if (!more) return sc_fail(m->err, SC_ENOMEM, "%.200s: out of memory for names", m->where);
        p->text = more;
        p->text_room = room;
    }
    memcpy(p->text + p->text_n, s, n);
    p->text[p->text_n + n] = 0;
    p->text_n += n + 1;
    return SC_OK;
}

static sc_status add_tensor(sc_pickle *p, const machine *m, const tensor *t, const char *name, size_t n) {
    const value *key = &m->values[t->key];
    size_t name_at, key_at;
    sc_status rc;

    if (p->count == SC_PICKLE_TENSORS) return sc_fail(m->err, SC_EINVAL, "%.200s: pickle: more than %d tensors", m->where, SC_PICKLE_TENSORS);
    if (p->count == p->room) {
        int room = p->room ? 2 * p->room : 256;
        sc_pickle_tensor *more = realloc(p->tensors, (size_t)room * sizeof *more);
        if (!more) return sc_fail(m->err, SC_ENOMEM, "%.200s: out of memory for %d tensors", m->where, room);
        p->tensors = more;
        p->room = room;
    }
    TRY(keep_text(p, m, name, n, &name_at));
    TRY(keep_text(p, m, (const char *)m->b + key->text.at, key->text.n, &key_at));
    sc_pickle_tensor *out = &p->tensors[p->count++];
    *out = (sc_pickle_tensor){.dtype = t->dtype, .rank = t->rank, .count = t->count, .offset = t->offset, .storage_count = t->storage_count};
    memcpy(out->shape, t->shape, sizeof out->shape);
    memcpy(out->stride, t->stride, sizeof out->stride);
    out->name = (const char *)(uintptr_t)name_at;
    out->storage = (const char *)(uintptr_t)key_at;
    return SC_OK;
}

/* Tensors under `index`, whose name so far is name[0..n). */
static sc_status flatten(sc_pickle *p, machine *m, uint32_t index, char *name, size_t n, int depth) {
    value *v = &m->values[index];
    sc_status rc;

    if (v->kind == TENSOR) return n ? add_tensor(p, m, &m->tensors[v->number], name, n) : fault(m, "a tensor without a name");
    if (v->kind != DICT && v->kind != LIST && v->kind != TUPLE) return SC_OK;
    if (v->open) return sc_fail(m->err, SC_EINVAL, "%.200s: pickle: \"%.*s\" contains itself", m->where, (int)(n < 120 ? n : 120), name);
    if (depth == SC_PICKLE_DEPTH) return sc_fail(m->err, SC_EINVAL, "%.200s: pickle: nested deeper than %d at \"%.*s\"", m->where, SC_PICKLE_DEPTH, (int)(n < 120 ? n : 120), name);
    v->open = true;
    const uint32_t stride = v->kind == DICT ? 2 : 1;
    for (uint32_t i = 0; i + stride <= v->items.n; i += stride) {
        const uint32_t child = m->pool[v->items.first + i + stride - 1];
        const value *key = v->kind == DICT ? item(m, v, i) : NULL;
        const kind k = m->values[child].kind;
        char digits[24];
        const char *s = digits;
        size_t len;

        if (++p->steps > SC_PICKLE_STEPS) return sc_fail(m->err, SC_EINVAL, "%.200s: pickle: more than %d items once unfolded", m->where, SC_PICKLE_STEPS);
        if (k != TENSOR && k != DICT && k != LIST && k != TUPLE) continue;
        if (key && key->kind == TEXT) {
            s = (const char *)m->b + key->text.at;
            len = key->text.n;
            for (size_t j = 0; j < len; j++)
                if ((unsigned char)s[j] < 0x20 || s[j] == 0x7f) return sc_fail(m->err, SC_EINVAL, "%.200s: pickle: a control byte in a tensor's name", m->where);
        } else if (!key || key->kind == INT) {
            len = (size_t)snprintf(digits, sizeof digits, "%lld", key ? (long long)key->number : (long long)i);
        } else {
            continue; /* a key that names nothing */
        }
        if (n + 1 + len >= SC_PICKLE_NAME) return sc_fail(m->err, SC_EINVAL, "%.200s: pickle: a name of more than %d bytes", m->where, SC_PICKLE_NAME - 1);
        size_t at = n;
        if (n) name[at++] = '.';
        memcpy(name + at, s, len);
        if ((rc = flatten(p, m, child, name, at + len, depth + 1))) return rc;
    }
    v->open = false;
    return SC_OK;
}

static int by_name(const void *a, const void *b) { return strcmp(((const sc_pickle_tensor *)a)->name, ((const sc_pickle_tensor *)b)->name); }

static sc_status finish(sc_pickle *p, const machine *m) {
    for (int i = 0; i < p->count; i++) {
        p->tensors[i].name = p->text + (uintptr_t)p->tensors[i].name;
        p->tensors[i].storage = p->text + (uintptr_t)p->tensors[i].storage;
    }
    if (p->count > 1) qsort(p->tensors, (size_t)p->count, sizeof *p->tensors, by_name);
    for (int i = 1; i < p->count; i++)
        if (!strcmp(p->tensors[i - 1].name, p->tensors[i].name))
            return sc_fail(m->err, SC_EINVAL, "%.200s: pickle: tensor \"%.200s\" comes twice", m->where, p->tensors[i].name);
    return SC_OK;
}

sc_status sc_pickle_open(sc_pickle **out, const void *data, size_t n, const char *where, sc_error *err) {
    machine m = {.b = data, .n = n, .where = where, .err = err};
    sc_pickle *p = NULL;
    char name[SC_PICKLE_NAME];
    bool stop = false;
    sc_status rc = SC_OK;

    *out = NULL;
    if (n > SC_PICKLE_BYTES) return sc_fail(err, SC_EINVAL, "%.200s: a pickle of %zu bytes, at most %d are read", where, n, SC_PICKLE_BYTES);
    if (n < 2 || m.b[0] != 0x80) return sc_fail(err, SC_EINVAL, "%.200s: no pickle of protocol 2 or later", where);
    while (!stop && !rc) {
        if (m.at == n) { rc = fault(&m, "no STOP at the end"); break; }
        m.at++;
        rc = step(&m, m.b[m.at - 1], &stop);
    }
    if (!rc && m.at != n) rc = fault(&m, "bytes after the STOP");
    if (!rc && m.depth != 1) rc = fault(&m, "STOP with other than one value on the stack");
    if (!rc && m.values[m.stack[0]].kind != DICT) rc = fault(&m, "the checkpoint is no dictionary of tensors");
    if (!rc && !(p = calloc(1, sizeof *p))) rc = sc_fail(err, SC_ENOMEM, "%.200s: out of memory", where);
    if (!rc) rc = flatten(p, &m, m.stack[0], name, 0, 0);
    if (!rc) rc = finish(p, &m);
    if (!rc) {
        *out = p;
        p = NULL;
    }
    sc_pickle_close(p);
    free(m.values);
    free(m.pool);
    free(m.stack);
    free(m.memo);
    free(m.tensors);
    return rc;
}

void sc_pickle_close(sc_pickle *p) {
    if (!p) return;
    free(p->tensors);
    free(p->text);
    free(p);
}

int sc_pickle_count(const sc_pickle *p) { return p->count; }
const sc_pickle_tensor *sc_pickle_at(const sc_pickle *p, int index) { return index >= 0 && index < p->count ? &p->tensors[index] : NULL; }
