/* test_import_layouts.c - one tiny model in every published layout and naming, imported, comes out the same to the last bit. */
#include "import_case.h"
#include "engine/engine.h"

static int made;

/* `source` is the part under test; base gives the others. */
static void import_part(const char *what, const char *source, const char *stem, const mk_list *l, sc_dtype type) {
    const char *sources[] = {source, at("base"), NULL}, *out = at("out/%d", made++);
    sc_import_options o = plain(out, sources);
    print_message("           %s\n", what);
    import(&o);
    expect(out, stem, l, type);
    check_manifest(out);
}

#define TRANSFORMER(what, source) import_part(what, source, "transformer", &dit, SC_BF16)
#define TEXT(what, source) import_part(what, source, "text_encoder", &t5, SC_BF16)

static void every_layout_of_the_transformer_gives_the_same_tensors(void **state) {
    mk_file f = {0};
    const int third = dit.n / 3;
    char name[256];
    (void)state;
    mkdir(at("out"), 0755);

    put_all(&f, &dit, "", 0, SC_F32, 0);
    mk_safetensors(at("a/diffusion_pytorch_model.safetensors"), &f, 0, f.n);
    TRANSFORMER("Wan, F32 safetensors", at("a"));
    mk_pt(at("a1/model.pth"), &f, MK_STREAMED | MK_ZIP64);
    TRANSFORMER("Wan, bare dictionary in a ZIP64 .pth", at("a1/model.pth"));
    mk_free(&f);

    put_all(&f, &dit, "", 1, SC_BF16, 0);
    mk_safetensors(at("b/transformer/diffusion_pytorch_model-00001-of-00003.safetensors"), &f, 0, third);
    mk_safetensors(at("b/transformer/diffusion_pytorch_model-00002-of-00003.safetensors"), &f, third, 2 * third);
    mk_safetensors(at("b/transformer/diffusion_pytorch_model-00003-of-00003.safetensors"), &f, 2 * third, f.n);
    TRANSFORMER("diffusers, three shards", at("b"));
    TRANSFORMER("diffusers, by its second shard", at("b/transformer/diffusion_pytorch_model-00002-of-00003.safetensors"));
    mk_free(&f);

    put_all(&f, &dit, "", 2, SC_F32, 0);
    mk_safetensors(at("c/model.safetensors"), &f, 0, f.n);
    TRANSFORMER("FastVideo", at("c/model.safetensors"));
    mk_free(&f);

    /* Self-Forcing: generator is another model, generator_ema the one to take; a critic and numbers beside them. */
    for (int i = 0; i < dit.n; i++) {
        mk_tensor other = dit.t[i];
        snprintf(name, sizeof name, "generator\1model.%s", dit.t[i].wan);
        snprintf(other.wan, sizeof other.wan, "other.%s", dit.t[i].wan);
        for (char *p = other.wan; *p; p++) if (*p == 'q') *p = 'Q';
        mk_tensor_item(&f, name, &other, SC_F32, 0);
    }
    put_all(&f, &dit, "generator_ema\1model.", 0, SC_F32, 0);
    put_all(&f, &dit, "critic\1model.", 0, SC_F32, 0);
    mk_pt(at("d/self_forcing_dmd.pt"), &f, MK_STREAMED);
    TRANSFORMER("Self-Forcing .pt, generator_ema", at("d/self_forcing_dmd.pt"));
    mk_free(&f);

    put_all(&f, &dit, "generator\1model._fsdp_wrapped_module.", 0, SC_BF16, 0);
    mk_pt(at("e/model.pt"), &f, 0);
    TRANSFORMER("CausVid .pt, generator wrapped by FSDP", at("e/model.pt"));
    mk_free(&f);
    for (int i = 0; i < dit.n; i++) { /* FSDP wraps every block as well */
        const char *dot = strncmp(dit.t[i].wan, "blocks.", 7) ? NULL : strchr(dit.t[i].wan + 7, '.');
        if (dot) snprintf(name, sizeof name, "generator\1model._fsdp_wrapped_module.%.*s._fsdp_wrapped_module%s", (int)(dot - dit.t[i].wan), dit.t[i].wan, dot);
        else snprintf(name, sizeof name, "generator\1model._fsdp_wrapped_module.%s", dit.t[i].wan);
        mk_tensor_item(&f, name, &dit.t[i], SC_F32, 0);
    }
    mk_pt(at("e2/model.pt"), &f, 0);
    TRANSFORMER("generator with every block wrapped by FSDP", at("e2/model.pt"));
    mk_free(&f);

    put_all(&f, &dit, "model.diffusion_model.", 0, SC_F16, 0);
    mk_safetensors(at("g/wan2.1_t2v_1.3B_fp16.safetensors"), &f, 0, f.n);
    TRANSFORMER("Comfy repack, F16", at("g/wan2.1_t2v_1.3B_fp16.safetensors"));
    mk_free(&f);

    put_all(&f, &dit, "model.", 0, SC_F64, 0);
    mk_safetensors(at("h/krea-realtime-video-14b.safetensors"), &f, 0, f.n);
    TRANSFORMER("Krea, flat, F64", at("h/krea-realtime-video-14b.safetensors"));
    mk_free(&f);

    put_all(&f, &dit, "generator\1model.", 0, SC_F32, MK_TRANSPOSED);
    for (int i = 0; i < f.n; i++) /* and half of the storages begin with something else */
        if (i % 2) {
            mk_buf longer = {0};
            mk_int(&longer, 0x7fc07fc07fc07fc0, 8);
            mk_bytes(&longer, f.t[i].data.b, f.t[i].data.n);
            free(f.t[i].data.b);
            f.t[i].data = longer;
            f.t[i].offset = 2;
            f.t[i].storage_count += 2;
        }
    mk_pt(at("i/model.pt"), &f, MK_STREAMED);
    TRANSFORMER("strided tensors inside larger storages", at("i/model.pt"));
    mk_free(&f);

    for (int i = 0; i < dit.n; i++) { /* LightX2V: fp8 matrices with one factor a row */
        const mk_tensor *t = &dit.t[i];
        const bool fp8 = t->rank == 2;
        const int64_t column[2] = {t->shape[0], 1};
        snprintf(name, sizeof name, "model.%s", t->wan);
        mk_tensor_item(&f, name, t, fp8 ? SC_F8_E4M3 : SC_F32, 0);
        if (!fp8) continue;
        for (size_t k = 0; k < f.t[f.n - 1].data.n; k++) { /* odd rows hold twice the value */
            uint8_t *b = &f.t[f.n - 1].data.b[k];
            if ((int64_t)k / t->shape[1] % 2 && *b & 0x7f) *b = (uint8_t)(*b + 8);
        }
        snprintf(name, sizeof name, "model.%.*s_scale", (int)strlen(t->wan), t->wan);
        mk_item *s = mk_new(&f, name, SC_F32, 2, column);
        for (int64_t r = 0; r < t->shape[0]; r++) { float x = r % 2 ? 0.5f : 1.0f; mk_bytes(&s->data, &x, 4); }
    }
    mk_safetensors(at("j/self_forcing_fp8.safetensors"), &f, 0, f.n);
    TRANSFORMER("LightX2V, fp8 with weight_scale", at("j/self_forcing_fp8.safetensors"));
    mk_free(&f);
}

static void every_layout_of_the_text_encoder_gives_the_same_tensors(void **state) {
    mk_file f = {0};
    char name[256];
    (void)state;
    mkdir(at("out"), 0755);

    put_all(&f, &t5, "", 1, SC_BF16, 0);
    mk_safetensors(at("hf/text_encoder/model-00001-of-00002.safetensors"), &f, 0, 7);
    mk_safetensors(at("hf/text_encoder/model-00002-of-00002.safetensors"), &f, 7, f.n);
    TEXT("Hugging Face, two shards", at("hf"));
    mk_tensor_item(&f, "encoder.embed_tokens.weight", &t5.t[0], SC_BF16, 0);
    mk_safetensors(at("hf2/model.safetensors"), &f, 0, f.n);
    TEXT("Hugging Face, embedding twice", at("hf2"));
    mk_safetensors(at("hf3/model.safetensors"), &f, 1, f.n); /* shared.weight was the first */
    TEXT("Hugging Face, embedding under its other name", at("hf3"));
    mk_free(&f);

    put_all(&f, &t5, "", 1, SC_F16, 0);
    mk_safetensors(at("cf/umt5_xxl_fp16.safetensors"), &f, 0, f.n);
    TEXT("Comfy repack, F16", at("cf/umt5_xxl_fp16.safetensors"));
    mk_free(&f);

    for (int i = 0; i < t5.n; i++) { /* Comfy: fp8 with one factor, and the tokenizer as a tensor */
        const mk_tensor *t = &t5.t[i];
        const bool fp8 = t->rank == 2 && !strstr(t->wan, "embedding");
        mk_tensor_item(&f, t->other[0], t, fp8 ? SC_F8_E4M3 : SC_F16, 0);
        if (!fp8) continue;
        for (size_t k = 0; k < f.t[f.n - 1].data.n; k++) if (f.t[f.n - 1].data.b[k] & 0x7f) f.t[f.n - 1].data.b[k] = (uint8_t)(f.t[f.n - 1].data.b[k] + 16);
        snprintf(name, sizeof name, "%.*s.scale_weight", (int)strlen(t->other[0]) - 7, t->other[0]);
        mk_item *s = mk_new(&f, name, SC_F32, 0, NULL);
        mk_bytes(&s->data, &(float){0.25f}, 4);
    }
    mk_new(&f, "scaled_fp8", SC_F8_E4M3, 1, (const int64_t[]){0});
    FILE *in = fopen(SC_SOURCE_DIR "/models/pocket/spiece.model", "rb");
    uint8_t part[4096];
    size_t n;
    mk_buf piece = {0};
    assert_non_null(in);
    while ((n = fread(part, 1, sizeof part, in))) mk_bytes(&piece, part, n);
    fclose(in);
    const int64_t length = (int64_t)piece.n;
    mk_new(&f, "spiece_model", SC_U8, 1, &length)->data = piece;
    mk_safetensors(at("cs/umt5_xxl_fp8_e4m3fn_scaled.safetensors"), &f, 0, f.n);
    TEXT("Comfy repack, scaled fp8", at("cs/umt5_xxl_fp8_e4m3fn_scaled.safetensors"));
    /* ... whose tokenizer is enough */
    const char *sources[] = {at("cs"), at("base/dit.safetensors"), at("base/tae.pth"), NULL}, *out = at("out/tok");
    sc_import_options o = plain(out, sources);
    import(&o);
    check_manifest(out);
    mk_buf same = {0};
    snprintf(name, sizeof name, "%s/spiece.model", out);
    assert_non_null(in = fopen(name, "rb"));
    while ((n = fread(part, 1, sizeof part, in))) mk_bytes(&same, part, n);
    fclose(in);
    assert_int_equal(same.n, piece.n);
    assert_memory_equal(same.b, piece.b, piece.n);
    free(same.b);
    mk_free(&f);

    put_all(&f, &t5, "", 0, SC_F8_E4M3, 0);
    mk_safetensors(at("kj/umt5-xxl-enc-fp8_e4m3fn.safetensors"), &f, 0, f.n);
    TEXT("Kijai, plain fp8 in Wan names", at("kj/umt5-xxl-enc-fp8_e4m3fn.safetensors"));
    mk_pt(at("kj/t5.pth"), &f, 0);
    TEXT("fp8 in a .pth (rebuild_tensor_v3)", at("kj/t5.pth"));
    mk_free(&f);
}

static void every_layout_of_the_decoders_gives_the_same_tensors(void **state) {
    mk_file f = {0};
    static mk_list half;
    (void)state;
    mkdir(at("out"), 0755);

    put_all(&f, &vae, "", 0, SC_F32, 0);
    mk_pt(at("v/Wan2.1_VAE.pth"), &f, MK_STREAMED);
    import_part("Wan VAE .pth", at("v/Wan2.1_VAE.pth"), "decoder", &vae, SC_F32);
    mk_free(&f);
    put_all(&f, &vae, "", 1, SC_F32, 0);
    mk_safetensors(at("v/vae/diffusion_pytorch_model.safetensors"), &f, 0, f.n);
    import_part("Wan VAE, diffusers", at("v/vae"), "decoder", &vae, SC_F32);
    mk_free(&f);
    put_all(&f, &vae, "model.", 0, SC_BF16, 0);
    mk_safetensors(at("v/wan_2.1_vae.safetensors"), &f, 0, f.n);
    import_part("Wan VAE, repack in bf16", at("v/wan_2.1_vae.safetensors"), "decoder", &vae, SC_BF16);
    mk_free(&f);

    put_all(&f, &tae, "", 0, SC_F16, 0);
    mk_safetensors(at("t/taew2_1.safetensors"), &f, 0, f.n);
    import_part("taew2_1.safetensors", at("t/taew2_1.safetensors"), "decoder", &tae, SC_F16);
    mk_free(&f);
    put_all(&f, &tae, "", 0, SC_F32, 0);
    mk_pt(at("t/lighttaew2_1.pth"), &f, 0);
    import_part("lighttaew2_1.pth", at("t/lighttaew2_1.pth"), "decoder", &tae, SC_F32);
    for (int i = 0; i < f.n; i++) { /* patch_tgrow_layers: the last rows count */
        mk_item *t = &f.t[i];
        mk_buf more = {0};
        if (strcmp(t->name, "decoder.7.conv.weight") && strcmp(t->name, "decoder.13.conv.weight")) continue;
        for (size_t k = 0; k < t->data.n / 4; k++) mk_bytes(&more, &(float){99.0f}, 4);
        mk_bytes(&more, t->data.b, t->data.n);
        free(t->data.b);
        t->data = more;
        t->shape[0] *= 2;
        t->storage_count *= 2;
    }
    mk_pt(at("t/grown.pth"), &f, 0);
    import_part("TGrow layers of twice the rows", at("t/grown.pth"), "decoder", &tae, SC_F32);
    mk_free(&f);
    mk_tae(&half, tae_widths, 4, 16, 1);
    put_all(&f, &half, "taehv.", 0, SC_F16, 0);
    mk_safetensors(at("t/decoder_only.safetensors"), &f, 0, f.n);
    import_part("TAEHV without its encoder", at("t/decoder_only.safetensors"), "decoder", &half, SC_F16);
    mk_free(&f);
}

/* The engine opens what was made; two layouts of one model have one digest and make the same picture. */
static void the_engine_runs_what_was_imported(void **state) {
    mk_file f = {0};
    char digest[2][65];
    uint8_t *frames[2] = {NULL};
    size_t bytes = 0;
    (void)state;
    mkdir(at("out"), 0755);
    put_all(&f, &dit, "generator_ema\1model.", 0, SC_F32, 0);
    mk_pt(at("run/sf.pt"), &f, 0);
    mk_free(&f);
    put_all(&f, &dit, "", 1, SC_F16, 0);
    mk_safetensors(at("run/diffusers.safetensors"), &f, 0, f.n);
    mk_free(&f);
    for (int i = 0; i < 2; i++) {
        const char *sources[] = {i ? at("run/diffusers.safetensors") : at("run/sf.pt"), at("base"), NULL};
        sc_import_options o = plain(at("out/run%d", i), sources);
        sc_engine *engine;
        sc_session *s;
        sc_model_info info;
        sc_frames got;
        sc_error err = {0};
        o.window = 6;
        import(&o);
        if (sc_engine_open(&engine, &(sc_engine_options){.model_dir = o.out, .device = "cpu", .threads = 1, .max_sessions = 1}, &err)) fail_msg("%s", err.text);
        sc_engine_describe(engine, &info);
        snprintf(digest[i], 65, "%s", info.digest);
        if (sc_session_create(engine, 7, "a red balloon", 13, 1, &s, &err)) fail_msg("%s", err.text);
        while (sc_session_next(s).kind != SC_PASS_CLEAN && !sc_session_failed(s, &err))
            if (sc_engine_run(engine, &s, 1, &err)) fail_msg("%s", err.text);
        if (sc_session_failed(s, &err)) fail_msg("%s", err.text);
        assert_int_equal(sc_session_frames(s, &got, &err), SC_OK);
        bytes = (size_t)got.count * got.frame_bytes;
        frames[i] = malloc(bytes);
        memcpy(frames[i], got.data, bytes);
        sc_session_destroy(s);
        sc_engine_close(engine);
    }
    assert_string_equal(digest[0], digest[1]);
    assert_memory_equal(frames[0], frames[1], bytes);
    free(frames[0]);
    free(frames[1]);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_layout_of_the_transformer_gives_the_same_tensors),
        cmocka_unit_test(every_layout_of_the_text_encoder_gives_the_same_tensors),
        cmocka_unit_test(every_layout_of_the_decoders_gives_the_same_tensors),
        cmocka_unit_test(the_engine_runs_what_was_imported),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
