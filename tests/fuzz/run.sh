#!/usr/bin/env bash
# run.sh BUILD [SECONDS] - libFuzzer over every parser of strangers' bytes, SECONDS (60) each, two at a time, under ASan and UBSan.
#
# The corpus of the importer's fuzzers is made by the tests' own generator of checkpoints (test_import_fuzz --seeds); what a run adds to it stays in
# BUILD/fuzz, so that the next one goes on from there. The random numbers begin the same each time. What fails is kept as BUILD/fuzz/NAME-crash-*.
set -u
n=0
cd "$(dirname "$0")/../.."
build=$(realpath "$1") seconds=${2:-60}
dir=$build/fuzz
cxx="clang -g -O1 -D_GNU_SOURCE -fsanitize=fuzzer,address,undefined -fno-sanitize-recover=undefined -I."
import="import/source.c import/zip.c import/pickle.c import/names.c import/family.c engine/safetensors.c engine/json_strict.c base/name_distance.c base/status.c"
proto="proto/frame_header.c proto/json.c proto/json_out.c proto/fields.c proto/requests.c proto/program.c proto/messages.c proto/problem.c proto/session_json.c proto/log_line.c proto/saved.c proto/video_json.c cli/replay_plan.c base/status.c"

mkdir -p "$dir"/seeds/{pickle,zip,checkpoint,proto,snapshot}
{ printf '\7'; cat tests/fuzz/session.jsonl; } >"$dir/seeds/proto/session-log" # whole, and its lines one by one
{ printf '\11'; cat tests/fuzz/saved.json; } >"$dir/seeds/proto/saved"
printf '\12{"prompt":"a","model":"pocket","seconds":"4","size":"256x160","seed":7}' >"$dir/seeds/proto/video"
while read -r line; do printf '\6%s' "$line" >"$dir/seeds/proto/log-line-$((n += 1))"; done <tests/fuzz/session.jsonl
"$build/tests/unit/test_import_fuzz" --seeds "$dir/seeds" || exit 1
compile() { $cxx -o "$dir/$1" "tests/fuzz/fuzz_$1.c" $2 -lcjson -lm || { echo "FAIL $1: does not compile"; exit 1; }; } # shellcheck disable=SC2086
compile snapshot "engine/snapshot_format.c base/status.c" && compile pickle "import/pickle.c base/status.c" && compile zip "import/zip.c base/status.c" && compile checkpoint "$import" && compile proto "$proto" || exit 1

one() { # NAME MAX_LENGTH DICTIONARY
    "$dir/$1" -seed=1 -max_total_time="$seconds" -max_len="$2" ${3:+-dict="$3"} -timeout=20 -rss_limit_mb=2048 -artifact_prefix="$dir/$1-" "$dir/seeds/$1" \
        >"$dir/$1.log" 2>&1
}
failed=0
finish() { # NAME PID
    if wait "$2"; then echo "ok   $1: $(tail -n 1 "$dir/$1.log")"; else failed=$((failed + 1)); echo "FAIL $1"; grep -m1 -A12 "ERROR\|runtime error" "$dir/$1.log"; fi
}
one pickle 4096 tests/fuzz/pickle.dict & a=$!
one zip 4096 "" & b=$!
finish pickle $a; finish zip $b
one checkpoint 8192 tests/fuzz/pickle.dict & a=$!
one proto 2048 tests/fuzz/proto.dict & b=$!
finish checkpoint $a; finish proto $b
seconds=$((seconds / 4)) one snapshot 4096 "" & finish snapshot $! # few numbers: soon seen
echo "$((5 - failed)) fuzzers passed, $failed failed"
[ "$failed" -eq 0 ]
