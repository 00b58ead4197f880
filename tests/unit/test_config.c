/* test_config.c - config.json: both forms, and every way to get a key wrong.
 *
 * A row edits the good file by replacing one piece of its text and says which words the message must then hold. */
#include <stddef.h>
#include "engine/config.h"
#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static const char pocket_old[] =
    "{\"dit\": {\"dim\": 384, \"heads\": 3, \"head_dim\": 128, \"ffn_dim\": 1024, \"layers\": 6, \"text_dim\": 192, \"text_len\": 32,"
    " \"freq_dim\": 256, \"in_ch\": 16, \"patch\": [1, 2, 2], \"eps\": 1e-06}, \"t5\": {\"vocab\": 498, \"dim\": 192, \"dim_attn\": 192,"
    " \"dim_ffn\": 512, \"heads\": 3, \"layers\": 3, \"buckets\": 32, \"max_dist\": 128}, \"tae\": {\"enc\": 64, \"dec\": [128, 96, 32, 32],"
    " \"z\": 16, \"patch\": 2}, \"chunk_frames\": 3, \"latent_hw\": [20, 32], \"tile\": [3, 5, 4], \"window_chunks\": 3,"
    " \"persistent_blocks\": 8, \"keep_ratio\": 0.25, \"max_distance\": 18, \"shift\": 3.0, \"steps\": [1000, 750, 500, 250]}";

/* A window model with the other value of every word, so that no field can pass by its default. */
static const char wan[] =
    "{\"format\": \"sparsecast-1\", \"name\": \"wan-1.3b_self.forcing\", \"fps\": 24, \"chunk_frames\": 4, \"latent_hw\": [60, 104],\n"
    "\"dit\": {\"dim\": 1536, \"heads\": 12, \"head_dim\": 128, \"ffn_dim\": 8960, \"layers\": 30, \"text_dim\": 4096, \"text_len\": 512,\n"
    "  \"freq_dim\": 256, \"in_ch\": 16, \"out_ch\": 16, \"patch\": [1, 2, 2], \"eps\": 1e-6, \"files\": [\"a.safetensors\"]},\n"
    "\"t5\": {\"vocab\": 256384, \"dim\": 4096, \"dim_attn\": 4096, \"dim_ffn\": 10240, \"heads\": 64, \"layers\": 24, \"buckets\": 32,\n"
    "  \"max_dist\": 128, \"cleaning\": \"wan\", \"files\": [\"t-1.safetensors\", \"t-2.safetensors\"], \"tokenizer\": \"umt5.model\"},\n"
    "\"decoder\": {\"kind\": \"wan_vae\", \"z\": 16, \"patch\": 1, \"file\": \"vae.safetensors\"},\n"
    "\"memory\": {\"kind\": \"window\", \"max_distance\": -1, \"window_frames\": 21, \"sink_frames\": 3},\n"
    "\"sampler\": {\"shift\": 5, \"steps\": [1000, 500], \"sigma\": \"table\"}}\n";

static char *own; /* models/pocket/config.json */
static size_t own_n;

static void poison(sc_config *c) { memset(c, 0x5a, sizeof *c); }

static void parse_ok(sc_config *c, const char *text, size_t n) {
    sc_error err = {0};

    poison(c);
    if (sc_config_parse(c, text, n, "test.json", &err)) fail_msg("%s", err.text);
}

static void expect_refusal(const char *what, const char *text, size_t n, const char *word1, const char *word2) {
    static sc_config c, untouched;
    sc_error err = {0};
    sc_status rc;
    char *exact = malloc(n ? n : 1); /* no byte behind the text, so that reading past it is seen */

    assert_non_null(exact);
    memcpy(exact, text, n);
    poison(&c);
    poison(&untouched);
    rc = sc_config_parse(&c, exact, n, "dir/config.json", &err);
    free(exact);
    if (rc != SC_EINVAL) fail_msg("%s: status %s \"%s\"", what, sc_status_name(rc), err.text);
    assert_int_equal(err.status, SC_EINVAL);
    if (strncmp(err.text, "dir/config.json: ", 17)) fail_msg("%s: \"%s\" lacks the file", what, err.text);
    if (!strstr(err.text, word1)) fail_msg("%s: \"%s\" lacks \"%s\"", what, err.text, word1);
    if (word2 && !strstr(err.text, word2)) fail_msg("%s: \"%s\" lacks \"%s\"", what, err.text, word2);
    assert_memory_equal(&c, &untouched, sizeof c);
}

/* `text` with the first `from` replaced; malloc'ed. */
static char *edited(const char *text, const char *from, const char *to) {
    const char *at = strstr(text, from);
    char *out = malloc(strlen(text) + strlen(to) + 1);

    assert_non_null(out);
    if (!at) fail_msg("the good file lacks %s", from);
    sprintf(out, "%.*s%s%s", (int)(at - text), text, to, at + strlen(from));
    return out;
}

static void both_forms_of_the_pocket_config_give_the_same_struct(void **state) {
    static sc_config a, b;
    sc_error err = {0};

    (void)state;
    if (sc_config_read(&a, SC_SOURCE_DIR "/models/pocket", &err)) fail_msg("%s", err.text);
    parse_ok(&b, pocket_old, sizeof pocket_old - 1);
    assert_memory_equal(&a, &b, sizeof a);
}

static void the_pocket_config_says_what_its_readme_says(void **state) {
    static sc_config c;

    (void)state;
    parse_ok(&c, own, own_n);
    assert_string_equal(c.name, "pocket");
    assert_int_equal(c.fps, 16);
    assert_int_equal(c.dit.dim, 384);
    assert_int_equal(c.dit.heads, 3);
    assert_int_equal(c.dit.head_dim, 128);
    assert_int_equal(c.dit.ffn_dim, 1024);
    assert_int_equal(c.dit.layers, 6);
    assert_int_equal(c.dit.text_dim, 192);
    assert_int_equal(c.dit.text_len, 32);
    assert_int_equal(c.dit.freq_dim, 256);
    assert_int_equal(c.dit.in_ch, 16);
    assert_int_equal(c.dit.out_ch, 16);
    assert_int_equal(c.dit.patch[0], 1);
    assert_int_equal(c.dit.patch[1], 2);
    assert_int_equal(c.dit.patch[2], 2);
    assert_true(c.dit.eps == 1e-6);
    assert_int_equal(c.t5.vocab, 498);
    assert_int_equal(c.t5.dim, 192);
    assert_int_equal(c.t5.dim_attn, 192);
    assert_int_equal(c.t5.dim_ffn, 512);
    assert_int_equal(c.t5.heads, 3);
    assert_int_equal(c.t5.layers, 3);
    assert_int_equal(c.t5.buckets, 32);
    assert_int_equal(c.t5.max_dist, 128);
    assert_int_equal(c.decoder.kind, SC_DECODER_TAEHV);
    assert_int_equal(c.decoder.dec[0], 128);
    assert_int_equal(c.decoder.dec[3], 32);
    assert_int_equal(c.decoder.z, 16);
    assert_int_equal(c.decoder.patch, 2);
    assert_int_equal(c.chunk_frames, 3);
    assert_int_equal(c.latent_h, 20);
    assert_int_equal(c.latent_w, 32);
    assert_int_equal(c.memory.kind, SC_MEMORY_PBSA);
    assert_int_equal(c.memory.tile[1], 5);
    assert_int_equal(c.memory.tile[2], 4);
    assert_int_equal(c.memory.window_chunks, 3);
    assert_int_equal(c.memory.persistent_blocks, 8);
    assert_true(c.memory.keep_ratio == 0.25);
    assert_int_equal(c.memory.max_distance, 18);
    assert_true(c.shift == 3.0);
    assert_int_equal(c.step_count, 4);
    assert_int_equal(c.steps[3], 250);
    assert_true(c.exact_sigma);
    assert_int_equal(c.cleaning, SC_TEXT_RAW);
    assert_int_equal(c.dit_file_count, 2);
    assert_string_equal(c.dit_files[1], "dit-00002-of-00002.safetensors");
    assert_int_equal(c.text_file_count, 1);
    assert_string_equal(c.text_files[0], "text_encoder.safetensors");
    assert_string_equal(c.decoder_file, "tae.safetensors");
    assert_string_equal(c.tokenizer_file, "spiece.model");
}

static void a_window_model_with_a_wan_vae_is_read(void **state) {
    static sc_config c;

    (void)state;
    parse_ok(&c, wan, sizeof wan - 1);
    assert_string_equal(c.name, "wan-1.3b_self.forcing");
    assert_int_equal(c.fps, 24);
    assert_int_equal(c.chunk_frames, 4);
    assert_int_equal(c.memory.kind, SC_MEMORY_WINDOW);
    assert_int_equal(c.memory.max_distance, -1);
    assert_int_equal(c.memory.window_frames, 21);
    assert_int_equal(c.memory.sink_frames, 3);
    assert_int_equal(c.memory.tile[0], 0);
    assert_int_equal(c.decoder.kind, SC_DECODER_WAN_VAE);
    assert_int_equal(c.decoder.dec[0], 0);
    assert_string_equal(c.decoder_file, "vae.safetensors");
    assert_int_equal(c.cleaning, SC_TEXT_WAN_CLEAN);
    assert_false(c.exact_sigma);
    assert_true(c.shift == 5.0);
    assert_int_equal(c.step_count, 2);
    assert_int_equal(c.text_file_count, 2);
    assert_string_equal(c.text_files[1], "t-2.safetensors");
    assert_string_equal(c.tokenizer_file, "umt5.model");
}

static void a_wan_vae_is_the_published_one_unless_the_file_says_otherwise(void **state) {
    static sc_config c;
    char *text, *small, *list;

    (void)state;
    parse_ok(&c, wan, sizeof wan - 1);
    assert_int_equal(c.decoder.dim, 96);
    assert_int_equal(c.decoder.mult[0], 1);
    assert_int_equal(c.decoder.mult[3], 4);
    assert_int_equal(c.decoder.blocks, 2);
    assert_true(c.decoder.mean[0] == -0.7571 && c.decoder.mean[15] == -0.2921);
    assert_true(c.decoder.std[0] == 2.8184 && c.decoder.std[15] == 1.9160);
    text = edited(wan, "\"z\": 16", "\"z\": 2, \"dim\": 8, \"mult\": [1, 3, 2, 5], \"blocks\": 1, \"std\": [0.5, 2], \"mean\": [-1, 0]");
    small = edited(text, "\"in_ch\": 16", "\"in_ch\": 2");
    list = edited(small, "\"out_ch\": 16", "\"out_ch\": 2");
    parse_ok(&c, list, strlen(list));
    assert_int_equal(c.decoder.dim, 8);
    assert_int_equal(c.decoder.mult[1], 3);
    assert_int_equal(c.decoder.mult[3], 5);
    assert_int_equal(c.decoder.blocks, 1);
    assert_true(c.decoder.mean[0] == -1 && c.decoder.mean[1] == 0 && c.decoder.std[0] == 0.5 && c.decoder.std[1] == 2);
    free(text);
    free(small);
    free(list);
    parse_ok(&c, own, own_n); /* a taehv has none of these */
    assert_int_equal(c.decoder.dim, 0);
    assert_true(c.decoder.std[0] == 0);
}

static void a_wrong_value_is_refused_with_its_key(void **state) {
    static const struct { const char *from, *to, *word1, *word2; } own_cases[] = {
        {"\"sparsecast-1\"", "\"sparsecast-2\"", "format", "sparsecast-1"},
        {"\"sparsecast-1\"", "1", "format", NULL},
        {"\"pocket\"", "\"\"", "name: 0 bytes", NULL},
        {"\"pocket\"", "\"a b\"", "name: only letters", NULL},
        {"\"pocket\"", "\"../x\"", "name: only letters", NULL},
        {"\"pocket\"", "7", "name: not a string", NULL},
        {"\"pocket\"", "\"0123456789012345678901234567890123456789012345678901234567890123\"", "name: 64 bytes is not in 1..63", NULL},
        {"\"fps\": 16", "\"fps\": 0", "fps: 0 is not in 1..240", NULL},
        {"\"fps\": 16", "\"fps\": 1e999", "fps: inf is not a whole number", NULL},
        {"\"fps\": 16,", "", "fps: missing", NULL},
        {"\"fps\": 16", "\"fsp\": 16", "fsp: unknown key", NULL},
        {"\"fps\": 16", "\"fps\": 16, \"fps\": 16", "\"fps\" comes twice", NULL},
        {"\"fps\": 16", "\"fps\": 16, \"FPS\": 16", "FPS: unknown key", NULL},
        {"\"heads\": 3", "\"heads\": 0", "dit.heads: 0 is not in 1..256", NULL},
        {"\"heads\": 3", "\"heads\": -3", "dit.heads: -3 is not in 1..256", NULL},
        {"\"heads\": 3", "\"heads\": 2.5", "dit.heads: 2.5 is not a whole number", NULL},
        {"\"heads\": 3", "\"heads\": \"3\"", "dit.heads: not a number", NULL},
        {"\"heads\": 3", "\"heads\": null", "dit.heads: not a number", NULL},
        {"\"heads\": 3", "\"heads\": 4294967299", "dit.heads: 4294967299 is not in", NULL},
        {"\"heads\": 3", "\"heads\": 4", "dit.dim: 384 is not heads x head_dim = 4 x 128", NULL},
        {"\"heads\": 3,", "", "dit.heads: missing", NULL},
        {"\"heads\": 3", "\"haeds\": 3", "dit.haeds: unknown key", NULL},
        {"\"layers\": 6", "\"layers\": 257", "dit.layers: 257 is not in 1..256", NULL},
        {"\"freq_dim\": 256", "\"freq_dim\": 255", "dit.freq_dim: 255 is odd", NULL},
        {"\"out_ch\": 16", "\"out_ch\": 8", "dit.out_ch: 8, but in_ch is 16", NULL},
        {"\"text_dim\": 192", "\"text_dim\": 191", "dit.text_dim: 191, but t5.dim is 192", NULL},
        {"[1, 2, 2]", "[2, 2, 2]", "dit.patch: 2 frames", NULL},
        {"[1, 2, 2]", "[1, 2]", "dit.patch: 2 numbers, not 3", NULL},
        {"[1, 2, 2]", "[1, 2, 0]", "dit.patch: [2]: 0 is not in 1..16", NULL},
        {"[1, 2, 2]", "[1, 2, \"2\"]", "dit.patch: [2]: not a number", NULL},
        {"[1, 2, 2]", "2", "dit.patch: not a list", NULL},
        {"[1, 2, 2]", "[1, 3, 2]", "latent_hw: 20 x 32 is not divisible by dit.patch 3 x 2", NULL},
        {"1e-06", "0", "dit.eps: 0 is not above 0", NULL},
        {"1e-06", "1", "dit.eps: 1 is not above 0 and up to 0.1", NULL},
        {"1e-06", "\"small\"", "dit.eps: not a number", NULL},
        {"\"dit-00001-of-00002.safetensors\"", "\"../dit.safetensors\"", "dit.files: \"../dit.safetensors\"", "model directory"},
        {"\"dit-00001-of-00002.safetensors\"", "\"/etc/passwd\"", "dit.files: \"/etc/passwd\"", "model directory"},
        {"\"dit-00001-of-00002.safetensors\"", "\"..\"", "dit.files: \"..\"", NULL},
        {"\"dit-00001-of-00002.safetensors\"", "\"\"", "dit.files: a file name of 0 bytes", NULL},
        {"\"dit-00001-of-00002.safetensors\"", "\"a\\nb\"", "dit.files: a control byte", NULL},
        {"\"dit-00001-of-00002.safetensors\"", "\"dit-00002-of-00002.safetensors\"", "dit.files", "comes twice"},
        {"\"dit-00001-of-00002.safetensors\"", "3", "dit.files: not a string", NULL},
        {"[\"text_encoder.safetensors\"]", "[]", "t5.files: 0 names is not in 1..32", NULL},
        {"[\"text_encoder.safetensors\"]", "\"text_encoder.safetensors\"", "t5.files: not a list", NULL},
        {"\"spiece.model\"", "\"a/b\"", "t5.tokenizer: \"a/b\"", NULL},
        {"\"tae.safetensors\"", "false", "decoder.file: not a string", NULL},
        {"\"vocab\": 498", "\"vocab\": 2", "t5.vocab: 2 is not in", NULL},
        {"\"dim_attn\": 192", "\"dim_attn\": 193", "t5.dim_attn: 193 is not divisible by 3", NULL},
        {"\"max_dist\": 128", "\"max_dist\": 8", "t5.buckets: 32", NULL},
        {"\"raw\"", "\"ftfy\"", "t5.cleaning: \"ftfy\" is neither \"raw\" nor \"wan\"", NULL},
        {"\"taehv\"", "\"vae\"", "decoder.kind: \"vae\" is neither", NULL},
        {"\"taehv\"", "\"wan_vae\"", "decoder.dec: belongs only where decoder.kind is \"taehv\"", NULL},
        {"[128, 96, 32, 32]", "[128, 96, 32]", "decoder.dec: 3 numbers, not 4", NULL},
        {"[128, 96, 32, 32]", "[128, 96, 32, 32], \"dim\": 96", "decoder.dim: belongs only where decoder.kind is \"wan_vae\"", NULL},
        {"\"z\": 16", "\"z\": 8", "decoder z: 8, but dit.in_ch is 16", NULL},
        {"\"pbsa\"", "\"window\"", "memory.window_frames: missing", NULL},
        {"\"pbsa\"", "\"dense\"", "memory.kind: \"dense\"", NULL},
        {"\"pbsa\"", "\"pbsa\", \"sink_frames\": -1", "memory.sink_frames: -1 is not in 0..", NULL},
        {"\"pbsa\"", "\"pbsa\", \"window_frames\": 2", "memory.window_frames: 2 does not hold 0 sink frames and a chunk of 3", NULL},
        {"\"pbsa\"", "\"pbsa\", \"window_frames\": 5, \"sink_frames\": 3", "memory.window_frames: 5 does not hold 3 sink frames and a chunk of 3", NULL},
        {"\"pbsa\"", "\"pbsa\", \"dense_frames\": 0", "memory.dense_frames: 0 is not in 1..", NULL},
        {"[3, 5, 4]", "[2, 5, 4]", "memory.tile: 2 frames, but chunk_frames is 3", NULL},
        {"[3, 5, 4]", "[3, 5, 8]", "memory.tile: 3 x 5 x 8 is 120 tokens, a page holds 64", NULL},
        {"[3, 5, 4]", "[3, 3, 4]", "memory.tile: 3 x 4 does not divide the 10 x 16", NULL},
        {"[3, 5, 4]", "[3, 65, 4]", "memory.tile: [1]: 65 is not in 1..64", NULL},
        {"\"window_chunks\": 3", "\"window_chunks\": 0", "memory.window_chunks: 0", NULL},
        {"\"persistent_blocks\": 8", "\"persistent_blocks\": -1", "memory.persistent_blocks: -1", NULL},
        {"0.25", "0", "memory.keep_ratio: 0 is not above 0 and up to 1", NULL},
        {"0.25", "1.01", "memory.keep_ratio: 1.01", NULL},
        {"\"max_distance\": 18", "\"max_distance\": -2", "memory.max_distance: -2 is not in -1..", NULL},
        {"3.0", "-3", "sampler.shift: -3", NULL},
        {"[1000, 750, 500, 250]", "[]", "sampler.steps: 0 numbers is not in 1..64", NULL},
        {"[1000, 750, 500, 250]", "[1000, 0]", "sampler.steps: [1]: 0 is not in 1..1000", NULL},
        {"[1000, 750, 500, 250]", "[1001]", "sampler.steps: [0]: 1001 is not in 1..1000", NULL},
        {"[1000, 750, 500, 250]", "[500, 750]", "steps: 750 after 500 does not descend", NULL},
        {"[1000, 750, 500, 250]", "[500, 500]", "steps: 500 after 500 does not descend", NULL},
        {"\"exact\"", "\"float\"", "sampler.sigma: \"float\" is neither", NULL},
        {"\"sampler\"", "\"sampler2\"", "sampler2: unknown key", NULL},
        {"[20, 32]", "[20, 32, 1]", "latent_hw: 3 numbers, not 2", NULL},
        {"\"head_dim\": 128", "\"head_dim\": 127", "dit.head_dim: 127 is odd", NULL},
    };
    static const struct { const char *from, *to, *word1; } wan_cases[] = {
        {"\"window_frames\": 21", "\"window_frames\": 6", "memory.window_frames: 6 does not hold 3 sink frames and a chunk of 4"},
        {"\"window_frames\": 21, ", "", "memory.window_frames: missing"},
        {"\"patch\": 1", "\"patch\": 2", "decoder.patch: 2, but a wan_vae has none"},
        {"\"z\": 16", "\"z\": 8", "decoder.mean: missing"},
        {"\"z\": 16", "\"z\": 65, \"mean\": []", "decoder.mean: 65 latent channels, a wan_vae has at most 64"},
        {"\"z\": 16", "\"z\": 16, \"mean\": [1, 2]", "decoder.mean: 2 numbers, not 16"},
        {"\"z\": 16", "\"z\": 16, \"mean\": 1", "decoder.mean: not a list"},
        {"\"z\": 16", "\"z\": 16, \"std\": [1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,\"1\"]", "decoder.std: [15]: not a number"},
        {"\"z\": 16", "\"z\": 16, \"std\": [1,1,1,0,1,1,1,1,1,1,1,1,1,1,1,1]", "decoder.std: [3]: 0 is not above 0"},
        {"\"z\": 16", "\"z\": 16, \"std\": [1,1,1,1e999,1,1,1,1,1,1,1,1,1,1,1,1]", "decoder.std: [3]: inf is not above 0"},
        {"\"z\": 16", "\"z\": 16, \"dim\": 0", "decoder.dim: 0 is not in 1..2048"},
        {"\"z\": 16", "\"z\": 16, \"mult\": [1, 2, 4]", "decoder.mult: 3 numbers, not 4"},
        {"\"z\": 16", "\"z\": 16, \"mult\": [1, 2, 4, 17]", "decoder.mult: [3]: 17 is not in 1..16"},
        {"\"z\": 16", "\"z\": 16, \"blocks\": 9", "decoder.blocks: 9 is not in 1..8"},
        {"\"z\": 16", "\"z\": 16, \"dec\": [1, 1, 1, 1]", "decoder.dec: belongs only where decoder.kind is \"taehv\""},
        {"\"sink_frames\": 3", "\"sink_frames\": 3, \"keep_ratio\": 2", "memory.keep_ratio: 2 is not above 0 and up to 1"},
        {"\"sink_frames\": 3", "\"sink_frames\": 3, \"tile\": [3, 5, 4]", "memory.tile: 3 frames, but chunk_frames is 4"},
        {"\"sink_frames\": 3", "\"sink_frames\": 3, \"tile\": [4, 7, 2]", "memory.tile: 7 x 2 does not divide the 30 x 52"},
        {"\"sink_frames\": 3", "\"sink_frames\": 3, \"tiles\": 1", "memory.tiles: unknown key"},
    };
    static const struct { const char *from, *to, *word1; } old_cases[] = {
        {"\"enc\": 64, ", "\"encoder\": 64, ", "tae.encoder: unknown key"},
        {"\"shift\": 3.0, ", "", "shift: missing"},
        {"\"shift\": 3.0", "\"shift\": 3.0, \"fps\": 16", "fps: unknown key"},
        {"\"patch\": 2}", "\"patch\": 17}", "tae.patch: 17 is not in 1..16"},
        {"\"t5\": {", "\"t5\": 3, \"t6\": {", "t5: not an object"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof own_cases / sizeof *own_cases; i++) {
        char *text = edited(own, own_cases[i].from, own_cases[i].to);
        expect_refusal(own_cases[i].to, text, strlen(text), own_cases[i].word1, own_cases[i].word2);
        free(text);
    }
    for (size_t i = 0; i < sizeof wan_cases / sizeof *wan_cases; i++) {
        char *text = edited(wan, wan_cases[i].from, wan_cases[i].to);
        expect_refusal(wan_cases[i].to, text, strlen(text), wan_cases[i].word1, NULL);
        free(text);
    }
    for (size_t i = 0; i < sizeof old_cases / sizeof *old_cases; i++) {
        char *text = edited(pocket_old, old_cases[i].from, old_cases[i].to);
        expect_refusal(old_cases[i].to, text, strlen(text), old_cases[i].word1, NULL);
        free(text);
    }
}

/* ---- another memory than the file's ------------------------------------------------------------------------------------- */

static void switch_memory(sc_config *c, const char *text, const char *mode, const char *want) {
    char words[200];
    sc_error err = {0};
    parse_ok(c, text, strlen(text));
    if (sc_config_memory(c, mode, "dir", &err)) fail_msg("%s: %s", mode, err.text);
    sc_config_memory_text(c, words, sizeof words);
    assert_string_equal(words, want);
}

static void any_model_runs_with_any_memory(void **state) {
    static const char published[] = "window: 21 latent frames, the first 3 stay, all attended", dense[] = "window: 21 latent frames, the first 0 stay, all attended";
    static const char pocket[] = "persistent blocks: tiles 3x5x4, window 3 chunks, 8 blocks, keep 25 %, largest distance 18";
    static sc_config c;
    char *three = edited(wan, "\"chunk_frames\": 4", "\"chunk_frames\": 3"), *text;

    (void)state;
    switch_memory(&c, wan, NULL, published);
    switch_memory(&c, wan, "window", published);
    switch_memory(&c, wan, "dense", dense);
    /* The paper's figures at 832x480, in chunks of 3. */
    switch_memory(&c, three, "pbsa", "persistent blocks: tiles 3x5x4, window 3 chunks, 78 blocks, keep 25 %, largest distance 18");
    assert_int_equal(c.memory.kind, SC_MEMORY_PBSA);
    switch_memory(&c, wan, "pbsa", "persistent blocks: tiles 4x15x1, window 2 chunks, 78 blocks, keep 25 %, largest distance 18");
    text = edited(three, "\"sink_frames\": 3", "\"sink_frames\": 3, \"tile\": [3, 2, 4], \"window_chunks\": 5, \"persistent_blocks\": 0, \"keep_ratio\": 0.5, \"dense_frames\": 30");
    switch_memory(&c, text, NULL, published);
    switch_memory(&c, text, "pbsa", "persistent blocks: tiles 3x2x4, window 5 chunks, 0 blocks, keep 50 %, largest distance 18");
    switch_memory(&c, text, "dense", "window: 30 latent frames, the first 0 stay, all attended");
    free(text);
    switch_memory(&c, own, NULL, pocket);
    switch_memory(&c, own, "pbsa", pocket);
    switch_memory(&c, own, "window", "window: 9 latent frames, the first 0 stay, all attended");
    switch_memory(&c, own, "dense", dense);
    switch_memory(&c, pocket_old, "dense", dense);
    text = edited(own, "\"pbsa\"", "\"pbsa\", \"window_frames\": 12, \"sink_frames\": 3");
    switch_memory(&c, text, NULL, pocket);
    switch_memory(&c, text, "window", "window: 12 latent frames, the first 3 stay, all attended");
    free(text);
    free(three);
}

static void a_memory_that_cannot_be_is_refused(void **state) {
    static const struct { const char *from, *to, *mode, *words; } cases[] = {
        {"\"fps\": 24", "\"fps\": 24", "sparse", "memory sparse: not one of pbsa, window, dense"},
        {"\"fps\": 24", "\"fps\": 24", "", "memory : not one of"},
        {"\"sink_frames\": 3", "\"sink_frames\": 3, \"dense_frames\": 3", "dense", "dir: memory dense: memory.dense_frames: 3 does not hold a chunk of 4"},
        {"[60, 104]", "[958, 1018]", "pbsa", "would stay, at most 65536; name memory.tile"},
        {"\"chunk_frames\": 4", "\"chunk_frames\": 18", "pbsa", NULL},
    };
    static sc_config c;
    char *text;
    sc_error err = {0};

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        text = edited(wan, cases[i].from, cases[i].to);
        parse_ok(&c, text, strlen(text));
        free(text);
        if (!cases[i].words) { /* long chunks: one is the window */
            assert_int_equal(sc_config_memory(&c, cases[i].mode, "dir", &err), SC_OK);
            assert_int_equal(c.memory.window_chunks, 1);
            continue;
        }
        assert_int_equal(sc_config_memory(&c, cases[i].mode, "dir", &err), SC_EINVAL);
        if (!strstr(err.text, cases[i].words)) fail_msg("%s: \"%s\" lacks %s", cases[i].to, err.text, cases[i].words);
        assert_int_equal(c.memory.kind, SC_MEMORY_WINDOW);
    }
    text = edited(own, "\"pbsa\"", "\"pbsa\", \"sink_frames\": 7"); /* of a window that follows from window_chunks */
    parse_ok(&c, text, strlen(text));
    free(text);
    assert_int_equal(sc_config_memory(&c, "window", "dir", &err), SC_EINVAL);
    assert_non_null(strstr(err.text, "window_frames: 9 does not hold 7 sink frames and a chunk of 3"));
}

static void text_that_is_no_json_object_is_refused_with_its_place(void **state) {
    static const struct { const char *text; size_t n; const char *word1, *word2; } cases[] = {
        {"", 0, "no JSON object", "line 1, column 1"},
        {"null", 4, "no JSON object", NULL},
        {"[1]", 3, "no JSON object", NULL},
        {"{}", 2, "missing", NULL},
        {"{\n\n  \"a\": tru}", 15, "a value is expected", "line 3, column 8"},
        {"{\"a\": 1} x", 10, "text after the end", "column 10"},
        {"{\"a\": 1}\0", 9, "text after the end", "column 9"},
        {"{\"a\": \"\xc3\x28\"}", 11, "bad UTF-8", "column 8"},
        {"{\"a\": \"\xf4\x90\x80\x80\"}", 13, "bad UTF-8", NULL},
        {"{\"a\": \"\t\"}", 10, "control byte", NULL},
        {"{\"a\": +1}", 9, "a value is expected", NULL},
        {"{\"a\": .5}", 9, "a value is expected", NULL},
        {"{\"a\": 1e}", 9, "a digit is expected", NULL},
        {"{\"a\": 0x10}", 11, "',' or the closing bracket", NULL},
        {"{\"a\": NaN}", 10, "a value is expected", NULL},
        {"{'a': 1}", 8, "a string is expected", NULL},
        {"{\"a\": [1,]}", 11, "a value is expected", NULL},
        {"{\"a\": [1", 8, "ends inside an object or a list", NULL},
        {"{\"a\": \"\\u00", 11, "four hex digits", NULL},
        {"{\"a\": \"\\ud83d\\u0041\"}", 21, "lone surrogate", NULL},
        {"{\"a\v\": 1}", 9, "control byte", NULL},
        {"{\v\"a\": 1}", 9, "a string is expected", NULL},
        {"{\"a\": 1111111111111111111111111111111111111111111111111111111111111}", 68, "more than 60 characters", NULL},
    };

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        expect_refusal(cases[i].text, cases[i].text, cases[i].n, cases[i].word1, cases[i].word2);
}

static void a_config_cut_anywhere_is_refused(void **state) {
    size_t last = own_n;

    (void)state;
    while (own[last - 1] != '}') last--;
    for (size_t keep = 0; keep < last; keep++) expect_refusal("cut", own, keep, "line", NULL);
}

static void nesting_is_taken_to_16_and_no_deeper(void **state) {
    const char *at16 = "{\"a\":[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]}", *at17 = "{\"a\":[[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]}";

    (void)state;
    expect_refusal("16", at16, strlen(at16), "a: unknown key", NULL);
    expect_refusal("17", at17, strlen(at17), "nested deeper than 16", NULL);
}

static void a_huge_config_is_refused(void **state) {
    size_t n = 64 * 1024 + 1;
    char *text = malloc(n);

    (void)state;
    assert_non_null(text);
    memset(text, ' ', n);
    memcpy(text, "{}", 2);
    expect_refusal("65537 bytes", text, n, "65537 bytes, the most is 65536", NULL);
    expect_refusal("65536 bytes", text, n - 1, "missing", NULL);
    memcpy(text, "{\"a\":[", 6);
    for (size_t i = 6; i + 1 < n; i += 2) memcpy(text + i, "1,", 2);
    expect_refusal("30000 values", text, n - 1, "too many values", NULL);
    free(text);
}

static void a_directory_without_a_readable_config_is_an_io_error(void **state) {
    char dir[] = "/tmp/sc_cfg_XXXXXX", path[64];
    static sc_config c;
    sc_error err = {0};

    (void)state;
    assert_non_null(mkdtemp(dir));
    snprintf(path, sizeof path, "%s/config.json", dir);
    assert_int_equal(sc_config_read(&c, dir, &err), SC_EIO);
    assert_non_null(strstr(err.text, path));
    assert_non_null(strstr(err.text, "No such file"));
    assert_int_equal(mkdir(path, 0700), 0);
    assert_int_equal(sc_config_read(&c, dir, &err), SC_EIO);
    assert_non_null(strstr(err.text, "a directory"));
    assert_int_equal(rmdir(path), 0);
    assert_int_equal(mkfifo(path, 0600), 0);
    assert_int_equal(sc_config_read(&c, dir, &err), SC_EIO);
    assert_non_null(strstr(err.text, "a device or pipe"));
    assert_int_equal(unlink(path), 0);
    assert_int_equal(rmdir(dir), 0);
    assert_int_equal(sc_config_read(&c, path, &err), SC_EIO);
}

static int read_own(void **state) {
    FILE *f = fopen(SC_SOURCE_DIR "/models/pocket/config.json", "rb");

    (void)state;
    own = calloc(1, 65536);
    if (!f || !own) return 1;
    own_n = fread(own, 1, 65535, f);
    return fclose(f);
}

static int free_own(void **state) {
    (void)state;
    free(own);
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(both_forms_of_the_pocket_config_give_the_same_struct),
        cmocka_unit_test(the_pocket_config_says_what_its_readme_says),
        cmocka_unit_test(a_window_model_with_a_wan_vae_is_read),
        cmocka_unit_test(a_wan_vae_is_the_published_one_unless_the_file_says_otherwise),
        cmocka_unit_test(a_wrong_value_is_refused_with_its_key),
        cmocka_unit_test(any_model_runs_with_any_memory),
        cmocka_unit_test(a_memory_that_cannot_be_is_refused),
        cmocka_unit_test(text_that_is_no_json_object_is_refused_with_its_place),
        cmocka_unit_test(a_config_cut_anywhere_is_refused),
        cmocka_unit_test(nesting_is_taken_to_16_and_no_deeper),
        cmocka_unit_test(a_huge_config_is_refused),
        cmocka_unit_test(a_directory_without_a_readable_config_is_an_io_error),
    };
    return cmocka_run_group_tests(tests, read_own, free_own);
}
