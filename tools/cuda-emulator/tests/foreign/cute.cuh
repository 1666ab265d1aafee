// Products and copies in CuTe: the layouts of fragments, swizzles and copies are those of its headers.
#include <cute/tensor.hpp>
#include <cute/atom/copy_atom.hpp>
#include <cute/atom/mma_atom.hpp>

using namespace cute;

constexpr int log2i(int x) { return x < 2 ? 0 : 1 + log2i(x / 2); }

// Shared tile [ROWS, BK] in STAGES copies, k contiguous, 16-byte chunks swizzled.
template <class T, int ROWS, int BK, int STAGES>
constexpr auto k_major() {
    constexpr int bits = log2i(BK * int(sizeof(T)) / 16);
    using Atom = decltype(composition(Swizzle<bits < 3 ? bits : 3, log2i(16 / int(sizeof(T))), 3>{},
                                      Layout<Shape<_8, Int<BK>>, Stride<Int<BK>, _1>>{}));
    return tile_to_shape(Atom{}, Shape<Int<ROWS>, Int<BK>, Int<STAGES>>{});
}

// The same with rows contiguous.
template <class T, int ROWS, int BK, int STAGES>
constexpr auto row_major() {
    using Atom = decltype(composition(Swizzle<3, log2i(16 / int(sizeof(T))), 3>{},
                                      Layout<Shape<_64, _8>, Stride<_1, _64>>{}));
    return tile_to_shape(Atom{}, Shape<Int<ROWS>, Int<BK>, Int<STAGES>>{});
}

// Global to shared by THREADS threads, k (or rows) contiguous.
template <class Op, class T, int THREADS, int BK>
constexpr auto k_copy() {
    constexpr int v = sizeof(typename Copy_Traits<Op>::DstLayout) ? int(Copy_Atom<Op, T>::NumValDst) : 0;
    return make_tiled_copy(Copy_Atom<Op, T>{}, Layout<Shape<Int<THREADS * v / BK>, Int<BK / v>>, Stride<Int<BK / v>, _1>>{},
                           Layout<Shape<_1, Int<v>>>{});
}
template <class Op, class T, int THREADS, int ROWS>
constexpr auto row_copy() {
    constexpr int v = int(Copy_Atom<Op, T>::NumValDst);
    return make_tiled_copy(Copy_Atom<Op, T>{}, Layout<Shape<Int<ROWS / v>, Int<THREADS * v / ROWS>>>{}, Layout<Shape<Int<v>, _1>>{});
}

// c[M,N] = START + a b, asynchronous copies STAGES - 1 tiles ahead.
template <class SA, class SB, class GA, class GB, class RA, class RB, class Mma, class TA, class TB, class TC, class DA, class DB, class Acc>
__device__ void multiply(TA const* a, TB const* b, TC* c, int M, int N, int K, DA da, DB db, SA sa, SB sb, GA ga, GB gb, RA ra, RB rb,
                        Mma mma, Acc start) {
    extern __shared__ __align__(128) char raw[];
    constexpr int P = size<2>(SA{});
    auto A = make_tensor(make_gmem_ptr(a), make_shape(M, K), da);
    auto B = make_tensor(make_gmem_ptr(b), make_shape(N, K), db);
    auto C = make_tensor(make_gmem_ptr(c), make_shape(M, N), make_stride(N, _1{}));
    auto gA = local_tile(A, make_shape(size<0>(sa), size<1>(sa)), make_coord(blockIdx.x, _));
    auto gB = local_tile(B, make_shape(size<0>(sb), size<1>(sb)), make_coord(blockIdx.y, _));
    auto gC = local_tile(C, make_shape(size<0>(sa), size<0>(sb)), make_coord(blockIdx.x, blockIdx.y));
    auto sA = make_tensor(make_smem_ptr(reinterpret_cast<TA*>(raw)), sa);
    auto sB = make_tensor(make_smem_ptr(reinterpret_cast<TB*>(raw + sizeof(TA) * cosize_v<SA>)), sb);
    auto ta = ga.get_slice(threadIdx.x);
    auto tb = gb.get_slice(threadIdx.x);
    auto from_a = ta.partition_S(gA);
    auto to_a = ta.partition_D(sA);
    auto from_b = tb.partition_S(gB);
    auto to_b = tb.partition_D(sB);
    auto t = mma.get_slice(threadIdx.x);
    auto fa = t.partition_fragment_A(sA(_, _, 0));
    auto fb = t.partition_fragment_B(sB(_, _, 0));
    auto tC = t.partition_C(gC);
    auto fc = t.make_fragment_C(tC);
    fill(fc, start);
    auto ca = make_tiled_copy_A(ra, mma);
    auto cb = make_tiled_copy_B(rb, mma);
    auto la = ca.get_slice(threadIdx.x).partition_S(sA);
    auto lb = cb.get_slice(threadIdx.x).partition_S(sB);
    auto va = ca.get_slice(threadIdx.x).retile_D(fa);
    auto vb = cb.get_slice(threadIdx.x).retile_D(fb);
    int tiles = K / size<1>(sa);
    auto fetch = [&](int i) {
        if (i < tiles) {
            copy(ga, from_a(_, _, _, i), to_a(_, _, _, i % P));
            copy(gb, from_b(_, _, _, i), to_b(_, _, _, i % P));
        }
        cp_async_fence();
    };
    for (int i = 0; i < P - 1; i++) fetch(i);
    for (int i = 0; i < tiles; i++) {
        cp_async_wait<P - 2>();
        __syncthreads();
        fetch(i + P - 1);
        for_each(make_seq<decltype(size<2>(fa))::value>{}, [&](auto k) {
            copy(ca, la(_, _, k, i % P), va(_, _, k));
            copy(cb, lb(_, _, k, i % P), vb(_, _, k));
            gemm(mma, fa(_, _, k), fb(_, _, k), fc);
        });
    }
    for (int i = 0; i < size(fc); i++) tC(i) = TC(fc(i));
}

// A kernel whose operands lie k contiguous. WM, WN: warps; the rest: atoms.
#define PRODUCT(NAME, TA, TB, TC, ATOM, WM, WN, TILE, BM, BN, BK, STAGES, FETCH, LOAD_A, LOAD_B, START)                               \
    extern "C" __global__ void __launch_bounds__(32 * WM * WN) NAME(TA const* a, TB const* b, TC* c, int M, int N, int K) {           \
        multiply(a, b, c, M, N, K, make_stride(K, _1{}), make_stride(K, _1{}), k_major<TA, BM, BK, STAGES>(),                          \
                k_major<TB, BN, BK, STAGES>(), k_copy<FETCH, TA, 32 * WM * WN, BK>(), k_copy<FETCH, TB, 32 * WM * WN, BK>(),          \
                Copy_Atom<LOAD_A, TA>{}, Copy_Atom<LOAD_B, TB>{},                                                                     \
                make_tiled_mma(MMA_Atom<ATOM>{}, Layout<Shape<Int<WM>, Int<WN>, _1>>{}, TILE{}), START);                              \
    }
// A kernel whose operands lie rows contiguous.
#define PRODUCT_T(NAME, T, TC, ATOM, WM, WN, TILE, BM, BN, BK, STAGES, FETCH, LOAD_A, LOAD_B)                                         \
    extern "C" __global__ void __launch_bounds__(32 * WM * WN) NAME(T const* a, T const* b, TC* c, int M, int N, int K) {             \
        multiply(a, b, c, M, N, K, make_stride(_1{}, M), make_stride(_1{}, N), row_major<T, BM, BK, STAGES>(),                         \
                row_major<T, BN, BK, STAGES>(), row_copy<FETCH, T, 32 * WM * WN, BM>(), row_copy<FETCH, T, 32 * WM * WN, BN>(),       \
                Copy_Atom<LOAD_A, T>{}, Copy_Atom<LOAD_B, T>{},                                                                       \
                make_tiled_mma(MMA_Atom<ATOM>{}, Layout<Shape<Int<WM>, Int<WN>, _1>>{}, TILE{}), 0.f);                                \
    }

template <class T>
using CG16 = SM80_CP_ASYNC_CACHEGLOBAL<uint128_t, T>;
using Fetch = SM80_CP_ASYNC_CACHEGLOBAL<uint128_t>;
