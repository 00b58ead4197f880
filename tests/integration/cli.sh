#!/usr/bin/env bash
# cli.sh BUILD - the program `sparsecast` from outside: films that repeat bit for bit, also after an interruption; what goes into files;
# inspect on good and bad models; golden vectors that must fail; bench. Last line: N passed, N failed.
#
# Nothing here depends on speed: an interrupted run is one that has written a frame and is then told to stop.
set -u
cd "$(dirname "$0")/../.."
sc=$(realpath "$1")/cli/sparsecast
model=models/pocket vectors=tests/vectors
work=$(mktemp -d) passed=0 failed=0 runner=
trap 'rm -rf "$work"; [ -z "$runner" ] || kill "$runner" 2>/dev/null' EXIT

ok() { passed=$((passed + 1)); }
bad() { failed=$((failed + 1)); echo "FAIL $*"; }
check() { # NAME COMMAND...
    local name=$1
    shift
    if "$@" >/dev/null 2>&1; then ok; else bad "$name"; fi
}
# run NAME CODE TEXT COMMAND...: the exit code, and a part of what is printed
run() {
    local name=$1 code=$2 text=$3 said rc
    shift 3
    said=$(timeout 60 "$@" 2>&1 </dev/null)
    rc=$?
    if [ "$rc" != "$code" ]; then bad "$name: exit $rc, not $code: ${said:0:300}"
    elif [[ "$said" != *"$text"* ]]; then bad "$name: no \"$text\" in: ${said:0:300}"
    else ok; fi
}
edit() { node tests/integration/st_edit.mjs "$@" || bad "st_edit $*"; }
same() { # folders hold the same files
    diff -r "$1" "$2" >/dev/null
}
count() { find "$1" -name 'frame-*.jpg' | wc -l; }
make_film() { "$sc" generate --model "$model" "$@" 2>"$work/said"; }

# ---- the command line ----
run 'no command' 2 'sparsecast generate' "$sc"
run 'unknown command' 2 'no command paint' "$sc" paint
run 'help' 0 'sparsecast vectors' "$sc" --help
for c in generate inspect vectors bench replay; do run "$c --help" 0 "usage: sparsecast $c" "$sc" $c --help; done
run 'unknown option' 2 'no option --colour' "$sc" generate --colour red
run 'option of another command' 2 'no option --seed' "$sc" bench --seed 1
run 'option without its value' 2 '--seed needs a value' "$sc" generate --seed
run 'flag with a value' 2 'takes no value' "$sc" bench --json=yes
run 'no prompt' 2 '--prompt is missing' "$sc" generate --seconds 1 -o "$work/x"
run 'no length' 2 '--seconds is missing' "$sc" generate --prompt x -o "$work/x"
run 'no output' 2 '-o is missing' "$sc" generate --prompt x --seconds 1
for s in 0 -1 nan inf 1e9 0x10 '' ten; do run "seconds '$s'" 2 'not a number above 0' "$sc" generate --prompt x "--seconds=$s" -o "$work/x"; done
for s in -1 18446744073709551616 1.5 ''; do run "seed '$s'" 2 'not a whole number from 0' "$sc" generate --prompt x "--seed=$s" -o "$work/x"; done
for q in 0 101 best; do run "quality $q" 2 'not a whole number from 1 to 100' "$sc" generate --quality $q; done
for w in 5m s -3s 1.5chunk; do run "moment $w" 2 'not a moment' "$sc" generate --prompt-at "$w" text; done
run 'later prompt without text' 2 'a moment and a text' "$sc" generate --prompt-at 5s
for t in fade blend:0 blend:65 cut:2; do run "transition $t" 2 "--transition $t" "$sc" generate --transition $t; done
run 'device' 2 'not one of cpu|twin|cuda' "$sc" generate --device tpu
run 'word too many' 2 'what is here' "$sc" inspect "$model" here
run 'mp4' 2 '.mp4 is not written here' "$sc" generate --prompt x --seconds 1 -o "$work/x.mp4"
run 'bad UTF-8' 2 'bad UTF-8 at byte 2' "$sc" generate --model "$model" --prompt $'a \xff' --seconds 1 -o "$work/x.y4m"
run 'bad UTF-8 later' 2 'later prompt 1' "$sc" generate --model "$model" --prompt a --prompt-at 0chunk $'\xc3(' --seconds 1 -o "$work/x.y4m"
run 'no such model' 78 'config.json: No such file' "$sc" generate --model "$work/none" --prompt x --seconds 1 -o "$work/x.y4m"
run 'no such folder' 70 'No such file or directory' "$sc" generate --model "$model" --prompt x --seconds 0.1 -o "$work/none/x.y4m"
run 'full disk' 70 'No space left on device' bash -c "'$sc' generate --model '$model' --prompt x --seconds 0.1 -o - >/dev/full"
touch "$work/file"
run 'a file where a folder belongs' 70 'a folder is needed' "$sc" generate --model "$model" --prompt x --seconds 0.1 -o "$work/file"
check 'nothing is left behind' test -z "$(find "$work" -name '*x*' ! -path "$work")"

# ---- films ----
red='a red ball bouncing right over green hills at noon' night='a purple ufo hovering left above the desert at night'
make_film --prompt "$red" --seed 7 --seconds 1 -o "$work/a"
check 'a film of a second has 9 + 12 frames' test "$(count "$work/a")" = 21
check 'it is silent where nobody watches' test ! -s "$work/said"
check 'frames are JPEG' test "$(head -c 3 "$work/a/frame-000020.jpg" | od -An -tx1 | tr -d ' ')" = ffd8ff
make_film --prompt "$red" --seed 7 --seconds 1 --threads 1 -o "$work/b"
check 'the same again, on one thread' same "$work/a" "$work/b"
make_film --prompt "$red" --seed 8 --seconds 0.5 -o "$work/c"
check 'half a second is one chunk' test "$(count "$work/c")" = 9
check 'another seed, another picture' bash -c "! cmp -s '$work/a/frame-000000.jpg' '$work/c/frame-000000.jpg'"
make_film --prompt "$red" --prompt-at 200ms "$night" --seed 7 --seconds 1 -o "$work/d" # frame 3.2: the chunk of frames 9 to 20
for i in 000000 000008; do check "frame $i is before the new prompt" cmp -s "$work/a/frame-$i.jpg" "$work/d/frame-$i.jpg"; done
for i in 000009 000020; do check "frame $i is after it" bash -c "! cmp -s '$work/a/frame-$i.jpg' '$work/d/frame-$i.jpg'"; done
make_film --prompt "$red" --prompt-at 1chunk "$night" --seed 7 --seconds 1 -o "$work/e"
check 'the same moment as a chunk' same "$work/d" "$work/e"
make_film --prompt "$night" --prompt-at 0s "$red" --seed 7 --seconds 0.5 -o "$work/f"
check 'a prompt at 0 s is the first' cmp -s "$work/a/frame-000008.jpg" "$work/f/frame-000008.jpg"

# Interrupted once a frame is there, then run again over what it left.
"$sc" generate --model "$model" --prompt "$red" --seed 7 --seconds 86400 -o "$work/g" 2>"$work/said" &
runner=$!
for _ in $(seq 600); do [ -e "$work/g/frame-000010.jpg" ] && break; sleep 0.05; done
kill -INT $runner
wait $runner
check 'SIGINT is exit code 130' test $? = 130
runner=
check 'it says how far it came' grep -q 'interrupted after' "$work/said"
check 'no part of a file stays' test -z "$(find "$work/g" -name '.*' -type f)"
whole=$(count "$work/g")
check 'every frame is whole' bash -c "for f in '$work'/g/frame-*.jpg; do [ \"\$(tail -c 2 \"\$f\" | od -An -tx1 | tr -d ' ')\" = ffd9 ] || exit 1; done"
make_film --prompt "$red" --seed 7 --seconds 1 -o "$work/g"
for f in "$work"/g/frame-*.jpg; do [ "${f##*-}" \> 000020.jpg ] && rm "$f"; done
check "after an interruption at frame $whole: the same files" same "$work/a" "$work/g"

make_film --prompt "$red" --seed 7 --seconds 0.5 -o "$work/x.y4m"
"$sc" generate --model "$model" --prompt "$red" --seed 7 --seconds 0.5 -o - >"$work/y" 2>/dev/null
check 'Y4M to a file and to standard output' cmp -s "$work/x.y4m" "$work/y"
check 'header of Y4M' test "$(head -n 1 "$work/y")" = 'YUV4MPEG2 W256 H160 F16:1 Ip A1:1 C420jpeg XCOLORRANGE=FULL'
check '9 frames of Y4M' test "$(stat -c %s "$work/y")" = $((60 + 9 * (6 + 256 * 160 * 3 / 2)))
make_film --prompt "$red" --seed 7 --seconds 0.5 -o "$work/x.mjpeg"
check 'Motion JPEG is the JPEG files in a row' bash -c "cat '$work'/a/frame-00000[0-8].jpg | cmp -s - '$work/x.mjpeg'"
make_film --prompt "$red" --seed 7 --seconds 0.5 --quality 20 -o "$work/q.mjpeg"
check 'less quality, fewer bytes' test "$(stat -c %s "$work/q.mjpeg")" -lt "$(stat -c %s "$work/x.mjpeg")"
for t in blend:2 recache cut; do make_film --prompt "$red" --prompt-at 1chunk "$night" --transition $t --seed 7 --seconds 1 -o "$work/t-$t.mjpeg"; done
cat "$work"/d/*.jpg >"$work/t-switch.mjpeg"
check 'transitions are four different films' test "$(sha256sum "$work"/t-*.mjpeg | cut -c1-64 | sort -u | wc -l)" = 4
make_film --memory window --prompt "$red" --seed 7 --seconds 0.5 -o "$work/w.mjpeg"
check 'a plain window' test -s "$work/w.mjpeg"

# ---- inspect ----
run 'inspect a model' 0 'Wan-layout transformer, UMT5-layout text encoder, TAEHV-layout decoder' "$sc" inspect "$model"
run 'what a session takes' 0 'on the CPU (f32)' "$sc" inspect "$model"
run 'parts' 0 'transformer: 178 tensors in 2 files, 13318336 values, 26.6 MB, F16' "$sc" inspect "$model"
run 'every tensor' 0 'blocks.5.self_attn.q.weight' "$sc" inspect --tensors "$model"
run 'a shard' 0 '(a shard)' "$sc" inspect "$model/dit-00002-of-00002.safetensors"
run 'a text encoder' 0 'UMT5-layout text encoder, 192 wide, 3 layers' "$sc" inspect "$model/text_encoder.safetensors"
run 'a decoder' 0 'TAEHV-layout decoder' "$sc" inspect "$model/tae.safetensors"
run 'vectors' 0 'golden vectors of the set t5' "$sc" inspect "$vectors/t5.safetensors"
small=$vectors/scheduler.safetensors
bad_file() { # NAME TEXT OP...
    local name=$1 text=$2
    shift 2
    edit "$small" "$work/bad.safetensors" "$@"
    run "inspect: $name" 78 "$text" "$sc" inspect "$work/bad.safetensors"
}
run 'inspect: nothing there' 78 'No such file' "$sc" inspect "$work/none"
run 'inspect: a pipe' 78 'not a file' "$sc" inspect /dev/null
printf 'abc' >"$work/short"
run 'inspect: three bytes' 78 '3 bytes' "$sc" inspect "$work/short"
printf '\377\377\377\377\377\377\377\177{}' >"$work/long"
run 'inspect: huge header' 78 'is above' "$sc" inspect "$work/long"
printf '\100\0\0\0\0\0\0\0{}' >"$work/cut"
run 'inspect: header past the end' 78 'only 2 bytes follow' "$sc" inspect "$work/cut"
bad_file 'truncated' 'leave the file' cut 5
bad_file 'bytes behind the end' '7 bytes after the last tensor' grow 7
bad_file 'no JSON' 'bad.safetensors' header '{"a":'
bad_file 'a list' 'bad.safetensors' header '[1, 2, 3]'
bad_file 'unknown type' 'unknown dtype "F99"' header '{"a":{"dtype":"F99","shape":[1],"data_offsets":[0,4]}}'
bad_file 'negative size' 'not a whole number of 0 or more' header '{"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}}'
bad_file 'overflow' 'overflows' header '{"a":{"dtype":"F32","shape":[4294967296,4294967296,4],"data_offsets":[0,4]}}'
bad_file 'backwards' 'run backwards' header '{"a":{"dtype":"F32","shape":[1],"data_offsets":[4,0]}}'
bad_file 'a lie about the size' 'takes 8 bytes' header '{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,4]}}'
bad_file 'overlap' 'overlaps' header '{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"b":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}}'
bad_file 'hole' 'a hole of 4 bytes' header '{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"b":{"dtype":"F32","shape":[1],"data_offsets":[8,12]}}'
bad_file 'metadata' '__metadata__' header '{"__metadata__":{"a":1}}'
mkdir "$work/m"
for f in "$model"/*; do ln -s "$(realpath "$f")" "$work/m/"; done
bad_config() { # NAME TEXT SED
    rm -f "$work/m/config.json"
    sed "$3" "$model/config.json" >"$work/m/config.json"
    run "config: $1" 78 "$2" "$sc" inspect "$work/m"
}
bad_config 'no heads' 'dit.heads' 's/"heads": 3,/"heads": 0,/'
bad_config 'a word for a number' 'fps' 's/"fps": 16/"fps": "fast"/'
bad_config 'no such file' 'missing.safetensors: No such file' 's/tae.safetensors/missing.safetensors/'
bad_config 'a path out' 'decoder.file' 's,tae.safetensors,../tae.safetensors,'
bad_config 'half of it' 'config.json' '10,$d'
bad_config 'unknown memory' 'memory.kind' 's/"pbsa"/"elephant"/'

# ---- replay (whole streams: log.mjs) ----
run 'replay: no file' 2 'is missing' "$sc" replay
run 'replay: nothing there' 70 'No such file' "$sc" replay "$work/none.log"
run 'replay: a folder' 70 'Is a directory' "$sc" replay "$work"
run 'replay: standard input, empty' 2 'standard input: it is empty' "$sc" replay -
run 'replay: a picture' 2 'line 1: the line is not JSON' "$sc" replay "$work/a/frame-000000.jpg"
run 'replay: a log of another model' 78 'models/m/config.json: No such file' "$sc" replay tests/fuzz/session.jsonl
run 'replay: another model' 78 'the log is of model m with digest 001122334455..., models/pocket is pocket' "$sc" replay --model "$model" tests/fuzz/session.jsonl
run 'replay: lines are missing' 2 'lines.log: line 4: event 5 behind event 3' bash -c "sed 4d tests/fuzz/session.jsonl >'$work/lines.log'; '$sc' replay '$work/lines.log'"

# ---- golden vectors ----
run 'vectors: no file' 2 'is missing' "$sc" vectors
run 'vectors: nothing there' 2 'No such file' "$sc" vectors "$work/none.safetensors"
run 'vectors: two files' 0 'scheduler.safetensors: 18 outputs compared, 0 outside' "$sc" vectors $vectors/t5.safetensors $vectors/scheduler.safetensors
altered() { # NAME CODE TEXT FILE OP...
    local name=$1 code=$2 text=$3 file=$4
    shift 4
    edit "$vectors/$file.safetensors" "$work/$file.safetensors" "$@"
    run "vectors: $name" "$code" "$text" "$sc" vectors "$work/$file.safetensors"
}
altered 'an unknown set' 2 'no set that this program can run' t5 meta set '' nonsense
altered 'truncated' 2 'leave the file' t5 cut 100
altered 'NaN in an output' 1 'FAIL' t5 poke out.prompt_embeds 5 NaN
altered 'infinity in an output' 1 'FAIL' t5 poke out.prompt_embeds 5 Infinity
altered 'one value of an output' 1 'out.block1 ' t5 poke out.block1 70 0.5
altered 'one integer of an output' 1 '1 of 601 differ' t5 poke out.buckets 3 1
altered 'an altered input' 1 'FAIL' t5 poke in.ids 2 9
altered 'an output that is missing' 1 'out.prompt_embeds' t5 drop out.prompt_embeds
altered 'an input that is missing' 1 'in.mask' t5 drop in.mask
altered 'a lie about the layers' 2 'blocks.2' t5 meta config num_layers 3
altered 'no layers' 2 'num_layers: 0 is not' t5 meta config num_layers 0
altered 'a shape that does not fit' 1 'are needed' scheduler head in.noise 0 3
altered 'fewer and shorter sequences' 0 '0 outside tolerance' t5 $(for t in in.ids in.mask out.block0 out.block1 out.embeddings out.prompt_embeds; do echo head $t 0 2 head $t 1 31; done) \
    head out.pos_bias0 2 31 head out.pos_bias0 3 31 head out.pos_bias1 2 31 head out.pos_bias1 3 31
altered 'fewer latent frames' 0 '0 outside tolerance' taehv head in.z 1 2 head out.dec.raw 1 8 head out.dec.after_5 1 2 head out.dec.after_14 1 3 head out.dec.clamped_latent 1 2 \
    head out.dec.decoded 1 5 head out.dec.frames_per_latent 0 2 head in.clip 1 8 head out.enc.latents 1 2
altered 'fewer chunks and heads' 0 '0 outside tolerance' pbsa_rollout meta config chunks 4 meta config heads 1 \
    $(for t in out.P_ids out.out out.score out.selected_ids in.k in.q in.v; do echo head $t 0 4 head $t 1 1; done)
altered 'a selection' 1 'out.selected_ids' pbsa_rollout poke out.selected_ids 9 0
altered 'weights that are not beside it' 2 'dit_model.safetensors' rollout_window poke out.latents 0 0
ln -s "$(realpath $vectors/dit_model.safetensors)" "$work/"
altered 'a shorter rollout' 0 '0 outside tolerance' rollout_window meta rollout num_chunks 3 head in.noise 1 9 head in.renoise 0 3 head out.latents 1 9 head out.cache_frames 0 3 \
    head out.evicted_frames 0 3 head out.x0_steps 0 3
altered 'another window' 1 'FAIL' rollout_window meta rollout local_attn_size 7
altered 'another sink' 1 'FAIL' rollout_window meta rollout sink_size 2
altered 'a window below sink and chunk' 2 'sink' rollout_window meta rollout sink_size 4
altered 'another shift' 1 'FAIL' rollout_window meta rollout shift 4.5

# ---- bench ----
said=$("$sc" bench --model "$model" --chunks 2 2>&1)
check 'bench: stages' bash -c '[[ "$1" == *"denoise pass"*"decode"*"clean pass"*"chunk"* ]]' - "$said"
check 'bench: counts what the method needs' bash -c '[[ "$1" == *"counted 112.8 GFLOP"* ]]' - "$said"
if ldconfig -p 2>/dev/null | grep -q libopenblas.so.0; then check 'bench: a ratio' bash -c '[[ "$1" =~ ratio\ [0-9.]+\ = ]]' - "$said"
else check 'bench: says why there is no ratio' bash -c '[[ "$1" == *"no ratio: libopenblas.so.0"* ]]' - "$said"; fi
"$sc" bench --model "$model" --chunks 1 --json >"$work/bench.json"
check 'bench: JSON' node -e 'const b = JSON.parse(require("fs").readFileSync(process.argv[1])); if (!(b.stages.chunk.p50_ms > 0 && b.ready_s > 0 && b.resident_kib > 0)) process.exit(1)' "$work/bench.json"

echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
