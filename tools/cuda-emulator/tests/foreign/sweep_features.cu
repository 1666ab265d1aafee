// Language and library features: every kernel is launched with one block of 128 threads (but for the grid's barrier) and `int* o` of 128 elements, and leaves
// in o[t] what the comment above it says. In the kernels from `any` on results are not looked at: they have to load.
#include <cassert>
#include <cooperative_groups.h>
#include <cooperative_groups/memcpy_async.h>
#include <cooperative_groups/reduce.h>
#include <cooperative_groups/scan.h>
#include <cstdio>
#include <cuda/atomic>
#include <cuda/barrier>
#include <cuda/pipeline>
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_fp8.h>
#include <cuda_pipeline.h>
#include <mma.h>
namespace cg = cooperative_groups;
using namespace nvcuda;
#define K(NAME) extern "C" __global__ void __launch_bounds__(128) NAME(int* o)

// 120: the sum of 0..15 in tiles of 16.
K(tile_reduce) { o[threadIdx.x] = cg::reduce(cg::tiled_partition<16>(cg::this_thread_block()), int(threadIdx.x % 16), cg::plus<int>()); }
// t % 32
K(tile_scan) { o[threadIdx.x] = cg::exclusive_scan(cg::tiled_partition<32>(cg::this_thread_block()), 1); }
// 4: threads of a warp whose number divides by 8.
K(coalesced) {
    o[threadIdx.x] = 4;
    if (threadIdx.x % 8 == 0) o[threadIdx.x] = cg::coalesced_threads().size();
}
// 128
K(block_reduce) {
    __shared__ int sum;
    if (threadIdx.x == 0) sum = 0;
    __syncthreads();
    atomicAdd_block(&sum, 1);
    cg::this_thread_block().sync();
    o[threadIdx.x] = sum;
}
// 1; four blocks, launched together.
K(grid_sync) {
    if (threadIdx.x % 4 == blockIdx.x) o[threadIdx.x] = 2;
    cg::this_grid().sync();
    if (threadIdx.x % 4 == (blockIdx.x + 1) % 4) o[threadIdx.x] -= 1;
}
// t
K(labeled) {
    auto g = cg::labeled_partition(cg::tiled_partition<32>(cg::this_thread_block()), threadIdx.x % 3);
    o[threadIdx.x] = threadIdx.x % 32 / 3 == g.thread_rank() ? threadIdx.x : -1;
}
// 127 - t
K(block_barrier) {
    using B = cuda::barrier<cuda::thread_scope_block>;
    __shared__ B b;
    __shared__ int s[128];
    if (threadIdx.x == 0) init(&b, 128);
    __syncthreads();
    s[threadIdx.x] = threadIdx.x;
    b.wait(b.arrive());
    o[threadIdx.x] = s[127 - threadIdx.x];
    b.arrive_and_drop();
}
// 3 t
K(memcpy_barrier) {
    __shared__ cuda::barrier<cuda::thread_scope_block> b;
    __shared__ alignas(16) int s[128];
    if (threadIdx.x == 0) init(&b, 128);
    o[threadIdx.x] = 3 * threadIdx.x;
    __syncthreads();
    cuda::memcpy_async(cg::this_thread_block(), s, o, cuda::aligned_size_t<16>(512), b);
    b.arrive_and_wait();
    __syncthreads();
    o[threadIdx.x] = s[threadIdx.x];
}
// t + 5
K(pipeline) {
    __shared__ alignas(16) int s[2][128];
    __shared__ cuda::pipeline_shared_state<cuda::thread_scope_block, 2> state;
    auto p = cuda::make_pipeline(cg::this_thread_block(), &state);
    o[threadIdx.x] = threadIdx.x + 5;
    __syncthreads();
    for (int n = 0; n < 2; n++) {
        p.producer_acquire();
        cuda::memcpy_async(cg::this_thread_block(), s[n], o, 512, p);
        p.producer_commit();
    }
    p.consumer_wait();
    p.consumer_release();
    p.consumer_wait();
    __syncthreads();
    o[threadIdx.x] = s[1][threadIdx.x];
    p.consumer_release();
}
// 7 t
K(pipeline_primitives) {
    __shared__ alignas(16) int s[128];
    o[threadIdx.x] = 7 * threadIdx.x;
    __pipeline_memcpy_async(&s[threadIdx.x], &o[threadIdx.x], 4);
    __pipeline_commit();
    __pipeline_wait_prior(0);
    o[threadIdx.x] = s[threadIdx.x];
}
// 128
K(atomic_refs) {
    __shared__ int x;
    __shared__ unsigned long long y;
    __shared__ float f;
    if (threadIdx.x == 0) x = 0, y = 0, f = 0;
    __syncthreads();
    cuda::atomic_ref<int, cuda::thread_scope_block>(x).fetch_add(1, cuda::std::memory_order_relaxed);
    cuda::atomic_ref<unsigned long long, cuda::thread_scope_device>(y).fetch_add(1, cuda::std::memory_order_acq_rel);
    cuda::atomic_ref<float, cuda::thread_scope_system>(f).fetch_add(1, cuda::std::memory_order_seq_cst);
    __syncthreads();
    o[threadIdx.x] = x == y && f == 128 ? x : -1;
    __syncthreads();
    int e = 128;
    cuda::atomic_ref<int> r(x);
    r.compare_exchange_strong(e, 5);
    __syncthreads();
    if (r.load(cuda::std::memory_order_acquire) != 5) o[threadIdx.x] = -2;
}
// 1
K(atomics) {
    __shared__ unsigned u[8];
    __shared__ int s[4];
    __shared__ unsigned long long w[6];
    __shared__ float f[2];
    __shared__ double d;
    __shared__ __half2 h;
    __shared__ unsigned short c;
    int t = threadIdx.x;
    if (t == 0) {
        u[0] = 0, u[1] = 0, u[2] = ~0u, u[3] = 0, u[4] = 0, u[5] = 100, u[6] = 0, u[7] = 1;
        s[0] = 0, s[1] = 0, s[2] = 7, s[3] = 7;
        for (int i = 0; i < 6; i++) w[i] = 0;
        f[0] = 0, f[1] = 0, d = 0, h = __float2half2_rn(0), c = 0;
    }
    __syncthreads();
    atomicAdd(&u[0], 2u), atomicOr(&u[1], 1u << t % 32), atomicAnd(&u[2], ~(1u << t % 32)), atomicXor(&u[3], 1u << t % 4);
    atomicInc(&u[4], 99), atomicDec(&u[5], 100), atomicMax(&u[6], unsigned(t)), atomicMin(&u[7], unsigned(t));
    atomicSub(&s[0], 1), atomicMax(&s[2], t), atomicMin(&s[3], -t), atomicExch(&s[1], 9);
    atomicAdd(&w[0], 1ull), atomicMax(&w[1], (unsigned long long)t), atomicOr(&w[2], 1ull << t % 64), atomicXor(&w[3], 1ull << t % 64);
    atomicCAS(&w[4], 0ull, 77ull), atomicMax((long long*)&w[5], (long long)t);
    atomicAdd(&f[0], 0.5f), atomicAdd_system(&d, 0.25), atomicAdd(&h, __float2half2_rn(1));
    for (unsigned short old = 0, seen; (seen = atomicCAS(&c, old, (unsigned short)(old + 1))) != old;) old = seen;
    __syncthreads();
    bool good = u[0] == 256 && u[1] == ~0u && u[2] == 0 && u[3] == 0 && u[4] == 28 && u[5] == 73 && u[6] == 127 && u[7] == 0;
    good = good && s[0] == -128 && s[1] == 9 && s[2] == 127 && s[3] == -127;
    good = good && w[0] == 128 && w[1] == 127 && w[2] == ~0ull && w[3] == 0 && w[4] == 77 && w[5] == 127;
    o[t] = good && f[0] == 64 && d == 32 && __low2float(h) == 128 && __high2float(h) == 128 && c == 128;
}
// 1
K(warp) {
    int t = threadIdx.x % 32;
    const unsigned all = ~0u;
    bool good = __shfl_sync(all, t, 3) == 3 && __shfl_up_sync(all, t, 1) == max(t - 1, 0) && __shfl_down_sync(all, t, 1) == min(t + 1, 31);
    good = good && __shfl_xor_sync(all, t, 5) == (t ^ 5) && __shfl_sync(all, 0.5 * t, 7, 8) == 0.5 * (t / 8 * 8 + 7);
    good = good && __any_sync(all, t == 4) && !__all_sync(all, t == 4) && __ballot_sync(all, t < 4) == 15;
    good = good && __match_any_sync(all, t / 16) == (t < 16 ? 0xffffu : 0xffff0000u) && __activemask() == all;
    int same;
    good = good && __match_all_sync(all, 5ull, &same) == all && same;
    good = good && __reduce_add_sync(all, t) == 496 && __reduce_max_sync(all, -t) == 0 && __reduce_min_sync(all, unsigned(t)) == 0;
    good = good && __reduce_and_sync(all, ~1u) == ~1u && __reduce_or_sync(all, 1u << t) == all && __reduce_xor_sync(all, 1u << t) == all;
    __nanosleep(20);
    __syncwarp();
    good = good && __syncthreads_count(t < 4) == 16 && __syncthreads_or(t == 1) && !__syncthreads_and(t == 1);
    o[threadIdx.x] = good;
}
struct Shape {
    __device__ virtual int sides() const { return 0; }
    __device__ virtual ~Shape() {}
};
struct Triangle : Shape {
    __device__ int sides() const override { return 3; }
};
struct Square : Shape {
    __device__ int sides() const override { return 4; }
};
// 3 or 4, in turn.
K(virtual_functions) {
    Triangle a;
    Square b;
    Shape* s = threadIdx.x % 2 ? static_cast<Shape*>(&b) : &a;
    o[threadIdx.x] = s->sides();
}
__device__ __noinline__ int fibonacci(int n) { return n < 2 ? n : fibonacci(n - 1) + fibonacci(n - 2); }
// Fibonacci's numbers up to the 11th, again and again.
K(recursion) { o[threadIdx.x] = fibonacci(threadIdx.x % 12); }
__device__ __noinline__ int twice(int x) { return 2 * x; }
__device__ __noinline__ int square(int x) { return x * x; }
__device__ int (*const functions[2])(int) = {twice, square};
// 2 t or t t, in turn.
K(function_pointers) { o[threadIdx.x] = functions[threadIdx.x % 2](threadIdx.x); }
// The t % 16-th of the numbers.
K(jump_table) {
    int x = 0;
    switch (threadIdx.x % 16) {
        case 0: x = 31 + o[0] * 0; break;
        case 1: x = clock() ? 4 : 5; break;
        case 2: x = 15 * blockDim.y; break;
        case 3: x = __brev(0x90000000u); break;
        case 4: x = 2; break;
        case 5: x = 65; break;
        case 6: x = 35 + threadIdx.y; break;
        case 7: x = 89; break;
        case 8: x = 7 * gridDim.x; break;
        case 9: x = 93; break;
        case 10: x = 23 - blockIdx.x; break;
        case 11: x = 84; break;
        default: x = -1;
    }
    o[threadIdx.x] = x;
}
// 1
K(local_arrays) {
    int a[32];
    for (int i = 0; i < 32; i++) a[(i * 7 + threadIdx.x) % 32] = i;
    o[threadIdx.x] = a[(21 + threadIdx.x) % 32] == 3;
}
// 1
K(heap) {
    int* p = (int*)malloc(64);
    p[3] = threadIdx.x;
    int* q = new int[4];
    q[1] = p[3];
    o[threadIdx.x] = q[1] == threadIdx.x;
    delete[] q;
    free(p);
}
// Of n and all below, what the last element of an array of so many has beyond t.
__device__ __noinline__ int lasts(int n, int t) {
    int* p = (int*)alloca(n * sizeof(int));
    for (int i = 0; i < n; i++) p[i] = t + i;
    int below = n > 1 ? lasts(n - 1, t) : 0;
    return p[n - 1] - t + below;
}
// The sum of 0..t % 9.
K(variable_arrays) { o[threadIdx.x] = lasts(threadIdx.x % 9 + 1, threadIdx.x); }
__constant__ int constants[4] = {3, 1, 4, 1};
__device__ int variable = 5;
__managed__ int managed = 9;
__device__ volatile int busy = 2;
// 23
K(variables) { o[threadIdx.x] = constants[0] + constants[threadIdx.x % 2 * 2 + 1] + constants[2] + constants[3] + variable + managed; }
// 7
K(dynamic_shared) {
    extern __shared__ int room[];
    room[threadIdx.x] = 7;
    __syncthreads();
    o[threadIdx.x] = room[127 - threadIdx.x] + busy - 2;
}
// t: printed too.
K(prints) {
    if (threadIdx.x == 0) printf("%d %s %5.2f %llu %c\n", 42, "text", 3.14159, 1ull << 40, 'x');
    assert(blockDim.x == 128);
    o[threadIdx.x] = threadIdx.x;
}
// 6 t
K(cache_hints) {
    int t = threadIdx.x;
    __stwb(o + t, t), __stcg(o + t, t), __stcs(o + t, t), __stwt(o + t, t);
    o[t] = __ldca(o + t) + __ldcg(o + t) + __ldcs(o + t) + __ldlu(o + t) + __ldcv(o + t) + *(volatile int*)(o + t);
}
template <class A, class B, class C, int M, int N, int D, class LA = wmma::row_major, class LB = wmma::col_major, class CC = C>
__device__ bool product(void* scratch, float a, float b) {
    wmma::fragment<wmma::matrix_a, M, N, D, A, LA> fa;
    wmma::fragment<wmma::matrix_b, M, N, D, B, LB> fb;
    wmma::fragment<wmma::accumulator, M, N, D, C> fc;
    wmma::fill_fragment(fa, typename decltype(fa)::storage_element_type(a));
    wmma::fill_fragment(fb, typename decltype(fb)::storage_element_type(b));
    wmma::fill_fragment(fc, C(1));
    wmma::mma_sync(fc, fa, fb, fc);
    wmma::store_matrix_sync((C*)scratch, fc, N, wmma::mem_row_major);
    __syncwarp();
    bool good = float(((C*)scratch)[threadIdx.x % 32]) == a * b * D + 1;
    __syncwarp();
    return good;
}
// 1
K(matrices) {
    __shared__ alignas(32) double scratch[4][256];
    void* s = scratch[threadIdx.x / 32];
    bool good = product<__half, __half, float, 16, 16, 16>(s, 2, 3) && product<__half, __half, __half, 16, 16, 16>(s, 2, 0.5);
    good = good && product<__half, __half, float, 32, 8, 16, wmma::col_major>(s, 2, 3) && product<__half, __half, float, 8, 32, 16, wmma::row_major, wmma::row_major>(s, 2, 3);
    good = good && product<__nv_bfloat16, __nv_bfloat16, float, 16, 16, 16>(s, 2, 3) && product<wmma::precision::tf32, wmma::precision::tf32, float, 16, 16, 8>(s, 2, 3);
    good = good && product<signed char, signed char, int, 16, 16, 16>(s, -2, 3) && product<unsigned char, unsigned char, int, 8, 32, 16>(s, 2, 3);
    good = good && product<double, double, double, 8, 8, 4>(s, 2, 3);
    o[threadIdx.x] = good;
}
// 1
K(small_matrices) {
    using namespace wmma::experimental;
    __shared__ alignas(32) int c[4][64];
    __shared__ alignas(32) unsigned a[4][32];
    int wp = threadIdx.x / 32;
    a[wp][threadIdx.x % 32] = 0x11111111;
    __syncwarp();
    wmma::fragment<wmma::matrix_a, 8, 8, 32, precision::s4, wmma::row_major> fa;
    wmma::fragment<wmma::matrix_b, 8, 8, 32, precision::s4, wmma::col_major> fb;
    wmma::fragment<wmma::accumulator, 8, 8, 32, int> fc;
    wmma::load_matrix_sync(fa, a[wp], 32), wmma::load_matrix_sync(fb, a[wp], 32), wmma::fill_fragment(fc, 3);
    wmma::mma_sync(fc, fa, fb, fc);
    wmma::store_matrix_sync(c[wp], fc, 8, wmma::mem_row_major);
    __syncwarp();
    bool good = c[wp][threadIdx.x % 32] == 35;
    wmma::fragment<wmma::matrix_a, 8, 8, 128, precision::b1, wmma::row_major> ga;
    wmma::fragment<wmma::matrix_b, 8, 8, 128, precision::b1, wmma::col_major> gb;
    wmma::fragment<wmma::accumulator, 8, 8, 128, int> gc;
    wmma::load_matrix_sync(ga, a[wp], 128), wmma::load_matrix_sync(gb, a[wp], 128), wmma::fill_fragment(gc, 0);
    wmma::bmma_sync(gc, ga, gb, gc, bmmaBitOpAND, bmmaAccumulateOpPOPC);
    __syncwarp();
    wmma::store_matrix_sync(c[wp], gc, 8, wmma::mem_row_major);
    __syncwarp();
    o[threadIdx.x] = good && c[wp][threadIdx.x % 32] == 32;
}
// 1
K(narrow_floats) {
    bool good = true;
    for (int i = 0; i < 32; i++) {
        float x = i * 0.25f - 3.5f;
        __nv_fp8_e4m3 a(x);
        __nv_fp8_e5m2 b(x);
        good = good && fabsf(float(a) - x) <= fabsf(x) / 16 && fabsf(float(b) - x) <= fabsf(x) / 8;
        __nv_fp8x2_e4m3 p(make_float2(x, 1));
        __nv_fp8x4_e5m2 q(make_float4(x, 1, 2, 3));
        good = good && float2(p).y == 1 && float4(q).w == 3 && float(__nv_fp8_e4m3(__float2half(x))) == float(a) && float(__nv_fp8_e5m2(__float2bfloat16(x))) == float(b);
    }
    o[threadIdx.x] = good;
}
// 1
K(addresses) {
    __shared__ int s;
    int l = 0;
    bool good = __isShared(&s) && __isLocal(&l) && __isGlobal(o) && __isConstant(constants) && !__isShared(o);
    good = good && (int*)__cvta_shared_to_generic(__cvta_generic_to_shared(&s)) == &s;
    o[threadIdx.x] = good && __isGridConstant(o) == false;
}
// 1
K(struct_arguments) {
    struct S { int a[8]; double b; char c; } s{{1, 2, 3, 4, 5, 6, 7, 8}, 0.5, 'c'};
    auto f = [&](S x, int n) { return x.a[n % 8] + int(2 * x.b) + x.c; };
    o[threadIdx.x] = f(s, threadIdx.x) == int(threadIdx.x % 8) + 1 + 1 + 'c';
}
K(any_misc) {
    long long a = clock64(), b;
    unsigned w, r = __nv_bfloat16(1.5f) > __nv_bfloat16(1) ? 1 : 0;
    asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(b));
    asm("mov.u32 %0, %%nwarpid;" : "=r"(w));
    asm volatile("prefetch.global.L2 [%0];" ::"l"(o));
    __builtin_assume(threadIdx.x < 128);
    if (a > b + w + r) __trap();
    if (__builtin_expect(b == 5, 0)) __brkpt();
    __threadfence_block(), __threadfence(), __threadfence_system();
    __prof_trigger(3);
    o[threadIdx.x] = __float2int_rn(__int_as_float(w));
}
