/* scan.c - see scan.h. */
#include "import/scan.h"
#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { PATH_ROOM = 1024, ENTRIES = 4096 };

static bool ends(const char *s, const char *end) {
    size_t n = strlen(s), m = strlen(end);
    return n > m && !strcmp(s + n - m, end);
}

static const char *base_name(const char *path) {
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

/* "...-00002-of-00003.safetensors": true, with both numbers and the length of what stands before. */
static bool shard_numbers(const char *path, int *index, int *count, size_t *stem) {
    const size_t tail = strlen("-00001-of-00001.safetensors"), n = strlen(path);
    int used = 0;

    if (n <= tail || !ends(path, ".safetensors")) return false;
    if (sscanf(path + n - tail, "-%5d-of-%5d%n", index, count, &used) != 2 || used != 15) return false;
    *stem = n - tail;
    return *count >= 1 && *index >= 1 && *index <= *count;
}

static bool is_known(const sc_scan *s, const char *path) {
    for (int i = 0; i < s->count; i++)
        for (int k = 0; k < s->checkpoint[i].count; k++)
            if (!strcmp(s->checkpoint[i].path[k], path)) return true;
    return false;
}

static sc_status add_checkpoint(sc_scan *s, const char *path, bool named, sc_error *err) {
    int index, count = 1;
    size_t stem;
    char full[PATH_ROOM + 64];
    sc_checkpoint *c;

    if (is_known(s, path)) return SC_OK;
    if (s->count == SC_SCAN_CHECKPOINTS) return sc_fail(err, SC_EINVAL, "%.200s: more than %d checkpoints", path, SC_SCAN_CHECKPOINTS);
    if (strlen(path) >= PATH_ROOM) return sc_fail(err, SC_EINVAL, "%.100s...: the path is too long", path);
    c = &s->checkpoint[s->count++];
    c->named = named;
    if (!shard_numbers(path, &index, &count, &stem)) {
        if (!(c->path[c->count] = strdup(path))) return sc_fail(err, SC_ENOMEM, "%.200s: out of memory", path);
        c->count++;
    } else {
        if (count > SC_SCAN_SHARDS) return sc_fail(err, SC_EINVAL, "%.200s: one of %d shards, at most %d are read", path, count, SC_SCAN_SHARDS);
        for (int i = 1; i <= count; i++) {
            snprintf(full, sizeof full, "%.*s-%05d-of-%05d.safetensors", (int)stem, path, i, count);
            if (access(full, R_OK)) return sc_fail(err, SC_EIO, "%.250s: shard %d of %d: %s", full, i, count, strerror(errno));
            if (!(c->path[c->count] = strdup(full))) return sc_fail(err, SC_ENOMEM, "%.200s: out of memory", path);
            c->count++;
        }
    }
    snprintf(full, sizeof full, "%.*sconfig.json", (int)(base_name(path) - path), path);
    if (!access(full, R_OK) && !(s->config[s->count - 1] = strdup(full))) return sc_fail(err, SC_ENOMEM, "%.200s: out of memory", path);
    return SC_OK;
}

static sc_status add_file(sc_scan *s, const char *path, bool named, sc_error *err) {
    const char *base = base_name(path);

    if (ends(base, ".model")) {
        if (!s->tokenizer && !(s->tokenizer = strdup(path))) return sc_fail(err, SC_ENOMEM, "%.200s: out of memory", path);
        return SC_OK;
    }
    if (named || ends(base, ".safetensors") || ends(base, ".pt") || ends(base, ".pth") || ends(base, ".bin")) return add_checkpoint(s, path, named, err);
    return SC_OK;
}

static int by_text(const void *a, const void *b) { return strcmp(*(char *const *)a, *(char *const *)b); }

/* Files of a folder before its folders, so that what lies on top comes first. */
static sc_status walk(sc_scan *s, const char *dir, int depth, sc_error *err) {
    DIR *d = opendir(dir);
    char **names = NULL;
    int count = 0;
    struct dirent *e;
    sc_status rc = SC_OK;

    if (!d) return sc_fail(err, SC_EIO, "%.300s: %s", dir, strerror(errno));
    if (!(names = calloc(ENTRIES, sizeof *names))) { rc = sc_fail(err, SC_ENOMEM, "%.200s: out of memory", dir); goto cleanup; }
    while ((e = readdir(d))) {
        if (e->d_name[0] == '.') continue;
        if (count == ENTRIES) { rc = sc_fail(err, SC_EINVAL, "%.300s: more than %d entries; name the files", dir, ENTRIES); goto cleanup; }
        if (!(names[count] = strdup(e->d_name))) { rc = sc_fail(err, SC_ENOMEM, "%.200s: out of memory", dir); goto cleanup; }
        count++;
    }
    if (count > 1) qsort(names, (size_t)count, sizeof *names, by_text);
    for (int folders = 0; folders < 2; folders++)
        for (int i = 0; i < count; i++) {
            char path[PATH_ROOM];
            struct stat st;
            if (snprintf(path, sizeof path, "%s/%s", dir, names[i]) >= (int)sizeof path) continue;
            if (stat(path, &st)) continue;
            if (!folders && S_ISREG(st.st_mode)) rc = add_file(s, path, false, err);
            if (folders && S_ISDIR(st.st_mode) && depth < SC_SCAN_DEPTH) rc = walk(s, path, depth + 1, err);
            if (rc) goto cleanup;
        }
cleanup:
    for (int i = 0; names && i < count; i++) free(names[i]);
    free(names);
    closedir(d);
    return rc;
}

sc_status sc_scan_sources(sc_scan *s, const char *const *sources, int count, sc_error *err) {
    sc_status rc = SC_OK;

    memset(s, 0, sizeof *s);
    for (int i = 0; i < count && !rc; i++) {
        char path[PATH_ROOM];
        struct stat st;
        size_t n = strlen(sources[i]);
        while (n > 1 && sources[i][n - 1] == '/') n--;
        if (n >= sizeof path) rc = sc_fail(err, SC_EINVAL, "%.100s...: the path is too long", sources[i]);
        else {
            snprintf(path, sizeof path, "%.*s", (int)n, sources[i]);
            if (stat(path, &st)) rc = sc_fail(err, SC_EIO, "%.300s: %s", path, strerror(errno));
            else if (S_ISDIR(st.st_mode)) rc = walk(s, path, 1, err);
            else rc = add_file(s, path, true, err);
        }
    }
    if (!rc && !s->count) rc = sc_fail(err, SC_EINVAL, "%.300s: no .safetensors, .pt, .pth or .bin file there", count ? sources[0] : "nothing");
    if (rc) sc_scan_free(s);
    return rc;
}

void sc_scan_free(sc_scan *s) {
    for (int i = 0; i < s->count; i++) {
        for (int k = 0; k < s->checkpoint[i].count; k++) free(s->checkpoint[i].path[k]);
        free(s->config[i]);
    }
    free(s->tokenizer);
    memset(s, 0, sizeof *s);
}
