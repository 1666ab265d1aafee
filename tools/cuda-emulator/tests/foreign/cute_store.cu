// stmatrix: every copy atom of sm_90 that stores fragments, plain and transposed, behind a product of one block.
#include "cute.cuh"

// c[64,64] = a[64,K] b[64,K]ᵀ through shared memory, its rows (or columns) contiguous.
template <class Op, class S>
__device__ void stored(half_t const* a, half_t const* b, half_t* c, int K, S layout) {
    __shared__ __align__(128) half_t room[64 * 64];
    auto mma = make_tiled_mma(MMA_Atom<SM80_16x8x16_F32F16F16F32_TN>{}, Layout<Shape<_2, _2, _1>>{}, Tile<_32, _32, _16>{});
    auto t = mma.get_slice(threadIdx.x);
    auto A = t.partition_A(make_tensor(make_gmem_ptr(a), make_shape(_64{}, K), make_stride(K, _1{})));
    auto B = t.partition_B(make_tensor(make_gmem_ptr(b), make_shape(_64{}, K), make_stride(K, _1{})));
    auto fc = partition_fragment_C(mma, Shape<_64, _64>{});
    auto fa = make_fragment_like(A(_, _, 0));
    auto fb = make_fragment_like(B(_, _, 0));
    clear(fc);
    for (int k = 0; k < size<2>(A); k++) {
        copy(A(_, _, k), fa);
        copy(B(_, _, k), fb);
        gemm(mma, fa, fb, fc);
    }
    auto h = make_fragment_like<half_t>(fc);
    for (int i = 0; i < size(h); i++) h(i) = half_t(fc(i));
    auto s = make_tensor(make_smem_ptr(room), layout);
    auto store = make_tiled_copy_C(Copy_Atom<Op, half_t>{}, mma);
    auto own = store.get_slice(threadIdx.x);
    copy(store, own.retile_S(h), own.partition_D(s));
    __syncthreads();
    for (int i = threadIdx.x; i < 64 * 64; i += 128) c[i] = s(i / 64, i % 64);
}
using Atom = decltype(composition(Swizzle<3, 3, 3>{}, Layout<Shape<_8, _64>, Stride<_64, _1>>{}));
using AtomT = decltype(composition(Swizzle<3, 3, 3>{}, Layout<Shape<_64, _8>, Stride<_1, _64>>{}));
#define STORED(NAME, OP, ATOM) \
    extern "C" __global__ void __launch_bounds__(128) NAME(half_t const* a, half_t const* b, half_t* c, int K) { \
        stored<OP>(a, b, c, K, tile_to_shape(ATOM{}, Shape<_64, _64>{})); \
    }
STORED(store_x1, SM90_U32x1_STSM_N, Atom)
STORED(store_x2, SM90_U32x2_STSM_N, Atom)
STORED(store_x4, SM90_U32x4_STSM_N, Atom)
STORED(store_t2, SM90_U16x2_STSM_T, AtomT)
STORED(store_t4, SM90_U16x4_STSM_T, AtomT)
STORED(store_t8, SM90_U16x8_STSM_T, AtomT)
