#!/bin/sh
# Compiles the pairs: make.sh NVCC
cd "$(dirname "$0")" || exit 1
for f in *.cu; do
    for broken in 0 1; do
        twin=$([ $broken = 1 ] && echo broken || echo fixed)
        "$1" -ptx -arch=sm_80 -lineinfo -DBROKEN=$broken "$f" -o "${f%.cu}.$twin.ptx" || exit 1
        sed -i "s|\"[^\"]*/\([a-z_0-9]*\.[a-z]*\)\"|\"\1\"|" "${f%.cu}.$twin.ptx"
    done
done
