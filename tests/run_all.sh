#!/usr/bin/env bash
# run_all.sh BUILD BUILD_ASAN - everything that can be tested without a GPU, each suite once; the last line is the sum.
#
# Unit tests run twice (plain, and under ASan + UBSan); golden vectors on the fast path and on the twin; the real daemon is driven by an
# independent WebSocket client, its hostile cases against the sanitized build; the page runs in headless Chromium. A suite counts as one
# test passed or failed by its exit code, and prints its own lines.
set -u
cd "$(dirname "$0")/.."
build=$(realpath "$1") asan=$(realpath "$2")
passed=0 failed=0
export ASAN_OPTIONS=detect_leaks=1:abort_on_error=0 UBSAN_OPTIONS=print_stacktrace=1
mkdir -p tests/artifacts

suite() { # NAME COMMAND...
    local name=$1 log="tests/artifacts/$(echo "$1" | tr ' /' '__').log" start=$SECONDS
    shift
    if "$@" >"$log" 2>&1; then
        passed=$((passed + 1))
        printf 'ok    %-34s %4ds  %s\n' "$name" $((SECONDS - start)) "$(tail -n 1 "$log" | cut -c1-90)"
    else
        failed=$((failed + 1))
        printf 'FAIL  %-34s %4ds  (log: %s)\n' "$name" $((SECONDS - start)) "$log"
        tail -n 40 "$log" | sed 's/^/      /'
    fi
}

unit() { ctest --test-dir "$1" --output-on-failure -j "$(nproc)"; }

# shellcheck disable=SC2046
vectors() { "$build/cli/sparsecast" vectors --device "$1" $(ls tests/vectors/*.safetensors ); }
small_vectors() { "$1/cli/sparsecast" vectors --device "$2" $(ls tests/vectors/*.safetensors | grep -v pocket); }

suite "unit" unit "$build"
suite "unit sanitized" unit "$asan"
suite "fuzzers, a minute each" bash tests/fuzz/run.sh "$build" 60
suite "vectors cpu" vectors cpu
suite "vectors twin" small_vectors "$build" twin
suite "vectors sanitized" small_vectors "$asan" cpu
for isa in avx2 portable; do
    SC_CPU_ISA=$isa suite "vectors cpu $isa" vectors cpu
done
suite "cli" bash tests/integration/cli.sh "$build"
for t in api fork schedule log hostile; do
    SPARSECASTD="$asan/server/sparsecastd" suite "daemon $t sanitized" node tests/integration/$t.mjs
done
SPARSECASTD="$build/server/sparsecastd" suite "daemon snapshots" node tests/integration/snapshots.mjs
SPARSECASTD="$build/server/sparsecastd" suite "daemon videos" node tests/integration/videos.mjs
SPARSECASTD="$build/tests/fault/sparsecastd_faulty" suite "daemon with a failing device" node tests/integration/fault.mjs
suite "viewer modules" node tests/browser/unit.mjs
suite "viewer page" node tests/browser/page.mjs
SPARSECASTD="$build/server/sparsecastd" suite "viewer with the daemon" node tests/browser/daemon.mjs

echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
