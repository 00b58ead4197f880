/* test_import_model.c - merging LoRAs, what config.json says, what is refused and how, and what a checkpoint is said to be. */
#include "import_case.h"
#include <math.h>

static void a_lora_is_merged_into_the_weights(void **state) {
    enum { RANK = 4 };
    static const struct { const char *what, *target, *spelt, *name; double alpha; } cases[] = {
        {"PEFT", "blocks.1.ffn.0", "blocks.1.ffn.0", "generator_lora\1base_model.model.model.%s.lora_%c.weight", 0},
        {"PEFT, adapter named", "blocks.0.self_attn.q", "blocks.0.self_attn.q", "base_model.model.%s.lora_%c.default.weight", 0},
        {"Comfy, alpha in the file", "blocks.1.cross_attn.o", "blocks.1.cross_attn.o", "diffusion_model.%s.lora_%c.weight", 2},
        {"diffusers names", "blocks.0.ffn.2", "blocks.0.ffn.net.2", "transformer.%s.lora_%c.weight", 0},
    };
    (void)state;
    mkdir(at("out"), 0755);
    for (size_t c = 0; c < sizeof cases / sizeof *cases; c++) {
        mk_file f = {0};
        const mk_tensor *w = NULL;
        char weight[128], name[256];
        snprintf(weight, sizeof weight, "%s.weight", cases[c].target);
        for (int i = 0; i < dit.n; i++) if (!strcmp(dit.t[i].wan, weight)) w = &dit.t[i];
        assert_non_null(w);
        const mk_tensor a = {.wan = "A", .rank = 2, .shape = {RANK, w->shape[1]}}, b = {.wan = "B", .rank = 2, .shape = {w->shape[0], RANK}};
        for (int half = 0; half < 2; half++) {
            snprintf(name, sizeof name, cases[c].name, cases[c].spelt, half ? 'B' : 'A');
            if (cases[c].alpha > 0) { /* the other pair of words */
                char *at_ = strstr(name, half ? "lora_B" : "lora_A");
                char rest[64];
                snprintf(rest, sizeof rest, "%s", at_ + 6);
                sprintf(at_, "%s%s", half ? "lora_up" : "lora_down", rest);
            }
            mk_tensor_item(&f, name, half ? &b : &a, SC_F32, 0);
        }
        if (cases[c].alpha > 0) {
            snprintf(name, sizeof name, "diffusion_model.%s.alpha", cases[c].target);
            mk_bytes(&mk_new(&f, name, SC_F32, 0, NULL)->data, &(float){(float)cases[c].alpha}, 4);
        }
        mk_pt(at("lora%zu/lora.pt", c), &f, 0);
        mk_free(&f);
        print_message("           %s\n", cases[c].what);
        const char *sources[] = {at("base/dit.safetensors"), at("lora%zu/lora.pt", c), at("base"), NULL}, *out = at("out/lora%zu", c);
        sc_import_options o = plain(out, sources);
        o.dtype = SC_F32;
        o.lora_scale = 0.5;
        import(&o);
        assert_non_null(strstr(said, "LoRA merged"));
        sc_tensors *set;
        const char *path = at("out/lora%zu/transformer.safetensors", c);
        assert_int_equal(sc_tensors_open(&set, &path, 1, NULL), SC_OK);
        for (int i = 0; i < dit.n; i++) {
            float *v = sc_tensor_to_f32(sc_tensors_find(set, dit.t[i].wan));
            for (int64_t k = 0; k < mk_count(&dit.t[i]); k++) {
                double want = mk_value(mk_hash(dit.t[i].wan), k) / 16.0;
                if (&dit.t[i] == w) {
                    double sum = 0;
                    const int64_t row = k / w->shape[1], col = k % w->shape[1];
                    for (int r = 0; r < RANK; r++) sum += mk_value(mk_hash("B"), row * RANK + r) / 16.0 * mk_value(mk_hash("A"), r * w->shape[1] + col) / 16.0;
                    want += 0.5 * sum * (cases[c].alpha > 0 ? cases[c].alpha / RANK : 1.0);
                }
                if (fabs(v[k] - want) > 1e-6) fail_msg("%s[%lld] is %g, not %g", dit.t[i].wan, (long long)k, (double)v[k], want);
            }
            free(v);
        }
        sc_tensors_close(set);
    }
    /* One that does not fit the weight, one of half a pair, one of a layer that is not there. */
    static const struct { const char *what, *target; int rows, cols; bool both; const char *word; } bad[] = {
        {"wrong width", "blocks.0.ffn.0", 64, 200, true, "LoRA of blocks.0.ffn.0.weight is 64 x 200, the weight 64 x 256"},
        {"half a pair", "blocks.0.ffn.0", 64, 256, false, "one half of its LoRA"},
        {"a layer too many", "blocks.7.ffn.0", 64, 256, true, "only 0 of 1 weights"},
    };
    for (size_t c = 0; c < sizeof bad / sizeof *bad; c++) {
        mk_file f = {0};
        char name[256];
        const mk_tensor a = {.wan = "A", .rank = 2, .shape = {RANK, bad[c].cols}}, b = {.wan = "B", .rank = 2, .shape = {bad[c].rows, RANK}};
        snprintf(name, sizeof name, "%s.lora_A.weight", bad[c].target);
        mk_tensor_item(&f, name, &a, SC_F32, 0);
        snprintf(name, sizeof name, "%s.lora_B.weight", bad[c].target);
        if (bad[c].both) mk_tensor_item(&f, name, &b, SC_F32, 0);
        else {
            snprintf(name, sizeof name, "blocks.1.ffn.0.lora_A.weight");
            mk_tensor_item(&f, name, &a, SC_F32, 0);
        }
        mk_safetensors(at("badlora%zu.safetensors", c), &f, 0, f.n);
        mk_free(&f);
        const char *sources[] = {at("badlora%zu.safetensors", c), at("base"), NULL};
        sc_import_options o = plain(at("out/badlora"), sources);
        refuse(&o, bad[c].word);
    }
}

static void shards_are_cut_and_types_converted(void **state) {
    const char *sources[] = {at("base"), NULL};
    sc_import_options o = plain(at("out/sharded"), sources);
    (void)state;
    mkdir(at("out"), 0755);
    o.shard_bytes = 200000;
    o.dtype = SC_F16;
    o.decoder_as_dtype = true;
    import(&o);
    expect(o.out, "transformer", &dit, SC_F16);
    expect(o.out, "text_encoder", &t5, SC_F16);
    expect(o.out, "decoder", &tae, SC_F16);
    assert_int_equal(access(at("out/sharded/transformer.safetensors"), F_OK), -1);
    check_manifest(o.out);
    o.shard_bytes = 1000;
    o.out = at("out/too_many");
    refuse(&o, "more than 32 files");
}

static char *config_of(const char *model) {
    static char text[8192];
    char path[1024];
    snprintf(path, sizeof path, "%s/config.json", model);
    FILE *f = fopen(path, "r");
    assert_non_null(f);
    text[fread(text, 1, sizeof text - 1, f)] = 0;
    fclose(f);
    return text;
}

static void the_config_says_how_the_authors_run_it(void **state) {
    mk_file f = {0};
    static const struct { const char *file, *word1, *word2; } cases[] = {
        {"self_forcing_dmd", "\"window_frames\": 21", "\"shift\": 5,"},
        {"longlive_base", "\"window_frames\": 12,\n    \"sink_frames\": 3", "1000, 750, 500, 250"},
        {"CausVid", "\"steps\": [1000, 280, 120]", "\"shift\": 8,"},
        {"krea-realtime-video-14b", "\"window_frames\": 6", "\"kind\": \"window\""},
        {"sparse_forcing", "\"kind\": \"pbsa\"", "\"window_chunks\": 3"},
    };
    (void)state;
    mkdir(at("out"), 0755);
    put_all(&f, &dit, "", 0, SC_BF16, 0);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        mk_safetensors(at("p/%s.safetensors", cases[i].file), &f, 0, f.n);
        const char *sources[] = {at("p/%s.safetensors", cases[i].file), at("base"), NULL};
        sc_import_options o = plain(at("out/preset%zu", i), sources);
        import(&o);
        const char *text = config_of(o.out);
        if (!strstr(text, cases[i].word1) || !strstr(text, cases[i].word2)) fail_msg("%s: %s", cases[i].file, text);
    }
    /* At the published size a block is 3 x 5 x 4 tokens and as many blocks stay as a chunk has: 78. */
    const char *sources[] = {at("p/self_forcing_dmd.safetensors"), at("base"), NULL};
    sc_import_options o = plain(at("out/own"), sources);
    o.width = o.height = 0;
    o.memory = "pbsa";
    o.shift = 3.5;
    o.steps[0] = 900, o.steps[1] = 100, o.step_count = 2;
    o.fps = 24;
    import(&o);
    char *text = config_of(o.out);
    static const char *const words[] = {"\"name\": \"own\"", "\"latent_hw\": [60, 104]", "\"tile\": [3, 5, 4]", "\"persistent_blocks\": 78", "\"window_chunks\": 3",
        "\"shift\": 3.5", "\"steps\": [900, 100]", "\"fps\": 24", "\"text_len\": 512", "\"heads\": 2", "\"patch\": [1, 2, 2]"};
    for (size_t i = 0; i < sizeof words / sizeof *words; i++) if (!strstr(text, words[i])) fail_msg("no %s in %s", words[i], text);
    /* heads from the authors' config.json beside the file */
    mk_buf json = {0};
    mk_text(&json, "{\"num_heads\": 4, \"text_len\": 40, \"model_type\": \"t2v\"}");
    mk_save(at("p/config.json"), &json);
    free(json.b);
    o.out = at("out/heads");
    import(&o);
    text = config_of(o.out);
    assert_non_null(strstr(text, "\"heads\": 4"));
    assert_non_null(strstr(text, "\"text_len\": 40"));
    unlink(at("p/config.json"));
    mk_free(&f);
}

static void what_is_missing_is_said_and_nothing_is_left_behind(void **state) {
    mk_file f = {0};
    const char *whole[] = {at("base"), NULL};
    struct dirent *e;
    (void)state;
    mkdir(at("out"), 0755);

    const char *no_text[] = {at("base/dit.safetensors"), at("base/tae.pth"), NULL};
    sc_import_options o = plain(at("out/refused"), no_text);
    refuse(&o, "no text encoder among the sources");
    const char *no_decoder[] = {at("base/dit.safetensors"), at("base/t5.pth"), NULL};
    o = plain(at("out/refused"), no_decoder);
    refuse(&o, "no decoder among the sources");
    const char *no_dit[] = {at("base/tae.pth"), at("base/t5.pth"), NULL};
    o = plain(at("out/refused"), no_dit);
    refuse(&o, "no transformer among the sources");
    const char *no_words[] = {at("base/dit.safetensors"), at("base/tae.pth"), at("base/t5.pth"), NULL};
    o = plain(at("out/refused"), no_words);
    refuse(&o, "no spiece.model");
    o = plain(at("out/refused"), whole);
    o.preset = "no-such";
    refuse(&o, "--preset no-such");
    o = plain(at("out/refused"), whole);
    o.width = 100;
    refuse(&o, "--size 100x64");
    o = plain(at("out/no name!"), whole);
    refuse(&o, "name");
    o = plain(at("out/refused"), whole);
    o.heads = 3;
    refuse(&o, "3 heads");
    o = plain(at("out/refused"), whole);
    o.weights = "generator";
    refuse(&o, "no top-level key generator");
    o = plain(at("out/nowhere/model"), whole);
    refuse(&o, "cannot make it");

    /* One name misspelt, one left out, one too many, one of another shape, one of integers. */
    static const struct { const char *what, *victim; int fault; const char *word1, *word2; } cases[] = {
        {"misspelt", "blocks.1.self_attn.norm_q.weight", 0, "1 of 69 tensors are missing", "blocks.1.self_attn.norm_q.weight (nearest: blocks.1.self_attn.norn_q.weight)"},
        {"left out", "blocks.0.norm3.bias", 1, "1 of 69 tensors are missing", "blocks.0.norm3.bias"},
        {"too many", "blocks.0.norm3.bias", 2, "1 tensors that it should not have", "blocks.0.norm4.bias (nearest: blocks.0.norm3.bias)"},
        {"another shape", "blocks.0.norm3.bias", 3, "blocks.0.norm3.bias: shape [128], wanted [256]", "transformer"},
        {"integers", "blocks.0.norm3.bias", 4, "blocks.0.norm3.bias: type I64", "transformer"},
        {"not finite", "blocks.0.norm3.bias", 5, "blocks.0.norm3.bias: element 3 is not finite", "tensor"},
        {"twice", "blocks.0.norm3.bias", 6, "are the same tensor blocks.0.norm3.bias", "model.blocks.0.norm3.bias"},
    };
    for (size_t c = 0; c < sizeof cases / sizeof *cases; c++) {
        memset(&f, 0, sizeof f);
        for (int i = 0; i < dit.n; i++) {
            const mk_tensor *t = &dit.t[i];
            const bool victim = !strcmp(t->wan, cases[c].victim);
            char name[256];
            snprintf(name, sizeof name, "%s", t->wan);
            if (victim && cases[c].fault == 0) *(strstr(name, "norm") + 3) = 'n';
            if (victim && cases[c].fault == 1) continue;
            if (victim && cases[c].fault == 3) {
                mk_item *o2 = mk_new(&f, name, SC_F32, 1, (const int64_t[]){128});
                o2->data.b = calloc(128, 4);
                o2->data.n = 512;
                continue;
            }
            if (victim && cases[c].fault == 4) {
                mk_item *o2 = mk_new(&f, name, SC_I64, 1, (const int64_t[]){256});
                o2->data.b = calloc(256, 8);
                o2->data.n = 2048;
                continue;
            }
            mk_tensor_item(&f, name, t, SC_F32, 0);
            if (victim && cases[c].fault == 5) memcpy(f.t[f.n - 1].data.b + 12, &(uint32_t){0x7f800000}, 4);
            if (victim && cases[c].fault == 2) mk_tensor_item(&f, "blocks.0.norm4.bias", t, SC_F32, 0);
            if (victim && cases[c].fault == 6) mk_tensor_item(&f, "model.blocks.0.norm3.bias", t, SC_F32, 0);
        }
        mk_safetensors(at("bad%zu.safetensors", c), &f, 0, f.n);
        mk_free(&f);
        const char *sources[] = {at("bad%zu.safetensors", c), at("base"), NULL};
        o = plain(at("out/refused"), sources);
        refuse(&o, cases[c].word1);
        refuse(&o, cases[c].word2);
        if (cases[c].fault == 2) {
            o.allow_extra = true;
            o.out = at("out/extra");
            import(&o);
            expect(o.out, "transformer", &dit, SC_BF16);
        }
    }
    /* A value that F16 cannot hold. */
    put_all(&f, &dit, "", 0, SC_F32, 0);
    memcpy(f.t[5].data.b, &(float){70000.0f}, 4);
    mk_safetensors(at("big.safetensors"), &f, 0, f.n);
    mk_free(&f);
    const char *big[] = {at("big.safetensors"), at("base"), NULL};
    o = plain(at("out/refused"), big);
    o.dtype = SC_F16;
    refuse(&o, "F16 cannot hold");

    /* A destination that exists is left alone. */
    sc_error err = {0};
    mkdir(at("out/there"), 0755);
    o = plain(at("out/there"), whole);
    assert_int_equal(sc_import_run(&o, &err), SC_EINVAL);
    assert_non_null(strstr(err.text, "exists already"));

    DIR *d = opendir(at("out"));
    while ((e = readdir(d)))
        if (e->d_name[0] == '.' && strcmp(e->d_name, ".") && strcmp(e->d_name, "..")) fail_msg("%s is left behind", e->d_name);
    closedir(d);
}

static void damage_inside_an_archive_is_found_by_its_crc(void **state) {
    const char *sources[] = {at("crc.pt"), at("base"), NULL};
    mk_file f = {0};
    mk_buf pickle = {0}, out = {0};
    (void)state;
    mkdir(at("out"), 0755);
    put_all(&f, &dit, "generator\1model.", 0, SC_F32, 0);
    mk_pickle(&pickle, &f);
    mk_archive(&out, &f, &pickle, MK_STREAMED);
    uint8_t *place = memmem(out.b, out.n, f.t[20].data.b, f.t[20].data.n);
    assert_non_null(place);
    place[1] ^= 1;
    mk_save(at("crc.pt"), &out);
    free(pickle.b);
    free(out.b);
    mk_free(&f);
    sc_import_options o = plain(at("out/crc"), sources);
    refuse(&o, "the CRC-32 of entry archive/data/20 does not match");
}

static void identify_tells_family_and_what_is_odd(void **state) {
    sc_import_report r;
    sc_error err = {0};
    mk_file f = {0};
    (void)state;
    assert_int_equal(sc_import_identify(at("base/dit.safetensors"), &r, &err), SC_OK);
    assert_int_equal(r.family, SC_FAMILY_DIT);
    assert_string_equal(r.what, "transformer");
    assert_string_equal(r.spelling, "Wan");
    assert_string_equal(r.format, "safetensors");
    assert_int_equal(r.expected, dit.n);
    assert_int_equal(r.found, dit.n);
    assert_int_equal(r.missing_count + r.unexpected_count + r.wrong_count, 0);
    assert_int_equal(sc_import_identify(at("base/t5.pth"), &r, &err), SC_OK);
    assert_int_equal(r.family, SC_FAMILY_T5);
    assert_string_equal(r.format, "PyTorch");
    assert_int_equal(sc_import_identify(at("base/tae.pth"), &r, &err), SC_OK);
    assert_int_equal(r.family, SC_FAMILY_TAE);
    put_all(&f, &vae, "", 1, SC_F16, 0);
    for (int i = 0; i < f.n; i++)
        if (!strcmp(f.t[i].name, "encoder.down_blocks.0.norm1.gamma")) snprintf(f.t[i].name, sizeof f.t[i].name, "encoder.down_blocks.0.nrm1.gamma");
    mk_safetensors(at("odd.safetensors"), &f, 0, f.n);
    mk_free(&f);
    assert_int_equal(sc_import_identify(at("odd.safetensors"), &r, &err), SC_OK);
    assert_int_equal(r.family, SC_FAMILY_VAE);
    assert_string_equal(r.spelling, "diffusers");
    assert_int_equal(r.found, 193);
    assert_int_equal(r.missing_count, 1);
    assert_int_equal(r.unexpected_count, 1);
    assert_non_null(strstr(r.unexpected[0], "encoder.down_blocks.0.nrm1.gamma (nearest: encoder.down_blocks."));
    assert_int_equal(sc_import_identify(at("base"), &r, &err), SC_EINVAL);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_lora_is_merged_into_the_weights),
        cmocka_unit_test(shards_are_cut_and_types_converted),
        cmocka_unit_test(the_config_says_how_the_authors_run_it),
        cmocka_unit_test(what_is_missing_is_said_and_nothing_is_left_behind),
        cmocka_unit_test(damage_inside_an_archive_is_found_by_its_crc),
        cmocka_unit_test(identify_tells_family_and_what_is_odd),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
