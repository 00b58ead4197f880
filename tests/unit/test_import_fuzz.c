/* test_import_fuzz.c - the fuzzers of the importer, run on a fixed number of mutations of good files.
 *
 * The same entry points that libFuzzer drives (tests/fuzz/fuzz_*.c), a small mutator and a fixed seed: the same inputs everywhere,
 * counted in inputs, not in seconds. A crash prints the number of its input. `--seeds DIR` writes the corpus for libFuzzer;
 * `--inputs N` runs that many of each. */
#include "import_make.h"
#define LLVMFuzzerTestOneInput fuzz_pickle
#include "../fuzz/fuzz_pickle.c"
#undef LLVMFuzzerTestOneInput
#define LLVMFuzzerTestOneInput fuzz_zip
#include "../fuzz/fuzz_zip.c"
#undef LLVMFuzzerTestOneInput
#define LLVMFuzzerTestOneInput fuzz_checkpoint
#include "../fuzz/fuzz_checkpoint.c"

enum { SEEDS = 8, MAX_INPUT = 16384 };

static long inputs = 200000;
static mk_buf pickle_seed[SEEDS], zip_seed[SEEDS], checkpoint_seed[SEEDS];
static int pickle_seeds, zip_seeds, checkpoint_seeds;

static void add_checkpoint(const char *kind, const void *p, size_t n) {
    mk_buf *b = &checkpoint_seed[checkpoint_seeds++];
    mk_text(b, kind);
    mk_bytes(b, p, n);
}

static int make_seeds(void **state) {
    static const struct { const char *prefix; sc_dtype type; int how; } kinds[] = {
        {"", SC_F32, 0}, {"generator_ema\1model.", SC_BF16, MK_TRANSPOSED}, {"generator\1model._fsdp_wrapped_module.", SC_F8_E4M3, 0}};
    static mk_list t5;
    (void)state;
    mk_t5(&t5, 2, 1, 1, 1, 1, 1);
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        mk_file f = {0};
        for (int k = 0; k < t5.n; k++) {
            char name[256];
            snprintf(name, sizeof name, "%s%s", kinds[i].prefix, t5.t[k].wan);
            mk_tensor_item(&f, name, &t5.t[k], kinds[i].type, kinds[i].how);
            f.t[k].shared_with = k % 2; /* two storages, as the fuzzer's archive has */
            f.t[k].storage_count = 16;
            if (t5.t[k].rank == 2 && t5.t[k].shape[0] == 32) f.t[k].shape[0] = 8; /* buckets */
        }
        mk_pickle(&pickle_seed[pickle_seeds], &f);
        add_checkpoint("1", pickle_seed[pickle_seeds].b, pickle_seed[pickle_seeds].n);
        pickle_seeds++;
        mk_free(&f);
        mk_zip z = {.streamed = i & 1, .zip64 = i == 2};
        mk_zip_add(&z, "a/data.pkl", "\x80\x02}.", 4);
        mk_zip_add(&z, "a/data/0", "0123456789", 10);
        mk_zip_add(&z, "a/empty", "", 0);
        mk_zip_end(&z);
        mk_bytes(&zip_seed[zip_seeds++], z.out.b, z.out.n);
        add_checkpoint("0", z.out.b, z.out.n);
        mk_zip_free(&z);
    }
    mk_buf st = {0};
    static const char head[] = "{\"norm.weight\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]},\"x\":{\"dtype\":\"F8_E4M3\",\"shape\":[2,2],\"data_offsets\":[4,8]}}";
    mk_int(&st, sizeof head - 1, 8);
    mk_text(&st, head);
    mk_bytes(&st, "\0\0\x80\x3f\1\2\3\4", 8);
    add_checkpoint("0", st.b, st.n);
    free(st.b);
    return 0;
}

static int free_seeds(void **state) {
    (void)state;
    for (int i = 0; i < SEEDS; i++) {
        free(pickle_seed[i].b);
        free(zip_seed[i].b);
        free(checkpoint_seed[i].b);
    }
    return 0;
}

static uint64_t dice;
static uint32_t roll(uint32_t sides) {
    dice ^= dice << 13;
    dice ^= dice >> 7;
    dice ^= dice << 17;
    return (uint32_t)(dice >> 33) % sides;
}

/* One to eight changes of a seed: a bit, a byte, a number, a run moved, doubled or cut, a piece of another seed. */
static size_t mutate(uint8_t *out, const mk_buf *seeds, int count) {
    static const uint64_t odd[] = {0, 1, 0x7f, 0x80, 0xff, 0x7fff, 0xffff, 0x7fffffff, 0x80000000, 0xffffffff, 0x7fffffffffffffff, 0x8000000000000000, ~0ull};
    const mk_buf *s = &seeds[roll((uint32_t)count)], *other;
    size_t n = s->n, at, len;

    memcpy(out, s->b, n);
    for (uint32_t changes = 1 + roll(8); changes && n; changes--) {
        at = roll((uint32_t)n);
        len = 1 + roll(16);
        if (len > n - at) len = n - at;
        switch (roll(7)) {
        case 0: out[at] ^= (uint8_t)(1u << roll(8)); break;
        case 1: out[at] = (uint8_t)roll(256); break;
        case 2: {
            uint64_t v = odd[roll(sizeof odd / sizeof *odd)];
            size_t wide = 1u << roll(4);
            for (size_t i = 0; i < wide && at + i < n; i++) out[at + i] = (uint8_t)(v >> (8 * i));
            break;
        }
        case 3: /* a run comes twice */
            if (n + len > MAX_INPUT) break;
            memmove(out + at + len, out + at, n - at);
            n += len;
            break;
        case 4: memmove(out + at, out + at + len, n - at - len); n -= len; break;
        case 5: memmove(out + at, out + roll((uint32_t)(n - len + 1)), len); break;
        case 6:
            other = &seeds[roll((uint32_t)count)];
            if (len > other->n) break;
            memcpy(out + at, other->b + roll((uint32_t)(other->n - len + 1)), len);
            break;
        }
    }
    return n;
}

static void run(int (*one)(const uint8_t *, size_t), const mk_buf *seeds, int count) {
    static uint8_t buf[MAX_INPUT];
    dice = 0x9e3779b97f4a7c15u;
    for (int i = 0; i < count; i++) {
        assert_true(seeds[i].n * 2 < MAX_INPUT);
        one(seeds[i].b, seeds[i].n);
    }
    for (long i = 0; i < inputs; i++) {
        size_t n = mutate(buf, seeds, count);
        uint8_t *exact = malloc(n + !n); /* so that a byte too far is seen */
        assert_non_null(exact);
        memcpy(exact, buf, n);
        one(exact, n);
        free(exact);
    }
    print_message("           %ld inputs\n", inputs + count);
}

static void the_unpickler_survives(void **state) { (void)state; run(fuzz_pickle, pickle_seed, pickle_seeds); }
static void the_zip_reader_survives(void **state) { (void)state; run(fuzz_zip, zip_seed, zip_seeds); }
static void whole_checkpoints_are_survived(void **state) { (void)state; inputs /= 4; run(fuzz_checkpoint, checkpoint_seed, checkpoint_seeds); }

/* The seeds are good, so that mutation starts behind the first checks. */
static void the_seeds_are_accepted(void **state) {
    sc_error err = {0};
    sc_pickle *p;
    sc_zip *z;
    (void)state;
    for (int i = 0; i < pickle_seeds; i++) {
        if (sc_pickle_open(&p, pickle_seed[i].b, pickle_seed[i].n, "seed", &err)) fail_msg("%s", err.text);
        assert_true(sc_pickle_count(p) > 10);
        sc_pickle_close(p);
    }
    for (int i = 0; i < zip_seeds; i++) {
        if (sc_zip_open(&z, zip_seed[i].b, zip_seed[i].n, "seed", &err)) fail_msg("%s", err.text);
        assert_int_equal(sc_zip_count(z), 3);
        sc_zip_close(z);
    }
}

static void write_seeds(const char *dir) {
    char path[512];
    const struct { const char *name; const mk_buf *b; const int *n; } sets[] = {
        {"pickle", pickle_seed, &pickle_seeds}, {"zip", zip_seed, &zip_seeds}, {"checkpoint", checkpoint_seed, &checkpoint_seeds}};
    make_seeds(NULL);
    for (size_t i = 0; i < sizeof sets / sizeof *sets; i++)
        for (int k = 0; k < *sets[i].n; k++) {
            snprintf(path, sizeof path, "%s/%s/%d", dir, sets[i].name, k);
            mk_save(path, &sets[i].b[k]);
        }
    free_seeds(NULL);
}

int main(int argc, char **argv) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_seeds_are_accepted),
        cmocka_unit_test(the_unpickler_survives),
        cmocka_unit_test(the_zip_reader_survives),
        cmocka_unit_test(whole_checkpoints_are_survived),
    };
    if (argc == 3 && !strcmp(argv[1], "--seeds")) { write_seeds(argv[2]); return 0; }
    if (argc == 3 && !strcmp(argv[1], "--inputs")) inputs = atol(argv[2]);
    return cmocka_run_group_tests(tests, make_seeds, free_seeds);
}
