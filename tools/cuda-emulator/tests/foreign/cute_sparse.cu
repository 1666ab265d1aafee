// Products of CUTLASS with a sparse A, two of four kept (tf32: one of two). Its own functions put the metadata in the order that its
// kernels want and make A dense; they are for the host, so this makes them the device's too.
#include <cutlass/cutlass.h>
#include <cutlass/epilogue/thread/linear_combination.h>
#include <cutlass/gemm/device/gemm_sparse.h>
#include <cutlass/coord.h>
#include <cutlass/util/host_tensor.h>
#include <cutlass/tensor_view.h>
#include <cutlass/util/tensor_view_io.h>
#include <cutlass/util/reference/host/gemm.h>
#define void __host__ __device__ void
#include <cutlass/util/host_reorder.h>
#include <cutlass/util/host_uncompress.h>
#undef void
using cutlass::gemm::GemmShape;
using Row = cutlass::layout::RowMajor;

template <class T, class C, class Block, class Warp, class Instruction>
using Gemm = cutlass::gemm::device::SparseGemm<T, Row, T, cutlass::layout::ColumnMajor, C, Row, C, cutlass::arch::OpClassTensorOp, cutlass::arch::Sm80, Block,
    Warp, Instruction, cutlass::epilogue::thread::LinearCombination<C, 4, C, C>, cutlass::gemm::threadblock::GemmIdentityThreadblockSwizzle<>, 3>;

// c[M,N] = dense bᵀ of one block, dense[M,K] of a[M,K/2] and metadata e, which is put in order in f.
template <class G, class T, class C, class E>
__device__ void multiply(T const* a, T const* b, E const* e, E* f, T* dense, C* c, int N, int K) {
    extern __shared__ __align__(128) char raw[];
    constexpr int M = G::ThreadblockShape::kM;
    int columns = K / G::kSparse / G::kElementsPerElementE;
    auto order = G::LayoutE::packed({M, columns});
    auto A = cutlass::TensorRef<T, Row>(const_cast<T*>(a), K / G::kSparse);
    auto e_in = cutlass::TensorRef<E, Row>(const_cast<E*>(e), columns);
    if (threadIdx.x == 0) {
        cutlass::reorder_meta(cutlass::TensorRef<E, typename G::LayoutE>(f, order), e_in, {M, N, columns});
        cutlass::uncompress(cutlass::TensorRef<T, Row>(dense, K), A, e_in, M, K);
    }
    __syncthreads();
    typename G::GemmKernel::Params p({M, N, K}, {1, 1, 1}, {const_cast<T*>(a), K / G::kSparse}, {const_cast<T*>(b), K}, {c, N}, {c, N}, {f, order}, {C(1), C(0)});
    typename G::GemmKernel()(p, *reinterpret_cast<typename G::GemmKernel::SharedStorage*>(raw));
}
#define SPARSE(NAME, T, C, E, BM, BN, BK, WM, WN, IK) \
    extern "C" __global__ void __launch_bounds__(BM / WM * BN / WN * 32) NAME(T const* a, T const* b, E const* e, E* f, T* dense, C* c, int N, int K) { \
        multiply<Gemm<T, C, GemmShape<BM, BN, BK>, GemmShape<WM, WN, BK>, GemmShape<16, 8, IK>>>(a, b, e, f, dense, c, N, K); \
    }
SPARSE(sparse_f16, cutlass::half_t, float, uint16_t, 128, 64, 64, 64, 32, 32)
SPARSE(sparse_bf16, cutlass::bfloat16_t, float, uint16_t, 128, 64, 64, 64, 32, 32)
SPARSE(sparse_tf32, cutlass::tfloat32_t, float, uint16_t, 128, 64, 32, 64, 32, 16)
SPARSE(sparse_s8, int8_t, int, uint32_t, 128, 64, 128, 64, 32, 64)
