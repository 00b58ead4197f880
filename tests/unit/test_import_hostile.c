/* test_import_hostile.c - archives and pickles that lie, ask to run code, or want all the memory: refused, with the reason.
 *
 * A pickle is written as its bytes; an archive is made well and then bent. Every case names a word of the message. */
#include "import_make.h"
#include "import/import.h"
#include "import/pickle.h"
#include "import/source.h"
#include "import/zip.h"

static char dir[] = "/tmp/sc_hostile_XXXXXX";

static int setup(void **state) {
    (void)state;
    return mkdtemp(dir) ? 0 : -1;
}

static int teardown(void **state) {
    (void)state;
    return rmdir(dir);
}

/* ---- pickles ---------------------------------------------------------------------------------------------------------------- */

#define HEAD "\x80\x02"
#define KEY(c) "X\1\0\0\0" c
#define STORAGE_OF(type, key, count) "(X\7\0\0\0storage" type key "X\3\0\0\0cpu" count "tQ"
#define FLOATS "ctorch\nFloatStorage\n"
#define STORAGE STORAGE_OF(FLOATS, KEY("0"), "K\4")
#define HOOKS "\x89" "ccollections\nOrderedDict\n)R"
#define V2 "ctorch._utils\n_rebuild_tensor_v2\n"
#define TENSOR(storage, offset, size, stride) V2 "(" storage offset size stride HOOKS "tR"
#define GOOD TENSOR(STORAGE, "K\0", "K\2K\2\x86", "K\2K\1\x86")
#define DICT(items) HEAD "}(" items "u."
#define X8 "X\2\0\0\0ab"

#define P(bytes) bytes, sizeof bytes - 1

static const struct { const char *what, *bytes; size_t n; const char *word; } pickles[] = {
    /* asking to run code */
    {"os.system", P(HEAD "cos\nsystem\n(X\2\0\0\0lstR."), "os.system is not a tensor's part; this file asks to run code"},
    {"builtins.eval inside a tensor's place", P(DICT(KEY("w") "cbuiltins\neval\n(X\1\0\0\0" "1tR")), "builtins.eval"},
    {"posix.system by STACK_GLOBAL", P("\x80\x04\x8c\5posix\x8c\6system\x93\x8c\2ls\x85R."), "posix.system"},
    {"subprocess by names that only look right", P(HEAD "ctorch._utils\n_rebuild_tensor_v2.__globals__\n)R."), "_rebuild_tensor_v2.__globals__"},
    {"torch.load", P(HEAD "ctorch\nload\n(X\1\0\0\0xtR."), "torch.load"},
    {"torch.hub", P(HEAD "ctorch.hub\nload\n)R."), "torch.hub.load"},
    {"numpy scalar", P(DICT(KEY("w") "cnumpy.core.multiarray\nscalar\n)R")), "numpy.core.multiarray.scalar"},
    {"getattr", P(HEAD "c__builtin__\ngetattr\n."), "__builtin__.getattr"},
    {"call of a dictionary", P(HEAD "})R."), "a call of something that is no name"},
    {"call of a string", P(HEAD X8 ")R."), "a call of something that is no name"},
    {"call of a storage type", P(HEAD FLOATS ")R."), "a call of a type"},
    {"call of a dtype", P(HEAD "ctorch\nfloat32\n)R."), "a call of a type"},
    {"call with a list of arguments", P(HEAD "ccollections\nOrderedDict\n]R."), "arguments are no tuple"},
    {"OrderedDict with arguments", P(HEAD "ccollections\nOrderedDict\n]\x85R."), "an OrderedDict with arguments"},
    {"NEWOBJ", P(HEAD "ccollections\nOrderedDict\n)\x81."), "opcode 0x81"},
    {"NEWOBJ_EX", P("\x80\x04" "ccollections\nOrderedDict\n)}\x92."), "opcode 0x92"},
    {"INST", P(HEAD "(ios\nsystem\n."), "opcode 0x69"},
    {"OBJ", P(HEAD "(cos\nsystem\no."), "os.system"},
    {"OBJ of an allowed name", P(HEAD "(ccollections\nOrderedDict\no."), "opcode 0x6f"},
    {"EXT1", P(HEAD "\x82\1."), "opcode 0x82"},
    {"PERSID in text", P(HEAD "Pstorage\n."), "opcode 0x50"},
    {"BUILD on a list", P(HEAD "]}b."), "a state for something that is neither"},
    {"BUILD on a storage", P(HEAD STORAGE "}b."), "a state for something that is neither"},
    {"BUILD on a global", P(HEAD FLOATS "}b."), "asks to run code"},
    {"parameter of None", P(HEAD "ctorch._utils\n_rebuild_parameter\n(N\x89}tR."), "a parameter of something that is no tensor"},
    {"Size of None", P(HEAD "ctorch\nSize\nN\x85R."), "a torch.Size of something that is no tuple"},
    /* storages */
    {"persistent id that is a string", P(HEAD X8 "Q."), "a persistent id that is no storage"},
    {"persistent id of four parts", P(HEAD "(X\7\0\0\0storage" FLOATS KEY("0") "K\4tQ."), "a persistent id that is no storage"},
    {"persistent id of another kind", P(HEAD "(X\6\0\0\0module" FLOATS KEY("0") X8 "K\4tQ."), "a persistent id that is no storage"},
    {"storage of a dtype", P(HEAD STORAGE_OF("ctorch\nfloat32\n", KEY("0"), "K\4") "."), "a storage of no known type"},
    {"storage of a string", P(HEAD STORAGE_OF(X8, KEY("0"), "K\4") "."), "a storage of no known type"},
    {"storage key that climbs", P(HEAD STORAGE_OF(FLOATS, "X\7\0\0\0../etc/", "K\4") "."), "a storage key with something other"},
    {"storage key with a NUL", P(HEAD STORAGE_OF(FLOATS, "X\2\0\0\0" "0\0", "K\4") "."), "a storage key with something other"},
    {"empty storage key", P(HEAD STORAGE_OF(FLOATS, "X\0\0\0\0", "K\4") "."), "a storage key that is no text"},
    {"storage key that is a number", P(HEAD STORAGE_OF(FLOATS, "K\1", "K\4") "."), "a storage key that is no text"},
    {"negative storage", P(HEAD STORAGE_OF(FLOATS, KEY("0"), "J\xff\xff\xff\xff") "."), "a storage whose size is no number"},
    {"storage of a text size", P(HEAD STORAGE_OF(FLOATS, KEY("0"), X8) "."), "a storage whose size is no number"},
    /* tensors */
    {"tensor of no storage", P(HEAD V2 "(" X8 "K\0" "K\2\x85" "K\1\x85" HOOKS "tR."), "a tensor is rebuilt of something that is no storage"},
    {"tensor of too few parts", P(HEAD V2 "(" STORAGE "K\0tR."), "too few or too many parts"},
    {"negative offset", P(DICT(KEY("w") TENSOR(STORAGE, "J\xff\xff\xff\xff", "K\1\x85", "K\1\x85"))), "a tensor's offset"},
    {"offset past the end", P(DICT(KEY("w") TENSOR(STORAGE, "K\4", "K\1\x85", "K\1\x85"))), "reaches past the end of its storage"},
    {"one element too many", P(DICT(KEY("w") TENSOR(STORAGE, "K\0", "K\5\x85", "K\1\x85"))), "reaches past the end of its storage"},
    {"stride that reaches too far", P(DICT(KEY("w") TENSOR(STORAGE, "K\0", "K\2K\2\x86", "K\3K\1\x86"))), "reaches past the end of its storage"},
    {"product of sizes overflows", P(DICT(KEY("w") TENSOR(STORAGE, "K\0", "J\xff\xff\xff\x7fJ\xff\xff\xff\x7fJ\xff\xff\xff\x7f\x87", "K\0K\0K\0\x87"))), "sizes overflows"},
    {"strides overflow", P(DICT(KEY("w") TENSOR(STORAGE, "K\0", "K\2K\3\x86", "\x8a\x08\xff\xff\xff\xff\xff\xff\xff\x7f\x8a\x08\xff\xff\xff\xff\xff\xff\xff\x7f\x86"))), "strides overflow"},
    {"stride 0: a bomb of 2^40 elements", P(DICT(KEY("w") TENSOR(STORAGE, "K\0", "\x8a\x06\0\0\0\0\0\x01\x85", "K\0\x85"))), "more elements than its storage"},
    {"negative size", P(DICT(KEY("w") TENSOR(STORAGE, "K\0", "J\xfe\xff\xff\xff\x85", "K\1\x85"))), "size or stride is no number"},
    {"size that is text", P(DICT(KEY("w") TENSOR(STORAGE, "K\0", X8 "\x85", "K\1\x85"))), "size or stride is no number"},
    {"size that is no tuple", P(DICT(KEY("w") TENSOR(STORAGE, "K\0", "K\1", "K\1\x85"))), "size or stride is no tuple"},
    {"nine dimensions", P(DICT(KEY("w") TENSOR(STORAGE, "K\0", "(K\1K\1K\1K\1K\1K\1K\1K\1K\1t", "(K\1K\1K\1K\1K\1K\1K\1K\1K\1t"))), "more than 8 dimensions"},
    {"more strides than sizes", P(DICT(KEY("w") TENSOR(STORAGE, "K\0", "K\1\x85", "K\1K\1\x86"))), "more strides than sizes"},
    {"v3 of another type than its storage", P(DICT(KEY("w") "ctorch._utils\n_rebuild_tensor_v3\n(" STORAGE "K\0K\1\x85K\1\x85" HOOKS "ctorch\nfloat64\ntR")), "not its storage's"},
    {"v3 without a type", P(DICT(KEY("w") "ctorch._utils\n_rebuild_tensor_v3\n(" STORAGE "K\0K\1\x85K\1\x85" HOOKS "NtR")), "a tensor's type is none"},
    {"wide elements of a byte storage", P(DICT(KEY("w") "ctorch._utils\n_rebuild_tensor_v3\n(" STORAGE_OF("ctorch.storage\nUntypedStorage\n", KEY("0"), "K\7")
        "K\0K\1\x85K\1\x85" HOOKS "ctorch\nint64\ntR")), "past the end of its storage"},
    /* the machine */
    {"number of 9 bytes", P(HEAD "\x8a\x09\0\0\0\0\0\0\0\0\1."), "more than 8 bytes"},
    {"number of 2^31 bytes", P(HEAD "\x8b\xff\xff\xff\x7f."), "more than 8 bytes"},
    {"string of 4 GB", P(HEAD "X\xff\xff\xff\xffhello."), "a string is longer than the pickle"},
    {"string of 2^63 bytes", P("\x80\x04\x8d\0\0\0\0\0\0\0\x80."), "a string is longer than the pickle"},
    {"string that is not UTF-8", P(HEAD "X\2\0\0\0\xc3\x28."), "a string that is not UTF-8"},
    {"string with a surrogate", P(HEAD "X\3\0\0\0\xed\xa0\x80."), "a string that is not UTF-8"},
    {"memo that holds nothing", P(HEAD "h\5."), "a memo index that holds nothing"},
    {"memo index of 4 G", P(HEAD "}r\xf0\xff\xff\xff."), "a memo index out of range"},
    {"memo index of a million", P(HEAD "}r\0\0\x10\0."), "a memo index out of range"},
    {"remembering nothing", P(HEAD "q\0."), "nothing there to remember"},
    {"remembering a mark", P(HEAD "(q\0."), "nothing there to remember"},
    {"a dictionary in itself", P(HEAD "}q\0" KEY("a") "h\0s."), "contains itself"},
    {"a list in itself, in a dictionary", P(HEAD "}" KEY("a") "]q\0h\0as."), "contains itself"},
    {"two dictionaries in each other", P(HEAD "}q\0" KEY("a") "}q\1" KEY("b") "h\0ss."), "contains itself"},
    {"a tuple from an empty stack", P(HEAD "\x86."), "takes more than the stack holds"},
    {"a tuple across a mark", P(HEAD "K\1(K\2\x86."), "takes more than the stack holds"},
    {"no mark", P(HEAD "K\1K\2t."), "a mark that is not there"},
    {"a key without a value", P(HEAD "}(K\1u."), "a dictionary item without a value"},
    {"items for a list", P(HEAD "](K\1K\2u."), "items for something that is no dictionary"},
    {"an item for a number", P(HEAD "K\1K\2K\3s."), "an item for something that is no dictionary"},
    {"append to a dictionary", P(HEAD "}K\1a."), "an item for something that is no list"},
    {"POP of nothing", P(HEAD "0."), "takes more than the stack holds"},
    {"DUP", P(HEAD "}2."), "opcode 0x32"},
    {"BINBYTES", P(HEAD "B\1\0\0\0x."), "opcode 0x42"},
    {"an unknown opcode", P(HEAD "\xff."), "opcode 0xff"},
    {"protocol 9", P("\x80\x09}."), "a protocol that is not 2 to 5"},
    {"protocol 0", P("(dp0\n."), "no pickle of protocol 2 or later"},
    {"a frame past the end", P("\x80\x04\x95\xff\0\0\0\0\0\0\0}."), "a frame that leaves the pickle"},
    {"a global without an end", P(HEAD "ctorch\nFloatSt"), "a line without an end"},
    {"no STOP", P(HEAD "}"), "no STOP at the end"},
    {"cut inside an opcode", P(HEAD "}r\0\0"), "ends inside an opcode"},
    {"bytes after STOP", P(HEAD "}.}"), "bytes after the STOP"},
    {"two values", P(HEAD "}}."), "other than one value"},
    {"nothing but a mark", P(HEAD "(."), "no dictionary"},
    {"a list at the top", P(HEAD "]."), "no dictionary of tensors"},
    {"a tensor at the top", P(HEAD GOOD "."), "no dictionary of tensors"},
    {"a tensor without a name", P(DICT("X\0\0\0\0" GOOD)), "a tensor without a name"},
    {"a control byte in a name", P(DICT("X\2\0\0\0a\n" GOOD)), "a control byte in a tensor's name"},
    {"a name twice", P(DICT(KEY("a") GOOD KEY("a") GOOD)), "tensor \"a\" comes twice"},
    {"a name twice by nesting", P(DICT("X\3\0\0\0a.b" GOOD KEY("a") "}" KEY("b") GOOD "s")), "tensor \"a.b\" comes twice"},
    {"empty", P(""), "no pickle"},
};

static void a_pickle_that_lies_is_refused(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof pickles / sizeof *pickles; i++) {
        sc_pickle *p = (sc_pickle *)1;
        sc_error err = {0};
        uint8_t *exact = malloc(pickles[i].n + !pickles[i].n); /* so that a byte too far is seen */
        memcpy(exact, pickles[i].bytes, pickles[i].n);
        sc_status rc = sc_pickle_open(&p, exact, pickles[i].n, "bad.pt", &err);
        free(exact);
        if (rc != SC_EINVAL) fail_msg("%s: status %d \"%s\"", pickles[i].what, rc, err.text);
        assert_null(p);
        if (!strstr(err.text, pickles[i].word) || strncmp(err.text, "bad.pt: ", 8)) fail_msg("%s: \"%s\" lacks \"%s\"", pickles[i].what, err.text, pickles[i].word);
    }
    print_message("           %zu pickles\n", sizeof pickles / sizeof *pickles);
    assert_true(sizeof pickles / sizeof *pickles >= 60);
}

/* Every pickle cut short anywhere is refused or, cut by nothing, read: and never reads past its end. */
static void a_good_pickle_is_read_and_every_prefix_refused(void **state) {
    static const char good[] = DICT(KEY("w") GOOD "X\5\0\0\0param" "ctorch._utils\n_rebuild_parameter\n(" TENSOR(STORAGE, "K\1", "K\3\x85", "K\1\x85") "\x88" "}tR"
                                    KEY("n") "K\7" KEY("s") "ctorch\nSize\nK\2\x85\x85R" KEY("f") "G\x3f\xf0\0\0\0\0\0\0" KEY("d") "}(" "K\3" GOOD "u" KEY("l") "](" GOOD "e");
    const size_t n = sizeof good - 1;
    sc_pickle *p;
    sc_error err = {0};
    (void)state;
    if (sc_pickle_open(&p, good, n, "good.pt", &err)) fail_msg("%s", err.text);
    assert_int_equal(sc_pickle_count(p), 4);
    assert_string_equal(sc_pickle_at(p, 0)->name, "d.3");
    assert_string_equal(sc_pickle_at(p, 1)->name, "l.0");
    assert_string_equal(sc_pickle_at(p, 2)->name, "param");
    assert_int_equal(sc_pickle_at(p, 2)->offset, 1);
    assert_string_equal(sc_pickle_at(p, 3)->name, "w");
    assert_int_equal(sc_pickle_at(p, 3)->count, 4);
    assert_string_equal(sc_pickle_at(p, 3)->storage, "0");
    assert_int_equal(sc_pickle_at(p, 3)->storage_count, 4);
    sc_pickle_close(p);
    for (size_t cut = 0; cut < n; cut++) {
        uint8_t *exact = malloc(cut + !cut);
        memcpy(exact, good, cut);
        assert_int_equal(sc_pickle_open(&p, exact, cut, "cut.pt", &err), SC_EINVAL);
        free(exact);
    }
}

/* Shared children: n levels of {a: previous, b: previous} are 2^n leaves, and as many as the limits allow of names. */
static void shared_values_do_not_unfold_without_end(void **state) {
    mk_buf b = {0};
    sc_pickle *p;
    sc_error err = {0};
    (void)state;
    for (int wide = 0; wide < 2; wide++) {
        const int levels = wide ? 5 : 40, fan = wide ? 100 : 2;
        b.n = 0;
        mk_bytes(&b, HEAD, 2);
        mk_text(&b, "}");
        for (int l = 0; l < levels; l++) {
            mk_text(&b, "r");
            mk_int(&b, (uint64_t)l, 4);
            mk_text(&b, "0}(");
            for (int k = 0; k < fan; k++) {
                mk_text(&b, "K");
                mk_int(&b, (uint64_t)k, 1);
                mk_text(&b, "j");
                mk_int(&b, (uint64_t)l, 4);
            }
            mk_text(&b, "u");
        }
        mk_text(&b, ".");
        assert_int_equal(sc_pickle_open(&p, b.b, b.n, "laughs.pt", &err), SC_EINVAL);
        if (!strstr(err.text, wide ? "once unfolded" : "nested deeper")) fail_msg("%s", err.text);
    }
    free(b.b);
    uint8_t *large = calloc(1, SC_PICKLE_BYTES + 1);
    assert_int_equal(sc_pickle_open(&p, large, SC_PICKLE_BYTES + 1, "large.pt", &err), SC_EINVAL);
    assert_non_null(strstr(err.text, "at most"));
    free(large);
}

/* ---- archives --------------------------------------------------------------------------------------------------------------- */

static const char *const zip_names[] = {
    "../data.pkl", "a/../../b", "/etc/passwd", "a\\b", "C:evil", "a//b", "./a", "a/./b", "a/..", "\n", "a\x7f", "\xff\xfe", "",
};

/* Archive of three entries, bent in way `which`; the word its refusal must hold, NULL past the last. */
static const char *bent_zip(int which, mk_buf *out) {
    mk_zip z = {.streamed = which == 30 || which == 31, .zip64 = which >= 40 && which < 50};
    static const uint8_t data[100] = {1, 2, 3};
    const char *word = NULL;
    size_t central, end;
    mk_zip_add(&z, "a/data.pkl", data, 50);
    mk_zip_add(&z, "a/data/0", data, 100);
    mk_zip_add(&z, "a/data/1", data, 20);
    switch (which) { /* before the directory is written */
    case 0: z.e[1].method = 8; word = "compressed (method 8)"; break;
    case 1: z.e[1].flags |= 1; word = "is encrypted"; break;
    case 2: z.e[1].header = z.e[0].header; word = "another name"; break;
    case 3: z.e[1].usize = z.e[1].csize = 99; word = "other sizes"; break;
    case 4: z.e[1].usize = z.e[1].csize = 0x7fffffff; word = "leave the file"; break;
    case 5: z.e[1].usize = 0x10000000; word = "stored as 100"; break; /* a bomb: 256 MB in 100 bytes */
    case 6: z.e[1].crc ^= 1; word = "other sizes"; break;
    case 7: z.e[1].header = 0x7fffffff; word = "no local header"; break;
    case 8: z.e[1].header += 1; word = "no local header"; break;
    case 9: z.e[2] = z.e[1]; word = "overlaps"; break;           /* two names for one place: the same one twice */
    case 10: memcpy(z.e[1].name, "a/data/2", 8); word = "another name"; break;
    case 11: z.out.b[z.e[1].header + 8] = 8; word = "another method"; break;
    case 12: z.out.b[z.e[1].header + 26] = 7; word = "another name"; break;
    case 13: z.out.b[z.e[1].header + 28] = 0xff; z.out.b[z.e[1].header + 29] = 0xff; word = "local header leaves"; break;
    case 14: z.e[1].usize = z.e[1].csize = 0xffffffff; word = "without a ZIP64 field"; break;
    case 30: z.e[1].crc ^= 5; word = "descriptor behind its data"; break;
    case 31: z.e[1].usize = z.e[1].csize = 90; word = "descriptor behind its data"; break;
    case 40: z.e[1].usize = z.e[1].csize = 1ull << 63; word = "leave the file"; break;
    case 41: z.e[1].header = ~0ull; word = "no local header"; break;
    case 42: z.e[1].usize = ~0ull; word = "stored as 100"; break;
    default: break;
    }
    central = z.out.n;
    mk_zip_end(&z);
    end = z.out.n - 22;
    uint8_t *b = z.out.b;
    switch (which) { /* afterwards */
    case 15: b[end + 10] = 200; b[end + 8] = 200; word = "do not fit a directory"; break;
    case 16: b[end + 10] = 2; b[end + 8] = 2; word = "belong to no entry"; break;
    case 17: b[end + 16] -= 1; word = "the directory ends at"; break;
    case 18: b[end + 12] = 0xf0; b[end + 13] = 0xff; word = "leaves the file"; break;
    case 19: b[end + 4] = 1; word = "disk 1 of a split archive"; break;
    case 20: b[central] = 'X'; word = "no directory entry"; break;
    case 21: b[central + 28] = 0xff; b[central + 29] = 0xff; word = "leaves the directory"; break;
    case 22: mk_text(&z.out, "tail"); word = "no end of a ZIP directory"; break;
    case 23: z.out.n -= 1; word = "no end of a ZIP directory"; break;
    case 24: z.out.n /= 2; word = "no end of a ZIP directory"; break;
    case 25: z.out.n = 10; word = "no ZIP archive"; break;
    case 26: b[end] = 'X'; word = "no end of a ZIP directory"; break;
    case 27: b[end + 20] = 1; word = "no end of a ZIP directory"; break; /* a comment that is not there */
    case 28: b[end + 8] = 2; word = "a split archive"; break;
    case 29: { /* bytes before the archive, as self-extracting ones have */
        mk_buf more = {0};
        mk_text(&more, "MZ-stub-");
        mk_bytes(&more, z.out.b, z.out.n);
        free(z.out.b);
        z.out = more;
        word = "directory ends at";
        break;
    }
    case 43: memset(b + end - 20 + 8, 0xff, 8); word = "leaves the file"; break;
    case 44: b[end - 20 + 8] -= 1; word = "no ZIP64 end record"; break;
    case 45: memset(b + end - 76 + 24, 0x7f, 16); word = "entries, at most 100000 are read"; break; /* 2^63 entries */
    case 46: b[end - 76 + 4] = 45; word = "does not end at its locator"; break;
    case 47: b[end - 76 + 16] = 1; word = "a split archive"; break;
    case 48: b[end + 12] = 1; b[end + 13] = b[end + 14] = b[end + 15] = 0; word = "contradict each other"; break;
    case 49: b[central + 46 + 10 + 2] = 4; word = "ZIP64 field that is too short"; break;
    default: break;
    }
    *out = z.out;
    free(z.e);
    return word;
}

static void expect_zip(const char *what, const mk_buf *b, const char *word) {
    sc_zip *z = (sc_zip *)1;
    sc_error err = {0};
    uint8_t *exact = malloc(b->n);
    memcpy(exact, b->b, b->n);
    sc_status rc = sc_zip_open(&z, exact, b->n, "bad.pt", &err);
    if (rc != SC_EINVAL) fail_msg("%s: status %d \"%s\"", what, rc, err.text);
    assert_null(z);
    if (!strstr(err.text, word)) fail_msg("%s: \"%s\" lacks \"%s\"", what, err.text, word);
    free(exact);
}

static void an_archive_that_lies_is_refused(void **state) {
    int cases = 0;
    mk_buf b;
    (void)state;
    for (int i = 0; i < 50; i++) {
        const char *word = bent_zip(i, &b);
        char what[32];
        snprintf(what, sizeof what, "archive %d", i);
        if (word) {
            expect_zip(what, &b, word);
            cases++;
        }
        free(b.b);
    }
    for (size_t i = 0; i < sizeof zip_names / sizeof *zip_names; i++) {
        mk_zip z = {0};
        mk_zip_add(&z, "fine", "x", 1);
        mk_zip_add(&z, zip_names[i], "x", 1);
        mk_zip_end(&z);
        expect_zip(zip_names[i], &z.out, "entry \"");
        mk_zip_free(&z);
        cases++;
    }
    char long_name[560];
    memset(long_name, 'n', sizeof long_name);
    long_name[550] = 0;
    mk_zip z = {0};
    mk_zip_add(&z, long_name, "x", 1);
    mk_zip_end(&z);
    expect_zip("long name", &z.out, "more than 511 bytes");
    mk_zip_free(&z);
    mk_zip_add(&z, "twice", "x", 1);
    mk_zip_add(&z, "twice", "x", 1);
    mk_zip_end(&z);
    expect_zip("twice", &z.out, "\"twice\" comes twice");
    mk_zip_free(&z);
    /* An entry whose data holds the local header of the next one, and a directory that uses both. */
    mk_zip inner = {0};
    mk_zip_add(&inner, "b", "x", 1);
    mk_zip_add(&z, "a", inner.out.b, inner.out.n);
    const size_t at = (size_t)(memmem(z.out.b, z.out.n, inner.out.b, inner.out.n) - (void *)z.out.b);
    z.e[1] = inner.e[0];
    z.e[1].header = at;
    z.n = 2;
    mk_zip_end(&z);
    expect_zip("nested", &z.out, "\"b\" overlaps \"a\"");
    mk_zip_free(&z);
    mk_zip_free(&inner);
    print_message("           %d archives\n", cases + 3);
}

static void a_good_archive_is_read_and_every_prefix_refused(void **state) {
    sc_error err = {0};
    sc_zip *z;
    (void)state;
    for (int how = 0; how < 4; how++) {
        mk_zip m = {.streamed = how & 1, .zip64 = how & 2};
        mk_zip_add(&m, "a/data.pkl", "0123456789", 10);
        mk_zip_add(&m, "a/empty", "", 0);
        mk_zip_add(&m, "a/\xc3\xa9", "x", 1);
        mk_zip_end(&m);
        if (sc_zip_open(&z, m.out.b, m.out.n, "good", &err)) fail_msg("%d: %s", how, err.text);
        assert_int_equal(sc_zip_count(z), 3);
        const sc_zip_entry *e = sc_zip_find(z, "a/data.pkl");
        assert_non_null(e);
        assert_int_equal(e->bytes, 10);
        assert_memory_equal(e->data, "0123456789", 10);
        assert_int_equal(e->crc, sc_crc32("0123456789", 10));
        assert_int_equal(sc_crc32("0123456789", 10), mk_crc("0123456789", 10));
        assert_null(sc_zip_find(z, "a"));
        sc_zip_close(z);
        for (size_t cut = 0; cut < m.out.n; cut++) {
            uint8_t *exact = malloc(cut + !cut);
            memcpy(exact, m.out.b, cut);
            assert_int_equal(sc_zip_open(&z, exact, cut, "cut", &err), SC_EINVAL);
            free(exact);
        }
        mk_zip_free(&m);
    }
}

/* ---- whole files ------------------------------------------------------------------------------------------------------------ */

static void expect_file(const char *what, const mk_buf *b, const char *word) {
    char path[128];
    const char *list = path;
    sc_source *s = (sc_source *)1;
    sc_error err = {0};
    snprintf(path, sizeof path, "%s/x.pt", dir);
    mk_save(path, b);
    sc_status rc = sc_source_open(&s, &list, 1, &err);
    unlink(path);
    if (rc != SC_EINVAL) fail_msg("%s: status %d \"%s\"", what, rc, err.text);
    assert_null(s);
    if (!strstr(err.text, word)) fail_msg("%s: \"%s\" lacks \"%s\"", what, err.text, word);
    if (!strstr(err.text, path)) fail_msg("%s: \"%s\" lacks the path", what, err.text);
}

static void a_file_of_another_kind_is_refused_by_its_name(void **state) {
    static const struct { const char *what, *bytes; size_t n; const char *word; } files[] = {
        {"nothing", P(""), "no checkpoint"},
        {"a word", P("hello"), "no checkpoint"},
        {"GGUF", P("GGUF" "\3\0\0\0\0\0\0\0"), "a GGUF file"},
        {"a bare pickle", P("\x80\x02\x8a\nl\xfc\x9c\x46\xf9 j\xa8P\x19."), "before version 1.6"},
        {"a gzip file", P("\x1f\x8b\x08\0\0\0\0\0\0\0"), "a gzip file"},
        {"an LFS pointer", P("version https://git-lfs.github.com/spec/v1\noid sha256:0\n"), "git lfs pull"},
        {"a web page", P("<!DOCTYPE html><html>"), "a web page"},
        {"zeros", P("\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0"), "header length 0"},
        {"a huge header", P("\xff\xff\xff\xff\xff\xff\xff\x7f{}"), "header length"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        mk_buf b = {0};
        mk_bytes(&b, files[i].bytes, files[i].n);
        expect_file(files[i].what, &b, files[i].word);
        free(b.b);
    }
    print_message("           %zu files\n", sizeof files / sizeof *files);
}

static void an_archive_whose_pickle_lies_about_it_is_refused(void **state) {
    static const char pickle[] = DICT(KEY("w") GOOD);
    static const struct { const char *what; size_t pickle_n; const char *name, *entry; size_t bytes; const char *order, *word; } cases[] = {
        {"no pickle", 0, "a/other.pkl", "a/data/0", 16, "little", "without data.pkl"},
        {"no data", 1, "a/data.pkl", "a/data/1", 16, "little", "tensor w: its data, entry a/data/0, is missing"},
        {"data in another folder", 1, "a/data.pkl", "b/data/0", 16, "little", "a/data/0, is missing"},
        {"data too short", 1, "a/data.pkl", "a/data/0", 15, "little", "storage of 4 x 4 bytes in entry a/data/0 of 15"},
        {"no bytes at all", 1, "a/data.pkl", "a/data/0", 0, "little", "of 0"},
        {"big-endian", 1, "a/data.pkl", "a/data/0", 16, "big", "big-endian"},
        {"two pickles", 2, "a/data.pkl", "b/data.pkl", 16, "little", "which is it?"},
        {"pickle cut", 3, "a/data.pkl", "a/data/0", 16, "little", "pickle, byte"},
        {"pickle damaged", 4, "a/data.pkl", "a/data/0", 16, "little", "its CRC-32 does not match"},
        {"fine", 1, "a/data.pkl", "a/data/0", 16, "little", NULL},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        mk_zip z = {0};
        const uint8_t data[16] = {0};
        mk_zip_add(&z, cases[i].name, pickle, cases[i].pickle_n == 3 ? sizeof pickle / 2 : sizeof pickle - 1);
        if (cases[i].pickle_n == 4) { uint8_t *p = memmem(z.out.b, z.out.n, pickle, 10); p[1] ^= 1; }
        mk_zip_add(&z, cases[i].entry, data, cases[i].bytes);
        mk_zip_add(&z, "a/byteorder", cases[i].order, strlen(cases[i].order));
        mk_zip_end(&z);
        if (cases[i].word) {
            expect_file(cases[i].what, &z.out, cases[i].word);
        } else {
            char path[128];
            const char *list = path;
            sc_source *s;
            sc_error err = {0};
            sc_import_report r;
            snprintf(path, sizeof path, "%s/x.pt", dir);
            mk_save(path, &z.out);
            if (sc_source_open(&s, &list, 1, &err)) fail_msg("%s", err.text);
            assert_int_equal(sc_source_count(s), 1);
            assert_true(sc_source_at(s, 0)->contiguous);
            sc_source_close(s);
            assert_int_equal(sc_import_identify(path, &r, &err), SC_EINVAL);
            assert_non_null(strstr(err.text, "no known model family; 1 tensors (w, ...)"));
            unlink(path);
        }
        mk_zip_free(&z);
    }
    print_message("           %zu archives with pickles\n", sizeof cases / sizeof *cases - 1);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_pickle_that_lies_is_refused),
        cmocka_unit_test(a_good_pickle_is_read_and_every_prefix_refused),
        cmocka_unit_test(shared_values_do_not_unfold_without_end),
        cmocka_unit_test(an_archive_that_lies_is_refused),
        cmocka_unit_test(a_good_archive_is_read_and_every_prefix_refused),
        cmocka_unit_test(a_file_of_another_kind_is_refused_by_its_name),
        cmocka_unit_test(an_archive_whose_pickle_lies_about_it_is_refused),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
