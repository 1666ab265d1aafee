// Pairs for initcheck; see race.cu.
#include "pairs.cuh"

// pair: initcheck block=32 args=out:32,out:32 fixed=in:32,out:32
KERNEL global_unwritten(const float* x, float* y) {
    y[T] = x[T] + 1; // <<
}

// pair: initcheck block=64 args=in:64,out:64
KERNEL shared_unwritten(const float* x, float* y) {
    __shared__ float s[64];
    if (T < 64 - BROKEN) s[T] = x[T];
    __syncthreads();
    y[T] = s[63 - T]; // <<
}

// pair: initcheck block=32 args=in:32,out:32,i32:16
KERNEL local_unwritten(const float* x, float* y, int n) {
    float a[16];
    for (int i = BROKEN; i < n; i++) a[i] = x[i];
    float sum = 0;
    for (int i = 0; i < n; i++) sum += ((volatile float*)a)[(i + T) % 16]; // <<
    y[T] = sum;
}

// pair: initcheck block=32 args=in:32,out:1 fixed=in:32,zero:1
KERNEL sum_not_zeroed(const float* x, float* y) {
    add(y, x[T]); // <<
}

// pair: initcheck block=32 args=in:32,out:32
KERNEL tail_not_filled(const float* x, float* y) {
    __shared__ float s[32];
    if (T < 20) copy_async(&s[T], x + T);
    else if (!BROKEN) s[T] = 0;
    commit();
    wait<0>();
    __syncthreads();
    y[T] = s[31 - T]; // <<
}

// pair: initcheck block=32 shared=128 args=in:32,out:32
KERNEL dynamic_unwritten(const float* x, float* y) {
    extern __shared__ float d[];
    if (!BROKEN || T % 8) d[T] = x[T];
    __syncthreads();
    y[T] = d[T ^ 8]; // <<
}
