#!/bin/sh
# Compiles features.cu with nvcc 13.0.88 for each architecture: make.sh NVCC
cd "$(dirname "$0")" || exit 1
for arch in sm_80 sm_89 sm_90a sm_100a sm_120; do
    "$1" -ptx -arch=$arch -lineinfo features.cu -o features.$arch.ptx || exit 1
    sed -i 's|"[^"]*/\([A-Za-z_0-9]*\.[a-z]*\)"|"\1"|' features.$arch.ptx
done
