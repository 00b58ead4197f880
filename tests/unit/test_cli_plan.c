/* test_cli_plan.c - what is told before loading is what the engine takes once it has loaded. */
#include "../../cli/bench_count.c"
#include "../../cli/plan.c"
#include "import_case.h"
#include <math.h>

static void compare(const char *dir_, int sessions) {
    sc_plan_model *m = calloc(1, sizeof *m);
    sc_engine *e;
    sc_model_info info;
    sc_plan p;
    sc_error err = {0};

    if (sc_plan_open(m, dir_, &err) || sc_plan_make(&p, m, true, sessions, &err)) fail_msg("%s", err.text);
    if (sc_engine_open(&e, &(sc_engine_options){.model_dir = dir_, .device = "cpu", .threads = 1, .max_sessions = sessions}, &err)) fail_msg("%s", err.text);
    sc_engine_describe(e, &info);
    assert_true(fabs(p.work - (double)info.work_bytes) < 1);
    if (m->config.decoder.kind == SC_DECODER_TAEHV) {
        assert_true(fabs(p.session - (double)info.session_bytes) < 1);
        assert_true(fabs(p.decoder - sc_count_decode(e).decoder) < 1);
    } else { /* a Wan VAE's caches are counted where they are published */
        assert_true(fabs(p.session - (double)info.session_bytes) < 0.02 * p.session);
        assert_true(p.decoder > 0);
    }
    assert_true(fabs(p.pictures - 2.0 * info.frames_chunk * (double)info.frame_bytes) < 1);
    double most = 0; /* of the prompts of all lengths */
    for (int n = 1; n <= m->config.dit.text_len; n++) {
        sc_cross cross;
        if (sc_cross_plan(e->dit, n, true, &cross, &err)) fail_msg("%s", err.text);
        most = (double)cross.bytes > most ? (double)cross.bytes : most;
        sc_cross_free(e->dit, &cross);
    }
    assert_true(fabs(p.prompt - most) < 1);
    assert_int_equal(p.frames, info.frames_chunk);
    assert_true(p.weights >= 4.0 * (double)info.parameters);
    sc_engine_close(e);
    sc_plan_close(m);
    free(m);
}

static void the_plan_is_what_the_engine_takes(void **state) {
    (void)state;
    compare(SC_SOURCE_DIR "/models/pocket", 1);
    compare(SC_SOURCE_DIR "/models/pocket", 3);
}

static void windows_and_both_decoders_are_planned(void **state) {
    mk_file f = {0};
    (void)state;
    mkdir(at("out"), 0755);
    put_all(&f, &vae, "", 0, SC_F32, 0);
    mk_pt(at("v/vae.pth"), &f, 0);
    mk_free(&f);
    for (int i = 0; i < 4; i++) {
        const char *sources[] = {i & 1 ? at("v/vae.pth") : at("base/tae.pth"), at("base"), NULL};
        sc_import_options o = plain(at("out/plan%d", i), sources);
        o.memory = i & 2 ? "pbsa" : "window";
        o.window = 6;
        import(&o);
        compare(o.out, 2);
    }
}

/* Sizes of the published model without its gigabytes: the files have holes. Known figures of the 1.3B model at 832x480. */
static void the_published_sizes_give_the_known_figures(void **state) {
    static mk_list l;
    sc_plan_model *m = calloc(1, sizeof *m);
    sc_plan p;
    sc_error err = {0};
    (void)state;
    mkdir(at("big"), 0755);
    for (int part = 0; part < 3; part++) {
        mk_buf head = {0}, out = {0};
        char line[600];
        uint64_t place = 0;
        if (part == 0) mk_dit(&l, 1536, 8960, 30, 4096, 256, 16);
        else if (part == 1) mk_t5(&l, 256384, 4096, 4096, 10240, 64, 24);
        else mk_vae(&l, 96, 16);
        mk_text(&head, "{");
        for (int i = 0; i < l.n; i++) {
            int n = snprintf(line, sizeof line, "%s\"%s\":{\"dtype\":\"BF16\",\"shape\":[", i ? "," : "", l.t[i].wan);
            for (int k = 0; k < l.t[i].rank; k++) n += snprintf(line + n, sizeof line - (size_t)n, "%s%lld", k ? "," : "", (long long)l.t[i].shape[k]);
            snprintf(line + n, sizeof line - (size_t)n, "],\"data_offsets\":[%llu,%llu]}", (unsigned long long)place, (unsigned long long)(place + 2 * (uint64_t)mk_count(&l.t[i])));
            place += 2 * (uint64_t)mk_count(&l.t[i]);
            mk_text(&head, line);
        }
        mk_text(&head, "}");
        mk_int(&out, head.n, 8);
        mk_bytes(&out, head.b, head.n);
        const char *path = at("big/%s.safetensors", part == 0 ? "transformer" : part == 1 ? "text_encoder" : "decoder");
        mk_save(path, &out);
        assert_int_equal(truncate(path, (off_t)(out.n + place)), 0);
        free(head.b);
        free(out.b);
    }
    static const char config[] =
        "{\"format\":\"sparsecast-1\",\"name\":\"big\",\"fps\":16,\"chunk_frames\":3,\"latent_hw\":[60,104],"
        "\"dit\":{\"dim\":1536,\"heads\":12,\"head_dim\":128,\"ffn_dim\":8960,\"layers\":30,\"text_dim\":4096,\"text_len\":512,\"freq_dim\":256,\"in_ch\":16,"
        "\"out_ch\":16,\"patch\":[1,2,2],\"eps\":1e-6,\"files\":[\"transformer.safetensors\"]},"
        "\"t5\":{\"vocab\":256384,\"dim\":4096,\"dim_attn\":4096,\"dim_ffn\":10240,\"heads\":64,\"layers\":24,\"buckets\":32,\"max_dist\":128,\"cleaning\":\"wan\","
        "\"files\":[\"text_encoder.safetensors\"],\"tokenizer\":\"spiece.model\"},"
        "\"decoder\":{\"kind\":\"wan_vae\",\"z\":16,\"patch\":1,\"file\":\"decoder.safetensors\"},"
        "\"memory\":{\"kind\":\"pbsa\",\"tile\":[3,5,4],\"window_chunks\":3,\"persistent_blocks\":78,\"keep_ratio\":0.25,\"max_distance\":18},"
        "\"sampler\":{\"shift\":5.0,\"steps\":[1000,750,500,250],\"sigma\":\"table\"}}";
    mk_buf c = {0};
    mk_text(&c, config);
    mk_save(at("big/config.json"), &c);
    free(c.b);
    if (sc_plan_open(m, at("big"), &err) || sc_plan_make(&p, m, false, 1, &err)) fail_msg("%s", err.text);
    /* 30 layers x 12 heads x (3 x 78 + 78) pages of 60 tokens x 128 x 2 bytes, twice: 3.45 GB; the VAE's caches about 1.9 GB. */
    const double pages = 30.0 * 12 * 312 * 2 * 60 * 128 * 2;
    assert_true(p.session > pages + 1.7e9 && p.session < pages + 2.2e9);
    /* A chunk of three latents in one go: three buffers of 12 pictures of 96 channels. */
    const double buffers = 3.0 * 12 * 480 * 832 * 96 * 2;
    assert_true(p.work > buffers && p.work < buffers + 0.5e9);
    /* Products of a pass: 2 x 4680 tokens x 30 layers x (6 x 1536^2 + 2 x 1536 x 8960), and the patches. */
    const double products = 5 * 2.0 * 4680 * (30 * (6.0 * 1536 * 1536 + 2.0 * 1536 * 8960) + 4.0 * 1536 * 32);
    assert_true(fabs(p.linear - products) < 1e-3 * products);
    /* 16-bit weights of transformer, text encoder and the decoder's half of the VAE, vectors in f32, and a triangle of dim for the queries of each layer. */
    const double parameters = 1418996800.0 + 5680910336.0 + 73295331 + 30.0 * 1536 * 1536;
    assert_true(p.weights > 2.0 * parameters && p.weights < 1.01 * 2.0 * parameters);
    sc_plan_close(m);
    free(m);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_plan_is_what_the_engine_takes),
        cmocka_unit_test(windows_and_both_decoders_are_planned),
        cmocka_unit_test(the_published_sizes_give_the_known_figures),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
