// Linear layers: y = epilogue(x * W^T), the epilogues of epilogue.cuh.
//
// Shapes  x (M, K), W (N, K), y (M, N). K, N multiples of 8; of 64 where statistics are read (K) or written (N).
// Layout  row-major, contiguous, 16-byte aligned.
// Dtype   x, W, y: E = bf16, f16, or tf32 (an f32 with 10 bits of mantissa); sums, bias, residual, groups f32.
// Writes  what the epilogue's pointers ask for, each element once.
// Grid    (rows of tiles in a group, columns of tiles, groups): neighbouring blocks share their tile of W, a group's blocks its
//         rows of x in L2. 32 * warps threads.
// Smem    stages of gemm.cuh + 8 bytes a row (mean, rstd), at most 99 KB.
// Cost    2 M N K FLOP; x is read ceil(N / BN) times, W ceil(M / BM) times, mostly from L2. Tensor cores bind where the tile's
//         bytes per FLOP, (BM + BN) / (BM BN), are covered by L2; see `choose` in src/ops/linear/cuda.rs.
// Source  LayerNorm as an epilogue: rstd * (x * W'^T - mean * colsum), W' centred and scaled by the gain offline.
// Checked tests/ops/linear/cuda.rs
//
// Variants (tile of rows x columns x K in 16-bit elements; half of that K in tf32). All give the same bits.
//   128x256x64  8 warps of 64x64, 2 stages  fewest bytes and instructions per FLOP: large batches
//   128x128x64  4 warps of 64x64, 3 stages  one block an SM where it has 100 KB, two where it has 228
//   128x128x32  4 warps of 64x64, 3 stages  two blocks an SM everywhere: one hides the other's barriers and epilogue
//   128x64x64   4 warps of 64x32, 3 stages  between waves
//   64x128x64   4 warps of 32x64, 3 stages  between waves, fewer rows
//   64x64x64    4 warps of 32x32, 3 stages  one image on a large GPU
//   32x64x64    4 warps of 16x32, 4 stages  narrow layers of one image
// Lost (by instructions of the main loop on sm_80 per mma, beside 0.28 for 128x128x64 as it is): 64-bit pointers kept per row of
//   the tile, 0.36; B's fragments in A's lane order, 2.05 (moves to pair registers); addresses left to the compiler, 0.5 more;
//   128x256x32 in 4 stages, 0.48 (a barrier and a loop's end every 64 mma of a warp instead of 128).
#include "epilogue.cuh"
#include "gemm.cuh"

// Mirrored by `LinearParams` in src/ops/linear/cuda.rs.
struct LinearParams {
    const void* x;
    const void* w;
    Epilogue e;
    int m, n, k;
};

template <class E, int BM, int BN, int ROW, int WARPS_M, int WARPS_N, int STAGES>
INLINE void linear(const LinearParams& p) {
    using G = Gemm<E, BM, BN, ROW, WARPS_M, WARPS_N, STAGES>;
    extern __shared__ __align__(128) char shared[];
    float2* moments = reinterpret_cast<float2*>(shared + G::SHARED);
    const int row0 = (blockIdx.z * gridDim.x + blockIdx.x) * BM, col0 = blockIdx.y * BN;
    if (row0 >= p.m) return;
    G g;
    g.run(
        shared, row0, col0, [&] { row_moments(p.e, moments, row0, BM, p.m, p.k); },
        {static_cast<const E*>(p.x), p.m, p.k}, {static_cast<const E*>(p.w), p.n, p.k}, p.k);
    __syncthreads();
    const Columns columns(p.e, col0 + G::column(), p.n);
    g.rows(shared, [&](int row, int col, float4 x) {
        const float2 moment = p.e.stats ? moments[row] : float2{};
        emit<E>(p.e, row0 + row, col0 + col, p.m, p.n, activate(p.e, columns, moment, x));
    });
}

#define VARIANT(E, DTYPE, BM, BN, BK, WARPS_M, WARPS_N, STAGES)                                              \
    extern "C" __global__ __launch_bounds__(32 * WARPS_M * WARPS_N) void                                     \
        linear_fwd_##BM##x##BN##x##BK##_##DTYPE(const __grid_constant__ LinearParams p) {                    \
        linear<E, BM, BN, 2 * BK, WARPS_M, WARPS_N, STAGES>(p);                                              \
    }
#define VARIANTS(E, DTYPE)                    \
    VARIANT(E, DTYPE, 128, 256, 64, 2, 4, 2) \
    VARIANT(E, DTYPE, 128, 128, 64, 2, 2, 3) \
    VARIANT(E, DTYPE, 128, 128, 32, 2, 2, 3) \
    VARIANT(E, DTYPE, 128, 64, 64, 2, 2, 3)  \
    VARIANT(E, DTYPE, 64, 128, 64, 2, 2, 3)  \
    VARIANT(E, DTYPE, 64, 64, 64, 2, 2, 3)   \
    VARIANT(E, DTYPE, 32, 64, 64, 2, 2, 4)
VARIANTS(Bf16, bf16)
VARIANTS(F16, f16)
VARIANTS(Tf32, tf32)
