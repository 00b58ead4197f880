/* test_cli_import.c - the words of `sparsecast import`: what is wrong use, what reaches the importer. */
#include "../../cli/import.c"
#include "import_case.h"

static char complaint[1024];

int sc_cli_wrong_use(const char *fmt, ...) {
    va_list args;
    va_start(args, fmt);
    vsnprintf(complaint, sizeof complaint, fmt, args);
    va_end(args);
    return SC_EXIT_USAGE;
}

int sc_cli_cannot_open(const sc_error *err) {
    snprintf(complaint, sizeof complaint, "%s", err->text);
    return SC_EXIT_CONFIG;
}

static int run(const char *const *words) {
    char *argv[32];
    int argc = 0;
    complaint[0] = 0;
    while (words[argc]) {
        argv[argc] = (char *)(uintptr_t)words[argc];
        argc++;
    }
    argv[argc] = NULL;
    return sc_cli_import(argc, argv);
}

#define WORDS(...) (const char *const[]){__VA_ARGS__, NULL}

static void wrong_words_are_named(void **state) {
    static const struct { const char *words[8], *text; } cases[] = {
        {{NULL}, "SOURCE... is missing"},
        {{"x"}, "-o DIR is missing"},
        {{"x", "-o"}, "-o needs a value"},
        {{"x", "--no-such"}, "no option --no-such"},
        {{"x", "-z"}, "no option -z"},
        {{"x", "--allow-extra=1"}, "takes no value"},
        {{"x", "--dtype", "f8"}, "--dtype f8: not one of bf16|f16|f32"},
        {{"x", "--decoder-dtype", "f32"}, "--decoder-dtype f32: not one of keep|same"},
        {{"x", "--memory", "dense"}, "--memory dense: not one of pbsa|window"},
        {{"x", "--size", "832"}, "--size 832: not a size"},
        {{"x", "--size", "832x"}, "--size 832x: not a size"},
        {{"x", "--size", "8x8"}, "--size 8x8: not a size"},
        {{"x", "--size=832x480p"}, "not a size"},
        {{"x", "--fps", "0"}, "--fps 0: not a whole number from 1 to 240"},
        {{"x", "--window", "1.5"}, "--window 1.5: not a whole number"},
        {{"x", "--sink", "-1"}, "--sink -1: not a whole number"},
        {{"x", "--shift", "nan"}, "--shift nan: not a number"},
        {{"x", "--shift", "0"}, "--shift 0: not a number"},
        {{"x", "--steps", ""}, "--steps : not 1 to 64"},
        {{"x", "--steps", "1000,,5"}, "--steps 1000,,5"},
        {{"x", "--steps", "1000,2000"}, "--steps 1000,2000"},
        {{"x", "--heads", "1e3"}, "--heads 1e3: not a whole number"},
        {{"x", "--lora-scale", "inf"}, "--lora-scale inf"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        assert_int_equal(run(cases[i].words), SC_EXIT_USAGE);
        if (!strstr(complaint, cases[i].text)) fail_msg("\"%s\" lacks \"%s\"", complaint, cases[i].text);
    }
}

static void a_source_that_cannot_be_used_is_78(void **state) {
    (void)state;
    assert_int_equal(run(WORDS("/no/such/file", "-o", at("o"))), SC_EXIT_CONFIG);
    assert_non_null(strstr(complaint, "/no/such/file: No such file"));
    assert_int_equal(run(WORDS(at("base/dit.safetensors"), "-o", at("o"))), SC_EXIT_CONFIG);
    assert_non_null(strstr(complaint, "no text encoder"));
    assert_int_equal(run(WORDS(at("base"), "-o", at("o"), "--steps", "100,200")), SC_EXIT_CONFIG);
    assert_non_null(strstr(complaint, "200 after 100 does not descend"));
    assert_int_equal(run(WORDS("/dev/null", "-o", at("o"))), SC_EXIT_CONFIG);
    assert_int_equal(run(WORDS(at("o"), "--", "-o")), SC_EXIT_USAGE); /* behind "--" it is a source */
}

static void every_option_reaches_the_config(void **state) {
    char path[1024], text[8192];
    (void)state;
    assert_int_equal(run(WORDS("--dtype=f32", at("base"), "-o", at("made"), "--size", "64x96", "--fps", "20", "--memory=window", "--window", "9", "--sink", "3", "--shift",
                               "2.5", "--steps", "900,600,300", "--heads", "4", "--decoder-dtype", "same", "--preset", "longlive", "--tokenizer", at("base/spiece.model"))), 0);
    expect(at("made"), "transformer", &dit, SC_F32);
    expect(at("made"), "decoder", &tae, SC_F32);
    snprintf(path, sizeof path, "%s/config.json", at("made"));
    FILE *f = fopen(path, "r");
    assert_non_null(f);
    text[fread(text, 1, sizeof text - 1, f)] = 0;
    fclose(f);
    static const char *const words[] = {"\"latent_hw\": [12, 8]", "\"fps\": 20", "\"window_frames\": 9", "\"sink_frames\": 3", "\"shift\": 2.5", "\"steps\": [900, 600, 300]", "\"heads\": 4"};
    for (size_t i = 0; i < sizeof words / sizeof *words; i++) if (!strstr(text, words[i])) fail_msg("no %s in %s", words[i], text);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(wrong_words_are_named),
        cmocka_unit_test(a_source_that_cannot_be_used_is_78),
        cmocka_unit_test(every_option_reaches_the_config),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
