#!/bin/sh
# The CUDA tests on small shapes under compute-sanitizer: tests/cuda/sanitize.sh build/tests/cuda memcheck racecheck initcheck
# A process for each test, type and path, as many at once as there are cores; a line for each, below it the whole report if it has one.
# Ends with 1 where one has. A call of more memory than there is belongs to the test "memory", so memcheck does not report what calls return.
if [ "$1" = --one ]; then
    IFS='|' read -r tool program words name <<END
$3
END
    log=$(mktemp)
    start=$(date +%s)
    [ "$tool" = memcheck ] && quiet='--report-api-errors no' || quiet=
    # shellcheck disable=SC2086 # words are several
    timeout 100 compute-sanitizer --tool "$tool" $quiet --error-exitcode 1 "$2/$program" $words ${name:+"$name"} >"$log" 2>&1
    rc=$?
    echo "$([ $rc = 0 ] && echo ok || echo "FAIL ($rc)") $tool $program $words $name: $(($(date +%s) - start)) s, $(grep -o 'SUMMARY: .*' "$log")"
    [ $rc = 0 ] || cat "$log"
    rm "$log"
    exit $((rc != 0))
fi
[ $# -ge 2 ] || { echo "usage: sanitize.sh DIR TOOL..." >&2; exit 2; }
dir=$1
shift
for tool; do
    for how in 'bf16 wgmma' 'f16 mma'; do "$dir/test_cuda_ops" names | sed "s/^/$tool|test_cuda_ops|$how small|/"; done
    echo "$tool|test_cuda_queue|small|"
done | xargs -d '\n' -n 1 -P "$(nproc)" "$0" --one "$dir" || exit 1
