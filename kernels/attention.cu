// Multi-head self-attention of the encoder: out = softmax_2(q k^T) v for each head, the scores never leaving registers.
// q holds 1/8 * log2(e) already (in its weights), so the softmax is to the base 2 and nothing is scaled here.
//
// Shapes   qkv (B*T, 3C), columns q | k | v, head h at 64 h; out (B*T, C); C = 64 H; any T >= 1.
// Dtype    bf16, f16, tf32; scores, sums and out's accumulators f32; the probabilities are rounded to E for the second
//          product, while their sum is taken before rounding.
// Writes   every element of out.
// Grid     (ceil(T / rows), H, B); a warp owns 16 or 32 rows, which it shares with nobody.
// Smem     rows of q (later of out) + two tiles of 64 keys + two of 64 values: 64 (rows + 256) sizeof(E), dynamic.
// Cost     128 MAC and one 2^x a row and key; a block reads its head's k and v once, 128 sizeof(E) bytes a key.
// Order    keys ascend, in tiles of 64 and steps of one mma; a row's bits depend on its own q and its head's k and v alone and
//          are the same in every variant, batch and position.
// Source   Milakov & Gimelshein 2018 (online softmax), Dao 2023 (FlashAttention-2); what is different here:
//  - A row's scores are taken relative to a reference by starting their accumulators at its negative: no subtraction.
//  - The reference is the row's maximum over the first tile. It is raised only when the running sum passes LIMIT, which one
//    comparison a tile finds out: no running maximum, no rescaling on the way. Whatever stays below LIMIT fits f16.
// Checked  tests/ops/attention/cuda.rs: f64, all variants, around every tile; scores of any size; same bits.
//
// Variants ROWSxWARPS: rows of q a block, warps.
//   256x8, 128x4, 64x2  32 rows a warp: each fragment of k and v serves two products; half the shared-memory traffic. Not in
//                       tf32, whose q, scores and probabilities would not fit the registers.
//   128x8, 64x4, 32x2   16 rows a warp, the next tile's scores under way while this one's 2^x are made.
#include "common.cuh"

struct AttentionParams {
    const void* qkv;
    void* out;
    int tokens, heads;
};

// Largest sum of 2^x of a lane's share of a row (a quarter) that does not raise the reference.
constexpr float LIMIT = 32768.f;

template <class E, int ROWS, int WARPS>
struct Attention {
    static constexpr int THREADS = 32 * WARPS, MT = ROWS / WARPS / 16;
    // Bytes of a row of 64 elements and of a tile of 64 rows; chunks of 16 bytes in a row; mma steps in 64 elements.
    static constexpr int ROW = 64 * sizeof(E), TILE = 64 * ROW, CHUNKS = ROW / 16, STEPS = 64 / E::STEP;
    // Rows that all threads copy at once, and how often for a tile.
    static constexpr int PASS = THREADS / 4, PASSES = 64 / PASS;
    // Shared memory: rows of q, two slots of keys, two of values. Chunk c of row r stands at c ^ (r % 8).
    static constexpr int K = ROWS * ROW, V = K + 2 * TILE;
    using Scores = float[MT][8][4];
    using Probabilities = uint32_t[MT][STEPS][4];

    uint32_t q[MT][STEPS][4];
    float o[MT][8][4];
    // Of rows g and g + 8 of each 16: the reference's negative, twice, as accumulators start; this lane's part of the sum.
    float reference[MT][4], sum[MT][2];
    // Where this lane's part of the first two chunks is; the next ones are at ^ 32, ^ 64 and ^ 96, which saves registers.
    uint32_t k_at, v_at;
    // Copies: from the head's first key and value, at offsets in chunks (an address is one multiply-add) that advance with the
    // tiles by 64 rows of `stride` chunks; to byte `to` and, 4 chunks on, to ^ 64. From this thread's first row of the next
    // tile on there are `left` rows.
    const char *keys, *vals;
    uint32_t to, offset[PASSES], stride;
    int left;

    // A quarter of a warp copies four chunks of rows r and r + 4: 64 whole bytes of each, and all banks.
    // Also starts the copies of this block's rows of q; rows past the last are zeros.
    INLINE void init(const AttentionParams& p, uint32_t shared) {
        const int lane = threadIdx.x % 32, turn = threadIdx.x / 4, chunk = threadIdx.x % 4;
        const int row = (turn & ~7) | (turn & 1) << 2 | (turn >> 1 & 3);
        stride = 3 * CHUNKS * p.heads;
        keys = static_cast<const char*>(p.qkv) + size_t(blockIdx.z) * p.tokens * stride * 16;
        keys += (p.heads + blockIdx.y) * ROW;
        vals = keys + p.heads * ROW;
        to = shared + row * ROW + (chunk ^ (row % 8)) * 16;
#pragma unroll
        for (int i = 0; i < PASSES; i++) opaque(offset[i] = (row + i * PASS) * stride + chunk);
        left = p.tokens - row;
        const char* q_from = keys - p.heads * ROW;
#pragma unroll
        for (int i = 0; i < ROWS; i += PASS) {
            const int r = blockIdx.x * ROWS + i;
            copy_row(q_from + (uint64_t(r) * stride + offset[0]) * 16, i, r < left);
        }
        asm volatile("" : "+l"(keys), "+l"(vals));
        opaque(to);
        opaque(k_at = shared + K + (lane / 16 * 8 + lane % 8) * ROW + ((lane / 8 % 2) ^ (lane % 8)) * 16);
        if constexpr (sizeof(E) == 2) v_at = shared + V + lane % 16 * ROW + ((lane / 16) ^ (lane % 8)) * 16;
        else v_at = V + lane % 4 * (2 * ROW) + ((lane / 16) ^ (lane % 4 * 2)) * 16 + lane / 4 % 4 * 4;
        opaque(v_at);
#pragma unroll
        for (int m = 0; m < MT; m++) {
            sum[m][0] = sum[m][1] = 0.f;
#pragma unroll
            for (int e = 0; e < 4; e++) {
                reference[m][e] = 0.f;
#pragma unroll
                for (int n = 0; n < 8; n++) o[m][n][e] = 0.f;
            }
        }
    }
    // Keeps ptxas from making a value again from its parts in every pass of the loop.
    static INLINE void opaque(uint32_t& x) { asm volatile("" : "+r"(x)); }

    // Copies a tile to byte `at`: of values (or keys) the next one, or that after it.
    INLINE void copy(const char* from, int at, bool after = false) const {
#pragma unroll
        for (int i = 0; i < PASSES; i++)
            copy_row(from + uint64_t(offset[i]) * 16, at / ROW + i * PASS, i * PASS + after * 64 < left);
    }
    INLINE void copy_row(const char* row, int r, bool valid) const {
#pragma unroll
        for (int c = 0; c < CHUNKS / 4; c++)
            cp_async((c % 2 ? to ^ 64 : to) + r * ROW + c / 2 * 128, row + c * 64, valid);
    }
    INLINE void advance() {
#pragma unroll
        for (int i = 0; i < PASSES; i++) offset[i] += 64 * stride;
        left -= 64;
    }

    INLINE void load_q(uint32_t shared) {
        const int lane = threadIdx.x % 32, row = threadIdx.x / 32 * (16 * MT) + lane % 16;
#pragma unroll
        for (int m = 0; m < MT; m++)
#pragma unroll
            for (int s = 0; s < STEPS; s++)
                ldmatrix_x4(q[m][s], shared + (row + 16 * m) * ROW + ((2 * s + lane / 16) ^ (lane % 8)) * 16);
    }

    // Scores against the 64 keys of a slot, less the reference.
    INLINE void scores(Scores& s, int slot) const {
#pragma unroll
        for (int m = 0; m < MT; m++)
#pragma unroll
            for (int n = 0; n < 8; n++)
#pragma unroll
                for (int e = 0; e < 4; e++) s[m][n][e] = reference[m][e];
#pragma unroll
        for (int step = 0; step < STEPS; step++)
#pragma unroll
            for (int n = 0; n < 8; n += 2) {
                uint32_t b[4];
                ldmatrix_x4(b, (k_at ^ step % 4 * 32) + step / 4 * 128 + slot * TILE + n * 8 * ROW);
#pragma unroll
                for (int m = 0; m < MT; m++) {
                    E::mma(s[m][n], q[m][step], b[0], b[1]);
                    E::mma(s[m][n + 1], q[m][step], b[2], b[3]);
                }
            }
    }

    // Keys from `valid` on count as nothing.
    INLINE void mask(Scores& s, int valid) const {
        const int key = threadIdx.x % 4 * 2;
#pragma unroll
        for (int m = 0; m < MT; m++)
#pragma unroll
            for (int n = 0; n < 8; n++)
#pragma unroll
                for (int e = 0; e < 4; e++)
                    if (8 * n + key + e % 2 >= valid) s[m][n][e] = __int_as_float(0xff800000);
    }

    // Largest score of a row in this tile.
    INLINE float top(const float (&s)[8][4], int half) const {
        float x = fmaxf(s[0][2 * half], s[0][2 * half + 1]);
#pragma unroll
        for (int n = 1; n < 8; n++) x = fmaxf(x, fmaxf(s[n][2 * half], s[n][2 * half + 1]));
        return warp_max<4>(x);
    }
    INLINE void shift(float (&s)[8][4], int half, float by) const {
#pragma unroll
        for (int n = 0; n < 8; n++) s[n][2 * half] -= by, s[n][2 * half + 1] -= by;
    }
    // The first tile sets the reference.
    INLINE void first(Scores& s) {
#pragma unroll
        for (int m = 0; m < MT; m++)
#pragma unroll
            for (int half = 0; half < 2; half++) {
                const float by = top(s[m], half);
                reference[m][2 * half] = reference[m][2 * half + 1] = -by;
                shift(s[m], half, by);
            }
    }
    // `total` passed LIMIT in some row of this warp: those rows get a new reference.
    INLINE void raise(Scores& s, const float (&total)[MT][2]) {
#pragma unroll
        for (int m = 0; m < MT; m++)
#pragma unroll
            for (int half = 0; half < 2; half++) {
                const float largest = top(s[m], half), most = warp_max<4>(total[m][half]);
                const float by = most > LIMIT ? fmaxf(largest, 0.f) : 0.f;
                const float fade = exp2_approx(-by);
                reference[m][2 * half] -= by, reference[m][2 * half + 1] -= by;
                sum[m][half] *= fade;
                shift(s[m], half, by);
#pragma unroll
                for (int n = 0; n < 8; n++) o[m][n][2 * half] *= fade, o[m][n][2 * half + 1] *= fade;
            }
    }

    // p = 2^s, laid out as A fragments; total = sum + its row sums.
    INLINE void exponentials(Probabilities& p, float (&total)[MT][2], const Scores& s) const {
#pragma unroll
        for (int m = 0; m < MT; m++) {
            total[m][0] = sum[m][0], total[m][1] = sum[m][1];
#pragma unroll
            for (int n = 0; n < 8; n++) {
                float x[4];
#pragma unroll
                for (int e = 0; e < 4; e++) x[e] = exp2_approx(s[m][n][e]);
                total[m][0] += x[0] + x[1];
                total[m][1] += x[2] + x[3];
                if constexpr (sizeof(E) == 2) {
                    p[m][n / 2][n % 2 * 2] = E::pair(x[0], x[1]);
                    p[m][n / 2][n % 2 * 2 + 1] = E::pair(x[2], x[3]);
                } else {
                    // Words t and t + 4 of the step are keys 2t and 2t + 1, here and in `values`.
                    p[m][n][0] = __float_as_uint(round_tf32(x[0]));
                    p[m][n][1] = __float_as_uint(round_tf32(x[2]));
                    p[m][n][2] = __float_as_uint(round_tf32(x[1]));
                    p[m][n][3] = __float_as_uint(round_tf32(x[3]));
                }
            }
        }
    }
    INLINE bool over(const float (&total)[MT][2]) const {
        float x = fmaxf(total[0][0], total[0][1]);
        if constexpr (MT == 2) x = fmaxf(x, fmaxf(total[1][0], total[1][1]));
        return __any_sync(~0u, x > LIMIT);
    }
    // p = 2^s, added to the sums; whether the reference was raised on the way.
    INLINE bool probabilities(Probabilities& p, Scores& s) {
        float total[MT][2];
        exponentials(p, total, s);
        const bool raised = over(total);
        if (raised) {
            raise(s, total);
            exponentials(p, total, s);
        }
        memcpy(sum, total, sizeof sum);
        return raised;
    }

    // o += p * the 64 values of a slot.
    INLINE void values(const Probabilities& p, int slot, const char* shared) {
#pragma unroll
        for (int step = 0; step < STEPS; step++) {
            if constexpr (sizeof(E) == 2) {
#pragma unroll
                for (int n = 0; n < 8; n += 2) {
                    uint32_t b[4];
                    ldmatrix_x4_trans(b, (v_at ^ n * 16) + slot * TILE + step * 16 * ROW);
#pragma unroll
                    for (int m = 0; m < MT; m++) {
                        E::mma(o[m][n], p[m][step], b[0], b[1]);
                        E::mma(o[m][n + 1], p[m][step], b[2], b[3]);
                    }
                }
            } else {
                // Row 2t + 1 is the next one, its chunks those of row 2t but for the lowest bit.
#pragma unroll
                for (int n = 0; n < 8; n++) {
                    const char* at = shared + slot * TILE + step * 8 * ROW + n / 4 * 128;
                    const uint32_t b0 = *reinterpret_cast<const uint32_t*>(at + (v_at ^ n % 4 * 32));
                    const uint32_t b1 = *reinterpret_cast<const uint32_t*>(at + ROW + (v_at ^ (n % 4 * 32 + 16)));
#pragma unroll
                    for (int m = 0; m < MT; m++) E::mma(o[m][n], p[m][step], b0, b1);
                }
            }
        }
    }

    // In the rows on their way out chunk c stands at c ^ turned(row): also pairs of f32 meet every bank once.
    static INLINE int turned(int row) { return (row & 3) << 1 | (row >> 2 & 1); }

    // Divides, rounds, and writes whole rows by way of this warp's rows of q.
    INLINE void write(const AttentionParams& p, char* shared) {
        const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4, warp_row = threadIdx.x / 32 * (16 * MT);
        __syncwarp();  // q is read
#pragma unroll
        for (int m = 0; m < MT; m++)
#pragma unroll
            for (int half = 0; half < 2; half++) {
                const float share = 1.f / warp_sum<4>(sum[m][half]);
                const int row = warp_row + 16 * m + 8 * half + g;
#pragma unroll
                for (int n = 0; n < 8; n++) {
                    const auto pair = E::pair(o[m][n][2 * half] * share, o[m][n][2 * half + 1] * share);
                    const int byte = (8 * n + 2 * t) * sizeof(E);
                    memcpy(shared + row * ROW + (byte / 16 ^ turned(row)) * 16 + byte % 16, &pair, sizeof pair);
                }
            }
        __syncwarp();
        const int chunk = lane % CHUNKS, first = blockIdx.x * ROWS, width = p.heads * ROW;
        char* out = static_cast<char*>(p.out) + (size_t(blockIdx.z) * p.tokens + first) * width;
        out += blockIdx.y * ROW + chunk * 16;
#pragma unroll
        for (int r = 0; r < 16 * MT; r += 32 / CHUNKS) {
            const int row = warp_row + r + lane / CHUNKS;
            if (first + row < p.tokens)
                *reinterpret_cast<uint4*>(out + size_t(row) * width) =
                    *reinterpret_cast<const uint4*>(shared + row * ROW + (chunk ^ turned(row)) * 16);
        }
    }

    // One tile after the other: 32 rows a warp.
    template <bool LAST>
    INLINE void in_turn(int j, int slot, int tokens, const char* shared) {
        if constexpr (!LAST) {
            copy(keys, K + (slot ^ 1) * TILE);
            copy(vals, V + (slot ^ 1) * TILE);
            cp_async_commit();
            advance();
        }
        Scores s;
        Probabilities p;
        scores(s, slot);
        if constexpr (LAST) mask(s, tokens - 64 * j);
        if (j == 0) first(s);
        probabilities(p, s);
        values(p, slot, shared);
        if constexpr (!LAST) {
            cp_async_wait<0>();
            __syncthreads();
        }
    }
    // The scores of the tile after this one meanwhile: 16 rows a warp.
    INLINE void ahead(Scores& s, Scores& next, int slot, const char* shared) {
        copy(vals, V + (slot ^ 1) * TILE);
        copy(keys + 64 * 16 * stride, K + slot * TILE, true);
        cp_async_commit();
        advance();
        Probabilities p;
        scores(next, slot ^ 1);
        if (probabilities(p, s)) scores(next, slot ^ 1);
        values(p, slot, shared);
        cp_async_wait<0>();
        __syncthreads();
    }
};

template <class E, int ROWS, int WARPS>
INLINE void attention(const AttentionParams& p) {
    extern __shared__ __align__(128) char shared[];
    using A = Attention<E, ROWS, WARPS>;
    A a;
    const uint32_t at = shared_address(shared);
    const int last = ceil_div(p.tokens, 64) - 1;
    a.init(p, at);
    a.copy(a.keys, A::K);
    if constexpr (A::MT == 2) {
        a.copy(a.vals, A::V);
        cp_async_commit();
        a.advance();
        cp_async_wait<0>();
        __syncthreads();
        a.load_q(at);
        int j = 0;
        while (j < last) {
            a.template in_turn<false>(j++, 0, p.tokens, shared);
            if (j == last) break;
            a.template in_turn<false>(j++, 1, p.tokens, shared);
        }
        a.template in_turn<true>(last, last % 2, p.tokens, shared);
    } else {
        cp_async_commit();
        a.copy(a.vals, A::V);
        a.copy(a.keys + 64 * 16 * a.stride, A::K + A::TILE, true);
        cp_async_commit();
        a.advance();
        cp_async_wait<1>();
        __syncthreads();
        a.load_q(at);
        typename A::Scores s, next;
        a.scores(s, 0);
        if (last == 0) a.mask(s, p.tokens);
        a.first(s);
        cp_async_wait<0>();
        __syncthreads();
        int j = 0;
        while (j < last) {
            a.ahead(s, next, 0, shared);
            if (++j == last) {
                memcpy(s, next, sizeof s);
                break;
            }
            a.ahead(next, s, 1, shared);
            ++j;
        }
        typename A::Probabilities x;
        if (last > 0) a.mask(s, p.tokens - 64 * last);
        a.probabilities(x, s);
        a.values(x, last % 2, shared);
    }
    a.write(p, shared);
}

#define VARIANT(ROWS, WARPS, NAME, E)                                                                 \
    extern "C" __global__ __launch_bounds__(32 * WARPS) void attention_fwd_##ROWS##x##WARPS##_##NAME( \
        const __grid_constant__ AttentionParams p) {                                                  \
        attention<E, ROWS, WARPS>(p);                                                                 \
    }
#define NARROW(NAME, E) VARIANT(128, 8, NAME, E) VARIANT(64, 4, NAME, E) VARIANT(32, 2, NAME, E)
#define WIDE(NAME, E) VARIANT(256, 8, NAME, E) VARIANT(128, 4, NAME, E) VARIANT(64, 2, NAME, E)
WIDE(bf16, Bf16)
NARROW(bf16, Bf16)
WIDE(f16, F16)
NARROW(f16, F16)
NARROW(tf32, Tf32)
