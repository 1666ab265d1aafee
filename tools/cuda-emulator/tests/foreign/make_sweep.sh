#!/bin/sh
# Compiles sweep_*.cu to sweep/*.ptx. Usage: make_sweep.sh NVCC INCLUDE (the folder cccl of the toolkit)
set -e
cd "$(dirname "$0")"
make() { "$1" -ptx -arch=sm_$3 -std=c++17 -w -I "$2" sweep_$4.cu -o - | grep -vE '^\s*(//.*)?$' > sweep/$4.sm_$3.ptx; }
make "$1" "$2" 80 math
make "$1" "$2" 80 features
make "$1" "$2" 89 features
make "$1" "$2" 80 intrinsics
make "$1" "$2" 90 intrinsics
cpp -P -DLIST sweep_intrinsics.cu | tr -s '\n' ' ' | sed 's/ kernel/\nkernel/g' > sweep/intrinsics.txt
