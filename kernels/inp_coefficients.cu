// The decoder's attention to the prototypes, down to its coefficients: per head q = LN(z) Wq' + bias, then
// coef = relu(q . key) / max(|q|, 1e-12) with keys of length learn_scale. q never leaves the registers.
// Shapes: z (B N, C) E with row statistics {mean, M2}; w (C, C) E, gain in, centred; colsum (C) of the rounded w;
//   bias (C) f32; keys (B, H, P, 64) f32 → coef (B N, HPK) E, column h P + p. HPK: H P rounded up to 16; D = 64.
// Layout: row-major. Dtype: bf16, f16, tf32; sums f32, q and dots f32.
// Writes: all of coef, pads as zeros; assigned.
// Grid: (ceil(B N / BM), ceil(C / BN)). A warp holds whole heads of its rows; tiles may cross images.
// Smem: Gemm::SHARED, dynamic, and 8 BM bytes.
// Cost: 2 C^2 + 2 C (P + 1) FLOP a row; bound by tensor cores, then L2.
// Source: INP-Former (arXiv 2503.02424), section 3.3; relu is positively homogeneous, so q is not normalised first.
// Checked: tests/ops/inp_coefficients.rs.
// Variants (rows x columns x K in 16-bit elements): 64x64x64 (4 warps of 16x64: few rows), 128x64x64 (4 of 32x64), 128x128x32
//   (8 of 32x64: a batch). Same bits.
#include "gemm.cuh"

struct InpCoefficientsParams {
    const void* z;
    const float2* stats;
    const void* w;
    const float* colsum;
    const float* bias;
    const float* keys;
    void* coef;
    int32_t rows, tokens, channels, heads, count, padded;
    float eps;
    int32_t unused;
};

template <class E, int BM, int BN, int ROW, int STAGES>
INLINE void coefficients(const InpCoefficientsParams& p) {
    using G = Gemm<E, BM, BN, ROW, 4, BN / 64, STAGES>;
    static_assert(G::WN == 64, "a warp holds whole heads");
    extern __shared__ __align__(128) char shared[];
    __shared__ float2 norm[BM];
    const int c = p.channels, row0 = BM * blockIdx.x, col0 = BN * blockIdx.y;
    const auto norms = [&] {
        for (int r = threadIdx.x; r < BM && row0 + r < p.rows; r += G::THREADS) {
            norm[r] = merge_stats(p.stats, row0 + r, p.rows, c, p.eps);
        }
    };
    G gemm;
    gemm.run(shared, row0, col0, norms, {static_cast<const E*>(p.z), p.rows, c}, {static_cast<const E*>(p.w), c, c}, c);

    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, g = lane / 4, t = lane % 4;
    const int head = col0 / 64 + warp % (BN / 64);
    if (head >= p.heads) return;
    const int hp = p.heads * p.count;
    const float* colsum = p.colsum + head * 64 + 2 * t;
    const float* bias = p.bias + head * 64 + 2 * t;
#pragma unroll
    for (int i = 0; i < G::MI; i++) {
        int row[2];
        const float* keys[2];
        float by[2];
#pragma unroll
        for (int h = 0; h < 2; h++) {
            const int r = warp / (BN / 64) * G::WM + 16 * i + 8 * h + g;
            row[h] = row0 + r;
            const bool valid = row[h] < p.rows;
            const float2 n = valid ? norm[r] : float2{};
            const int image = (valid ? row[h] : p.rows - 1) / p.tokens;
            keys[h] = p.keys + size_t(image * p.heads + head) * p.count * 64 + 2 * t;
            float sum = 0.f;
#pragma unroll
            for (int j = 0; j < 8; j++) {
                const float2 s = *reinterpret_cast<const float2*>(colsum + 8 * j);
                const float2 b = *reinterpret_cast<const float2*>(bias + 8 * j);
                float &x = gemm.acc[i][j][2 * h], &y = gemm.acc[i][j][2 * h + 1];
                x = n.y * (x - n.x * s.x) + b.x, y = n.y * (y - n.x * s.y) + b.y;
                sum += x * x, sum += y * y;
            }
            by[h] = 1.f / fmaxf(sqrtf(warp_sum<4>(sum)), 1e-12f);
        }
        const bool same = keys[0] == keys[1];
        for (int q = 0; q < p.count; q++) {
            float dot[2] = {};
#pragma unroll
            for (int j = 0; j < 8; j++) {
                const float2 k0 = __ldg(reinterpret_cast<const float2*>(keys[0] + q * 64 + 8 * j));
                const float2 k1 = same ? k0 : __ldg(reinterpret_cast<const float2*>(keys[1] + q * 64 + 8 * j));
                dot[0] += gemm.acc[i][j][0] * k0.x, dot[0] += gemm.acc[i][j][1] * k0.y;
                dot[1] += gemm.acc[i][j][2] * k1.x, dot[1] += gemm.acc[i][j][3] * k1.y;
            }
#pragma unroll
            for (int h = 0; h < 2; h++) {
                const float x = warp_sum<4>(dot[h]);
                // Written so that NaN is not taken for "not positive".
                if (q % 4 == t && row[h] < p.rows) {
                    E* to = static_cast<E*>(p.coef) + size_t(row[h]) * p.padded + head * p.count + q;
                    *to = E::round(x <= 0.f ? 0.f : x * by[h]);
                }
            }
        }
        if (head == p.heads - 1) {
#pragma unroll
            for (int h = 0; h < 2; h++) {
                E* to = static_cast<E*>(p.coef) + size_t(row[h]) * p.padded;
                for (int j = hp + t; j < p.padded && row[h] < p.rows; j += 4) to[j] = E::round(0.f);
            }
        }
    }
}

#define KERNEL(BM, BN, BK, STAGES, DTYPE, E)                                                                    \
    extern "C" __global__ __launch_bounds__(2 * BN) void inp_coefficients_fwd_##BM##x##BN##x##BK##_##DTYPE(     \
        const __grid_constant__ InpCoefficientsParams p) {                                                      \
        coefficients<E, BM, BN, 2 * BK, STAGES>(p);                                                             \
    }
#define ALL(DTYPE, E)                 \
    KERNEL(64, 64, 64, 3, DTYPE, E)   \
    KERNEL(128, 64, 64, 3, DTYPE, E)  \
    KERNEL(128, 128, 32, 3, DTYPE, E)
ALL(bf16, Bf16)
ALL(f16, F16)
ALL(tf32, Tf32)
