// What a linear layer does with its sums before and while it writes them. Every part is switched by a null pointer or a flag that
// is the same for the whole launch; rows and columns are those of the product (M, N), N a multiple of 8 (of 64 with statistics).
//
//   x = sum                                  or, with LayerNorm folded into the weights:  x = rstd * (sum - mean * colsum)
//   x += bias;  x = gelu(x)
//   x += residual (f32, in place);  y = x as E;  y_stats of the rounded y
//   group (+)= x of patch rows (f32, prefix rows left out);  fused = share * (groups summed in order), as E, f32, with statistics
#pragma once
#include "common.cuh"

// Mirrored by `Raw` in src/ops/linear/cuda/epilogue.rs.
struct Epilogue {
    const float2* stats;   // of the input, see stats_at in common.cuh; null: no LayerNorm
    const float* colsum;   // (N) sums of the rounded weights' rows; with `stats`
    const float* bias;     // (N)
    float* residual;       // (M, N)
    void* y;               // E (M, N)
    float2* y_stats;       // with `y`
    float* group;          // (B, tokens - prefix, N); rows of the product are B images of `tokens`
    const float* groups;   // (fuse, B, tokens - prefix, N), `group` one of them
    void* fused;           // E (B, tokens - prefix, N); null: no fusion
    float* fused_f32;      // the same, unrounded
    float2* fused_stats;   // of B * (tokens - prefix) rows
    float eps;             // of the LayerNorm
    float share;           // what the sum of groups is multiplied with
    uint32_t gelu;         // 1: GELU
    uint32_t accumulate;   // 1: add to `group`, 0: assign
    uint32_t fuse;         // groups
    uint32_t tokens, prefix;
    uint32_t magic;        // ceil(2^32 / tokens): row / tokens is the high half of row * magic while row * tokens < 2^32
    uint32_t patches;      // rows of `group`: B * (tokens - prefix)
};

INLINE float4 load4(const float* p) { return *reinterpret_cast<const float4*>(p); }
INLINE void store4(float* p, float4 x) { *reinterpret_cast<float4*>(p) = x; }
INLINE float4 operator+(float4 a, float4 b) { return {a.x + b.x, a.y + b.y, a.z + b.z, a.w + b.w}; }
INLINE float4 operator*(float s, float4 a) { return {s * a.x, s * a.y, s * a.z, s * a.w}; }

// x rounded to E at (row, column) of a matrix of (m, n), and its statistics; all lanes of a warp call this together, eight
// neighbours holding 32 columns; nothing is written unless `inside`.
template <class E>
INLINE void write_row(void* y, float2* stats, int row, int col, int m, int n, float4 x, bool inside) {
    const typename E::Four four = E::four(x);
    if (inside) *reinterpret_cast<typename E::Four*>(static_cast<E*>(y) + size_t(row) * n + col) = four;
    if (stats) {
        const float2 s = stats_of(values<E>(four));
        if (inside && threadIdx.x % 8 == 0) stats[stats_at(row, col, m)] = s;
    }
}

// For LayerNorm: (mean, rstd) of the tile's `count` rows from `row0` into shared memory; a barrier must follow.
INLINE void row_moments(const Epilogue& e, float2* moments, int row0, int count, int m, int k) {
    if (!e.stats) return;
    for (int r = threadIdx.x; r < count; r += blockDim.x)
        moments[r] = merge_stats(e.stats, min(row0 + r, m - 1), m, k, e.eps);
}

// The columns that a lane keeps, four of them.
struct Columns {
    float4 bias, colsum;
    INLINE Columns(const Epilogue& e, int col, int n) : bias{}, colsum{} {
        if (e.bias && col < n) bias = load16<float4>(e.bias + col);
        if (e.stats && col < n) colsum = load16<float4>(e.colsum + col);
    }
};

// The sums up to the residual: LayerNorm, bias, GELU. `moment` is of the row.
INLINE float4 activate(const Epilogue& e, const Columns& c, float2 moment, float4 x) {
    if (e.stats) {
        const float rstd = moment.y, shift = -moment.x;
        x = {rstd * fmaf(shift, c.colsum.x, x.x), rstd * fmaf(shift, c.colsum.y, x.y),
             rstd * fmaf(shift, c.colsum.z, x.z), rstd * fmaf(shift, c.colsum.w, x.w)};
    }
    x = x + c.bias;
    if (e.gelu) x = {gelu(x.x), gelu(x.y), gelu(x.z), gelu(x.w)};
    return x;
}

// The rest: residual, y, groups, fusion. All lanes of a warp call this together.
template <class E>
INLINE void emit(const Epilogue& e, int row, int col, int m, int n, float4 x) {
    const bool inside = row < m && col < n;
    if (e.residual && inside) {
        float* r = e.residual + size_t(row) * n + col;
        x = load4(r) + x;
        store4(r, x);
    }
    if (e.y) write_row<E>(e.y, e.y_stats, row, col, m, n, x, inside);
    if (e.group) {
        const uint32_t image = e.tokens == 1 ? row : __umulhi(row, e.magic), token = row - image * e.tokens;
        const bool patch = inside && token >= e.prefix;
        const int to = image * (e.tokens - e.prefix) + token - e.prefix;
        const size_t at = size_t(to) * n + col;
        if (patch) {
            if (e.accumulate) x = load4(e.group + at) + x;
            store4(e.group + at, x);
        }
        if (e.fused) {
            float4 sum = {};
            if (patch)
                for (uint32_t g = 0; g < e.fuse; g++) {
                    const float* of = e.groups + size_t(g) * e.patches * n;
                    sum = sum + (of == e.group ? x : load4(of + at));
                }
            sum = e.share * sum;
            if (patch && e.fused_f32) store4(e.fused_f32 + at, sum);
            write_row<E>(e.fused, e.fused_stats, to, col, e.patches, n, sum, patch);
        }
    }
}
