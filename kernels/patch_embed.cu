// patch_embed: x = patches * W^T + table, with the class and register rows in front, and what the first LayerNorm asks of x.
//
// Shapes   u8 crops (B, X, X, 3) or normalised f32 pictures (B, 3, X, X), 16-byte aligned; weight (C, 672); table (T, C); x, its
//          copy (B, T, C); stats of its rows; X = 14·side, T = prefix + side², C a multiple of 64.
// Layout   row-major. K is (y, x, channel) for u8, (channel, y, x) for f32; what lies side by side in a picture, a line, is
//          followed by zeros: 42 and 6, or 14 and 2. Prefix rows have no picture: their elements are zeros, so that x is the
//          table's row.
// Dtype    operands E bf16, f16 or tf32; u8 enters as pixel - 128, exact in each (the table holds that offset's share); f32
//          sums; table and x f32; the copy in E, or bf16 beside f16 operands: weights that fit are 8 times as precise there.
// Writes   x f32, its copy, (mean, M2) of every 32 columns of the copy.
// Grid     (ceil(C / BN), ceil(B·T / BM))
// Smem     STAGES stages of (BM + BN) · 96 bytes and of BM · 64 (u8) or 192 (f32) bytes of pixels, and the rows' places: 49 to
//          99 KB.
// Cost     2·B·N·672·C FLOP (0.8 G for ViT-B at 392); u8 is read C / BN times: bound by the conversion and by latency.
// Source   DINOv2's patch convolution, performance.md fold 10.
// Checked  tests/ops/patch_embed/cuda.rs
//
// 64x64     4 warps, 3 stages: one picture.
// 128x128   8 warps, 2 stages: enough tiles for every SM.
// Both give the same bits: a chain of mma over ascending K. A line begins at any even address: whole 16-byte pieces around it are
// copied to a slot of 64 bytes, stages ahead; the warp that copied them makes elements of them.
// Lost: pixels through registers, two bytes an access (twice the sectors); 588 elements without padding inside (they begin
// anywhere in a tile).
#include "gemm.cuh"

namespace {

// Bytes of K of a stage's rows; elements of a unit, what is copied at once; slots of a row of pixels.
constexpr int PATCH = 14, ROW = 96, UNIT = 48, UNITS = PATCH, STRIDE = UNIT * UNITS, SLOT = 64;

struct PatchEmbedParams {
    const void* from;
    const void* weight;
    const float* table;
    float* x;
    void* copy;
    float2* stats;
    unsigned rows, tokens, prefix, side, c, pixels;  // rows = B·T; pixels: numbers of all pictures
};

constexpr unsigned NONE = ~0u;  // the place of a row without a picture

// How numbers lie in a picture: T; LINES lines of BYTES bytes are a unit; where a patch begins, and its line i from there.
// elements: what this lane makes of the warp's slots, eight or two neighbours of K at a time: store(row, element, them).
struct U8 {
    using T = uint8_t;
    static constexpr int BYTES = 3 * PATCH, LINES = 1;
    static INLINE unsigned patch(unsigned b, unsigned y, unsigned x, unsigned size) {
        return ((b * size + y * PATCH) * size + x * PATCH) * 3;
    }
    static INLINE unsigned line(unsigned i, unsigned size) { return 3 * i * size; }

    // Of each place that this lane reads four bits: where it is in 16 bytes, an even number, and whether it is NONE.
    uint32_t places = 0;
    INLINE explicit U8(const unsigned* of) {
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const unsigned at = of[4 * i + threadIdx.x / 8 % 4];
            places |= (at == NONE ? 1 : at & 14) << (4 * i);
        }
    }
    // Eight lanes a row, eight bytes each.
    template <class Store>
    INLINE void elements(const char* slots, const unsigned*, unsigned unit, unsigned size, int from, int to, Store store) const {
        const int row = threadIdx.x / 8 % 4, eight = threadIdx.x % 8;
        if (8 * eight < from || 8 * eight >= to) return;
        const unsigned by = line(unit, size), within = eight < BYTES / 8 ? ~0u : 0u;  // the last eight are but two bytes
        slots += row * SLOT + 8 * eight;
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const unsigned place = places >> (4 * i), at = place + by;
            const uint2* words = reinterpret_cast<const uint2*>(slots + 4 * i * SLOT + (at & 8));
            const uint2 a = words[0], b = words[1];
            const bool odd = at & 4;
            const unsigned low = odd ? a.y : a.x, middle = odd ? b.x : a.y, high = odd ? b.y : b.x, none = 0x80808080;
            const unsigned shift = at << 3 & 16, mine = place & 1 ? 0 : within;
            const unsigned x = __funnelshift_r(low, middle, shift), y = __funnelshift_r(middle, high, shift);
            const unsigned first = place & 1 ? 0 : within | 0xffff;
            store(4 * i + row, 8 * eight, floats(x & first | none & ~first), floats(y & mine | none & ~mine));
        }
    }
    // A byte as the end of 2^23's mantissa: no conversion.
    static INLINE float4 floats(unsigned x) {
        const auto value = [&](int j) { return __uint_as_float(__byte_perm(x, 0x4b000000, 0x7650 | j)) - 8388736.f; };
        return {value(0), value(1), value(2), value(3)};
    }
};
struct F32 {
    using T = float;
    static constexpr int BYTES = 4 * PATCH, LINES = 3;
    static INLINE unsigned patch(unsigned b, unsigned y, unsigned x, unsigned size) {
        return (3 * b * size + y * PATCH) * size + x * PATCH;
    }
    static INLINE unsigned line(unsigned i, unsigned size) { return (i / PATCH * size + i % PATCH) * size; }

    INLINE explicit F32(const unsigned*) {}
    // Eight lanes a line, the last for its zeros.
    template <class Store>
    INLINE void elements(const char* slots, const unsigned* places, unsigned unit, unsigned size, int from, int to,
                         Store store) const {
        const int pair = threadIdx.x % 8;
#pragma unroll
        for (int i = 0; i < 4 * LINES; i++) {
            const int slot = 4 * i + threadIdx.x / 8 % 4, row = slot / LINES, l = slot % LINES;
            const int element = 16 * l + 2 * pair;
            if (element < from || element >= to) continue;
            const unsigned at = (places[row] + line(unit * LINES + l, size)) % 4 * 4;
            float2 x = {};
            if (places[row] != NONE && pair < PATCH / 2)
                x = *reinterpret_cast<const float2*>(slots + slot * SLOT + at + 8 * pair);
            store(row, element, x);
        }
    }
};

// Eight elements; two.
template <class E>
INLINE void store_elements(uint32_t at, float4 x, float4 y) {
    const typename E::Four a = E::four(x), b = E::four(y);
    if constexpr (sizeof(E) == 2) {
        store_shared(at, uint4{a.x, a.y, b.x, b.y});
    } else {
        store_shared(at, a);
        store_shared(at ^ 16, b);
    }
}
template <class E>
INLINE void store_elements(uint32_t at, float2 x) {
    store_shared(at, E::pair(x.x, x.y));
}

template <class E, class Out, class In, int BM, int BN, int WARPS_M, int WARPS_N, int STAGES>
struct PatchEmbed : Gemm<E, BM, BN, 64, WARPS_M, WARPS_N, STAGES> {
    using Base = Gemm<E, BM, BN, 64, WARPS_M, WARPS_N, STAGES>;
    using Base::MI, Base::NI, Base::THREADS, Base::WM, Base::WN, Base::acc;
    static constexpr int BK = ROW / sizeof(E), TILES = STRIDE / BK, SHARE = UNIT / BK;  // tiles of a unit
    static constexpr int STAGE = (BM + BN) * ROW, PIECES = ROW / 16, MINE = BN * PIECES / THREADS;
    static constexpr int ROWS = 16, PIXELS = BM * In::LINES * SLOT, SLOTS = ROWS * In::LINES;  // of a warp
    static_assert(BM == ROWS * THREADS / 32 && BN * PIECES % THREADS == 0 && UNIT % BK == 0 && BK % E::STEP == 0);

    // Pieces of 16 bytes are swapped in pairs in every second four of rows: no bank is met twice.
    static INLINE int swizzle(int row, int piece) { return row * ROW + 16 * (piece ^ row / 4 % 2); }

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
            const typename Out::Four out = Out::four(v);
            const float2 s = stats_of(values<Out>(out));
            if (!in) return;
            *reinterpret_cast<float4*>(p.x + at) = v;
            *reinterpret_cast<typename Out::Four*>(static_cast<Out*>(p.copy) + at) = out;
            if (n % STATS_COLUMNS == 0) p.stats[stats_at(m, n, p.rows)] = s;
        });
    }

    INLINE void product(char* shared, const PatchEmbedParams& p) {
        const int t = threadIdx.x, lane = t % 32, warp = t / 32;
        const unsigned row0 = blockIdx.y * BM, col0 = blockIdx.x * BN, size = p.side * PATCH;
        const uint32_t base = shared_address(shared);
        unsigned* places = reinterpret_cast<unsigned*>(shared + STAGES * (STAGE + PIXELS));  // of each row's patch
        for (int r = t; r < BM; r += THREADS) {
            const unsigned m = row0 + r, i = m % p.tokens - p.prefix;
            const bool patch = m < p.rows && m % p.tokens >= p.prefix;
            places[r] = patch ? In::patch(m / p.tokens, i / p.side, i % p.side, size) : NONE;
        }
        __syncthreads();
        places += ROWS * warp;
        const In pixels(places);
        // Bytes of the warp's slots in shared memory, and of a stage's in the ring: where the next copies and the next fill go.
        const int slots = STAGES * STAGE + warp * SLOTS * SLOT;
        int copied = 0, used = 0, filled = 0;
        const auto turn = [](int& at, int bytes) { at = at == (STAGES - 1) * bytes ? 0 : at + bytes; };

        using T = typename In::T;
        constexpr unsigned EACH = 16 / sizeof(T);
        unsigned mine[SLOTS / 8];  // places of the slots of which this lane copies a piece
#pragma unroll
        for (int i = 0; i < SLOTS / 8; i++) mine[i] = places[(8 * i + lane / 4) / In::LINES];
        const auto copy = [&](int unit) {  // the pieces around the unit's lines
#pragma unroll
            for (int i = 0; i < SLOTS / 8; i++) {
                const int slot = 8 * i + lane / 4;
                const unsigned at = mine[i] + In::line(unit * In::LINES + slot % In::LINES, size);
                const unsigned from = at / EACH * EACH + lane % 4 * EACH;
                const bool valid = mine[i] != NONE && from < at + In::BYTES / sizeof(T);
                const unsigned bytes = min(p.pixels - from, EACH) * sizeof(T);  // the last piece may be cut off
                cp_async_part(base + slots + lane / 4 * SLOT + lane % 4 * 16 + copied + 8 * i * SLOT,
                              static_cast<const T*>(p.from) + from, valid ? bytes : 0);
            }
            turn(copied, PIXELS);
        };
        const auto fill = [&](int tile) {  // rows of A, from copied pixels
            const int first = tile % SHARE * BK;
            const uint32_t stage = base + filled + warp * ROWS * ROW;
            pixels.elements(shared + slots + used, places, tile / SHARE, size, first, first + BK,
                            [&](int row, int element, auto... x) {
                                const int byte = (element - first) * sizeof(E);
                                store_elements<E>(stage + swizzle(row, byte / 16) + byte % 16, x...);
                            });
            turn(filled, STAGE);
            if (tile % SHARE == SHARE - 1) turn(used, PIXELS);
        };
        unsigned weights[MINE];
        uint32_t to[MINE];
#pragma unroll
        for (int i = 0; i < MINE; i++) {
            const int row = (t + i * THREADS) / PIECES, piece = (t + i * THREADS) % PIECES;
            weights[i] = min(col0 + row, p.c - 1) * unsigned(STRIDE * sizeof(E) / 16) + piece;
            to[i] = base + BM * ROW + swizzle(row, piece);
        }
        const char* weight = static_cast<const char*>(p.weight);
        const auto weigh = [&](int stage) {  // rows of B
#pragma unroll
            for (int i = 0; i < MINE; i++) cp_async(to[i] + stage, weight + size_t(weights[i]) * 16);
            weight += ROW;
        };

#pragma unroll
        for (int i = 0; i < MI; i++)
#pragma unroll
            for (int j = 0; j < NI; j++)
#pragma unroll
                for (int c = 0; c < 4; c++) acc[i][j][c] = 0.f;
        // Ahead are STAGES - 1 tiles and, of each, as many units.
        for (int s = 0; s < STAGES - 1; s++) copy(s), weigh(s * STAGE);
        cp_async_commit();
        cp_async_wait<0>();
        __syncthreads();
        for (int s = 0; s < STAGES - 1; s++) {
            if (s % SHARE == 0) copy(s / SHARE + STAGES - 1);
            cp_async_commit();
            fill(s);
            __syncwarp();
        }
        const uint32_t a_at = base + swizzle(warp / WARPS_N * WM + lane % 16, lane / 16);
        const uint32_t b_at = base + BM * ROW + swizzle(warp % WARPS_N * WN + lane % 8 + lane / 16 * 8, lane / 8 % 2);
        uint32_t stage = 0;
        for (int tile = 0; tile < TILES; tile++) {
            cp_async_wait<STAGES - 2>();
            __syncthreads();
            const int next = tile + STAGES - 1, unit = next / SHARE + STAGES - 1;
            if (next < TILES) weigh(filled);
            if (next % SHARE == 0 && unit < UNITS) copy(unit);
            cp_async_commit();
            if (next < TILES) fill(next);
#pragma unroll
            for (int s = 0; s < ROW / 32; s++) {
                uint32_t a[MI][4], b[NI / 2][4];
#pragma unroll
                for (int i = 0; i < MI; i++) ldmatrix_x4(a[i], a_at + 32 * s + stage + i * 16 * ROW);
#pragma unroll
                for (int j = 0; j < NI / 2; j++) ldmatrix_x4(b[j], b_at + 32 * s + stage + j * 16 * ROW);
#pragma unroll
                for (int i = 0; i < MI; i++)
#pragma unroll
                    for (int j = 0; j < NI; j++) E::mma(acc[i][j], a[i], b[j / 2][j % 2 * 2], b[j / 2][j % 2 * 2 + 1]);
            }
            stage = stage == (STAGES - 1) * STAGE ? 0 : stage + STAGE;
        }
    }
};

extern __shared__ __align__(128) char shared[];

}  // namespace

#define KERNEL(DTYPE, E, OUT, INPUT, IN)                                                                              \
    extern "C" __global__ __launch_bounds__(128, 3) void patch_embed_fwd_##INPUT##_64x64_##DTYPE(                        \
        const __grid_constant__ PatchEmbedParams p) {                                                                 \
        PatchEmbed<E, OUT, IN, 64, 64, 2, 2, 3>::run(shared, p);                                                      \
    }                                                                                                                 \
    extern "C" __global__ __launch_bounds__(256) void patch_embed_fwd_##INPUT##_128x128_##DTYPE(                      \
        const __grid_constant__ PatchEmbedParams p) {                                                                 \
        PatchEmbed<E, OUT, IN, 128, 128, 2, 4, 2>::run(shared, p);                                                    \
    }
#define KERNELS(DTYPE, E, OUT)         \
    KERNEL(DTYPE, E, OUT, u8, U8)      \
    KERNEL(DTYPE, E, OUT, f32, F32)
KERNELS(bf16, Bf16, Bf16)
KERNELS(f16, F16, F16)
KERNELS(f16_bf16, F16, Bf16)
KERNELS(tf32, Tf32, Tf32)
