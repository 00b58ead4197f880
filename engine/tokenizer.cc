// tokenizer.cc - text to ids by SentencePiece, behind a C door.
//
// The shim adds three things. UTF-8 is checked first, because SentencePiece would turn a bad byte into U+FFFD and say
// nothing. No exception crosses the door. And control ids (padding 0, end 1) come only from here: a well-made model never
// produces them from text, since control pieces are not in its trie, but a model whose </s> is a "user defined" piece would,
// so such an id becomes the unknown piece (a typed "</s>" then costs one token and ends nothing).
//
// Thread: any after open; Encode is const.   Source: sentencepiece_processor.h 0.1.97; Wan's tokenizer calls it with no
// sampling and adds </s> itself.
#include "engine/tokenizer.h"
#include "engine/utf8.h"
#include <cerrno>
#include <cstring>
#include <exception>
#include <fcntl.h>
#include <new>
#include <sentencepiece_processor.h>
#include <string>
#include <sys/stat.h>
#include <unistd.h>
#include <vector>

namespace {

constexpr int pad_id = 0, end_id = 1;
constexpr off_t max_model_bytes = 64 << 20;  // UMT5's spiece.model has 4.5 MB

sc_status read_whole(std::string *out, const char *path, sc_error *err) {
    struct stat st;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    sc_status rc = SC_OK;

    if (fd < 0 || fstat(fd, &st)) {
        rc = sc_fail(err, SC_EIO, "tokenizer %.300s: %s", path, strerror(errno));
    } else if (!S_ISREG(st.st_mode)) {
        rc = sc_fail(err, SC_EIO, "tokenizer %.300s: %s, not a file", path, S_ISDIR(st.st_mode) ? "a directory" : "a device or pipe");
    } else if (st.st_size < 1 || st.st_size > max_model_bytes) {
        rc = sc_fail(err, SC_EINVAL, "tokenizer %.300s: %lld bytes is not in 1..%lld", path, (long long)st.st_size,
                     (long long)max_model_bytes);
    } else {
        size_t at = 0;
        try {
            out->resize((size_t)st.st_size);
        } catch (const std::exception &) {
            rc = sc_fail(err, SC_ENOMEM, "tokenizer %.300s: out of memory for %lld bytes", path, (long long)st.st_size);
        }
        while (!rc && at < out->size()) {
            ssize_t got = read(fd, &(*out)[at], out->size() - at);
            if (got > 0) at += (size_t)got;
            else if (got == 0 || errno != EINTR)
                rc = sc_fail(err, SC_EIO, "tokenizer %.300s: read %zu of %zu bytes: %s", path, at, out->size(),
                             got ? strerror(errno) : "the file ended");
        }
    }
    if (fd >= 0) close(fd);
    return rc;
}

}  // namespace

struct sc_tokenizer {
    sentencepiece::SentencePieceProcessor spm;
};

extern "C" sc_status sc_tokenizer_open(sc_tokenizer **out, const char *path, sc_error *err) {
    sc_tokenizer *tok = nullptr;
    sc_status rc = SC_OK;

    *out = nullptr;
    try {
        std::string model;
        rc = read_whole(&model, path, err);
        if (rc) return rc;
        tok = new sc_tokenizer;
        sentencepiece::util::Status loaded = tok->spm.LoadFromSerializedProto(model);
        if (!loaded.ok()) {
            rc = sc_fail(err, SC_EINVAL, "tokenizer %.200s: no SentencePiece model: %.200s", path, loaded.error_message());
        } else if (tok->spm.GetPieceSize() <= end_id || tok->spm.eos_id() != end_id || tok->spm.pad_id() != pad_id) {
            rc = sc_fail(err, SC_EINVAL, "tokenizer %.200s: the end has id %d and padding %d, not 1 and 0", path,
                         tok->spm.eos_id(), tok->spm.pad_id());
        }
    } catch (const std::bad_alloc &) {
        rc = sc_fail(err, SC_ENOMEM, "tokenizer %.300s: out of memory", path);
    } catch (const std::exception &e) {
        rc = sc_fail(err, SC_EINVAL, "tokenizer %.200s: %.200s", path, e.what());
    } catch (...) {
        rc = sc_fail(err, SC_EINVAL, "tokenizer %.300s: cannot be loaded", path);
    }
    if (rc) delete tok;
    else *out = tok;
    return rc;
}

extern "C" void sc_tokenizer_close(sc_tokenizer *tok) { delete tok; }

extern "C" int sc_tokenizer_vocab(const sc_tokenizer *tok) { return tok->spm.GetPieceSize(); }

extern "C" sc_status sc_tokenizer_encode(const sc_tokenizer *tok, const char *text, size_t n, int32_t *ids, int max, int *count,
                                         sc_error *err) {
    size_t bad = sc_utf8_bad(text, n);

    *count = 0;
    if (max < 1) return sc_fail(err, SC_EINVAL, "tokenizer: room for %d ids, 1 is the least", max);
    if (bad < n) return sc_fail(err, SC_EINVAL, "text: bad UTF-8 at byte %zu", bad);
    try {
        std::vector<int> pieces;
        sentencepiece::util::Status done = tok->spm.Encode(absl::string_view(text, n), &pieces);
        if (!done.ok()) return sc_fail(err, SC_EINVAL, "text: SentencePiece: %.300s", done.error_message());
        size_t keep = pieces.size() < (size_t)max - 1 ? pieces.size() : (size_t)max - 1;
        for (size_t i = 0; i < keep; i++) {
            bool control = pieces[i] == pad_id || pieces[i] == end_id || tok->spm.IsControl(pieces[i]);
            ids[i] = control ? tok->spm.unk_id() : pieces[i];
        }
        ids[keep] = end_id;
        *count = (int)keep + 1;
        return SC_OK;
    } catch (const std::bad_alloc &) {
        return sc_fail(err, SC_ENOMEM, "text: out of memory for %zu bytes", n);
    } catch (const std::exception &e) {
        return sc_fail(err, SC_EINVAL, "text: SentencePiece: %.300s", e.what());
    } catch (...) {
        return sc_fail(err, SC_EINVAL, "text: SentencePiece failed");
    }
}
