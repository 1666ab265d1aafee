// Pairs for racecheck. Compiled with BROKEN 1 and 0; `pair:` says who must speak and how to launch; `<<` marks the lines
// that may be named.
#include "pairs.cuh"

// pair: racecheck block=64 args=in:64,out:64
KERNEL missing_barrier(const float* x, float* y) {
    __shared__ float s[64];
    s[T] = x[T]; // <<
    if (!BROKEN) __syncthreads();
    y[T] = s[63 - T]; // <<
}

// pair: racecheck block=128 args=in:128,out:1
KERNEL reduction(const float* x, float* y) {
    __shared__ float s[128];
    s[T] = x[T];
    __syncthreads();
    for (int n = 64; n > 0; n /= 2) {
        if (T < n) s[T] += s[T + n]; // <<
        if (!BROKEN) __syncthreads();
    }
    if (T == 0) y[0] = s[0]; // <<
}

// pair: racecheck block=64 args=in:256,out:256
KERNEL double_buffer(const float* x, float* y) {
    __shared__ float s[2][64];
    for (int i = 0; i < 4; i++) {
        if (!BROKEN || i < 2) __syncthreads();
        s[BROKEN ? 0 : i % 2][T] = x[i * 64 + T]; // <<
        __syncthreads();
        y[i * 64 + T] = s[BROKEN ? 0 : i % 2][63 - T]; // <<
    }
}

// pair: racecheck block=64 args=in:64,out:64
KERNEL after_loop(const float* x, float* y) {
    __shared__ float s[64];
    s[T] = 0;
    for (int i = 0; i < 3; i++) {
        __syncthreads();
        if (T % 4 == i) s[T] = x[T]; // <<
    }
    if (!BROKEN) __syncthreads();
    y[T] = s[T ^ 32]; // <<
}

// pair: racecheck block=64 args=in:64,out:2
KERNEL scratch_reused(const float* x, float* y) {
    __shared__ float s[2];
    float v = x[T];
    for (int k = 0; k < 2; k++) {
        if (T % 32 == 0) s[T / 32] = v; // <<
        __syncthreads();
        v = s[0] + s[1]; // <<
        if (!BROKEN) __syncthreads();
    }
    if (T % 32 == 0) y[T / 32] = v;
}

// pair: racecheck block=32 args=in:128,out:128
KERNEL weak_wait(const float* x, float* y) {
    __shared__ float s[4][32];
    for (int i = 0; i < 4; i++) {
        copy_async(&s[i][T], x + i * 32 + T); // <<
        commit();
    }
    wait<BROKEN ? 1 : 0>();
    __syncthreads();
    for (int i = 0; i < 4; i++) y[i * 32 + T] = s[i][31 - T]; // <<
}

// pair: racecheck block=64 args=in:64,out:64
KERNEL missing_wait(const float* x, float* y) {
    __shared__ float s[64];
    copy_async(&s[T], x + T); // <<
    commit();
    if (!BROKEN) wait<0>();
    __syncthreads();
    y[T] = s[63 - T]; // <<
}

// pair: racecheck block=64 args=in:64,out:64
KERNEL missing_commit(const float* x, float* y) {
    __shared__ float s[64];
    copy_async(&s[T], x + T); // <<
    if (!BROKEN) commit();
    wait<0>();
    __syncthreads();
    y[T] = s[63 - T]; // <<
}

// pair: racecheck block=64 args=in:64,out:64
KERNEL wait_without_barrier(const float* x, float* y) {
    __shared__ float s[64];
    copy_async(&s[T], x + T); // <<
    commit();
    wait<0>();
    if (!BROKEN) __syncthreads();
    y[T] = s[63 - T]; // <<
}

// pair: racecheck block=64 args=in:256,out:256
KERNEL refill_too_early(const float* x, float* y) {
    __shared__ float s[64];
    for (int i = 0; i < 4; i++) {
        copy_async(&s[T], x + i * 64 + T); // <<
        commit();
        wait<0>();
        __syncthreads();
        y[i * 64 + T] = s[63 - T]; // <<
        if (!BROKEN) __syncthreads();
    }
}

// pair: racecheck block=32 args=in:32,out:32
KERNEL missing_warp_barrier(const float* x, float* y) {
    __shared__ float s[32];
    s[T] = x[T]; // <<
    if (!BROKEN) __syncwarp();
    y[T] = s[T ^ 1]; // <<
}

// pair: racecheck block=128 args=bins:128,zero:8
KERNEL histogram_shared(const int* x, int* y) {
    __shared__ int s[8];
    if (T < 8) s[T] = 0;
    __syncthreads();
    if (BROKEN) s[x[T]]++; // <<
    else add(&s[x[T]], 1);
    __syncthreads();
    if (T < 8) y[T] = s[T];
}

// pair: racecheck grid=4 block=64 args=bins:256,zero:8
KERNEL histogram_global(const int* x, int* y) {
    if (BROKEN) y[x[blockIdx.x * 64 + T]]++; // <<
    else add(&y[x[blockIdx.x * 64 + T]], 1);
}

// pair: racecheck grid=2 block=32 args=in:32,zero:64
KERNEL between_blocks(const float* x, float* y) {
    int at = BROKEN ? T : blockIdx.x * 32 + T;
    y[at] = x[T] + blockIdx.x; // <<
}

// pair: racecheck grid=8 block=1 args=in:8,out:8,zero:1,out:1
KERNEL missing_fence(const float* x, float* part, int* done, float* y) {
    part[blockIdx.x] = x[blockIdx.x]; // <<
    if (!BROKEN) __threadfence();
    if (add(done, 1) == gridDim.x - 1) {
        if (!BROKEN) __threadfence();
        float sum = 0;
        for (int i = 0; i < gridDim.x; i++) sum += part[i]; // <<
        y[0] = sum;
    }
}

// pair: racecheck block=64 args=in:64,out:64
KERNEL barrier_object_not_awaited(const float* x, float* y) {
    __shared__ float s[64];
    __shared__ unsigned long long b;
    if (T == 0) mbarrier_init(&b, 64);
    __syncthreads();
    s[T] = x[T]; // <<
    mbarrier_arrive(&b);
    if (!BROKEN) mbarrier_wait(&b, 0);
    y[T] = s[63 - T]; // <<
}

// pair: racecheck block=96 args=in:32,out:64
KERNEL wrong_named_barrier(const float* x, float* y) {
    __shared__ float s[32];
    if (T < 32) {
        s[T] = x[T]; // <<
        asm volatile("bar.arrive 1, 96;" ::: "memory");
    } else {
        if (BROKEN) asm volatile("bar.sync 2, 64;" ::: "memory");
        else asm volatile("bar.sync 1, 96;" ::: "memory");
        y[T - 32] = s[T % 32]; // <<
    }
}
