// Every copy atom of sm_75 and sm_80: asynchronous copies of all sizes with and without zero fill, ldmatrix plain and
// transposed, movmatrix.
#include "cute.cuh"

using Any = Tile<Underscore, Underscore, Underscore>;
using Square = Tile<_32, _32, _16>;
using H16 = SM80_16x8x16_F32F16F16F32_TN;
using H8 = SM80_16x8x8_F32F16F16F32_TN;
using B16 = SM80_16x8x16_F32BF16BF16F32_TN;
using L1 = SM75_U32x1_LDSM_N;
using L2 = SM75_U32x2_LDSM_N;
using L4 = SM75_U32x4_LDSM_N;
using T2 = SM75_U16x2_LDSM_T;
using T4 = SM75_U16x4_LDSM_T;
using T8 = SM75_U16x8_LDSM_T;

PRODUCT(fetch_ca4, half_t, half_t, float, H16, 2, 2, Any, 32, 32, 32, 2, SM80_CP_ASYNC_CACHEALWAYS<uint32_t>, L4, L2, 0.f)
PRODUCT(fetch_ca8, half_t, half_t, float, H16, 2, 2, Any, 32, 32, 64, 3, SM80_CP_ASYNC_CACHEALWAYS<uint64_t>, L4, L2, 0.f)
PRODUCT(fetch_ca16, bfloat16_t, bfloat16_t, float, B16, 2, 2, Square, 64, 64, 32, 4, SM80_CP_ASYNC_CACHEALWAYS<uint128_t>, L4, L4, 0.f)
PRODUCT(fetch_plain, half_t, half_t, float, H16, 1, 2, Any, 32, 32, 32, 2, UniversalCopy<uint128_t>, L4, L2, 0.f)
PRODUCT_T(load_t8_t8, half_t, float, H16, 2, 2, Square, 64, 64, 32, 3, Fetch, T8, T8)
PRODUCT_T(load_t8_t4, bfloat16_t, float, B16, 2, 2, Any, 64, 64, 32, 2, Fetch, T8, T4)
PRODUCT_T(load_t4_t2, half_t, float, H8, 2, 2, Any, 128, 64, 16, 4, Fetch, T4, T2)

// y[64,64]ᵀ: x's first R rows, zeros below, through shared memory.
template <class Op, class T>
__device__ void padded(T const* x, T* y, int R) {
    __shared__ __align__(16) T room[64 * 64];
    constexpr int v = Copy_Atom<Op, T>::NumValDst;
    auto s = make_tensor(make_smem_ptr(room), k_major<T, 64, 64, 1>())(_, _, 0);
    auto g = make_tensor(make_gmem_ptr(x), Layout<Shape<_64, _64>, Stride<_64, _1>>{});
    auto c = make_tiled_copy(Copy_Atom<Op, T>{}, Layout<Shape<Int<128 * v / 64>, Int<64 / v>>, Stride<Int<64 / v>, _1>>{}, Layout<Shape<_1, Int<v>>>{});
    auto t = c.get_slice(threadIdx.x);
    auto row = t.partition_S(make_identity_tensor(Shape<_64, _64>{}));
    auto from = t.partition_S(g);
    auto to = t.partition_D(s);
    for (int i = 0; i < size<1>(from); i++)
        for (int j = 0; j < size<2>(from); j++) copy(c.with(get<0>(row(0, i, j)) < R), from(_, i, j), to(_, i, j));
    cp_async_fence();
    cp_async_wait<0>();
    __syncthreads();
    for (int i = threadIdx.x; i < 64 * 64; i += 128) y[i] = s(i % 64, i / 64);
}
#define PADDED(NAME, T, OP) \
    extern "C" __global__ void __launch_bounds__(128) NAME(T const* x, T* y, int R) { padded<OP>(x, y, R); }
PADDED(zfill_ca4, float, SM80_CP_ASYNC_CACHEALWAYS_ZFILL<uint32_t>)
PADDED(zfill_ca8, half_t, SM80_CP_ASYNC_CACHEALWAYS_ZFILL<uint64_t>)
PADDED(zfill_ca16, bfloat16_t, SM80_CP_ASYNC_CACHEALWAYS_ZFILL<uint128_t>)
PADDED(zfill_cg16, float, SM80_CP_ASYNC_CACHEGLOBAL_ZFILL<uint128_t>)

// y = xᵀ, 8×8 of 16 bits, by movmatrix.
extern "C" __global__ void __launch_bounds__(32) movm(uint32_t const* x, uint32_t* y) {
    uint32_t v;
    SM75_U32x1_MOVM_T::copy(x[threadIdx.x], v);
    y[threadIdx.x] = v;
}
