// Element types, 16-byte accesses, reductions, and the row statistics that LayerNorm epilogues exchange.
#pragma once
#include "mma.cuh"

// ---- Element types: Bf16, F16, Tf32 (an f32 that was rounded when it was written). Each says
//   STEP            elements of K in one mma: 32 bytes
//   value, round    to and from f32
//   Four, four      four elements in one access (8 or 16 bytes)
//   Pair, pair      two neighbours: 32 bits, as an A or B fragment holds them (16-bit types), or 64
//   mma             c += a * b
struct Bf16 {
    uint16_t bits;
    static constexpr int STEP = 16;
    using Four = uint2;
    using Pair = uint32_t;
    static INLINE float value(Bf16 x) { return __uint_as_float(uint32_t(x.bits) << 16); }
    static INLINE Bf16 round(float x) { return {uint16_t(pack_bf16(x, 0.f))}; }
    static INLINE Pair pair(float lo, float hi) { return pack_bf16(lo, hi); }
    static INLINE float2 values(Pair x) { return {__uint_as_float(x << 16), __uint_as_float(x & 0xffff0000u)}; }
    static INLINE Four four(float4 x) { return {pack_bf16(x.x, x.y), pack_bf16(x.z, x.w)}; }
    static INLINE void mma(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) { mma_bf16(c, a, b0, b1); }
};
struct F16 {
    uint16_t bits;
    static constexpr int STEP = 16;
    using Four = uint2;
    using Pair = uint32_t;
    static INLINE float value(F16 x) { return from_f16(x.bits); }
    static INLINE F16 round(float x) { return {uint16_t(pack_f16(x, 0.f))}; }
    static INLINE Pair pair(float lo, float hi) { return pack_f16(lo, hi); }
    static INLINE float2 values(Pair x) { return {from_f16(uint16_t(x)), from_f16(uint16_t(x >> 16))}; }
    static INLINE Four four(float4 x) { return {pack_f16(x.x, x.y), pack_f16(x.z, x.w)}; }
    static INLINE void mma(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) { mma_f16(c, a, b0, b1); }
};
struct Tf32 {
    float f;
    static constexpr int STEP = 8;
    using Four = float4;
    using Pair = float2;
    static INLINE float value(Tf32 x) { return x.f; }
    static INLINE Tf32 round(float x) { return {round_tf32(x)}; }
    static INLINE Pair pair(float lo, float hi) { return {round_tf32(lo), round_tf32(hi)}; }
    static INLINE float2 values(Pair x) { return x; }
    static INLINE Four four(float4 x) { return {round_tf32(x.x), round_tf32(x.y), round_tf32(x.z), round_tf32(x.w)}; }
    static INLINE void mma(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) { mma_tf32(c, a, b0, b1); }
};

template <class E>
INLINE float4 values(typename E::Four x) {
    if constexpr (sizeof(E) == 2) {
        const float2 lo = E::values(x.x), hi = E::values(x.y);
        return {lo.x, lo.y, hi.x, hi.y};
    } else {
        return x;
    }
}

// ---- 16-byte accesses. `load16` reads data that nobody writes during the launch (read-only cache).
template <class T>
INLINE T load16(const void* p) {
    static_assert(sizeof(T) == 16);
    return __ldg(static_cast<const T*>(p));
}
// 16 bytes of elements (8, or 4 of tf32) as floats.
template <class E>
INLINE void load_values(float (&x)[16 / sizeof(E)], const E* p) {
    if constexpr (sizeof(E) == 2) {
        const uint4 w = load16<uint4>(p);
        const uint32_t pairs[4] = {w.x, w.y, w.z, w.w};
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const float2 v = E::values(pairs[i]);
            x[2 * i] = v.x, x[2 * i + 1] = v.y;
        }
    } else {
        const float4 v = load16<float4>(p);
        x[0] = v.x, x[1] = v.y, x[2] = v.z, x[3] = v.w;
    }
}

constexpr INLINE int ceil_div(int a, int b) { return (a + b - 1) / b; }

// ---- Reductions in a fixed order: over WIDTH neighbouring lanes (butterfly), over a block of WARPS warps (warps ascending).
template <int WIDTH = 32>
INLINE float warp_sum(float x) {
#pragma unroll
    for (int d = WIDTH / 2; d > 0; d /= 2) x += __shfl_xor_sync(~0u, x, d);
    return x;
}
template <int WIDTH = 32>
INLINE float warp_max(float x) {
#pragma unroll
    for (int d = WIDTH / 2; d > 0; d /= 2) x = fmaxf(x, __shfl_xor_sync(~0u, x, d));
    return x;
}
// `scratch` holds WARPS floats in shared memory; every thread gets the result; it may be reused after another barrier.
template <int WARPS>
INLINE float block_sum(float x, float* scratch) {
    x = warp_sum(x);
    if (threadIdx.x % 32 == 0) scratch[threadIdx.x / 32] = x;
    __syncthreads();
    float sum = scratch[0];
#pragma unroll
    for (int w = 1; w < WARPS; w++) sum += scratch[w];
    return sum;
}
template <int WARPS>
INLINE float block_max(float x, float* scratch) {
    x = warp_max(x);
    if (threadIdx.x % 32 == 0) scratch[threadIdx.x / 32] = x;
    __syncthreads();
    float top = scratch[0];
#pragma unroll
    for (int w = 1; w < WARPS; w++) top = fmaxf(top, scratch[w]);
    return top;
}

// ---- Row statistics: of every 32 columns of a row (mean, sum of squared differences from it), of the rounded elements.
// (columns / 64, rows, 2), rows rounded up to even: a lane takes the 16 bytes of one row and its neighbours those beside
// them, and every panel begins with a sector.
constexpr int STATS_COLUMNS = 32;
INLINE uint32_t stats_rows(uint32_t rows) { return (rows + 1) / 2 * 2; }
INLINE uint32_t stats_at(uint32_t row, uint32_t column, uint32_t rows) {
    return (column / (2 * STATS_COLUMNS) * stats_rows(rows) + row) * 2 + column / STATS_COLUMNS % 2;
}
// Of 32 columns that 8 neighbouring lanes hold, four each.
INLINE float2 stats_of(float4 x) {
    const float mean = warp_sum<8>((x.x + x.y) + (x.z + x.w)) * (1.f / 32);
    const float a = x.x - mean, b = x.y - mean, c = x.z - mean, d = x.w - mean;
    return {mean, warp_sum<8>((a * a + b * b) + (c * c + d * d))};
}
// Mean and 1/deviation of a row from its statistics, merged in ascending order (Chan's formula; `columns` a multiple of 64).
INLINE float2 merge_stats(const float2* stats, int row, int rows, int columns, float eps) {
    constexpr int BATCH = 8;  // accesses under way together: of two statistics each
    const int pairs = columns / (2 * STATS_COLUMNS), step = 2 * int(stats_rows(rows));
    stats += 2 * row;
    float mean = 0.f, m2 = 0.f, before = 0.f;
    const auto merge = [&](float more, float more_m2) {
        const float delta = more - mean, share = __fdividef(1.f, before + 1.f);
        mean += delta * share;
        m2 += more_m2 + delta * delta * (float(STATS_COLUMNS) * before * share);
        before += 1.f;
    };
    for (int at = 0; at < pairs; at += BATCH) {
        float4 two[BATCH];
#pragma unroll
        for (int i = 0; i < BATCH; i++)
            if (at + i < pairs) two[i] = load16<float4>(stats + (at + i) * step);
#pragma unroll
        for (int i = 0; i < BATCH; i++)
            if (at + i < pairs) merge(two[i].x, two[i].y), merge(two[i].z, two[i].w);
    }
    return {mean, rsqrtf(__fdividef(m2, float(columns)) + eps)};
}

// x * Phi(x) with the exact distribution function, as x / (1 + 2^-q(x)): q = log2(Phi / (1 - Phi)) is odd and smooth, so seven
// coefficients (fitted here, weighted by what an error of q does to the result) keep the absolute error below 6e-7 for every x,
// one place of f32 at |x| = 5. Twelve instructions; by erff they are 28.
INLINE float gelu(float x) {
    const float t = x * x;
    float q = -5.209908060521684e-09f;
    q = fmaf(q, t, 3.850449843412207e-07f);
    q = fmaf(q, t, -1.1452429134806152e-05f);
    q = fmaf(q, t, 1.5938941214699298e-04f);
    q = fmaf(q, t, 9.559294994687662e-05f);
    q = fmaf(q, t, -1.0483857989311218e-01f);
    q = fmaf(q, t, -2.3022072315216064f);
    return x * reciprocal_approx(1.f + exp2_approx(x * q));
}
