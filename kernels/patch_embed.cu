// patch_embed: x = patches * W^T + table, with the class and register rows in front, and what the first LayerNorm asks of x.
//
// Shapes   u8 crops (B, X, X, 3) or normalised f32 pictures (B, 3, X, X); weight (C, 592); table (T, C); x, its copy (B, T, C);
//          stats (B·T, C / 32); X = 14·side, T = prefix + side², C a multiple of 64.
// Layout   row-major. K is (y, x, channel) for u8, (channel, y, x) for f32; 588 and four zeros. Prefix rows have no picture:
//          their elements are zeros, so that x is the table's row.
// Dtype    operands bf16, f16 or tf32; u8 enters as pixel - 128, exact in each (the table holds that offset's share); f32
//          sums; table and x f32.
// Writes   x f32, its copy in E, (mean, M2) of every 32 columns of the copy.
// Grid     (ceil(C / BN), ceil(B·T / BM))
// Smem     STAGES stages of (BM + BN) · 128 bytes, and the rows' places: 48 to 66 KB.
// Cost     2·B·N·588·C FLOP (0.7 G for ViT-B at 392); u8 is read C / BN times: bound by the conversion and by latency.
// Source   DINOv2's patch convolution, performance.md fold 10.
// Checked  tests/ops/patch_embed/cuda.rs
//
// 64x64     4 warps, 3 stages: one picture.
// 128x128   8 warps, 2 stages: enough tiles for every SM.
// Both give the same bits: a chain of mma over ascending K. Pixels go through registers, a stage ahead: neither their type nor
// their 42-byte lines suit cp.async.
#include "gemm.cuh"

namespace {

constexpr int PATCH = 14, K = 3 * PATCH * PATCH, STRIDE = 592, ROW = 128;

struct PatchEmbedParams {
    const void* from;
    const void* weight;
    const float* table;
    float* x;
    void* copy;
    float2* stats;
    unsigned rows, tokens, prefix, side, c, pad;  // rows = B·T
};

// Two neighbours of K: where they lie in the picture, and as elements.
struct U8 {
    using Two = uint16_t;
    static constexpr Two ZERO = 0x8080;
    static INLINE unsigned patch(unsigned b, unsigned y, unsigned x, unsigned size) {
        return ((b * size + y * PATCH) * size + x * PATCH) * 3;
    }
    static INLINE unsigned within(unsigned k, unsigned size) { return k / (3 * PATCH) * (3 * size) + k % (3 * PATCH); }
    static INLINE Two load(const void* p, unsigned at) {
        return __ldg(reinterpret_cast<const uint16_t*>(static_cast<const char*>(p) + at));
    }
    static INLINE float2 values(Two x) { return {float(x & 255) - 128.f, float(x >> 8) - 128.f}; }
};
struct F32 {
    using Two = float2;
    static constexpr Two ZERO = {0.f, 0.f};
    static INLINE unsigned patch(unsigned b, unsigned y, unsigned x, unsigned size) {
        return (3 * b * size + y * PATCH) * size + x * PATCH;
    }
    static INLINE unsigned within(unsigned k, unsigned size) {
        return (k / (PATCH * PATCH) * size + k / PATCH % PATCH) * size + k % PATCH;
    }
    static INLINE Two load(const void* p, unsigned at) {
        return __ldg(reinterpret_cast<const float2*>(static_cast<const float*>(p) + at));
    }
    static INLINE float2 values(Two x) { return x; }
};

template <class E, class In, int BM, int BN, int WARPS_M, int WARPS_N, int STAGES>
struct PatchEmbed : Gemm<E, BM, BN, ROW, WARPS_M, WARPS_N, STAGES> {
    using Base = Gemm<E, BM, BN, ROW, WARPS_M, WARPS_N, STAGES>;
    using Base::MI, Base::NI, Base::STEPS, Base::STAGE, Base::THREADS, Base::WM, Base::WN, Base::acc;
    static constexpr int BK = ROW / sizeof(E), TILES = (K + BK - 1) / BK;
    static constexpr int PAIRS = BK / 2, LINES = THREADS / PAIRS, MINE = BM / LINES;  // pairs a row; rows of a pass; passes
    static constexpr unsigned NONE = ~0u;
    using Pair = typename E::Pair;
    static_assert(STRIDE * sizeof(E) % 16 == 0 && STRIDE % E::STEP == 0);

    static INLINE void run(char* shared, const PatchEmbedParams& p) {
        PatchEmbed self;
        self.product(shared, p);
        __syncthreads();
        const unsigned row0 = blockIdx.y * BM, col0 = blockIdx.x * BN;
        self.rows(shared, [&](int row, int col, float4 v) {
            const unsigned m = row0 + row, n = col0 + col;
            const bool in = m < p.rows && n < p.c;
            const size_t at = size_t(m) * p.c + n;
            if (in) {
                const float4 add = load16<float4>(p.table + size_t(m % p.tokens) * p.c + n);
                v.x += add.x, v.y += add.y, v.z += add.z, v.w += add.w;
            }
            const typename E::Four e = E::four(v);
            const float2 s = stats_of(values<E>(e));
            if (!in) return;
            *reinterpret_cast<float4*>(p.x + at) = v;
            *reinterpret_cast<typename E::Four*>(static_cast<E*>(p.copy) + at) = e;
            if (n % STATS_COLUMNS == 0) p.stats[at / STATS_COLUMNS] = s;
        });
    }

    INLINE void product(char* shared, const PatchEmbedParams& p) {
        const int t = threadIdx.x, lane = t % 32, warp = t / 32;
        const unsigned row0 = blockIdx.y * BM, col0 = blockIdx.x * BN, size = p.side * PATCH;
        const uint32_t base = shared_address(shared);
        unsigned* place = reinterpret_cast<unsigned*>(shared + STAGES * STAGE);  // of each row's patch in the pictures
        for (int r = t; r < BM; r += THREADS) {
            const unsigned m = row0 + r, i = m % p.tokens - p.prefix;
            const bool patch = m < p.rows && m % p.tokens >= p.prefix;
            place[r] = patch ? In::patch(m / p.tokens, i / p.side, i % p.side, size) : NONE;
        }
        __syncthreads();

        const int pair = t % PAIRS, line = t / PAIRS;
        typename In::Two pixels[MINE];
        const auto fetch = [&](int tile) {
            const unsigned k = tile * BK + 2 * pair, within = In::within(k, size);
#pragma unroll
            for (int i = 0; i < MINE; i++) {
                const unsigned at = place[line + i * LINES];
                pixels[i] = k < K && at != NONE ? In::load(p.from, at + within) : In::ZERO;
            }
        };
        const auto fill = [&](int tile) {  // a stage from `pixels` and the weights
            char* stage = shared + tile % STAGES * STAGE;
#pragma unroll
            for (int i = 0; i < MINE; i++) {
                const int r = line + i * LINES, byte = pair * sizeof(Pair);
                const float2 v = In::values(pixels[i]);
                *reinterpret_cast<Pair*>(stage + Base::swizzle(r, byte / 16) + byte % 16) = E::pair(v.x, v.y);
            }
            const int piece = t % 8;
            const char* from = static_cast<const char*>(p.weight) + tile * ROW + piece * 16;
            const bool valid = tile * ROW + piece * 16 < int(STRIDE * sizeof(E));
#pragma unroll
            for (int i = 0; i < BN / (THREADS / 8); i++) {
                const int r = t / 8 + i * (THREADS / 8);
                const size_t row = min(col0 + r, p.c - 1);
                cp_async(base + tile % STAGES * STAGE + BM * ROW + Base::swizzle(r, piece),
                         from + row * (STRIDE * sizeof(E)), valid);
            }
        };

#pragma unroll
        for (int i = 0; i < MI; i++)
#pragma unroll
            for (int j = 0; j < NI; j++)
#pragma unroll
                for (int c = 0; c < 4; c++) acc[i][j][c] = 0.f;
        for (int s = 0; s < STAGES - 1; s++) {
            fetch(s);
            fill(s);
            cp_async_commit();
        }
        fetch(STAGES - 1);
        const uint32_t a_at = base + Base::swizzle(warp / WARPS_N * WM + lane % 16, lane / 16);
        const uint32_t b_at =
            base + BM * ROW + Base::swizzle(warp % WARPS_N * WN + lane % 8 + lane / 16 * 8, lane / 8 % 2);
        for (int tile = 0; tile < TILES; tile++) {
            cp_async_wait<STAGES - 2>();
            __syncthreads();
            if (tile + STAGES - 1 < TILES) fill(tile + STAGES - 1);
            cp_async_commit();
            if (tile + STAGES < TILES) fetch(tile + STAGES);
            const uint32_t stage = tile % STAGES * STAGE;
#pragma unroll
            for (int s = 0; s < STEPS; s++) {
                if (tile * BK + s * E::STEP >= STRIDE) break;
                uint32_t a[MI][4], b[NI / 2][4];
#pragma unroll
                for (int i = 0; i < MI; i++) ldmatrix_x4(a[i], (a_at ^ 32 * s) + stage + i * 16 * ROW);
#pragma unroll
                for (int j = 0; j < NI / 2; j++) ldmatrix_x4(b[j], (b_at ^ 32 * s) + stage + j * 16 * ROW);
#pragma unroll
                for (int i = 0; i < MI; i++)
#pragma unroll
                    for (int j = 0; j < NI; j++) E::mma(acc[i][j], a[i], b[j / 2][j % 2 * 2], b[j / 2][j % 2 * 2 + 1]);
            }
        }
    }
};

extern __shared__ __align__(128) char shared[];

}  // namespace

#define KERNEL(DTYPE, E, INPUT, IN)                                                                                   \
    extern "C" __global__ __launch_bounds__(128) void patch_embed_fwd_##INPUT##_64x64_##DTYPE(                        \
        const __grid_constant__ PatchEmbedParams p) {                                                                 \
        PatchEmbed<E, IN, 64, 64, 2, 2, 3>::run(shared, p);                                                           \
    }                                                                                                                 \
    extern "C" __global__ __launch_bounds__(256) void patch_embed_fwd_##INPUT##_128x128_##DTYPE(                      \
        const __grid_constant__ PatchEmbedParams p) {                                                                 \
        PatchEmbed<E, IN, 128, 128, 2, 4, 2>::run(shared, p);                                                         \
    }
KERNEL(bf16, Bf16, u8, U8)
KERNEL(f16, F16, u8, U8)
KERNEL(tf32, Tf32, u8, U8)
KERNEL(bf16, Bf16, f32, F32)
KERNEL(f16, F16, f32, F32)
KERNEL(tf32, Tf32, f32, F32)
