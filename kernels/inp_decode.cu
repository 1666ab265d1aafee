// The MLP of a decoder block in low-rank form. The block's middle is y = coef VW + bias (never stored), so
//   fc1  hidden = GELU(rstd * (coef VA' + scaled) + shift), rstd of y's rows from coef and the Gram matrix of inp_factors
//   fc2  z = [hidden, coef] [W2, VW]' + bias: both products in the same accumulators
// Shapes: coef (B, N, HPK) E; va (B, 4C, HPK), vw (B, C, HPK), gram (B, 2 HPK, HPK) E, gram_scale (B, HPK) {scale, bias} of the
//   block from inp_factors; scaled, shift (4C) f32; w (C, 4C) E; bias (C) f32 → hidden (B, N, 4C) E; z (B N, C) E with
//   row statistics {mean, M2} of the rounded z; sum (B, N, C) f32, the block's group sum.
// Layout: row-major; rows of an image are not mixed with another's, whose factors differ.
// Dtype: bf16, f16, tf32; sums f32; the variance f32 from a Gram matrix in two elements.
// Writes: hidden, z, stats assigned; sum assigned, or added to when `accumulate`.
// Grid: fc1 (ceil(N / 64), ceil(4C / (64 chunks)), B), 128 threads: 64 rows, then `chunks` times 64 columns, so that the rows'
//   variance is worked out once for them all; fc2 (ceil(N / BM), ceil(C / BN), B).
// Smem: fc1 192 HPK elements, dynamic; fc2 Gemm::SHARED, dynamic.
// Cost: fc1 2 N 4C HPK FLOP, N 4C elements written, bound by GELU and the writes; variance N HPK^2 * 2 FLOP for each column of
//   the grid. fc2 2 N C (4C + HPK) FLOP, bound by tensor cores.
// Source: INP-Former (arXiv 2503.02424), section 3.3, refolded. Checked: tests/ops/inp_decode.rs.
// Variants: fc1: any `chunks`; fc2 (rows x columns x K in 16-bit elements, 4 warps): 64x64x64 (one image), 64x128x64,
//   128x128x32 (a batch). Same bits.
// Lost: the variance in the coefficients' kernel by the block that arrives last (a serial tail on every layer, counters to
//   reset); in a launch of its own (one more a block); from y itself (3 times the work of the Gram matrix and more).
#include "epilogue.cuh"
#include "gemm.cuh"

struct InpDecodeFc1Params {
    const void* coef;
    const void* va;
    const void* gram;
    const float2* gram_scale;
    const float* scaled;
    const float* shift;
    void* hidden;
    int32_t tokens, width, padded, chunks;
    float constant;  // the variance of the bias alone
    float eps;
};

struct InpDecodeFc2Params {
    const void* hidden;
    const void* coef;
    const void* w;
    const void* vw;
    const float* bias;
    void* z;
    float2* stats;
    float* sum;
    int32_t tokens, channels, padded, accumulate;
};

constexpr int TILE = 64, FC1_THREADS = 128;

template <class E>
INLINE void fc1(const InpDecodeFc1Params& p) {
    constexpr int V = 16 / sizeof(E);
    extern __shared__ __align__(16) uint8_t shared[];
    __shared__ float rstd[TILE];
    const int tid = threadIdx.x, lane = tid % 32, warp = tid / 32, g = lane / 4, t = lane % 4;
    const int padded = p.padded, pieces = padded / V, line = 16 * pieces, image = blockIdx.z;
    const int row0 = TILE * blockIdx.x, count = min(TILE, p.tokens - row0);
    const int first = blockIdx.y * p.chunks, chunks = min(p.chunks, p.width / TILE - first);
    const int grams = ceil_div(2 * padded, TILE), steps = padded / E::STEP;
    const E* coef = static_cast<const E*>(p.coef) + (size_t(image) * p.tokens + row0) * padded;
    const E* gram = static_cast<const E*>(p.gram) + size_t(image) * 2 * padded * padded;
    const E* va = static_cast<const E*>(p.va) + (size_t(image) * p.width + first * TILE) * padded;
    const uint32_t a_base = shared_address(shared), b_base = a_base + TILE * line;
    // Pieces of 16 bytes are permuted within groups of `group` by a key of their row, so that neither the copies nor ldmatrix
    // meet a bank twice: rows are `pieces` apart, whose common divisor with 8 is the group.
    const int group = min(pieces & -pieces, 8), period = 8 / group;
    const auto key = [&](int row) { return uint32_t(row / period & (group - 1)) << 4; };
    // Where this lane points ldmatrix within 16 rows of A and of B, and its key there.
    const uint32_t a_at = lane % 16 * line, b_at = (lane % 8 + lane / 16 * 8) * line, lane_key = key(lane % 8);
    const uint32_t a_piece = lane / 16 * 16, b_piece = lane / 8 % 2 * 16;

    // 64 rows, of which `rows` exist, into `to`: threads side by side along them. Rows of VA are read permuted within 32, so
    // that a lane's accumulators are 8 neighbouring columns.
    const int row_step = FC1_THREADS / pieces, piece_step = FC1_THREADS % pieces;
    const int first_row = tid / pieces, first_piece = tid % pieces;
    auto copy = [&](uint32_t to, const E* from, int rows, bool permuted) {
        for (int row = first_row, piece = first_piece; row < TILE; row += row_step, piece += piece_step) {
            if (piece >= pieces) piece -= pieces, row++;
            if (row >= TILE) break;
            const int of = permuted ? (row & 33) | (row >> 1 & 3) << 3 | (row >> 3 & 3) << 1 : row;
            const bool valid = of < rows;
            cp_async(to + row * line + (16 * piece ^ key(row)), from + size_t(valid ? of : 0) * padded + piece * V, valid);
        }
    };
    // Chunk i: of the Gram matrix, then of VA.
    auto fetch = [&](int i) {
        const uint32_t to = b_base + i % 2 * TILE * line;
        if (i < grams) {
            copy(to, gram + size_t(i) * TILE * padded, 2 * padded - i * TILE, false);
        } else if (i < grams + chunks) {
            copy(to, va + size_t(i - grams) * TILE * padded, TILE, true);
        }
        cp_async_commit();
    };
    copy(a_base, coef, count, false);
    fetch(0);

    // Variance of 16 rows a warp: coef through the Gram matrix's upper triangle, then with coef again.
    float var[2] = {};
    for (int i = 0; i < grams; i++) {
        cp_async_wait<0>();
        __syncthreads();
        fetch(i + 1);
        const uint32_t at = b_base + i % 2 * TILE * line;
#pragma unroll
        for (int u = 0; u < 2; u++) {
            const int tile = 2 * i + u;
            if (16 * tile >= padded) break;
            float acc[2][4] = {};
            for (int k = 0; k < (tile + 1) * 16 / E::STEP; k++) {
                uint32_t a[4], high[4], low[4];
                const uint32_t b_k = b_at + (32 * k + b_piece ^ lane_key);
                ldmatrix_x4(a, a_base + 16 * warp * line + a_at + (32 * k + a_piece ^ lane_key));
                ldmatrix_x4(high, at + 32 * u * line + b_k);
                ldmatrix_x4(low, at + (32 * u + 16) * line + b_k);
#pragma unroll
                for (int n = 0; n < 2; n++) {
                    E::mma(acc[n], a, low[2 * n], low[2 * n + 1]);
                    E::mma(acc[n], a, high[2 * n], high[2 * n + 1]);
                }
            }
#pragma unroll
            for (int n = 0; n < 2; n++) {
                const int s = 16 * tile + 8 * n + 2 * t;
                const float4 by = load16<float4>(p.gram_scale + size_t(image) * padded + s);
#pragma unroll
                for (int h = 0; h < 2; h++) {
                    const int row = 16 * warp + 8 * h + g;
                    const uint8_t* pair = shared + row * line + (uint32_t(s * sizeof(E)) ^ key(row));
                    const float2 c = E::values(*reinterpret_cast<const typename E::Pair*>(pair));
                    var[h] += c.x * (by.x * acc[n][2 * h] + by.y);
                    var[h] += c.y * (by.z * acc[n][2 * h + 1] + by.w);
                }
            }
        }
    }
#pragma unroll
    for (int h = 0; h < 2; h++) {
        const float x = warp_sum<4>(var[h]) + p.constant;
        if (t == 0) rstd[16 * warp + 8 * h + g] = rsqrtf((x < 0.f ? 0.f : x) + p.eps);
    }

    const int wm = warp / 2 * 32, wn = warp % 2 * 32;
    for (int i = grams; i < grams + chunks; i++) {
        cp_async_wait<0>();
        __syncthreads();
        fetch(i + 1);
        const uint32_t at = b_base + i % 2 * TILE * line;
        float acc[2][4][4] = {};
        for (int k = 0; k < steps; k++) {
            uint32_t a[2][4], b[2][4];
            const uint32_t a_k = a_at + (32 * k + a_piece ^ lane_key), b_k = b_at + (32 * k + b_piece ^ lane_key);
#pragma unroll
            for (int m = 0; m < 2; m++) ldmatrix_x4(a[m], a_base + (wm + 16 * m) * line + a_k);
#pragma unroll
            for (int n = 0; n < 2; n++) ldmatrix_x4(b[n], at + (wn + 16 * n) * line + b_k);
#pragma unroll
            for (int m = 0; m < 2; m++) {
#pragma unroll
                for (int n = 0; n < 4; n++) E::mma(acc[m][n], a[m], b[n / 2][n % 2 * 2], b[n / 2][n % 2 * 2 + 1]);
            }
        }
        const int column = (first + i - grams) * TILE + wn + 8 * t;
        float scaled[8], shift[8];
#pragma unroll
        for (int j = 0; j < 8; j += 4) {
            *reinterpret_cast<float4*>(scaled + j) = load16<float4>(p.scaled + column + j);
            *reinterpret_cast<float4*>(shift + j) = load16<float4>(p.shift + column + j);
        }
#pragma unroll
        for (int m = 0; m < 4; m++) {
            const int row = wm + 8 * m + g;
            if (row >= count) continue;
            const float by = rstd[row];
            float y[8];
#pragma unroll
            for (int j = 0; j < 8; j++) y[j] = gelu(by * (acc[m / 2][j / 2][m % 2 * 2 + j % 2] + scaled[j]) + shift[j]);
            E* to = static_cast<E*>(p.hidden) + (size_t(image) * p.tokens + row0 + row) * p.width + column;
            using Four = typename E::Four;
            if constexpr (sizeof(E) == 2) {
                const Four x = E::four({y[0], y[1], y[2], y[3]}), z = E::four({y[4], y[5], y[6], y[7]});
                *reinterpret_cast<uint4*>(to) = {x.x, x.y, z.x, z.y};
            } else {
                *reinterpret_cast<Four*>(to) = E::four({y[0], y[1], y[2], y[3]});
                *reinterpret_cast<Four*>(to + 4) = E::four({y[4], y[5], y[6], y[7]});
            }
        }
    }
}

template <class E, int BM, int BN, int ROW, int STAGES>
INLINE void fc2(const InpDecodeFc2Params& p) {
    using G = Gemm<E, BM, BN, ROW, 2, 2, STAGES, true>;
    extern __shared__ __align__(128) char smem[];
    const int c = p.channels, n = p.tokens, k = 4 * c, row0 = BM * blockIdx.x, col0 = BN * blockIdx.y;
    const size_t image = blockIdx.z, first = image * n;
    G gemm;
    gemm.run(
        smem, row0, col0, [] {}, {static_cast<const E*>(p.hidden) + first * k, n, k}, {static_cast<const E*>(p.w), c, k}, k,
             {static_cast<const E*>(p.coef) + first * p.padded, n, p.padded},
             {static_cast<const E*>(p.vw) + image * c * p.padded, c, p.padded}, p.padded);
    __syncthreads();
    const int column = col0 + G::column();
    const float4 bias = column < c ? load16<float4>(p.bias + column) : float4{};
    gemm.rows(smem, [&](int r, int, float4 x) {
        const int row = row0 + r;
        const bool inside = row < n && column < c;
        x = x + bias;
        write_row<E>(p.z, p.stats, int(first) + row, column, gridDim.z * n, c, x, inside);
        if (inside) {
            float* sum = p.sum + (first + row) * c + column;
            store4(sum, p.accumulate ? load4(sum) + x : x);
        }
    });
}

#define FC1(DTYPE, E)                                                                                            \
    extern "C" __global__ __launch_bounds__(FC1_THREADS, 5) void inp_decode_fwd_fc1_##DTYPE(                        \
        const __grid_constant__ InpDecodeFc1Params p) {                                                          \
        fc1<E>(p);                                                                                               \
    }
#define FC2(BM, BN, BK, STAGES, DTYPE, E)                                                               \
    extern "C" __global__ __launch_bounds__(128) void inp_decode_fwd_fc2_##BM##x##BN##x##BK##_##DTYPE( \
        const __grid_constant__ InpDecodeFc2Params p) {                                                 \
        fc2<E, BM, BN, 2 * BK, STAGES>(p);                                                              \
    }
#define ALL(DTYPE, E)              \
    FC1(DTYPE, E)                  \
    FC2(64, 64, 64, 3, DTYPE, E)   \
    FC2(64, 128, 64, 3, DTYPE, E)  \
    FC2(128, 128, 32, 3, DTYPE, E)
ALL(bf16, Bf16)
ALL(f16, F16)
ALL(tf32, Tf32)
