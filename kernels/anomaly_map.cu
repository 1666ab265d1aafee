// anomaly_map: cosine distances on the patch grid, the pixel map R·mean·Rᵀ, and the score, its 655 largest values' mean.
//
// Shapes   e, d (B, N, C) of G groups; prototypes (B, P, C); native (B, G, N), G = 1 for `nearest`; R (256, side) banded, `width`
//          weights a row from column `first` on; map (B, 256, 256); score (B); N = side².
// Layout   row-major, e and d with an address for each group; weights (width, 256); `state` (B, BINS + 1) u32, zero before
//          the first launch and after each.
// Dtype    f32; the score is summed in integers of 2^-40, exact whatever the order, for values below 4096.
// Writes   `distances`, `nearest`: native. `post`: map, score (NaN if a map value is not finite); `state` is zeroed again.
// Grid     distances (rows / 8, G), nearest (rows / 8), a warp a row of B·N; post (32, B), a block 8 rows of the map.
// Smem     post: 16 KB of histogram and partial results, and max(8·side f32, 16 KB of candidates).
// Cost     distances reads 2·G·N·C f32 once: bound by L2. post: 3 FMA a pixel, 256 KB written and read once more by the
//          last block of an image, about 3 µs: bound by that one SM.
// Source   INP-Former's maps and score; the top values by histogram and radix selection.
// Checked  tests/ops/anomaly_map/cuda.rs
//
// post: every block counts its values by magnitude (64 bins an octave); the last one to finish finds the bin of the 655th
// largest, sums what lies above it, and selects exactly within it. Lost: one block that reads the map for every digit.
#include "common.cuh"

namespace {

constexpr int WARPS = 8;            // distances: rows a block
constexpr int SIDE = 256;           // of the map
constexpr int STRIP = 8;            // post: map rows a block
constexpr int THREADS = 1024;       // post
constexpr int BINS = 2048;
constexpr int LIST = 4096;          // candidates kept in shared memory
constexpr float UNIT = 1099511627776.f;  // 2^40

constexpr int GROUPS = 8;           // at most

struct DistancesParams {
    const float* e[GROUPS];
    const float* d[GROUPS];         // `nearest`: the first is (B, P, C), and e is summed over the groups
    float* native;
    unsigned rows, n, c, groups;    // rows = B·N
    unsigned prototypes, pad;
};

struct PostParams {
    const float* native;
    const unsigned* first;
    const float* weights;
    float* map;
    float* score;
    unsigned* state;
    unsigned groups, side, width, top;
};

// Dot products a·a, a·d, d·d of rows of c elements, whose four from i on `a` and `d` give; the same in every lane.
struct Dots {
    float aa, ad, dd;
};
template <class A, class D>
INLINE Dots dots(unsigned c, A a, D d) {
    Dots s{0.f, 0.f, 0.f};
    for (unsigned i = 4 * (threadIdx.x % 32); i < c; i += 128) {
        const float4 x = a(i), y = d(i);
        s.aa += (x.x * x.x + x.y * x.y) + (x.z * x.z + x.w * x.w);
        s.ad += (x.x * y.x + x.y * y.y) + (x.z * y.z + x.w * y.w);
        s.dd += (y.x * y.x + y.y * y.y) + (y.z * y.z + y.w * y.w);
    }
    return {warp_sum(s.aa), warp_sum(s.ad), warp_sum(s.dd)};
}
INLINE float distance(Dots s) {
    return 1.f - s.ad / (fmaxf(sqrtf(s.aa), 1e-8f) * fmaxf(sqrtf(s.dd), 1e-8f));
}

// Where bits are larger, values are.
INLINE unsigned ordered(float x) {
    const unsigned u = __float_as_uint(x);
    return u ^ ((unsigned)((int)u >> 31) | 0x80000000u);
}
INLINE float value(unsigned o) {
    return __uint_as_float(o ^ ((unsigned)((int)~o >> 31) | 0x80000000u));
}
// 64 bins an octave from 2^-31 to 2; what lies outside falls into the first or last.
INLINE int bin(unsigned o) {
    return min(max((int)(o >> 17) - (int)((0x80000000u + (96u << 23)) >> 17), 0), BINS - 1);
}
INLINE long long fixed(float x) {
    return __float2ll_rn(fminf(fmaxf(x, -4096.f), 4096.f) * UNIT);
}

// h[b]++ for every lane with `in`; neighbours mostly share a bin, so lanes of one bin add together. All lanes call.
INLINE void count(unsigned* h, unsigned b, bool in) {
    unsigned left = __ballot_sync(~0u, in);
    while (left) {
        const unsigned other = __shfl_sync(~0u, b, __ffs(left) - 1);
        const unsigned same = __ballot_sync(~0u, in && b == other) & left;
        if (threadIdx.x % 32 == 0) atomicAdd(&h[other], __popc(same));
        left &= ~same;
    }
}

// The first warp finds the highest bin at which the counts from the top reach k; s[0] = bin, s[1] = how many lie above it.
INLINE void find(const unsigned* h, int bins, unsigned k, unsigned* s) {
    if (threadIdx.x >= 32) return;
    const int lane = threadIdx.x;
    unsigned above = 0;
    for (int from = bins - 32; from >= 0; from -= 32) {
        const unsigned mine = h[from + 31 - lane];
        unsigned sum = mine;
#pragma unroll
        for (int m = 1; m < 32; m *= 2) {
            const unsigned other = __shfl_up_sync(~0u, sum, m);
            if (lane >= m) sum += other;
        }
        const unsigned reached = __ballot_sync(~0u, above + sum >= k);
        if (reached) {
            if (lane == __ffs(reached) - 1) {
                s[0] = from + 31 - lane;
                s[1] = above + sum - mine;
            }
            return;
        }
        above += __shfl_sync(~0u, sum, 31);
    }
}

}  // namespace

extern "C" __global__ __launch_bounds__(32 * WARPS) void anomaly_map_fwd_distances_f32(
    const __grid_constant__ DistancesParams p) {
    const unsigned row = blockIdx.x * WARPS + threadIdx.x / 32, g = blockIdx.y;
    if (row >= p.rows) return;
    const size_t at = size_t(row) * p.c;
    const float *e = nullptr, *d = nullptr;
#pragma unroll
    for (unsigned i = 0; i < GROUPS; i++)
        if (i == g) e = p.e[i] + at, d = p.d[i] + at;
    const float x = distance(dots(
        p.c, [&](unsigned i) { return load16<float4>(e + i); }, [&](unsigned i) { return load16<float4>(d + i); }));
    if (threadIdx.x % 32 == 0) p.native[(size_t(row / p.n) * p.groups + g) * p.n + row % p.n] = x;
}

extern "C" __global__ __launch_bounds__(32 * WARPS) void anomaly_map_fwd_nearest_f32(
    const __grid_constant__ DistancesParams p) {
    const unsigned row = blockIdx.x * WARPS + threadIdx.x / 32;
    if (row >= p.rows) return;
    const size_t at = size_t(row) * p.c;
    const float* d = p.d[0] + size_t(row / p.n) * p.prototypes * p.c;
    const auto sum = [&](unsigned i) {
        float4 x = load16<float4>(p.e[0] + at + i);
#pragma unroll
        for (unsigned g = 1; g < GROUPS; g++)
            if (g < p.groups) {
                const float4 o = load16<float4>(p.e[g] + at + i);
                x.x += o.x, x.y += o.y, x.z += o.z, x.w += o.w;
            }
        return x;
    };
    float best = __int_as_float(0x7f800000);
    for (unsigned i = 0; i < p.prototypes; i++, d += p.c) {
        const float x = distance(dots(p.c, sum, [&](unsigned k) { return load16<float4>(d + k); }));
        if (x < best || isnan(x)) best = x;  // NaN stays once it came
    }
    if (threadIdx.x % 32 == 0) p.native[row] = best;
}

extern "C" __global__ __launch_bounds__(THREADS) void anomaly_map_fwd_post_f32(const __grid_constant__ PostParams p) {
    extern __shared__ __align__(16) char dynamic[];
    __shared__ unsigned hist[BINS];
    __shared__ long long sums[THREADS / 32];
    __shared__ unsigned found[2], length, last;
    const int t = threadIdx.x;
    const size_t image = blockIdx.y;
    float* map = p.map + image * SIDE * SIDE;
    unsigned* state = p.state + image * (BINS + 1);

    // R * mean for this strip's rows.
    float* half = reinterpret_cast<float*>(dynamic);
    const float* native = p.native + image * p.groups * p.side * p.side;
    const float share = 1.f / float(p.groups);
    for (unsigned i = t; i < STRIP * p.side; i += THREADS) {
        const unsigned y = blockIdx.x * STRIP + i / p.side, x = i % p.side;
        const unsigned first = __ldg(p.first + y);
        float sum = 0.f;
        for (unsigned k = 0; k < p.width; k++) {
            float mean = 0.f;
            for (unsigned g = 0; g < p.groups; g++)
                mean += __ldg(native + (size_t(g) * p.side + first + k) * p.side + x);
            sum += __ldg(p.weights + k * SIDE + y) * (mean * share);
        }
        half[i] = sum;
    }
    for (int i = t; i < BINS; i += THREADS) hist[i] = 0;
    __syncthreads();

    // Times R^T; counted by magnitude.
    const int x = t % SIDE;
    const unsigned first = __ldg(p.first + x);
    bool bad = false;
    for (int y = t / SIDE; y < STRIP; y += THREADS / SIDE) {
        float v = 0.f;
        for (unsigned k = 0; k < p.width; k++) v += __ldg(p.weights + k * SIDE + x) * half[y * p.side + first + k];
        map[(blockIdx.x * STRIP + y) * SIDE + x] = v;
        bad |= !isfinite(v);
        count(hist, bin(ordered(v)), true);
    }
    bad = __syncthreads_or(bad);
    for (int i = t; i < BINS; i += THREADS)
        if (hist[i]) atomicAdd(state + i, hist[i]);
    __syncthreads();
    if (t == 0) {
        __threadfence();  // the block's writes, which the barrier gathered, before its ticket
        last = atomicAdd(state + BINS, bad ? 0x10001u : 1u);  // blocks that are done; of them not finite
        __threadfence();
    }
    __syncthreads();
    if (last % 0x10000 != gridDim.x - 1) return;
    bad |= last / 0x10000 != 0;

    // The bin of the top-th largest.
    for (int i = t; i < BINS; i += THREADS) {
        hist[i] = __ldcg(state + i);
        state[i] = 0;
    }
    if (t == 0) state[BINS] = 0, length = 0;
    __syncthreads();
    find(hist, BINS, p.top, found);
    __syncthreads();
    const int level = found[0];
    unsigned above = found[1];
    const bool fits = hist[level] <= LIST;

    // What lies above that bin is summed, what lies in it is kept, if there is room for all.
    unsigned* list = reinterpret_cast<unsigned*>(dynamic);
    const uint4* all = reinterpret_cast<const uint4*>(map);
    long long sum = 0;
    for (int i = t; i < SIDE * SIDE / 4; i += THREADS) {
        const uint4 w = __ldcg(all + i);
        const unsigned word[4] = {w.x, w.y, w.z, w.w};
#pragma unroll
        for (int j = 0; j < 4; j++) {
            const float v = __uint_as_float(word[j]);
            const unsigned o = ordered(v);
            const int b = bin(o);
            if (b > level) sum += fixed(v);
            if (b == level && fits) list[atomicAdd(&length, 1u)] = o;
        }
    }
    __syncthreads();
    // f(ordered value, whether there is one) for every candidate; all lanes call it.
    const auto candidates = [&](auto f) {
        if (fits) {
            for (unsigned i = t; i < (length + THREADS - 1) / THREADS * THREADS; i += THREADS)
                f(i < length ? list[i] : 0u, i < length);
        } else {
            for (int i = t; i < SIDE * SIDE; i += THREADS) {
                const unsigned o = ordered(__ldcg(map + i));
                f(o, bin(o) == level);
            }
        }
    };
    // Its digits from the top.
    unsigned prefix = 0;
    for (int shift = 24; shift >= 0; shift -= 8) {
        if (t < 256) hist[t] = 0;
        __syncthreads();
        candidates([&](unsigned o, bool in) {
            count(hist, o >> shift & 255, in && (shift == 24 || o >> (shift + 8) == prefix));
        });
        __syncthreads();
        find(hist, 256, p.top - above, found);
        __syncthreads();
        prefix = prefix << 8 | found[0];
        above += found[1];
        __syncthreads();
    }
    candidates([&](unsigned o, bool in) {
        if (in && o > prefix) sum += fixed(value(o));
    });
#pragma unroll
    for (int m = 16; m > 0; m /= 2) sum += __shfl_xor_sync(~0u, sum, m);
    if (t % 32 == 0) sums[t / 32] = sum;
    __syncthreads();
    if (t == 0) {
        sum = (long long)(p.top - above) * fixed(value(prefix));
        for (int w = 0; w < THREADS / 32; w++) sum += sums[w];
        const double mean = double(sum) / (double(UNIT) * p.top);
        p.score[image] = bad ? __int_as_float(0x7fc00000) : float(mean);
    }
}
