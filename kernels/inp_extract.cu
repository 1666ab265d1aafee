// The INP extractor: the features of an image → its P intrinsic normal prototypes I. The query is constant, so query and
// key weights are one matrix QK; values are pooled before their weights, as normalised features.
//   pool    scores = LN(f) QK', softmax over the N tokens, pooled = sum of softmax * LN(f): of 64 tokens at a time
//   value   pooled parts merged in order, then each head's value weights
//   proj    projection + P0;  fc1: LN, MLP's first layer, GELU;  fc2: second layer + residual → I
// Shapes: f (B N, C) E with row statistics {mean, M2}; QK (HPK, C) E: row h P + p, rows from H P on zero, scaled
//   by log2(e) / sqrt(D), gains in, centred; colsum (HPK) of the rounded QK; value_w, proj_w (C, C), fc1_w (4C, C),
//   fc2_w (C, 4C) E; biases and prototypes (P, C) f32; I (B, P, C) f32. HPK: H P rounded up to 16. D = 64.
// Layout: row-major. Dtype: bf16, f16, tf32; sums f32.
// Writes: pool: tops (B, S, HPK) {largest score, sum of 2^(score - largest)} and parts (B, S, HPK, C) f32, S = ceil(N / 64);
//   value: mixed (B, P, C) E; proj: middle (B, P, C) f32; fc1: hidden (B, P, 4C) E; fc2: out. All assigned.
// Grid: pool (S, HPK / 16, B), 128 threads; the rest (columns / 16, ceil(B P / (8 NT))), 256 threads.
// Smem: pool 40 KB; the rest 5.1 KB * NT; value also 32 NT S bytes, dynamic.
// Cost: 4 N HP C FLOP and 2 reads of f by HPK / 16 blocks (L2), S HPK C floats written and read by the blocks of value;
//   the rest reads its weights once for 8 NT rows: bound by their bytes (10 C^2 elements).
// Source: INP-Former (arXiv 2503.02424), section 3.2, refolded. Checked: tests/ops/inp_extract/cuda.rs.
// Variants: x1 (NT = 1, 8 rows: one image), x4 (NT = 4: a batch). Same bits: rows do not meet.
#include "rows.cuh"

struct InpExtractParams {
    const void* f;
    const float2* stats;
    const void* qk;
    const float* colsum;
    const void* value_w;
    const float* value_b;
    const void* proj_w;
    const float* proj_b;
    const float* prototypes;
    const void* fc1_w;
    const float* fc1_b;
    const void* fc2_w;
    const float* fc2_b;
    float2* tops;
    float* parts;
    void* mixed;
    float* middle;
    void* hidden;
    float* out;
    int32_t batch, tokens, channels, heads, count, padded;
    float eps;
    int32_t unused;
};

constexpr int SPLIT = 64, GROUP = 16, POOL_THREADS = 128, STAGES = 3, LINE = 128;
constexpr int STAGE_BYTES = (SPLIT + GROUP) * LINE;

// Byte of a 16-byte piece in a tile of 128-byte rows, swizzled so that 8 rows of a column of pieces fill all banks.
INLINE uint32_t tile_at(int row, int piece) { return uint32_t(row * LINE + ((piece ^ (row % 8)) << 4)); }

template <class E>
INLINE void pool(const InpExtractParams& p) {
    constexpr int V = 16 / sizeof(E), WIDTH = LINE / sizeof(E), STEPS = SPLIT / E::STEP;
    __shared__ __align__(128) uint8_t stage[STAGES * STAGE_BYTES];
    __shared__ float scores[GROUP][SPLIT + 8];
    __shared__ __align__(16) E weights[GROUP][SPLIT + 8];
    __shared__ float2 norm[SPLIT];
    __shared__ float shift[GROUP];
    const int tid = threadIdx.x, lane = tid % 32, warp = tid / 32, g = lane / 4, t = lane % 4;
    const int split = blockIdx.x, row0 = GROUP * blockIdx.y, image = blockIdx.z, c = p.channels;
    const int first = image * p.tokens + SPLIT * split, count = min(SPLIT, p.tokens - SPLIT * split);
    const int chunks = c / WIDTH;
    const E* f = static_cast<const E*>(p.f) + size_t(first) * c;
    const E* qk = static_cast<const E*>(p.qk) + size_t(row0) * c;
    const uint32_t base = shared_address(stage);

    // Chunk i: columns of f, for the scores (with those of QK), then the same once more for the pooling.
    auto fetch = [&](int i) {
        if (i < 2 * chunks) {
            const uint32_t to = base + i % STAGES * STAGE_BYTES;
            const int row = tid / 8, piece = tid % 8, column = i % chunks * WIDTH + piece * V;
#pragma unroll
            for (int r = row; r < SPLIT; r += POOL_THREADS / 8) {
                cp_async(to + tile_at(r, piece), f + size_t(r < count ? r : 0) * c + column, r < count);
            }
            if (i < chunks) cp_async(to + tile_at(SPLIT + row, piece), qk + size_t(row) * c + column);
        }
        cp_async_commit();
    };
    auto ready = [&](int i) {
        cp_async_wait<STAGES - 2>();
        __syncthreads();
        fetch(i + STAGES - 1);
        return base + i % STAGES * STAGE_BYTES;
    };
#pragma unroll
    for (int i = 0; i < STAGES - 1; i++) fetch(i);
    if (tid < SPLIT)
        norm[tid] = tid < count ? merge_stats(p.stats, first + tid, p.batch * p.tokens, c, p.eps) : float2{};

    // Scores of 16 rows of QK and, for each warp, 16 tokens.
    float s[2][4] = {};
    for (int i = 0; i < chunks; i++) {
        const uint32_t at = ready(i);
#pragma unroll
        for (int k = 0; k < LINE / 32; k++) {
            uint32_t a[4], b[4];
            ldmatrix_x4(a, at + tile_at(SPLIT + lane % 16, 2 * k + lane / 16));
            ldmatrix_x4(b, at + tile_at(16 * warp + lane % 8 + lane / 16 * 8, 2 * k + lane / 8 % 2));
            E::mma(s[0], a, b[0], b[1]);
            E::mma(s[1], a, b[2], b[3]);
        }
    }
#pragma unroll
    for (int i = 0; i < 4; i++) {
        const int row = g + i % 2 * 8, token = 16 * warp + i / 2 * 8 + 2 * t;
        const float colsum = __ldg(p.colsum + row0 + row);
        float x[2];
#pragma unroll
        for (int j = 0; j < 2; j++) {
            const float2 by = norm[token + j];
            x[j] = by.y * (s[i / 2][i % 2 * 2 + j] - by.x * colsum);
            if (token + j >= count) x[j] = -INFINITY;
        }
        store_shared(shared_address(&scores[row][token]), float2{x[0], x[1]});
    }
    __syncthreads();

    // Softmax over the split's tokens, 8 threads a row; what each token of f counts, mean taken away as one shift.
    {
        const int row = tid / 8;
        const size_t at = size_t(image * gridDim.x + split) * p.padded + row0 + row;
        float top = -INFINITY, sum = 0.f, off = 0.f;
#pragma unroll
        for (int j = tid % 8; j < SPLIT; j += 8) top = fmaxf(top, scores[row][j]);
        top = warp_max<8>(top);
#pragma unroll
        for (int j = tid % 8; j < SPLIT; j += 8) {
            const float w = exp2_approx(scores[row][j] - top);
            const E share = E::round(w * norm[j].y);
            weights[row][j] = share;
            sum += w;
            off += E::value(share) * norm[j].x;
        }
        sum = warp_sum<8>(sum), off = warp_sum<8>(off);
        if (tid % 8 == 0) {
            p.tops[at] = {top, sum};
            shift[row] = off;
        }
    }
    __syncthreads();

    // Pooled rows: A is the weights. In tf32, K is permuted in pairs (token 2t, 2t + 1) so that B's words meet no conflict.
    uint32_t a[STEPS][4];
    const uint32_t rows = shared_address(weights);
#pragma unroll
    for (int k = 0; k < STEPS; k++) {
        if constexpr (sizeof(E) == 2) {
            ldmatrix_x4(a[k], rows + uint32_t((lane % 16 * (SPLIT + 8) + 16 * k + lane / 16 * 8) * sizeof(E)));
        } else {
#pragma unroll
            for (int i = 0; i < 4; i++) a[k][i] = __float_as_uint(E::value(weights[g + i % 2 * 8][8 * k + 2 * t + i / 2]));
        }
    }
    const float low = shift[g], high = shift[g + 8];
    float* out = p.parts + (size_t(image * gridDim.x + split) * p.padded + row0 + g) * c + 2 * t;
    constexpr int TILES = sizeof(E) == 2 ? 2 : 1;
    for (int i = chunks; i < 2 * chunks; i++) {
        const uint32_t at = ready(i);
        float y[TILES][4] = {};
#pragma unroll
        for (int k = 0; k < STEPS; k++) {
            if constexpr (sizeof(E) == 2) {
                uint32_t b[4];
                ldmatrix_x4_trans(b, at + tile_at(16 * k + lane % 16, 2 * warp + lane / 16));
                E::mma(y[0], a[k], b[0], b[1]);
                E::mma(y[TILES - 1], a[k], b[2], b[3]);
            } else {
                uint32_t b[2];
#pragma unroll
                for (int j = 0; j < 2; j++) {
                    const uint8_t* word = stage + (at - base) + tile_at(8 * k + 2 * t + j, 2 * warp + g / 4) + g % 4 * 4;
                    b[j] = *reinterpret_cast<const uint32_t*>(word);
                }
                E::mma(y[0], a[k], b[0], b[1]);
            }
        }
#pragma unroll
        for (int n = 0; n < TILES; n++) {
            float* to = out + (i - chunks) * WIDTH + (warp * TILES + n) * 8;
            *reinterpret_cast<float2*>(to) = {y[n][0] - low, y[n][1] - low};
            *reinterpret_cast<float2*>(to + size_t(8) * c) = {y[n][2] - high, y[n][3] - high};
        }
    }
}

// Pooled features of head h and row (b, p), merged over the splits: weights[r][s] is what split s of the block's row r counts.
template <class E>
struct PooledRows {
    const float* parts;
    const float* weights;
    int splits, padded, c, count, head, row0;
    INLINE uint4 operator()(int row, int at) const {
        constexpr int V = 16 / sizeof(E);
        const float* from = parts + (size_t(row / count) * splits * padded + head * count + row % count) * c + at;
        float y[V] = {};
#pragma unroll 2
        for (int s = 0; s < splits; s++, from += size_t(padded) * c) {
            const float w = weights[(row - row0) * splits + s];
#pragma unroll
            for (int i = 0; i < V; i += 4) {
                const float4 v = load16<float4>(from + i);
                y[i] += w * v.x, y[i + 1] += w * v.y, y[i + 2] += w * v.z, y[i + 3] += w * v.w;
            }
        }
        return pack16<E>(y);
    }
};

template <class E, int NT>
INLINE void value(const InpExtractParams& p) {
    extern __shared__ float weights[];
    const int c = p.channels, rows = p.batch * p.count, row0 = 8 * NT * blockIdx.y, column = ROWS_COLUMNS * blockIdx.x;
    const int splits = ceil_div(p.tokens, SPLIT), head = column / 64;
    if (threadIdx.x < 8 * NT && row0 + threadIdx.x < rows) {
        const int row = row0 + threadIdx.x;
        const float2* tops = p.tops + size_t(row / p.count) * splits * p.padded + head * p.count + row % p.count;
        float* to = weights + threadIdx.x * splits;
        float top = -INFINITY, sum = 0.f;
        for (int s = 0; s < splits; s++) top = fmaxf(top, tops[size_t(s) * p.padded].x);
        for (int s = 0; s < splits; s++) {
            const float2 of = tops[size_t(s) * p.padded];
            to[s] = exp2_approx(of.x - top);
            sum += of.y * to[s];
        }
        for (int s = 0; s < splits; s++) to[s] /= sum;
    }
    __syncthreads();
    const PooledRows<E> load = {p.parts, weights, splits, p.padded, c, p.count, head, row0};
    rows_product<E, NT, 1>(static_cast<const E*>(p.value_w) + size_t(column) * c, c, row0, rows, load,
                        [&](int row, int i, float sum) {
                            static_cast<E*>(p.mixed)[size_t(row) * c + column + i] = E::round(sum + p.value_b[column + i]);
                        });
}

template <class E, int NT>
INLINE void proj(const InpExtractParams& p) {
    const int c = p.channels, column = ROWS_COLUMNS * blockIdx.x;
    const ElementRows<E> load = {static_cast<const E*>(p.mixed), c};
    rows_product<E, NT>(static_cast<const E*>(p.proj_w) + size_t(column) * c, c, 8 * NT * blockIdx.y, p.batch * p.count, load,
                        [&](int row, int i, float sum) {
                            const float base = p.prototypes[size_t(row % p.count) * c + column + i];
                            p.middle[size_t(row) * c + column + i] = base + (sum + p.proj_b[column + i]);
                        });
}

template <class E, int NT>
INLINE void fc1(const InpExtractParams& p) {
    __shared__ float2 norm[8 * NT];
    const int c = p.channels, column = ROWS_COLUMNS * blockIdx.x, row0 = 8 * NT * blockIdx.y, rows = p.batch * p.count;
    row_norms(norm, p.middle, c, row0, rows, p.eps);
    const NormalRows<E> load = {p.middle, norm, c, row0};
    rows_product<E, NT>(static_cast<const E*>(p.fc1_w) + size_t(column) * c, c, row0, rows, load,
                        [&](int row, int i, float sum) {
                            E* to = static_cast<E*>(p.hidden) + size_t(row) * 4 * c + column + i;
                            *to = E::round(gelu(sum + p.fc1_b[column + i]));
                        });
}

template <class E, int NT>
INLINE void fc2(const InpExtractParams& p) {
    const int c = p.channels, k = 4 * c, column = ROWS_COLUMNS * blockIdx.x;
    const ElementRows<E> load = {static_cast<const E*>(p.hidden), k};
    rows_product<E, NT>(static_cast<const E*>(p.fc2_w) + size_t(column) * k, k, 8 * NT * blockIdx.y, p.batch * p.count, load,
                        [&](int row, int i, float sum) {
                            const size_t at = size_t(row) * c + column + i;
                            p.out[at] = p.middle[at] + (sum + p.fc2_b[column + i]);
                        });
}

#define KERNEL(NAME, THREADS, BODY)                                                                       \
    extern "C" __global__ __launch_bounds__(THREADS) void NAME(const __grid_constant__ InpExtractParams p) { \
        BODY;                                                                                             \
    }
#define ROWS(STAGE, DTYPE, E)                                                               \
    KERNEL(inp_extract_fwd_##STAGE##_x1_##DTYPE, ROWS_THREADS, (STAGE<E, 1>(p)))            \
    KERNEL(inp_extract_fwd_##STAGE##_x4_##DTYPE, ROWS_THREADS, (STAGE<E, 4>(p)))
#define ALL(DTYPE, E)                                             \
    KERNEL(inp_extract_fwd_pool_##DTYPE, POOL_THREADS, pool<E>(p)) \
    ROWS(value, DTYPE, E) ROWS(proj, DTYPE, E) ROWS(fc1, DTYPE, E) ROWS(fc2, DTYPE, E)
ALL(bf16, Bf16)
ALL(f16, F16)
ALL(tf32, Tf32)
