/* test_cuda_queue.c - the queues of a card: uploads that do not wait, marks between two queues, fetches, memory that comes and goes in order,
 * and work that is played again. A plain program; 77 without a card.
 *
 *   test_cuda_queue [small]
 *
 * What a queue has to do late is made late by a wall of noise: launches of Philox over a few million values, some 20 ms. small: for
 * compute-sanitizer, under which one launch takes that long. */
#include "tests/cuda/cuda_check.h"

enum { WALL = 1 << 23 };

static float *wall;
static uint32_t slow = 24;

/* Work for a while on `dev`. */
static void busy(sc_device *dev) {
    for (uint32_t i = 0; i < slow; i++) MUST(dev->ops->noise(dev, &(sc_noise_args){.out = wall, .count = WALL, .seed = 1, .chunk = i}, &check_err));
}

static void *memory(size_t bytes) {
    void *p;
    MUST(cuda->ops->alloc(cuda, &p, bytes, &check_err));
    return p;
}

/* More bytes than the ring holds several times over, sent while the card is at something else: each upload must arrive as it was when sent. */
static void test_uploads(void) {
    enum { PIECES = 600, PIECE = 30011, ODD = 7 }; /* 72 MB */
    const size_t bytes = (size_t)PIECES * PIECE * 4;
    int32_t *piece = malloc(PIECE * 4), *got = malloc(bytes), *all = memory(bytes);
    size_t wrong = 0;

    busy(cuda);
    for (int i = 0; i < PIECES; i++) {
        for (int j = 0; j < PIECE; j++) piece[j] = i * 1000003 + j;
        MUST(cuda->ops->upload(cuda, all + (size_t)i * PIECE, piece, PIECE * 4 - (i % 3 ? 0 : ODD), &check_err));
        if (i % 3 == 0) MUST(cuda->ops->upload(cuda, (char *)(all + (size_t)(i + 1) * PIECE) - ODD, (char *)piece + PIECE * 4 - ODD, ODD, &check_err));
        memset(piece, 0xff, PIECE * 4); /* theirs again */
    }
    MUST(cuda->ops->download(cuda, got, all, bytes, &check_err));
    for (int i = 0; i < PIECES; i++)
        for (int j = 0; j < PIECE; j++) wrong += got[(size_t)i * PIECE + j] != i * 1000003 + j;
    verdict(!wrong, "uploads", "arrived changed");
    cuda->ops->release(cuda, all);
    free(piece), free(got);
}

/* The second queue copies what the first writes late, and the host fetches it: right only if both marks hold. */
static void test_marks(void) {
    enum { N = 5000 };
    sc_device *beside;
    sc_mark *written, *fetched_mark;
    float *from = memory(N * 4), *to = memory(N * 4), *host, want[N];
    uint64_t ns = 0;

    MUST(cuda->ops->beside(cuda, &beside, &check_err));
    MUST(cuda->ops->mark_create(cuda, &written, &check_err));
    MUST(cuda->ops->mark_create(beside, &fetched_mark, &check_err));
    MUST(cuda->ops->alloc_host(cuda, (void **)&host, N * 4, &check_err));
    for (int round = 0; round < 6; round++) {
        MUST(cuda->ops->mark(cuda, fetched_mark, &check_err));
        busy(cuda);
        for (int i = 0; i < N; i++) want[i] = (float)(round * N + i);
        MUST(cuda->ops->upload(cuda, from, want, sizeof want, &check_err));
        MUST(cuda->ops->mark(cuda, written, &check_err));
        MUST(beside->ops->after(beside, written, &check_err));
        MUST(beside->ops->copy(beside, to, from, N * 4, &check_err));
        memset(host, 0xff, N * 4);
        MUST(beside->ops->fetch(beside, host, to, N * 4, &check_err));
        MUST(beside->ops->mark(beside, fetched_mark, &check_err));
        MUST(cuda->ops->after(cuda, fetched_mark, &check_err)); /* or the next round's upload could overtake the copy */
        MUST(beside->ops->wait(beside, fetched_mark, &check_err));
        verdict(!memcmp(host, want, N * 4), "marks", "the other queue's data was not waited for");
    }
    MUST(cuda->ops->mark(cuda, written, &check_err));
    busy(cuda);
    MUST(cuda->ops->mark(cuda, fetched_mark, &check_err));
    MUST(cuda->ops->wait(cuda, fetched_mark, &check_err));
    MUST(cuda->ops->elapsed(cuda, written, fetched_mark, &ns, &check_err));
    verdict(ns > 100000 && ns < 60000000000u, "elapsed", "is no time that this can take");
    MUST(cuda->ops->sync(cuda, &check_err));
    cuda->ops->mark_destroy(cuda, written);
    cuda->ops->mark_destroy(beside, fetched_mark);
    cuda->ops->mark_destroy(cuda, NULL);
    cuda->ops->release_host(cuda, host);
    sc_device_close(beside);
    cuda->ops->release(cuda, from), cuda->ops->release(cuda, to);
}

/* Memory given back while work on it is still to come is not anybody else's before that work. */
static void test_memory_in_order(void) {
    enum { N = 1 << 18, ROUNDS = 40 };
    float *keep = memory((size_t)ROUNDS * 4), got[ROUNDS], one;

    busy(cuda);
    for (int i = 0; i < ROUNDS; i++) {
        float *p = memory(N * 4); /* zeroed; the last round's block, most likely */
        one = (float)i + 1;
        MUST(cuda->ops->copy(cuda, keep + i, p + N - 1, 4, &check_err));
        MUST(cuda->ops->upload(cuda, p + N - 1, &one, 4, &check_err));
        cuda->ops->release(cuda, p);
    }
    MUST(cuda->ops->download(cuda, got, keep, sizeof got, &check_err));
    bool zero = true;
    for (int i = 0; i < ROUNDS; i++) zero = zero && got[i] == 0;
    verdict(zero, "memory", "was not zeroed in the queue's order");
    cuda->ops->release(cuda, keep);
}

static void test_finite(void) {
    static const size_t counts[] = {1, 31, 1024, 1025, 300007};
    const float bad[] = {NAN, INFINITY, -INFINITY};
    int32_t *flag = memory(4), is;

    for (size_t k = 0; k < sizeof counts / sizeof *counts; k++) {
        const size_t n = counts[k], at[] = {0, n / 2, n - 1};
        float *x = calloc(n, 4), *dev = memory(n * 4);
        for (int b = -1; b < 9; b++) {
            for (size_t i = 0; i < n; i++) x[i] = i % 2 ? 3e38f : -1e-40f;
            if (b >= 0) x[at[b / 3]] = bad[b % 3];
            MUST(cuda->ops->upload(cuda, dev, x, n * 4, &check_err));
            MUST(cuda->ops->finite(cuda, flag, dev, n, &check_err));
            MUST(cuda->ops->download(cuda, &is, flag, 4, &check_err));
            verdict(is == (b < 0), "finite", b < 0 ? "no, for numbers" : "yes, for no number");
        }
        cuda->ops->release(cuda, dev);
        free(x);
    }
    cuda->ops->release(cuda, flag);
}

typedef struct {
    float *x, *step;
    int launches;
    bool fails;
} counter;

/* x += step, twice: what is played again reads step anew. */
static sc_status launch_counter(void *ctx, sc_error *err) {
    counter *c = ctx;
    c->launches++;
    if (c->fails) return sc_fail(err, SC_EGPU, "says the test");
    for (int i = 0; i < 2; i++) {
        static int32_t *rows;
        if (!rows) rows = memory(4); /* row 0 */
        sc_status rc = cuda->ops->add_rows(cuda, c->x, c->step, rows, 1, 4, err);
        if (rc) return rc;
    }
    return SC_OK;
}

static void test_replay(void) {
    enum { CALLS = 12, KEYS = 150 }; /* more keys than are kept */
    counter c = {.x = memory(16), .step = memory(16)};
    float want = 0, got[4], step[4];
    uint64_t key[3] = {7, 8, 9};

    MUST(launch_counter(&c, &check_err)); /* makes its rows */
    for (int i = 0; i < CALLS; i++) {
        for (int j = 0; j < 4; j++) step[j] = (float)(i + 1);
        MUST(cuda->ops->upload(cuda, c.step, step, sizeof step, &check_err));
        MUST(cuda->ops->replay(cuda, &(sc_replay_args){.key = key, .words = 3, .launch = launch_counter, .ctx = &c}, &check_err));
        want += 2 * (float)(i + 1);
    }
    MUST(cuda->ops->download(cuda, got, c.x, sizeof got, &check_err));
    verdict(got[0] == want && got[3] == want, "replay", "did something else than its launches");
    verdict(c.launches > 1 && c.launches < CALLS, "replay", "launched each time anew, or never");

    const int before = c.launches;
    for (int round = 0; round < 4; round++)
        for (uint64_t k = 0; k < KEYS; k++) { /* each is forgotten before it comes again */
            key[1] = 100 + k;
            MUST(cuda->ops->replay(cuda, &(sc_replay_args){.key = key, .words = 3, .launch = launch_counter, .ctx = &c}, &check_err));
            want += 2 * step[0];
        }
    MUST(cuda->ops->download(cuda, got, c.x, sizeof got, &check_err));
    verdict(got[1] == want, "replay of many keys", "did something else than its launches");
    verdict(c.launches - before == 4 * KEYS, "replay of many keys", "kept more than there is room for");

    sc_error err = {0};
    counter bad = {.x = c.x, .step = c.step, .fails = true};
    key[0] = 1;
    for (int i = 0; i < 6; i++)
        verdict(cuda->ops->replay(cuda, &(sc_replay_args){.key = key, .words = 2, .launch = launch_counter, .ctx = &bad}, &err) == SC_EGPU, "replay that fails", "says nothing of it");
    bad.fails = false; /* and goes on when it no longer does */
    MUST(cuda->ops->replay(cuda, &(sc_replay_args){.key = key, .words = 2, .launch = launch_counter, .ctx = &bad}, &check_err));
    want += 2 * step[0];
    MUST(cuda->ops->download(cuda, got, c.x, sizeof got, &check_err));
    verdict(got[2] == want, "replay after a failure", "is lost");
    verdict(cuda->ops->replay(cuda, &(sc_replay_args){.key = key, .words = SC_REPLAY_WORDS + 1, .launch = launch_counter, .ctx = &c}, &err) == SC_EINVAL, "a key that is too long", "is taken");
    cuda->ops->release(cuda, c.x), cuda->ops->release(cuda, c.step);
}

int main(int argc, char **argv) {
    static const struct { const char *name; void (*run)(void); } tests[] = {
        {"uploads", test_uploads}, {"marks", test_marks}, {"memory in order", test_memory_in_order}, {"finite", test_finite}, {"replay", test_replay}};

    if (argc == 2 && !strcmp(argv[1], "small")) slow = 1;
    else if (argc > 1) {
        fputs("usage: test_cuda_queue [small]\n", stderr);
        return 2;
    }
    if (sc_device_open(&cuda, "cuda", 0, SC_BF16, &check_err)) {
        printf("SKIPPED: %s\n", check_err.text);
        return 77;
    }
    wall = memory((size_t)WALL * 4);
    for (size_t i = 0; i < sizeof tests / sizeof *tests; i++) {
        const int before = failures, had = checks;
        check_where = tests[i].name;
        tests[i].run();
        printf("%-5s %-20s %d checks\n", failures == before ? "ok" : "FAIL", tests[i].name, checks - had);
        fflush(stdout);
    }
    cuda->ops->release(cuda, wall);
    sc_device_close(cuda);
    printf("%d checks, %d failed\n", checks, failures);
    return failures != 0;
}
