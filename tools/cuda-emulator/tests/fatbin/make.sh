#!/bin/sh
# Makes the fatbinaries with nvcc 13.0: make.sh NVCC
cd "$(dirname "$0")" || exit 1
both='-gencode arch=compute_80,code=[compute_80,sm_80]'
fat() { out=$1 && shift && "$NVCC" -fatbin "$@" -o "$out.fatbin" scale.cu || exit 1; }
NVCC=$1
fat plain -arch=sm_80
fat cubin -gencode arch=compute_80,code=sm_80
fat uncompressed -no-compress $both
for mode in default none speed balance size; do fat $mode --compress-mode=$mode $both; done
fat many -gencode arch=compute_80,code=compute_80 -gencode arch=compute_89,code=compute_89 \
    -gencode arch=compute_90a,code=compute_90a -gencode arch=compute_90,code=compute_90 \
    -gencode arch=compute_100f,code=compute_100f -gencode arch=compute_120a,code=compute_120a
fat beside $both -gencode arch=compute_75,code=compute_75 \
    -gencode arch=compute_86,code=compute_86
