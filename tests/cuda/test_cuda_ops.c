/* test_cuda_ops.c - every operation of the CUDA backend against its definition, on awkward shapes.
 *
 *   test_cuda_ops [f16|bf16]... [wgmma|mma]... [small] [TEST]...
 *   test_cuda_ops names                                            the tests, one a line
 *
 * Both types, both paths and all tests where none is named ("convolution", "cross attention", as printed). small: for compute-sanitizer
 * (sanitize.sh), which takes a hundred times as long: fewer shapes, and convolutions and large products are made as on a card of three
 * multiprocessors, so that a CTA walks over many tiles and goes round its ring of stages.
 * Exit 77 without a usable card: skipped, not passed. Attention, selection and the memory update of full-size shapes are in pbsa_bench. */
#include "tests/cuda/cuda_check.h"
#include "tests/cuda/cuda_queries.h"
#include "tests/cuda/cuda_scenes.h"

#include "kernels/cuda/cuda.h"

static sc_dtype act;
static bool small;

/* ---- linear ------------------------------------------------------------------------------------------------------------- */

typedef struct { sc_matrix *twin, *cuda; int rows; } matrices;

/* parts > 1: of unequal rows and of different types, the second without a bias. */
static matrices make_matrices(int rows, int cols, int parts) {
    static const sc_dtype types[] = {SC_F32, SC_BF16, SC_F16};
    sc_matrix_desc d = {.parts = parts, .cols = cols}, t = d;
    matrices m = {.rows = 0};
    void *junk[16];
    int n = 0;
    for (int p = 0; p < parts; p++) {
        const int r = rows + p;
        float *w = weights((size_t)r * (size_t)cols, 1.0f / sqrtf((float)cols)), *b = weights((size_t)r, 0.5f);
        d.rows[p] = t.rows[p] = r;
        t.data[p] = w, t.type[p] = SC_F32;
        d.data[p] = narrowed(w, (size_t)r * (size_t)cols, types[p]), d.type[p] = types[p];
        if (p != 1) t.bias[p] = b, t.bias_type[p] = SC_F32, d.bias[p] = narrowed(b, (size_t)r, types[(p + 1) % 3]), d.bias_type[p] = types[(p + 1) % 3];
        junk[n++] = w, junk[n++] = b, junk[n++] = (void *)d.data[p], junk[n++] = (void *)d.bias[p];
        m.rows += r;
    }
    MUST(twin->ops->matrix_create(twin, &m.twin, &t, &check_err));
    MUST(cuda->ops->matrix_create(cuda, &m.cuda, &d, &check_err));
    while (n) free(junk[--n]);
    return m;
}

static void drop_matrices(matrices *m) {
    twin->ops->matrix_destroy(twin, m->twin);
    cuda->ops->matrix_destroy(cuda, m->cuda);
}

/* One product; form: output f32 or act, gate of one row or by row_mod. then: the norm behind a residual, with weight and bias or with modulation, out_f32 by form. */
static void linear_case(const matrices *w, int m, int cols, sc_epilogue epilogue, int form, bool then) {
    const bool adds = epilogue >= SC_EPI_RESIDUAL, gated = epilogue == SC_EPI_GATED_RESIDUAL;
    const sc_dtype type = adds || form ? SC_F32 : act, norm_type = form == 2 ? SC_F32 : act;
    const size_t rows = (size_t)w->rows, count = (size_t)m * rows;
    const int stride = w->rows + (then ? 4 : 1);
    int32_t *mod = calloc((size_t)m, sizeof *mod);
    for (int r = 0; r < m; r++) mod[r] = (r * 7 + 1) % 3;
    float *residual = malloc(count * sizeof *residual);
    for (size_t i = 0; i < count; i++) residual[i] = (i % 2 ? -4 : 4) + 0.25f * (float)(i % 7);
    buffer x = input((size_t)m * (size_t)cols, act, 1), out = adds ? make_buffer(count, SC_F32, residual) : output(count, type), gate = input(3 * rows + 12, SC_F32, 1);
    buffer row = words((size_t)m, mod), shift = input(6 * rows + 24, SC_F32, 1), norm = output(count, norm_type);
    sc_linear_args t = {.w = w->twin, .x = x.host, .out = out.host, .out_type = SC_F32, .m = m, .epilogue = epilogue, .gate_stride = stride};
    sc_layer_norm_args nt = {.x = out.host, .out = norm.host, .out_f32 = true, .m = m, .dim = w->rows, .eps = 1e-6f}, nc;
    if (gated) t.gate = gate.host, t.row_mod = form ? (int32_t *)row.host : NULL;
    if (gated) nt.shift = shift.host, nt.scale = shift.host + stride, nt.mod_stride = 2 * stride, nt.row_mod = form ? (int32_t *)row.host : NULL;
    else nt.weight = shift.host, nt.bias = form ? shift.host + stride : NULL;
    sc_linear_args c = t;
    nc = nt;
    c.w = w->cuda, c.x = x.dev, c.out = out.dev, c.out_type = type;
    nc.x = out.dev, nc.out = norm.dev, nc.out_f32 = norm_type == SC_F32;
    if (t.gate) c.gate = gate.dev;
    if (t.row_mod) c.row_mod = row.dev;
    if (nt.shift) nc.shift = shift.dev, nc.scale = (float *)shift.dev + stride;
    if (nt.row_mod) nc.row_mod = row.dev;
    if (nt.weight) nc.weight = shift.dev;
    if (nt.bias) nc.bias = (float *)shift.dev + stride;
    if (then) t.then = &nt, c.then = &nc;
    BOTH(linear, &t, &c);
    char what[96];
    snprintf(what, sizeof what, "linear %d x %d x %d epilogue %d form %d%s", m, w->rows, cols, epilogue, form, then ? " then norm" : "");
    /* A sum may pass through the card's type, which is why no value of the residual is small: in a single one the two could cancel; GELU and SiLU are approximations there. */
    same(what, &out, epilogue == SC_EPI_NONE ? tolerance_of(type) : tolerance_of(act));
    if (then && w->rows > 2) same(what, &norm, tolerance_of(act)); /* one or two values: mean and value cancel */
    else drop(&norm);
    drop(&x), drop(&gate), drop(&row), drop(&shift);
    free(mod);
    free(residual);
}

static void test_linear(void) {
    static const int shapes[][5] = {/* m, rows, cols, parts, small too */ {1, 1, 1, 1}, {3, 7, 5, 1, 1}, {17, 64, 192, 1}, {480, 384, 64, 1}, {65, 129, 131, 1}, {33, 128, 256, 3, 1}, {15, 1152, 384, 1},
        {33, 1536, 64, 1, 1}, {5, 1544, 16, 1, 1}, {9, 5120, 32, 1}, {3, 5128, 8, 1, 1}};
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        if (small && !shapes[i][4]) continue;
        matrices w = make_matrices(shapes[i][1], shapes[i][2], shapes[i][3]);
        for (int epilogue = SC_EPI_NONE; epilogue <= SC_EPI_GATED_RESIDUAL; epilogue++)
            for (int form = 0; form < 2; form++) linear_case(&w, shapes[i][0], shapes[i][2], (sc_epilogue)epilogue, form, false);
        for (int epilogue = SC_EPI_RESIDUAL; epilogue <= SC_EPI_GATED_RESIDUAL; epilogue++)
            for (int form = 0; form < 3; form++) linear_case(&w, shapes[i][0], shapes[i][2], (sc_epilogue)epilogue, form, true);
        drop_matrices(&w);
    }
}

/* linear_hopper.cu, which takes over GELU where there are many rows. The twin needs a second for a thousand million multiplications. */
static void test_large_gelu(void) {
    static const int shapes[][4] = {/* m, rows, cols, small: tiles of 224 channels, the last of 8, and a K that ends within a stage; two unequal bands; tiles of
        256, the last of 48; on three multiprocessors tiles of 224, and of 256 */ {1300, 456, 1000, 0}, {2600, 328, 1024, 0}, {1030, 3376, 1024, 0}, {1030, 264, 840, 1}, {1030, 488, 1000, 1}};
    struct sc_cuda *card = (struct sc_cuda *)cuda;
    const int sms = card->sm_count;
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes && act == SC_BF16; i++) {
        if (small && !shapes[i][3]) continue;
        matrices w = make_matrices(shapes[i][1], shapes[i][2], 1);
        if (shapes[i][3]) card->sm_count = 3;
        linear_case(&w, shapes[i][0], shapes[i][2], SC_EPI_GELU, 0, false);
        card->sm_count = sms;
        drop_matrices(&w);
    }
}

static void test_gather(void) {
    matrices w = make_matrices(101, 37, 1);
    int32_t rows[700];
    for (int i = 0; i < 700; i++) rows[i] = (i * 31 + 5) % 101;
    buffer out = output(700 * 37, SC_F32);
    MUST(twin->ops->gather(twin, out.host, w.twin, rows, 700, &check_err));
    MUST(cuda->ops->gather(cuda, out.dev, w.cuda, rows, 700, &check_err));
    equal("gather", &out);
    drop_matrices(&w);
}

/* ---- norms and elementwise ---------------------------------------------------------------------------------------------- */

static void test_norms(void) {
    static const int dims[] = {1, 5, 64, 132, 384, 1536, 1538, 5120, 6148};
    for (size_t i = 0; i < sizeof dims / sizeof *dims; i++)
        for (int form = 0; form < 6; form++) {
            const int dim = dims[i], m = form % 2 ? 1 : 7, stride = 2 * dim + 4;
            const size_t count = (size_t)m * (size_t)dim;
            char what[64];
            int32_t mod[7] = {2, 0, 1, 1, 0, 2, 2};
            buffer x = input(count, SC_F32, 2), w = input((size_t)dim, SC_F32, 1), b = input((size_t)dim, SC_F32, 1), mods = input(3 * (size_t)stride, SC_F32, 1), row = words(7, mod);
            const sc_dtype type = form % 3 == 2 ? SC_F32 : act;
            buffer out = output(count, type);
            sc_layer_norm_args t = {.x = x.host, .out = out.host, .out_f32 = true, .m = m, .dim = dim, .eps = 1e-6f, .mod_stride = stride}, c;
            if (form & 1) t.weight = w.host, t.bias = form & 2 ? b.host : NULL;
            if (form & 2) t.shift = mods.host, t.scale = mods.host + dim, t.row_mod = form & 4 ? NULL : (int32_t *)row.host;
            c = t;
            c.x = x.dev, c.out = out.dev, c.out_f32 = type == SC_F32;
            if (t.weight) c.weight = w.dev;
            if (t.bias) c.bias = b.dev;
            if (t.scale) c.shift = mods.dev, c.scale = (float *)mods.dev + dim;
            if (t.row_mod) c.row_mod = row.dev;
            BOTH(layer_norm, &t, &c);
            snprintf(what, sizeof what, "layer_norm %d x %d form %d", m, dim, form);
            same(what, &out, tolerance_of(type));

            const sc_dtype x_type = form & 1 ? SC_F32 : act, out_type = form & 2 ? SC_F32 : act;
            const int ldx = form < 3 ? dim : dim + 24;
            buffer y = input((size_t)m * (size_t)ldx, x_type, 2), to = output(count, out_type);
            sc_rms_norm_args rt = {.x = y.host, .x_type = SC_F32, .ldx = ldx, .out = to.host, .out_type = SC_F32, .m = m, .dim = dim, .eps = 1e-6f, .weight = w.host}, rc = rt;
            rc.x = y.dev, rc.x_type = x_type, rc.out = to.dev, rc.out_type = out_type, rc.weight = w.dev;
            BOTH(rms_norm, &rt, &rc);
            snprintf(what, sizeof what, "rms_norm %d x %d form %d", m, dim, form);
            same(what, &to, tolerance_of(out_type));
            drop(&x), drop(&w), drop(&b), drop(&mods), drop(&row), drop(&y);
        }
}

static void test_rms_norm_in_place(void) {
    buffer x = input(9 * 384, act, 2), w = input(384, SC_F32, 1);
    sc_rms_norm_args t = {.x = x.host, .x_type = SC_F32, .ldx = 384, .out = x.host, .out_type = SC_F32, .m = 9, .dim = 384, .eps = 1e-6f, .weight = w.host}, c = t;
    c.x = c.out = x.dev, c.x_type = c.out_type = act, c.weight = w.dev;
    BOTH(rms_norm, &t, &c);
    same("rms_norm in place", &x, tolerance_of(act));
    drop(&w);
}

static void test_elementwise(void) {
    static const size_t counts[] = {1, 7, 8, 4099, 70001};
    for (size_t i = 0; i < sizeof counts / sizeof *counts; i++) {
        const size_t n = counts[i];
        buffer x = input(n, SC_F32, 3), one = output(n, act), two = output(n, act);
        MUST(twin->ops->convert(twin, one.host, x.host, n, &check_err));
        MUST(cuda->ops->convert(cuda, one.dev, x.dev, n, &check_err));
        for (size_t k = 0; k < n; k++) one.host[k] = rounded(one.host[k], act);
        equal("convert", &one);
        MUST(twin->ops->silu(twin, two.host, x.host, n, &check_err));
        MUST(cuda->ops->silu(cuda, two.dev, x.dev, n, &check_err));
        same("silu", &two, tolerance_of(act));
        drop(&x);
    }
    static const int gates[][2] = {{1, 9}, {3, 7}, {5, 8}, {19, 2056}, {512, 136}, {7, 4099}};
    for (size_t i = 0; i < sizeof gates / sizeof *gates; i++) {
        const int m = gates[i][0], width = gates[i][1];
        buffer x = input((size_t)(2 * m * width), act, 2), out = output((size_t)(m * width), act);
        MUST(twin->ops->mul_gelu(twin, out.host, x.host, m, width, &check_err));
        MUST(cuda->ops->mul_gelu(cuda, out.dev, x.dev, m, width, &check_err));
        same("mul_gelu", &out, tolerance_of(act));
        drop(&x);
    }
    int32_t row[13] = {4, 0, 1, 4, 4, 3, 2, 1, 0, 2, 3, 0, 1};
    for (int dim = 1; dim < 600; dim += 299) {
        buffer x = input(13 * (size_t)dim, SC_F32, 1), table = input(5 * (size_t)dim, SC_F32, 1), rows = words(13, row);
        MUST(twin->ops->add_rows(twin, x.host, table.host, (int32_t *)rows.host, 13, dim, &check_err));
        MUST(cuda->ops->add_rows(cuda, x.dev, table.dev, rows.dev, 13, dim, &check_err));
        equal("add_rows", &x);
        drop(&table), drop(&rows);
    }
}

static void test_patches(void) {
    static const int shapes[][6] = {/* ch frames rows cols ph pw */ {1, 1, 1, 1, 1, 1}, {16, 3, 5, 4, 2, 2}, {3, 2, 7, 3, 1, 3}};
    for (size_t i = 0; i < 3; i++) {
        const int *s = shapes[i], tokens = s[1] * s[2] * s[3];
        const size_t count = (size_t)(tokens * s[0] * s[4] * s[5]);
        int32_t *order = malloc((size_t)tokens * sizeof *order);
        for (int t = 0; t < tokens; t++) order[t] = (t * 7 + 3) % tokens; /* 7 divides no tokens here but 42 */
        if (tokens % 7 == 0)
            for (int t = 0; t < tokens; t++) order[t] = tokens - 1 - t;
        buffer in = input(count, SC_F32, 1), o = words((size_t)tokens, order), out = output(count, act), back = output(count, SC_F32);
        sc_patch_args t = {.ch = s[0], .frames = s[1], .rows = s[2], .cols = s[3], .ph = s[4], .pw = s[5], .order = (int32_t *)o.host, .in = in.host, .out = out.host}, c = t;
        c.order = o.dev, c.in = in.dev, c.out = out.dev;
        BOTH(patchify, &t, &c);
        same("patchify", &out, tolerance_of(act));
        t.out = back.host, c.out = back.dev;
        BOTH(unpatchify, &t, &c);
        equal("unpatchify", &back);
        drop(&in), drop(&o);
        free(order);
    }
}

static void test_sampler(void) {
    static const size_t counts[] = {1, 2, 3, 5, 511, 30720};
    for (size_t i = 0; i < sizeof counts / sizeof *counts; i++) {
        const size_t n = counts[i];
        buffer noise = output(n, SC_F32), x = input(n, SC_F32, 2), flow = input(n, SC_F32, 2), x0 = output(n, SC_F32);
        sc_noise_args t = {.out = noise.host, .count = n, .seed = UINT64_C(0x123456789abcdef0) + i, .chunk = (UINT64_C(7) << 32) + 3, .step = 2}, c = t;
        c.out = noise.dev;
        BOTH(noise, &t, &c);
        sc_denoise_args dt = {.x = x.host, .flow = flow.host, .noise = flow.host, .x0 = x0.host, .count = n, .sigma = 0.9375, .next_sigma = 0.83333331346511841}, dc = dt;
        dc.x = x.dev, dc.flow = dc.noise = flow.dev, dc.x0 = x0.dev;
        BOTH(denoise, &dt, &dc);
        dt.x0 = dc.x0 = NULL, dt.next_sigma = dc.next_sigma = -1;
        BOTH(denoise, &dt, &dc);
        same("noise", &noise, 2e-7);
        equal("denoise x0", &x0);
        equal("denoise", &x);
        drop(&flow);
    }
}

/* ---- attention ---------------------------------------------------------------------------------------------------------- */

static void test_qkv(void) {
    static const scene wide[] = {/* rows of 1536 channels, the widest of 192 threads; of 1664; of 5120, the widest that clusters take; of 5248 */
        {.seqs = 2, .heads = 12, .dim = 128, .blocks = 2, .chunks = 2, .frame_pairs = 22, .max_distance = 18, .page_rows = 61, .lengths = {61, 38}},
        {.seqs = 1, .heads = 13, .dim = 128, .blocks = 2, .chunks = 1, .frame_pairs = 22, .max_distance = 18, .page_rows = 61, .lengths = {61, 5}},
        {.seqs = 1, .heads = 40, .dim = 128, .blocks = 2, .chunks = 1, .frame_pairs = 22, .max_distance = 18, .page_rows = 40, .lengths = {40, 1}},
        {.seqs = 1, .heads = 41, .dim = 128, .blocks = 1, .chunks = 1, .frame_pairs = 22, .max_distance = 18, .page_rows = 9, .lengths = {9}}};
    uint64_t seed = 0;
    for (int i = 0; i < SCENES + (int)(sizeof wide / sizeof *wide); i++)
        for (int f32 = 0; f32 < 2; f32++) {
            scene s;
            if (i == SCENES && !f32) seed = seed_state; /* the tests behind this one keep their numbers */
            set_scene(&s, i < SCENES ? &scenes[i] : &wide[i - SCENES], false, act);
            const size_t width = (size_t)(s.heads * s.dim), rows = (size_t)(s.seqs * s.tokens), reps = (size_t)(s.seqs * s.blocks) * width;
            buffer qkv = input(rows * 3 * width, f32 ? SC_F32 : act, 1), nq = input(width, SC_F32, 1), nk = input(width, SC_F32, 1), q = output(rows * width, act), rep = output(reps, SC_F32);
            sc_qkv_args t = {.qkv = qkv.host, .qkv_type = SC_F32, .seqs = s.seqs, .heads = s.heads, .head_dim = s.dim, .norm_q = nq.host, .norm_k = nk.host, .eps = 1e-6f,
                             .blocks = blocks_of(&s, false), .rope = rope_of(&s, false), .pages = pages_of(&s, false), .q_scale = f32 ? sc_q_scale_of(act, s.dim) : 0,
                             .q = q.host, .rep_q = rep.host}, c = t;
            views_of(&s, t.view, false), views_of(&s, c.view, true);
            c.qkv = qkv.dev, c.qkv_type = qkv.type, c.norm_q = nq.dev, c.norm_k = nk.dev, c.q = q.dev, c.rep_q = rep.dev;
            c.blocks = blocks_of(&s, true), c.rope = rope_of(&s, true), c.pages = pages_of(&s, true);
            BOTH(qkv, &t, &c);
            same("qkv: q", &q, tolerance_of(act));
            same("qkv: rep_q", &rep, 2e-5);
            same("qkv: k pages", &s.k, tolerance_of(act));
            same("qkv: v pages", &s.v, tolerance_of(act));
            same("qkv: rep_k", &s.rep_k, 2e-5);
            drop(&qkv), drop(&nq), drop(&nk);
            drop_scene(&s, true);
        }
    seed_state = seed;
}

/* keep of sequence n is keep - n, at least 1; dense: no list. */
static void select_attend_and_age(const scene *from, int keep, bool one_age, bool dense) {
    scene s;
    set_scene(&s, from, one_age, act);
    const size_t lists = (size_t)(s.seqs * s.heads * s.blocks), width = (size_t)(s.heads * s.dim), count = (size_t)(s.seqs * s.tokens) * width, heads = (size_t)(s.seqs * s.heads);
    const int stride = s.slots + 2;
    const float q_scale = keep % 2 ? sc_q_scale_of(act, s.dim) : 0;
    buffer rep_q = input(lists * (size_t)s.dim, SC_F32, 1), q = input(count, act, 1.5f * sc_q_scale(q_scale)), score = output(lists * (size_t)stride, SC_F32), list = output(lists * (size_t)stride, SC_F32);
    buffer out = output(count, act), mass = output(heads * (size_t)stride, SC_F32), kept = output(heads * (size_t)(s.capacity + 1), SC_F32);
    sc_select_args t = {.seqs = s.seqs, .heads = s.heads, .head_dim = s.dim, .blocks = blocks_of(&s, false), .rope = rope_of(&s, false), .pages = pages_of(&s, false), .rep_q = rep_q.host,
                        .score = score.host, .score_stride = stride, .list = (int32_t *)list.host, .list_stride = stride}, c = t;
    sc_attention_args at = {.seqs = s.seqs, .heads = s.heads, .head_dim = s.dim, .blocks = t.blocks, .rope = t.rope, .pages = t.pages, .q_scale = q_scale, .q = q.host,
                            .list = dense ? NULL : t.list, .list_stride = stride, .out = out.host}, ac;
    views_of(&s, t.view, false), views_of(&s, c.view, true);
    for (int i = 0; i < s.seqs; i++) {
        const int window = s.chunks * s.blocks, n = keep - i < 1 ? 1 : keep - i > window ? window : keep - i;
        t.keep[i] = c.keep[i] = n;
        at.list_count[i] = s.persistent + (dense ? window : n);
    }
    memcpy(at.view, t.view, sizeof t.view);
    ac = at;
    memcpy(ac.view, c.view, sizeof c.view);
    c.blocks = ac.blocks = blocks_of(&s, true), c.rope = ac.rope = rope_of(&s, true), c.pages = ac.pages = pages_of(&s, true);
    c.rep_q = rep_q.dev, c.score = score.dev, c.list = list.dev;
    ac.q = q.dev, ac.out = out.dev, ac.list = dense ? NULL : list.dev;
    BOTH(select, &t, &c);
    BOTH(attention, &at, &ac);
    if (s.capacity) {
        sc_memory_update_args mt = {.seqs = s.seqs, .heads = s.heads, .blocks = t.blocks, .score = score.host, .score_stride = stride, .capacity = s.capacity, .mass = mass.host,
                                    .kept = (int32_t *)kept.host}, mc = mt;
        memcpy(mt.view, t.view, sizeof t.view), memcpy(mc.view, c.view, sizeof c.view);
        mc.blocks = c.blocks, mc.score = score.dev, mc.mass = mass.dev, mc.kept = kept.dev;
        BOTH(memory_update, &mt, &mc);
        equal("memory_update: kept", &kept);
        same("memory_update: mass", &mass, 1e-5);
        equal("memory_update: slots", &s.slot);
    } else drop(&kept), drop(&mass), drop(&s.slot);
    equal("select: list", &list);
    same("select: score", &score, 1e-5);
    same(dense ? "attention, dense" : "attention", &out, tolerance_of(act));
    drop(&rep_q), drop(&q);
    drop(&s.k), drop(&s.v), drop(&s.rep_k);
    drop_scene(&s, false);
}

static void test_attention(void) {
    for (int i = 0; i < SCENES; i++) {
        for (int keep = 1; keep <= 4; keep++)
            if (!small || keep == 3) select_attend_and_age(&scenes[i], keep, false, false);
        if (!small) select_attend_and_age(&scenes[i], 1000, false, false);
        select_attend_and_age(&scenes[i], 2, true, false);
        select_attend_and_age(&scenes[i], 1, false, true);
    }
}

/* Scores of a broken model: the order of the blocks stays total and no page is lost. */
static void test_memory_of_no_numbers(void) {
    scene s;
    set_scene(&s, &scenes[2], false, act);
    const size_t count = (size_t)(s.seqs * s.heads * s.blocks * s.slots), heads = (size_t)(s.seqs * s.heads);
    float *x = malloc(count * sizeof *x);
    for (size_t i = 0; i < count; i++) x[i] = i % 997 == 5 ? NAN : normal_number();
    buffer score = make_buffer(count, SC_F32, x), kept = output(heads * (size_t)s.capacity, SC_F32);
    sc_memory_update_args t = {.seqs = s.seqs, .heads = s.heads, .blocks = blocks_of(&s, false), .score = score.host, .score_stride = s.slots, .capacity = s.capacity,
                               .kept = (int32_t *)kept.host}, c = t;
    views_of(&s, t.view, false), views_of(&s, c.view, true);
    c.blocks = blocks_of(&s, true), c.score = score.dev, c.kept = kept.dev;
    BOTH(memory_update, &t, &c);
    equal("memory_update of NaN: kept", &kept);
    equal("memory_update of NaN: slots", &s.slot);
    drop(&score), drop(&s.k), drop(&s.v), drop(&s.rep_k);
    drop_scene(&s, false);
    free(x);
}

static void test_cross_attention(void) {
    static const int shapes[][4] = {/* tokens heads dim keys */ {1, 1, 2, 1}, {7, 1, 10, 2}, {64, 3, 128, 33}, {480, 3, 128, 15}, {65, 2, 64, 64}, {130, 2, 32, 65}, {63, 2, 40, 512}, {61, 1, 128, 512},
        {67, 12, 128, 22}, {130, 16, 64, 9}, {65, 40, 128, 70}};
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
        for (int seqs = 1; seqs <= (small ? 2 : 5); seqs += small ? 1 : 4)
            for (int norm = 0; norm < 2; norm++) {
                const int tokens = shapes[i][0], heads = shapes[i][1], dim = shapes[i][2], n = shapes[i][3];
                const size_t width = (size_t)(heads * dim), count = (size_t)(seqs * tokens) * width;
                buffer q = input(count, act, norm ? 3 : 1), k = input((size_t)n * width, act, 1), v = input((size_t)n * width, act, 1), out = output(count, act), w = input(width, SC_F32, 1);
                sc_cross_attention_args t = {.seqs = seqs, .tokens = tokens, .heads = heads, .head_dim = dim, .q = q.host, .eps = 1e-6f, .out = out.host}, c;
                for (int s = 0; s < seqs; s++) t.k[s] = k.host, t.v[s] = v.host, t.n[s] = s % 2 ? (n + 1) / 2 : n, t.last_bias[s] = s % 3 ? logf(17) : 0;
                if (norm) t.norm_q = w.host;
                c = t;
                c.q = q.dev, c.out = out.dev;
                if (norm) c.norm_q = w.dev;
                for (int s = 0; s < seqs; s++) c.k[s] = k.dev, c.v[s] = v.dev;
                char what[80];
                snprintf(what, sizeof what, "cross_attention %d x %d x %d, %d keys%s", tokens, heads, dim, n, norm ? ", q normalised" : "");
                BOTH(cross_attention, &t, &c);
                same(what, &out, tolerance_of(act));
                drop(&q), drop(&k), drop(&v), drop(&w);
            }
}

/* Weights; a fold, through a product whose columns past the keys are not zero; and both together against what they stand for. */
static void test_folds(void) {
    static const int shapes[][6] = {/* tokens heads dim keys stride rows; the first four also when small */ {7, 1, 10, 2, 8, 67}, {33, 3, 128, 33, 40, 384}, {65, 2, 64, 64, 64, 100}, {66, 17, 32, 7, 24, 72},
                                    {1, 2, 32, 1, 8, 64}, {480, 3, 128, 15, 16, 131}, {17, 2, 32, 40, 40, 96}, {129, 12, 128, 13, 16, 192}};
    const uint64_t seed = seed_state; /* the tests behind this one keep their numbers */
    for (size_t i = 0; i < (small ? 4 : sizeof shapes / sizeof *shapes); i++)
        for (int seqs = 1; seqs <= (small ? 2 : 5); seqs += small ? 1 : 4)
            for (int norm = 0; norm < 2; norm++) {
                const int tokens = shapes[i][0], heads = shapes[i][1], dim = shapes[i][2], n = shapes[i][3], stride = shapes[i][4], rows = shapes[i][5], width = heads * dim, cols = heads * stride;
                const size_t count = (size_t)(seqs * tokens * width), room = (size_t)((rows + SC_FOLD_ROWS - 1) / SC_FOLD_ROWS * SC_FOLD_ROWS) * (size_t)cols, flat = (size_t)(tokens * rows);
                matrices w = make_matrices(rows, width, 1), f;
                buffer q = input(count, act, norm ? 3 : 1), k = input((size_t)(n * width), act, 1), v = input((size_t)(n * width), act, 1), g = input((size_t)width, SC_F32, 1);
                buffer p = output((size_t)(seqs * tokens * cols), act);
                sc_cross_attention_args t = {.seqs = seqs, .tokens = tokens, .heads = heads, .head_dim = dim, .q = q.host, .eps = 1e-6f, .out = p.host, .weights = stride}, c;
                float *memory = calloc(room, sizeof *memory), *values = malloc(count * sizeof *values), *q_again = malloc(count * sizeof *q_again);
                void *made;
                char what[100];
                snprintf(what, sizeof what, "fold %d x %d x %d, %d of %d keys, %d rows%s", tokens, heads, dim, n, stride, rows, norm ? ", q normalised" : "");
                for (int s = 0; s < seqs; s++) t.k[s] = k.host, t.n[s] = s % 2 ? (n + 1) / 2 : n, t.last_bias[s] = s % 3 ? logf(17) : 0;
                if (norm) t.norm_q = g.host;
                c = t;
                c.q = q.dev, c.out = p.dev;
                if (norm) c.norm_q = g.dev;
                for (int s = 0; s < seqs; s++) c.k[s] = k.dev;
                memcpy(q_again, q.host, count * sizeof *q_again);
                BOTH(cross_attention, &t, &c);
                t.weights = 0, t.out = values, t.q = q_again; /* what it stands for */
                for (int s = 0; s < seqs; s++) t.v[s] = v.host;
                MUST(twin->ops->cross_attention(twin, &t, &check_err));

                MUST(cuda->ops->alloc(cuda, &made, room * 2, &check_err));
                MUST(twin->ops->fold_create(twin, &f.twin, w.twin, memory, cols, &check_err));
                MUST(cuda->ops->fold_create(cuda, &f.cuda, w.cuda, made, cols, &check_err));
                for (int s = 0; s < seqs; s++) {
                    buffer x = input((size_t)(tokens * cols), act, 1), y = output(flat, SC_F32), z = output(flat, SC_F32);
                    BOTH(fold, (&(sc_fold_args){f.twin, w.twin, v.host, t.n[s], heads, stride}), (&(sc_fold_args){f.cuda, w.cuda, v.dev, t.n[s], heads, stride}));
                    BOTH(linear, (&(sc_linear_args){.w = f.twin, .x = x.host, .out = y.host, .out_type = SC_F32, .m = tokens}),
                         (&(sc_linear_args){.w = f.cuda, .x = x.dev, .out = y.dev, .out_type = SC_F32, .m = tokens}));
                    same(what, &y, tolerance_of(act));
                    BOTH(linear, (&(sc_linear_args){.w = w.twin, .x = values + (size_t)(s * tokens * width), .out = z.host, .out_type = SC_F32, .m = tokens}),
                         (&(sc_linear_args){.w = f.cuda, .x = (char *)p.dev + (size_t)(s * tokens * cols) * 2, .out = z.dev, .out_type = SC_F32, .m = tokens}));
                    same("with weights", &z, tolerance_of(act));
                    drop(&x);
                }
                same(what, &p, tolerance_of(act));
                twin->ops->matrix_destroy(twin, f.twin);
                cuda->ops->matrix_destroy(cuda, f.cuda);
                cuda->ops->release(cuda, made);
                drop_matrices(&w);
                drop(&q), drop(&k), drop(&v), drop(&g);
                free(memory), free(values), free(q_again);
            }
    seed_state = seed;
}

static void test_queries(void) { check_queries(small); }

static void test_text_attention(void) {
    static const int shapes[][4] = {/* tokens heads dim reach */ {1, 1, 2, 0}, {9, 3, 64, 8}, {31, 3, 64, 40}, {64, 2, 32, 0}, {65, 2, 10, 7}, {200, 1, 16, 199}, {129, 2, 128, 128},
                                    {40, 4, 16, 11}, {512, 5, 64, 128}, {300, 2, 64, 3000}};
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        const int n = shapes[i][0], heads = shapes[i][1], dim = shapes[i][2], reach = shapes[i][3], w = heads * dim;
        buffer qkv = input((size_t)(n * 3 * w), act, 0.5f), bias = input((size_t)(heads * (2 * reach + 1)), SC_F32, 1), out = output((size_t)(n * w), act);
        sc_text_attention_args t = {n, heads, dim, qkv.host, qkv.host + w, qkv.host + 2 * w, 3 * w, bias.host, reach, out.host}, c = t;
        c.q = qkv.dev, c.k = (uint16_t *)qkv.dev + w, c.v = (uint16_t *)qkv.dev + 2 * w, c.bias = bias.dev, c.out = out.dev;
        BOTH(text_attention, &t, &c);
        same("text_attention", &out, tolerance_of(act));
        drop(&qkv), drop(&bias);
    }
}

/* ---- decoder ------------------------------------------------------------------------------------------------------------ */

typedef struct { sc_filter *twin, *cuda; } filters;

static filters make_filters(int out, int in, int size, int stride, bool past, bool bias) {
    const size_t n = (size_t)(out * in * size * size);
    float *w = weights(n, 1.0f / sqrtf((float)(in * size * size))), *b = weights((size_t)out, 0.5f);
    void *narrow = narrowed(w, n, SC_BF16);
    sc_filter_desc d = {.out_ch = out, .in_ch = in, .size = size, .stride = stride, .has_past = past, .data = w, .type = SC_F32, .bias = bias ? b : NULL, .bias_type = SC_F32};
    filters f;
    MUST(twin->ops->filter_create(twin, &f.twin, &d, &check_err));
    d.data = narrow, d.type = SC_BF16;
    MUST(cuda->ops->filter_create(cuda, &f.cuda, &d, &check_err));
    free(w), free(b), free(narrow);
    return f;
}

static void drop_filters(filters *f) {
    twin->ops->filter_destroy(twin, f->twin);
    cuda->ops->filter_destroy(cuda, f->cuda);
}

static void test_conv(void) {
    enum { PAST = 1, UP = 2, RELU = 4, RESIDUAL = 8, BARE = 16, PAIR = 32, TRIPLE = 64, KEEP = 128 };
    static const int shapes[][8] = {/* n h w in out size stride flags */
        {1, 1, 1, 1, 1, 3, 1, 0}, {1, 1, 1, 8, 8, 3, 1, 0}, {2, 5, 7, 3, 5, 3, 1, RELU}, {3, 20, 32, 16, 128, 3, 1, RELU}, {1, 21, 9, 128, 128, 3, 1, RELU | RESIDUAL},
        {3, 20, 8, 128, 64, 3, 1, PAST | RELU}, {1, 41, 17, 96, 48, 3, 1, PAST}, {2, 13, 11, 48, 40, 3, 1, RESIDUAL}, {2, 7, 5, 64, 64, 3, 1, UP}, {1, 23, 10, 96, 130, 3, 1, UP | RELU},
        {3, 8, 6, 32, 192, 3, 1, UP | RESIDUAL | BARE}, {1, 40, 8, 64, 3, 3, 1, BARE}, {2, 9, 12, 32, 12, 3, 1, 0}, {1, 1, 50, 24, 65, 3, 1, 0}, {1, 83, 1, 8, 64, 3, 1, UP},
        {2, 10, 7, 64, 128, 1, 1, 0}, {2, 20, 9, 40, 72, 1, 1, RELU | RESIDUAL}, {1, 6, 6, 12, 10, 1, 1, UP}, {2, 9, 7, 16, 16, 3, 2, BARE}, {1, 8, 8, 20, 24, 3, 2, RELU},
        {2, 5, 5, 10, 7, 3, 1, PAST | RELU | RESIDUAL}, {1, 3, 2, 256, 256, 3, 1, RELU}, {1, 12, 8, 512, 256, 3, 1, PAST | RELU}, {4, 60, 104, 16, 64, 3, 1, RELU}, {2, 35, 13, 72, 3, 3, 1, 0}, {1, 33, 9, 8, 2, 3, 1, RELU | BARE},
        {3, 70, 21, 128, 1, 3, 1, 0}, {2, 64, 16, 64, 3, 3, 1, RELU}, {3, 37, 45, 64, 64, 3, 1, RELU | RESIDUAL}, {2, 19, 33, 64, 64, 3, 1, BARE}, {4, 17, 40, 128, 64, 3, 1, PAST | RELU | RESIDUAL},
        /* many tiles a CTA */ {6, 128, 208, 64, 64, 3, 1, RELU | RESIDUAL}, {5, 100, 120, 128, 64, 3, 1, PAST | RELU}, {6, 72, 208, 64, 64, 3, 1, UP | RELU},
        /* the residual kept by each kernel */ {3, 37, 45, 64, 64, 3, 1, RELU | RESIDUAL | KEEP}, {2, 21, 9, 48, 40, 3, 1, RESIDUAL | KEEP}, {2, 4, 4, 20, 24, 3, 2, RESIDUAL | KEEP},
        /* conv_ring.cuh */ {2, 25, 20, 128, 128, 3, 1, RELU | RESIDUAL | KEEP}, {1, 21, 17, 256, 256, 3, 1, RELU | RESIDUAL | KEEP}, {3, 23, 7, 256, 128, 3, 1, PAST | RELU}, {2, 9, 11, 64, 256, 3, 1, BARE},
        {2, 11, 19, 128, 128, 3, 1, UP | RELU}, {2, 25, 9, 64, 256, 3, 1, UP | PAIR}, {2, 49, 9, 128, 64, 3, 1, RELU | RESIDUAL | KEEP}, {2, 50, 7, 128, 192, 3, 1, RELU}, {3, 41, 40, 256, 256, 3, 1, RELU | RESIDUAL | KEEP},
        {2, 50, 23, 512, 256, 3, 1, PAST | RELU}, {4, 99, 33, 128, 128, 3, 1, RELU | RESIDUAL | KEEP}, {4, 50, 33, 128, 256, 3, 1, UP | PAIR},
        /* its tiles of 64 channels: one row and one pixel, doubled, one source's channels in several stages, frames dealt out; what it refuses */
        {1, 1, 9, 64, 64, 3, 1, RELU | RESIDUAL | KEEP}, {1, 1, 1, 64, 64, 3, 1, UP}, {2, 1, 1, 64, 128, 3, 1, UP | PAIR}, {2, 49, 9, 192, 64, 3, 1, UP | RELU}, {3, 51, 17, 64, 192, 3, 1, TRIPLE | RELU},
        {2, 26, 9, 64, 128, 3, 1, PAIR}, {1, 97, 25, 64, 64, 3, 1, UP}, {2, 9, 7, 64, 64, 3, 1, UP | RESIDUAL}, {2, 5, 9, 64, 64, 3, 1, PAIR}, {2, 5, 9, 64, 64, 3, 1, UP | PAIR},
        {2, 40, 50, 64, 128, 3, 1, UP | PAIR | BARE}, {3, 9, 13, 128, 128, 3, 1, UP | PAIR | RELU}, {2, 5, 6, 24, 6, 3, 1, PAIR}, {1, 11, 30, 64, 192, 3, 1, UP | TRIPLE}, {2, 7, 9, 64, 80, 3, 1, PAIR}};
    struct sc_cuda *card = (struct sc_cuda *)cuda;
    const int sms = card->sm_count;
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        const int *s = shapes[i], n = s[0], h = s[1], w = s[2], in = s[3], out = s[4], flags = s[7], up = flags & UP ? 2 : 1, ch = flags & PAST ? in / 2 : in;
        const int oh = (h * up - 1) / s[6] + 1, ow = (w * up - 1) / s[6] + 1;
        if (small && (double)n * h * w * in * out > 3.5e7) continue;
        filters f = make_filters(out, in, s[5], s[6], flags & PAST, !(flags & BARE));
        const size_t count = (size_t)n * (size_t)(oh * ow * out);
        buffer x = input((size_t)n * (size_t)(h * w * ch), act, 1), past = input((size_t)(h * w * ch), act, 1), residual = input(count, act, 1), y = output(count, act), keep = output(count / (size_t)n, act);
        sc_conv_args t = {.w = f.twin, .x = x.host, .past = flags & PAST ? past.host : NULL, .residual = flags & RESIDUAL ? residual.host : NULL, .out = y.host,
                          .keep = flags & KEEP ? keep.host : NULL, .n = n, .h = h, .w_px = w, .relu = flags & RELU, .upsample = flags & UP, .s = flags & PAIR ? 2 : flags & TRIPLE ? 3 : 0}, c = t;
        c.w = f.cuda, c.x = x.dev, c.out = y.dev;
        if (t.past) c.past = past.dev;
        if (t.residual) c.residual = residual.dev;
        if (t.keep) c.keep = keep.dev;
        if (small) card->sm_count = 3; /* at least a CTA for each of three groups */
        BOTH(conv, &t, &c);
        card->sm_count = sms;
        char what[96];
        snprintf(what, sizeof what, "conv %d x %d x %d, %d to %d, size %d stride %d flags %d", n, h, w, in, out, s[5], s[6], flags);
        same(what, &y, tolerance_of(act));
        if (t.keep) equal(what, &keep);
        else drop(&keep);
        drop(&x), drop(&past), drop(&residual);
        drop_filters(&f);
    }
}

static void test_grow_and_pool(void) {
    static const int shapes[][6] = {/* n h w c other s */ {1, 1, 1, 1, 1, 1}, {3, 20, 9, 64, 64, 2}, {2, 5, 7, 96, 96, 2}, {2, 6, 3, 32, 32, 1}, {1, 4, 5, 12, 20, 2}, {2, 3, 3, 5, 7, 3}, {1, 40, 8, 256, 256, 1}};
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        const int *p = shapes[i], n = p[0], h = p[1], w = p[2], c = p[3], other = p[4], s = p[5];
        const size_t px = (size_t)n * (size_t)(h * w);
        filters grow = make_filters(s * other, c, 1, 1, false, false), pool = make_filters(other, s * c, 1, 1, false, true);
        buffer x = input(px * (size_t)c, act, 1), out = output(px * (size_t)(s * other), act), y = input(px * (size_t)(s * c), act, 1), less = output(px * (size_t)other, act);
        sc_grow_args t = {.w = grow.twin, .x = x.host, .out = out.host, .n = n, .h = h, .w_px = w, .s = s}, d = t;
        d.w = grow.cuda, d.x = x.dev, d.out = out.dev;
        BOTH(grow, &t, &d);
        same("grow", &out, tolerance_of(act));
        t.w = pool.twin, t.x = y.host, t.out = less.host;
        d.w = pool.cuda, d.x = y.dev, d.out = less.dev;
        BOTH(pool, &t, &d);
        same("pool", &less, tolerance_of(act));
        drop(&x), drop(&y);
        drop_filters(&grow), drop_filters(&pool);
    }
}

static void test_latent_and_pixels(void) {
    for (int ch = 1; ch < 20; ch += 15)
        for (int w = 1; w < 10; w += 8) {
            buffer z = input((size_t)(ch * 3 * 5 * w), SC_F32, 4), out = output((size_t)(ch * 3 * 5 * w), act);
            sc_latent_in_args t = {.latent = z.host, .out = out.host, .ch = ch, .frames = 3, .h = 5, .w = w}, c = t;
            c.latent = z.dev, c.out = out.dev;
            BOTH(latent_in, &t, &c);
            same("latent_in", &out, tolerance_of(act));
            drop(&z);
        }
    static const int shapes[][4] = {/* n h w p */ {1, 2, 2, 1}, {2, 5, 3, 2}, {3, 6, 10, 1}, {1, 1, 1, 4}, {1, 3, 5, 1}, {1, 7, 3, 3}};
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
        for (int clamp = 0; clamp < 2; clamp++) {
            const int *s = shapes[i], H = s[1] * s[3], W = s[2] * s[3];
            const size_t count = (size_t)s[0] * (size_t)(H * W) * 3;
            const bool even = H % 2 == 0 && W % 2 == 0;
            buffer x = input(count, act, 0.7f), rgb = output(count, SC_F32), yuv = output(count / 8 + 1, SC_F32); /* count / 2 bytes */
            sc_pixels_args t = {.x = x.host, .rgb = rgb.host, .i420 = even ? (uint8_t *)yuv.host : NULL, .n = s[0], .h = s[1], .w = s[2], .p = s[3], .clamp = clamp, .centred = i % 2}, c = t;
            c.x = x.dev, c.rgb = rgb.dev, c.i420 = even ? yuv.dev : NULL;
            BOTH(pixels, &t, &c);
            equal("pixels: rgb", &rgb);
            equal("pixels: i420", &yuv);
            drop(&x);
        }
}

/* ---- memory ------------------------------------------------------------------------------------------------------------- */

static void test_copies(void) {
    buffer a = input(1021, SC_F32, 1), b = output(1021, SC_F32);
    memcpy(b.host, a.host, 1021 * 4);
    MUST(cuda->ops->copy(cuda, b.dev, a.dev, 1021 * 4, &check_err));
    equal("copy", &b);
    unsigned char *zero, got[300];
    bool clean = true;
    MUST(cuda->ops->alloc(cuda, (void **)&zero, 300, &check_err));
    MUST(cuda->ops->download(cuda, got, zero, 300, &check_err));
    for (int i = 0; i < 300; i++) clean = clean && !got[i];
    verdict(clean && ((uintptr_t)zero & 63) == 0, "alloc", "gives zeroes on 64 bytes");
    cuda->ops->release(cuda, zero);
    cuda->ops->release(cuda, NULL);
    void *much = NULL;
    verdict(cuda->ops->alloc(cuda, &much, (size_t)1 << 46, &check_err) == SC_ENOMEM && !much, "alloc", "of too much is SC_ENOMEM");
    drop(&a);
}

int main(int argc, char **argv) {
    static const struct { const char *name; void (*run)(void); } tests[] = {
        {"memory", test_copies}, {"linear", test_linear}, {"large gelu", test_large_gelu}, {"gather", test_gather}, {"norms", test_norms}, {"rms_norm in place", test_rms_norm_in_place},
        {"elementwise", test_elementwise}, {"patches", test_patches}, {"sampler", test_sampler}, {"qkv", test_qkv}, {"attention", test_attention}, {"memory of no numbers", test_memory_of_no_numbers},
        {"cross attention", test_cross_attention}, {"folds", test_folds}, {"queries", test_queries}, {"text attention", test_text_attention}, {"convolution", test_conv}, {"grow, pool", test_grow_and_pool},
        {"latent, pixels", test_latent_and_pixels}};
    const char *paths[] = {"wgmma", "mma"}, *types[] = {"f16", "bf16"};
    bool named[sizeof tests / sizeof *tests] = {false}, any_test = false;
    if (argc == 2 && !strcmp(argv[1], "names")) {
        for (size_t k = 0; k < sizeof tests / sizeof *tests; k++) puts(tests[k].name);
        return 0;
    }
    for (int i = 1; i < argc; i++) {
        bool known = !strcmp(argv[i], "small");
        small = small || known;
        for (int k = 0; k < 2; k++) known = known || !strcmp(argv[i], paths[k]) || !strcmp(argv[i], types[k]);
        for (size_t k = 0; k < sizeof tests / sizeof *tests; k++)
            if (!strcmp(argv[i], tests[k].name)) any_test = named[k] = known = true;
        if (known) continue;
        fprintf(stderr, "test_cuda_ops: \"%s\" is no type, path or test\n", argv[i]);
        return 2;
    }
    MUST(sc_twin_open(&twin, &check_err));
    for (int p = 0; p < 2; p++)
        for (int t = 0; t < 2; t++) {
            bool wanted[2] = {false, false}, any[2] = {false, false};
            for (int i = 1; i < argc; i++)
                for (int k = 0; k < 2; k++) {
                    if (!strcmp(argv[i], paths[k])) any[0] = true, wanted[0] = wanted[0] || k == p;
                    if (!strcmp(argv[i], types[k])) any[1] = true, wanted[1] = wanted[1] || k == t;
                }
            if ((any[0] && !wanted[0]) || (any[1] && !wanted[1])) continue;
            act = t ? SC_BF16 : SC_F16;
            setenv("SC_CUDA_PATH", paths[p], 1);
            if (sc_device_open(&cuda, "cuda", 0, act, &check_err)) {
                printf("SKIPPED: %s\n", check_err.text);
                return 77;
            }
            for (size_t i = 0; i < sizeof tests / sizeof *tests; i++) {
                char where[64];
                const int before = failures, had = checks;
                if (any_test && !named[i]) continue;
                snprintf(where, sizeof where, "%s %s", types[t], paths[p]);
                check_where = where;
                tests[i].run();
                printf("%-5s %-12s %-20s %d checks\n", failures == before ? "ok" : "FAIL", where, tests[i].name, checks - had);
                fflush(stdout);
            }
            sc_device_close(cuda);
        }
    sc_device_close(twin);
    printf("%d checks, %d failed\n", checks, failures);
    return failures != 0;
}
