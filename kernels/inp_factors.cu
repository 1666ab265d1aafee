// What the J decoder blocks need of the images' prototypes I, all blocks at once. A block's attention gives y = coef VW + bias
// with VW (H P, C) = each head's values times its rows of the projection, so that its MLP's first layer is coef VA, and the
// deviation of a row of y follows from the Gram matrix of the centred rows.
//   kv        LN(I) → keys f32 and values E
//   products  VW and VA: values of each head times weights; the Gram matrix through S = Wc' Wc / C (Wc the projection centred
//             over its outputs), local to pairs of heads: G = V_h S V_g'; keys scaled to length learn_scale
// Shapes: I (B, P, C) f32; kv_w (J, 2C, C) E, kv_b (J, 2C) f32; weights (J, 5C, C) E: the projection's C rows, then the 4C rows of
//   A' (each the centred projection and gain through one row of the MLP's first layer); middle S (J, C, C) f32, symmetric;
//   cross Wc' bc / C (J, C) f32 (bc the projection's bias, centred); scale (J, H) f32. D = 64.
// Layout: row-major; HPK is H P rounded up to 16; column h P + p; pads are zero.
// Dtype: bf16, f16, tf32; sums f32. vw, va and gram, what the decoder multiplies with, also bf16 beside f16 for the rest.
// Writes, all assigned: k (J, B, P, C) f32, v (J, B, P, C) E; keys (J, B, H, P, 64) f32; vw (J, B, C, HPK);
//   va (J, B, 4C, HPK); gram (J, B, 2 HPK, HPK) and gram_scale (J, B, HPK) {scale, bias}, such that
//     var(coef) = sum_s coef_s (scale_s * sum_r coef_r G_rs + bias_s) + bc' bc / C:
//   the upper triangle with its off-diagonal doubled, each column by a power of two of its own (f16 has no range to spare),
//   split in two elements: 16 rows (of s) of the high part, then the 16 of the low part.
// Grid: kv (2 C J / 16, ceil(B P / (8 NT))), 256 threads; products B (J H + ceil(5 C J / 128)), 256 threads, images side by
//   side so that they share weights in L2.
// Smem: products: the larger of 128 rows of HPK elements and 16 bytes and P (68 H + HPK + 64) floats, dynamic.
// Cost: 14 J C^2 FLOP a row of I; bound by the weights' bytes: 7 J C^2 elements and half of J C^2 floats.
// Source: the decoder of INP-Former (arXiv 2503.02424) in low-rank form. Checked: tests/ops/inp_factors/cuda.rs.
// Variants: kv x1 (8 rows: one image), x4 (32: a batch). Same bits.
// Lost: the Gram matrix from stored VW rows: needs a sum over C across blocks, and centring after rounding.
#include "rows.cuh"

struct InpFactorsParams {
    const float* inp;
    const void* kv_w;
    const float* kv_b;
    const void* weights;
    const float* middle;
    const float* cross;
    const float* scale;
    float* k;
    void* v;
    float* keys;
    void* vw;
    void* va;
    void* gram;
    float2* gram_scale;
    int32_t batch, channels, heads, count, padded, blocks;
    float eps;
    int32_t unused;
};

constexpr int D = 64, MOST = 16;

template <class E, int NT>
INLINE void kv(const InpFactorsParams& p) {
    __shared__ float2 norm[8 * NT];
    const int c = p.channels, column = ROWS_COLUMNS * blockIdx.x, row0 = 8 * NT * blockIdx.y, rows = p.batch * p.count;
    const int block = column / (2 * c), within = column % (2 * c);
    row_norms(norm, p.inp, c, row0, rows, p.eps);
    const NormalRows<E> load = {p.inp, norm, c, row0};
    rows_product<E, NT>(static_cast<const E*>(p.kv_w) + size_t(column) * c, c, row0, rows, load,
                        [&](int row, int i, float sum) {
                            const size_t to = (size_t(block) * rows + row) * c;
                            const float y = sum + p.kv_b[column + i];
                            if (within < c) {
                                p.k[to + within + i] = y;
                            } else {
                                static_cast<E*>(p.v)[to + within - c + i] = E::round(y);
                            }
                        });
}

// 16 rows of VW or VA of one image: a warp.
template <class E, class Out>
INLINE void product(const InpFactorsParams& p, int tile, int image, Out* stage) {
    constexpr int V = 16 / sizeof(E), PIECE = 4 * V;
    const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4, c = p.channels, per_block = 5 * c / 16;
    const int block = tile / per_block, row0 = tile % per_block * 16;
    const size_t item = size_t(block) * p.batch + image;
    const E* low = static_cast<const E*>(p.weights) + (size_t(block) * 5 * c + row0 + g) * c + t * V;
    const E* high = low + size_t(8) * c;
    const E* v = static_cast<const E*>(p.v) + item * p.count * c + t * V;
    const int hp = p.heads * p.count, line = p.padded + V;  // an odd number of 16 bytes: columns of rows meet no bank twice
#pragma unroll 2
    for (int h = 0; h < p.heads; h++) {
        float acc[MOST / 8][4] = {};
#pragma unroll
        for (int i = 0; i < D / PIECE; i++) {
            const int at = h * D + i * PIECE;
            const uint4 a = load16<uint4>(low + at), b = load16<uint4>(high + at);
            const uint32_t first[4] = {a.x, b.x, a.y, b.y}, second[4] = {a.z, b.z, a.w, b.w};
#pragma unroll
            for (int n = 0; n < MOST / 8; n++) {
                if (8 * n >= p.count) break;
                const int row = 8 * n + g;
                const uint4 x = row < p.count ? load16<uint4>(v + size_t(row) * c + at) : uint4{};
                E::mma(acc[n], first, x.x, x.y);
                E::mma(acc[n], second, x.z, x.w);
            }
        }
#pragma unroll
        for (int n = 0; n < MOST / 8; n++) {
#pragma unroll
            for (int i = 0; i < 4; i++) {
                const int column = 8 * n + 2 * t + i % 2;
                if (column < p.count) stage[(g + i / 2 * 8) * line + h * p.count + column] = Out::round(acc[n][i]);
            }
        }
    }
    const Out* from = stage + lane % 16 * line;
    for (int i = hp + lane / 8; i < p.padded; i += 4) {
        stage[lane % 8 * line + i] = stage[(lane % 8 + 8) * line + i] = Out::round(0.f);
    }
    __syncwarp();
    Out* to = row0 < c ? static_cast<Out*>(p.vw) + (item * c + row0) * p.padded
                       : static_cast<Out*>(p.va) + (item * 4 * c + row0 - c) * p.padded;
    to += lane % 16 * p.padded;
    for (int i = lane / 16 * V; i < p.padded; i += 2 * V) {
        *reinterpret_cast<uint4*>(to + i) = *reinterpret_cast<const uint4*>(from + i);
    }
}

// Columns of the Gram matrix that belong to head `head` of one image, and its keys: a block.
template <class E, class Out>
INLINE void gram(const InpFactorsParams& p, int block, int head, int image, float* shared) {
    constexpr int V = 16 / sizeof(E), LINE = D + 4;
    const int tid = threadIdx.x, lane = tid % 32, warp = tid / 32, c = p.channels, count = p.count, padded = p.padded;
    const size_t item = size_t(block) * p.batch + image;
    const E* v = static_cast<const E*>(p.v) + item * count * c;
    float* own = shared;                             // (P, 64): this head's values
    float* through = own + count * D;                // (P, head + 1, 68): values through S
    float* columns = through + count * p.heads * LINE;  // (P, HPK)
    for (int i = tid; i < count * D; i += ROWS_THREADS) own[i] = E::value(v[size_t(i / D) * c + head * D + i % D]);
    __syncthreads();
    for (int i = 4 * tid; i < D * (head + 1); i += 4 * ROWS_THREADS) {
        for (int p0 = 0; p0 < count; p0 += 8) {
            float acc[8][4] = {};
            const float* s = p.middle + (size_t(block) * c + head * D) * c + i;
#pragma unroll 4
            for (int e = 0; e < D; e++, s += c) {
                const float4 x = load16<float4>(s);
#pragma unroll
                for (int q = 0; q < 8; q++) {
                    const float y = p0 + q < count ? own[(p0 + q) * D + e] : 0.f;
                    acc[q][0] += x.x * y, acc[q][1] += x.y * y, acc[q][2] += x.z * y, acc[q][3] += x.w * y;
                }
            }
#pragma unroll
            for (int q = 0; q < 8; q++) {
                if (p0 + q < count) {
                    float* to = through + ((p0 + q) * p.heads + i / D) * LINE + i % D;
                    store_shared(shared_address(to), float4{acc[q][0], acc[q][1], acc[q][2], acc[q][3]});
                }
            }
        }
    }
    __syncthreads();
    const int rows = count * (head + 1);
    for (int i = tid; i < count * padded; i += ROWS_THREADS) {
        const int q = i / padded, r = i % padded, s = head * count + q;
        float sum = 0.f;
        if (r < rows && r <= s) {
            const float* x = through + (q * p.heads + r / count) * LINE;
            const E* y = v + size_t(r % count) * c + r / count * D;
            for (int e = 0; e < D; e += V) {
                float of[V];
                load_values<E>(of, y + e);
#pragma unroll
                for (int u = 0; u < V; u++) sum += x[e + u] * of[u];
            }
            if (r < s) sum *= 2.f;
        }
        columns[i] = sum;
    }
    __syncthreads();
    Out* out = static_cast<Out*>(p.gram) + item * 2 * padded * padded;
    float2* scales = p.gram_scale + item * padded;
    // The last head also writes the columns that pad.
    const int more = head == p.heads - 1 ? padded - p.heads * count : 0;
    for (int q = warp; q < count + more; q += ROWS_WARPS) {
        const int s = head * count + q;
        const float* from = columns + q * padded;
        float top = 0.f, bias = 0.f, scale = 0.f;
        if (q < count) {
            for (int r = lane; r < padded; r += 32) top = fmaxf(top, fabsf(from[r]));
            top = warp_max(top);
            // The largest power of two in it (1 for what is none).
            scale = __uint_as_float(__float_as_uint(top) & 0x7f800000u);
            if (scale == 0.f) scale = 1.f;
            const float* u = p.cross + size_t(block) * c + head * D;
            bias = 2.f * warp_sum(own[q * D + lane] * u[lane] + own[q * D + 32 + lane] * u[32 + lane]);
        }
        Out* high = out + size_t(32 * (s / 16) + s % 16) * padded;
        Out* low = high + size_t(16) * padded;
        for (int r = lane; r < padded; r += 32) {
            const float x = q < count ? from[r] / scale : 0.f;
            const Out big = Out::round(x);
            high[r] = big;
            low[r] = Out::round(x - Out::value(big));
        }
        if (lane == 0) scales[s] = {scale, bias};
    }
    for (int q = warp; q < count; q += ROWS_WARPS) {
        const float2 x = *reinterpret_cast<const float2*>(p.k + (item * count + q) * c + head * D + 2 * lane);
        const float length = sqrtf(warp_sum(x.x * x.x + x.y * x.y));
        const float by = p.scale[block * p.heads + head] / fmaxf(length, 1e-12f);
        float* to = p.keys + ((item * p.heads + head) * count + q) * D + 2 * lane;
        *reinterpret_cast<float2*>(to) = {x.x * by, x.y * by};
    }
}

template <class E, class Out>
INLINE void products(const InpFactorsParams& p) {
    extern __shared__ __align__(16) uint8_t shared[];
    const int unit = blockIdx.x / p.batch, image = blockIdx.x % p.batch, grams = p.blocks * p.heads;
    if (unit < grams) {
        // Heads descending: the last has the most to do.
        gram<E, Out>(p, unit % p.blocks, p.heads - 1 - unit / p.blocks, image, reinterpret_cast<float*>(shared));
    } else {
        const int warp = threadIdx.x / 32, tile = (unit - grams) * ROWS_WARPS + warp;
        if (tile < p.blocks * (5 * p.channels / 16)) {
            product<E>(p, tile, image, reinterpret_cast<Out*>(shared) + warp * 16 * (p.padded + 16 / sizeof(E)));
        }
    }
}

// BLOCKS: on an SM at least, else ptxas may hold kv_x4 in so few registers that it spills.
#define KERNEL(NAME, BLOCKS, BODY)                                          \
    extern "C" __global__ __launch_bounds__(ROWS_THREADS, BLOCKS) void NAME( \
        const __grid_constant__ InpFactorsParams p) {                       \
        BODY;                                                               \
    }
#define PRODUCTS(DTYPE, E, OUT) KERNEL(inp_factors_fwd_products_##DTYPE, 0, (products<E, OUT>(p)))
#define ALL(DTYPE, E)                                       \
    KERNEL(inp_factors_fwd_kv_x1_##DTYPE, 0, (kv<E, 1>(p))) \
    KERNEL(inp_factors_fwd_kv_x4_##DTYPE, 2, (kv<E, 4>(p))) \
    PRODUCTS(DTYPE, E, E)
ALL(bf16, Bf16)
ALL(f16, F16)
ALL(tf32, Tf32)
PRODUCTS(f16_bf16, F16, Bf16)
