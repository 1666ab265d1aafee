// Pairs for memcheck; see race.cu.
#include "pairs.cuh"

// pair: memcheck block=64 args=in:64,out:64
KERNEL global_read_past(const float* x, float* y) {
    y[T] = x[T + BROKEN]; // <<
}

// pair: memcheck block=64 args=in:64,out:64
KERNEL global_write_past(const float* x, float* y) {
    float v = x[T];
    y[T + BROKEN] = v; // <<
}

// pair: memcheck block=64 args=in:64,out:64
KERNEL global_before(const float* x, float* y) {
    y[T] = x[BROKEN ? T - 1 : T]; // <<
}

// pair: memcheck block=64 args=in:64,out:64,i32:64
KERNEL shared_past(const float* x, float* y, int n) {
    __shared__ float s[64];
    s[T] = x[T];
    __syncthreads();
    y[T] = s[n - T - !BROKEN]; // <<
}

// pair: memcheck block=64 shared=256 args=in:64,out:64,i32:64
KERNEL dynamic_past(const float* x, float* y, int n) {
    extern __shared__ float d[];
    d[n - T - !BROKEN] = x[T]; // <<
    __syncthreads();
    y[T] = d[T];
}

// pair: memcheck block=32 args=in:32,out:32,i32:16
KERNEL local_past(const float* x, float* y, int n) {
    float a[16];
    for (int i = 0; i < n; i++) a[i] = x[i + T % 16];
    int at = n - 1 + BROKEN;
    y[T] = ((volatile float*)a)[at]; // <<
}

// pair: memcheck block=15 args=in:64,out:64
KERNEL misaligned_vector(const float* x, float* y) {
    float4 v = *(const float4*)(x + 4 * T + BROKEN); // <<
    *(float4*)(y + 4 * T) = v; // <<
}

// pair: memcheck block=16 args=in:64,out:32
KERNEL misaligned_shared(const float* x, float* y) {
    __shared__ __align__(16) float s[64];
    for (int i = T; i < 64; i += 16) s[i] = x[i];
    __syncthreads();
    float2 v = *(float2*)(s + 2 * T + BROKEN); // <<
    *(float2*)(y + 2 * T) = v; // <<
}

// pair: memcheck block=8 args=in:64,out:32
KERNEL misaligned_async(const float* x, float* y) {
    __shared__ __align__(16) float s[64];
    unsigned to = (unsigned)__cvta_generic_to_shared(s + 4 * T + 2 * BROKEN);
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(to), "l"(x + 4 * T) : "memory"); // <<
    commit();
    wait<0>();
    __syncthreads();
    for (int i = 0; i < 4; i++) y[4 * T + i] = s[4 * T + i + 2 * BROKEN];
}

// pair: memcheck block=32 args=in:256,out:32
KERNEL misaligned_matrix(const float* x, float* y) {
    __shared__ __align__(16) float s[8 * 32];
    for (int i = T; i < 256; i += 32) s[i] = x[i];
    __syncthreads();
    unsigned v, from = (unsigned)__cvta_generic_to_shared(s + (T % 8) * 4 + BROKEN);
    asm volatile("ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%0}, [%1];" : "=r"(v) : "r"(from) : "memory"); // <<
    y[T] = v;
}

// pair: memcheck block=32 args=freed:32,out:32 fixed=in:32,out:32
KERNEL use_after_free(const float* x, float* y) {
    y[T] = x[T]; // <<
}

// pair: memcheck block=32 args=null,out:32 fixed=in:32,out:32
KERNEL null_pointer(const float* x, float* y) {
    y[T] = x[T]; // <<
}

// pair: memcheck block=32 args=in:32,out:32,i32:100000
KERNEL index_overflow(const float* x, float* y, int stride) {
    int at = BROKEN ? (int)((unsigned)stride * (unsigned)stride) + T : T;
    y[T] = x[at]; // <<
}

// pair: memcheck block=64 args=in:64,out:64
KERNEL async_source_past(const float* x, float* y) {
    __shared__ float s[64];
    copy_async(&s[T], x + T + BROKEN); // <<
    commit();
    wait<0>();
    __syncthreads();
    y[T] = s[63 - T];
}

// pair: memcheck block=64 args=bins:64,zero:7 fixed=bins:64,zero:8
KERNEL atomic_past(const int* x, int* y) {
    add(&y[x[T]], 1); // <<
}

// pair: memcheck block=32 args=in:32,zero:2048 fixed=in:32,zero:4096
KERNEL forgotten_guard(const float* x, float* y) {
    for (int i = T; i < 4096; i += 32) y[i] += x[T]; // <<
}

__device__ __noinline__ int descend(int n, volatile int* y) {
    int a[64];
    for (int i = 0; i < 64; i++) a[i] = n + i; // <<
    if (n == 0) return y[0]; // <<
    return descend(n - 1, y) + ((volatile int*)a)[n % 64]; // <<
} // <<
// pair: memcheck block=1 args=zero:1,i32:1000000 fixed=zero:1,i32:2
KERNEL recursion(int* y, int n) {
    y[0] = descend(n, y); // <<
}
