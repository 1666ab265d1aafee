// A few rows times a weight matrix (N, K): what the prototypes of a batch go through. Reading the weights is all the work.
//
// A block gives 16 columns of the result for 8 * NT rows. The weights are the 16-row operand of mma and the rows its 8
// columns, so that nothing is padded beyond 8 rows. A lane takes 16 bytes of its weight row and of its x row at the same
// columns; as both operands permute K alike, the four words feed two mma and nothing passes shared memory. The warps
// take 64-byte pieces of K in turn; their sums are added in order. The order of summation depends on K and E alone.
#pragma once
#include "common.cuh"

constexpr int ROWS_WARPS = 8, ROWS_THREADS = 32 * ROWS_WARPS, ROWS_COLUMNS = 16;

// w: the block's 16 rows of weights. load(row, k): 16 bytes of elements of a row, from column k on. store(row, i, sum): of
// column i of the block's 16.
// UNROLL: pieces on their way at once.
template <class E, int NT, int UNROLL = 4, class Load, class Store>
INLINE void rows_product(const E* w, int k, int row0, int rows, const Load& load, const Store& store) {
    constexpr int V = 16 / sizeof(E), PIECE = 4 * V, LINE = 20;
    __shared__ float parts[ROWS_WARPS][NT][8 * LINE];
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, g = lane / 4, t = lane % 4;
    const E* low = w + size_t(g) * k + t * V;
    const E* high = low + size_t(8) * k;
    float acc[NT][4] = {};
#pragma unroll UNROLL
    for (int at = warp * PIECE; at < k; at += ROWS_WARPS * PIECE) {
        const uint4 a = load16<uint4>(low + at), b = load16<uint4>(high + at);
        const uint32_t first[4] = {a.x, b.x, a.y, b.y}, second[4] = {a.z, b.z, a.w, b.w};
#pragma unroll
        for (int n = 0; n < NT; n++) {
            const int row = row0 + 8 * n + g;
            const uint4 x = row < rows ? load(row, at + t * V) : uint4{};
            E::mma(acc[n], first, x.x, x.y);
            E::mma(acc[n], second, x.z, x.w);
        }
    }
#pragma unroll
    for (int n = 0; n < NT; n++) {
#pragma unroll
        for (int i = 0; i < 4; i++) parts[warp][n][(2 * t + i % 2) * LINE + g + i / 2 * 8] = acc[n][i];
    }
    __syncthreads();
    for (int i = threadIdx.x; i < NT * 8 * ROWS_COLUMNS; i += ROWS_THREADS) {
        // A warp takes rows r and r + 4, which lie in different halves of the banks.
        const int column = i % ROWS_COLUMNS, r = i / ROWS_COLUMNS % 2 * 4 + i / 32 % 4, n = i / (8 * ROWS_COLUMNS);
        const int row = row0 + 8 * n + r;
        if (row >= rows) continue;
        float sum = 0.f;
#pragma unroll
        for (int v = 0; v < ROWS_WARPS; v++) sum += parts[v][n][r * LINE + column];
        store(row, column, sum);
    }
}

// 16 bytes of elements from floats.
template <class E>
INLINE uint4 pack16(const float (&x)[16 / sizeof(E)]) {
    if constexpr (sizeof(E) == 2) {
        return {E::pair(x[0], x[1]), E::pair(x[2], x[3]), E::pair(x[4], x[5]), E::pair(x[6], x[7])};
    } else {
        return {__float_as_uint(round_tf32(x[0])), __float_as_uint(round_tf32(x[1])), __float_as_uint(round_tf32(x[2])),
                __float_as_uint(round_tf32(x[3]))};
    }
}

// Rows of elements (rows, K).
template <class E>
struct ElementRows {
    const E* x;
    int k;
    INLINE uint4 operator()(int row, int at) const { return load16<uint4>(x + size_t(row) * k + at); }
};

// Rows of f32 (rows, K), normalised: (x - mean) / deviation. `norm` is of the block's first row.
template <class E>
struct NormalRows {
    const float* x;
    const float2* norm;
    int k, row0;
    INLINE uint4 operator()(int row, int at) const {
        constexpr int V = 16 / sizeof(E);
        const float2 by = norm[row - row0];
        const float* from = x + size_t(row) * k + at;
        float y[V];
#pragma unroll
        for (int i = 0; i < V; i += 4) {
            const float4 v = load16<float4>(from + i);
            y[i] = (v.x - by.x) * by.y, y[i + 1] = (v.y - by.x) * by.y;
            y[i + 2] = (v.z - by.x) * by.y, y[i + 3] = (v.w - by.x) * by.y;
        }
        return pack16<E>(y);
    }
};

// Mean and 1/deviation of the block's rows of x (rows, K), in two passes; a warp a row. Ends with a barrier.
template <int COUNT>
INLINE void row_norms(float2 (&norm)[COUNT], const float* x, int k, int row0, int rows, float eps) {
    const int lane = threadIdx.x % 32;
    for (int r = threadIdx.x / 32; r < COUNT && row0 + r < rows; r += ROWS_WARPS) {
        const float* row = x + size_t(row0 + r) * k;
        float sum = 0.f, m2 = 0.f;
        for (int i = 4 * lane; i < k; i += 128) {
            const float4 v = load16<float4>(row + i);
            sum += (v.x + v.y) + (v.z + v.w);
        }
        const float mean = warp_sum(sum) / float(k);
        for (int i = 4 * lane; i < k; i += 128) {
            const float4 v = load16<float4>(row + i);
            const float a = v.x - mean, b = v.y - mean, c = v.z - mean, d = v.w - mean;
            m2 += (a * a + b * b) + (c * c + d * d);
        }
        const float var = warp_sum(m2) / float(k);
        if (lane == 0) norm[r] = {mean, rsqrtf(var + eps)};
    }
    __syncthreads();
}
