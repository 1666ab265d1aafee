// Pairs for synccheck; see race.cu.
#include "pairs.cuh"

// pair: synccheck block=32 args=in:32,out:32
KERNEL divergent_barrier(const float* x, float* y) {
    __shared__ float s[32];
    s[T] = x[T];
    if (!BROKEN || T < 16) __syncthreads(); // <<
    y[T] = s[T];
}

// pair: synccheck block=64 args=in:64,out:64,i32:50
KERNEL early_return(const float* x, float* y, int n) {
    __shared__ float s[64];
    if (BROKEN && T >= n) return;
    s[T] = x[T];
    __syncthreads(); // <<
    y[T] = s[T];
}

// pair: synccheck block=64 args=in:64,out:64
KERNEL barrier_for_too_many(const float* x, float* y) {
    __shared__ float s[64];
    s[T] = x[T];
    if (BROKEN) asm volatile("bar.sync 1, 96;" ::: "memory"); // <<
    else asm volatile("bar.sync 1, 64;" ::: "memory");
    y[T] = s[63 - T];
}

// pair: synccheck block=64 args=in:64,out:64
KERNEL barrier_odd_count(const float* x, float* y) {
    __shared__ float s[64];
    s[T] = x[T];
    if (BROKEN) asm volatile("bar.sync 1, 50;" ::: "memory"); // <<
    else asm volatile("bar.sync 1, 64;" ::: "memory");
    y[T] = s[T];
}

// pair: synccheck block=64 args=in:64,out:64
KERNEL different_barriers(const float* x, float* y) {
    __shared__ float s[64];
    s[T] = x[T];
    if (BROKEN && T < 32) asm volatile("bar.sync 1, 64;" ::: "memory"); // <<
    else asm volatile("bar.sync 2, 64;" ::: "memory"); // <<
    y[T] = s[T];
}

// pair: synccheck block=64 args=in:64,out:64
KERNEL unequal_trips(const float* x, float* y) {
    float sum = 0;
    for (int i = 0; i < (BROKEN ? 2 + T / 32 : 2); i++) {
        sum += x[T];
        asm volatile("bar.sync 3, 64;" ::: "memory"); // <<
    }
    y[T] = sum;
}

// pair: synccheck block=32 args=in:32,out:32
KERNEL shuffle_absent_lanes(const float* x, float* y) {
    float v = x[T];
    if (T < 16) {
        if (BROKEN) v += exchange(0xFFFFFFFF, v); // <<
        else v += exchange(0xFFFF, v);
    }
    y[T] = v;
}

// pair: synccheck block=32 args=in:32,out:32
KERNEL shuffle_without_self(const float* x, float* y) {
    y[T] = exchange(BROKEN ? 0xFFFF : 0xFFFFFFFF, x[T]); // <<
}

// pair: synccheck block=32 args=in:32,out:32
KERNEL vote_absent_lanes(const float* x, float* y) {
    unsigned v = 0;
    if (x[T] > 10) v = ballot(BROKEN ? 0xFFFFFFFF : __activemask(), x[T] > 20); // <<
    y[T] = v;
}

// pair: synccheck block=32 args=in:32,out:32
KERNEL warp_barrier_absent_lanes(const float* x, float* y) {
    __shared__ float s[32];
    s[T] = x[T];
    if (T < 16) {
        warp_barrier(BROKEN ? 0xFFFFFFFF : 0xFFFF); // <<
        y[T] = s[T ^ 1];
    }
}

// pair: synccheck block=32 args=in:32,out:32
KERNEL matrix_divergent(const float* x, float* y) {
    __shared__ __align__(16) float s[32];
    s[T] = x[T];
    __syncthreads();
    unsigned v = 0, from = (unsigned)__cvta_generic_to_shared(s + (T % 8) * 4);
    if (!BROKEN || T < 16)
        asm volatile("ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%0}, [%1];" : "=r"(v) : "r"(from) : "memory"); // <<
    y[T] = v;
}

// pair: synccheck block=64 args=in:64,out:64
KERNEL barrier_object_uninitialised(const float* x, float* y) {
    __shared__ float s[64];
    __shared__ unsigned long long b;
    if (T == 0 && !BROKEN) mbarrier_init(&b, 64);
    __syncthreads();
    s[T] = x[T];
    mbarrier_arrive(&b); // <<
    if (!BROKEN) mbarrier_wait(&b, 0);
    __syncthreads();
    y[T] = s[63 - T];
}

// pair: synccheck block=64 args=in:64,out:64
KERNEL barrier_object_count(const float* x, float* y) {
    __shared__ float s[64];
    __shared__ unsigned long long b;
    if (T == 0) mbarrier_init(&b, BROKEN ? 65 : 64);
    __syncthreads();
    s[T] = x[T];
    mbarrier_arrive(&b);
    mbarrier_wait(&b, 0); // <<
    y[T] = s[63 - T];
}
