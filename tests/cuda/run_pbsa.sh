#!/bin/sh
# Builds tests/cuda/pbsa_bench.cu alone (nvcc for sm_90a, cc for the twin) into $1 (default build-pbsa) and, with further arguments, runs it
# once with each of them: tests/cuda/run_pbsa.sh build-pbsa check time. Functions of the twin that need its other files are dropped by the linker.
set -e
cd "$(dirname "$0")/../.."
dir=${1:-build-pbsa}
[ $# -gt 0 ] && shift
mkdir -p "$dir"
nvcc=${NVCC:-nvcc}
for f in kernels/cpu/twin_attention.c kernels/cpu/twin_memory.c base/status.c; do
    o=$dir/$(basename "$f" .c).o
    [ "$o" -nt "$f" ] || ${CC:-cc} -O2 -ffunction-sections -D_GNU_SOURCE -I. -c "$f" -o "$o"
done
$nvcc -I. -c kernels/cuda/tensor_map.c -o "$dir/tensor_map.o"
for f in kernels/cuda/attention.cu kernels/cuda/attention_hopper.cu kernels/cuda/attention_cut.cu kernels/cuda/attention_mma.cu kernels/cuda/select.cu kernels/cuda/memory.cu tests/cuda/pbsa_bench.cu; do
    $nvcc -gencode=arch=compute_90a,code=sm_90a -O3 -lineinfo -std=c++17 --expt-relaxed-constexpr -I. -c "$f" -o "$dir/$(basename "$f" .cu).o"
done
$nvcc -Xlinker --gc-sections -o "$dir/pbsa_bench" "$dir"/attention.o "$dir"/attention_hopper.o "$dir"/attention_cut.o "$dir"/attention_mma.o "$dir"/select.o "$dir"/memory.o "$dir"/tensor_map.o \
    "$dir"/pbsa_bench.o "$dir"/twin_attention.o "$dir"/twin_memory.o "$dir"/status.o -lm
for what; do "$dir/pbsa_bench" "$what"; done
