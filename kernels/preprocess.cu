// preprocess: frames to the network's crop, the bits of Pillow's antialiased bilinear: two passes, each rounded to 8 bits.
//
// Shapes   across: rows of `step` bytes a pixel to rows of RGB pixels; down: rows of bytes to rows of as many bytes. Frames
//          are `from_image` bytes apart, results `to_image`. Which pass is first is the host's choice (the frame's shape).
// Layout   rows `from_row` and `to_row` bytes apart, at any address; what is read begins and ends with whole 16 bytes. taps:
//          first (n), count (n), then coefficients (width, n) for the n outputs of the axis, relative to `origin`, the input
//          that `from` points to.
// Dtype    u8; sums in i32: coefficients have 22 bits after the point and add up to 1.
// Writes   every output byte, nothing else.
// Grid     across (rows / ROWS, outputs / block, B), a thread ROWS pixels of a column, blocks of whole warps, ROWS at least;
//          down (16-byte pieces / 128, 1, B), blocks of 128.
// Smem     across: PIXELS pixels of ROWS rows, later what is written: 17 KB.
// Cost     a frame of 1024 x 1024: 3 MB read, 1 MB written, 0.5 MB after down; 2 x 6 multiply-adds a byte. Bound by integers.
// Source   Pillow's two-pass resampling.
// Checked  tests/ops/preprocess/cuda.rs
//
// Formats are resolved across: grey is repeated, BGR turned, alpha skipped; down is the same for all.
// Lost: bytes of pixels straight from device memory (ten times the sectors across).
#include "common.cuh"

namespace {

constexpr int MOST = 512;
constexpr int ROWS = 4;
constexpr int PIXELS = 1024;  // that a block holds of a row at once
constexpr int LINE = 4 * PIXELS + 32;
constexpr int DOWN = 128;
constexpr int BITS = 22;

enum Format : unsigned { MONO8, RGB8, BGR8, RGBA8 };

struct PreprocessParams {
    const uint8_t* from;
    uint8_t* to;
    const int* taps;
    unsigned long long from_image, to_image, from_row, to_row;
    unsigned outputs;  // of the axis
    unsigned other;    // across: rows; down: bytes of a row
    unsigned origin;
    unsigned format;
};

INLINE uint8_t rounded(int sum) { return uint8_t(min(max(sum >> BITS, 0), 255)); }

// STEP bytes an input pixel, C of them used.
template <int STEP, int C, bool TURN>
INLINE void across(const PreprocessParams& p, uint8_t* held) {
    const unsigned t = threadIdx.x, column0 = blockIdx.y * blockDim.x, row0 = blockIdx.x * ROWS;
    const unsigned columns = min(blockDim.x, p.outputs - column0), last = column0 + columns - 1;
    const unsigned column = min(column0 + t, last);
    const auto first_of = [&](unsigned c) { return __ldg(p.taps + c) - int(p.origin); };
    const auto count_of = [&](unsigned c) { return __ldg(p.taps + p.outputs + c); };
    const int first = first_of(column), count = count_of(column), begin = first_of(column0);
    const int end = first_of(last) + count_of(last);  // outputs' inputs begin and end in their order
    const int* k = p.taps + 2 * p.outputs + column;
    int sum[ROWS][C];
#pragma unroll
    for (int r = 0; r < ROWS; r++)
#pragma unroll
        for (int c = 0; c < C; c++) sum[r][c] = 1 << (BITS - 1);
    // To copy, a warp takes a row, with every fourth of the other warps; this is its row, and where it begins in it.
    const unsigned row = t / 32 % ROWS, warps = (blockDim.x / 32 - row + ROWS - 1) / ROWS;
    const int mine = 16 * (t / 32 / ROWS * 32 + t % 32), step = 16 * 32 * warps;
    const uint8_t* image = p.from + blockIdx.z * p.from_image;
    const auto start = [&](unsigned r) { return size_t(min(row0 + r, p.other - 1)) * p.from_row; };
    for (int at = begin; at < end; at += PIXELS) {
        const int to = min(at + PIXELS, end);
        __syncthreads();
        const uint8_t* source = image + start(row) + size_t(at) * STEP;
        const int before = reinterpret_cast<size_t>(source) % 16, bytes = before + (to - at) * STEP;
        const uint32_t hold = shared_address(held + row * LINE);
        for (int i = mine; i < bytes; i += step) cp_async(hold + i, source - before + i);
        cp_async_commit();
        const int from = max(first, at), stop = min(first + count, to);
        const uint8_t* pixels[ROWS];
#pragma unroll
        for (int r = 0; r < ROWS; r++)
            pixels[r] = held + r * LINE + (from - at) * STEP + reinterpret_cast<size_t>(image + start(r) + size_t(at) * STEP) % 16;
        const int* weight = k + (from - first) * p.outputs;
        cp_async_wait<0>();
        __syncthreads();
        for (int j = 0; j < stop - from; j++, weight += p.outputs) {
            const int w = __ldg(weight);
#pragma unroll
            for (int r = 0; r < ROWS; r++)
#pragma unroll
                for (int c = 0; c < C; c++) sum[r][c] += int(pixels[r][j * STEP + c]) * w;
        }
    }
    // Results by way of shared memory: whole 16 bytes, and single ones at the ends.
    uint8_t* target = p.to + blockIdx.z * p.to_image + row0 * p.to_row + 3 * column0;
    const auto before = [&](unsigned r) { return unsigned(reinterpret_cast<size_t>(target) + r * p.to_row) % 16; };
    __syncthreads();
    if (t < columns) {
#pragma unroll
        for (int r = 0; r < ROWS; r++) {
            uint8_t* to = held + r * LINE + before(r) + 3 * t;
#pragma unroll
            for (int c = 0; c < 3; c++) to[c] = rounded(sum[r][C == 1 ? 0 : TURN ? 2 - c : c]);
        }
    }
    __syncthreads();
    if (row0 + row >= p.other) return;
    const int head = before(row), stop = head + 3 * columns;
    uint8_t* to = target + row * p.to_row - head;
    const uint8_t* out = held + row * LINE;
    for (int i = mine; i < stop; i += step) {
        if (i >= head && i + 16 <= stop) {
            *reinterpret_cast<uint4*>(to + i) = *reinterpret_cast<const uint4*>(out + i);
        } else {
            for (int j = max(i, head); j < min(i + 16, stop); j++) to[j] = out[j];
        }
    }
}

}  // namespace

extern "C" __global__ __launch_bounds__(MOST) void preprocess_fwd_across_u8(const __grid_constant__ PreprocessParams p) {
    __shared__ __align__(16) uint8_t held[ROWS * LINE];
    switch (p.format) {
        case MONO8: return across<1, 1, false>(p, held);
        case RGB8: return across<3, 3, false>(p, held);
        case BGR8: return across<3, 3, true>(p, held);
        default: return across<4, 3, false>(p, held);
    }
}

extern "C" __global__ __launch_bounds__(DOWN) void preprocess_fwd_down_u8(const __grid_constant__ PreprocessParams p) {
    const unsigned i = blockIdx.x * DOWN + threadIdx.x, pieces = (p.other + 15) / 16;
    const unsigned row = i / pieces, at = i % pieces * 16;
    if (row >= p.outputs) return;
    const int first = __ldg(p.taps + row) - int(p.origin), count = __ldg(p.taps + p.outputs + row);
    const int* k = p.taps + 2 * p.outputs + row;
    const uint8_t* from = p.from + blockIdx.z * p.from_image + first * p.from_row + at;
    const unsigned n = min(16u, p.other - at);
    int sum[16];
#pragma unroll
    for (int c = 0; c < 16; c++) sum[c] = 1 << (BITS - 1);
#pragma unroll 2
    for (int j = 0; j < count; j++, from += p.from_row, k += p.outputs) {
        const unsigned before = reinterpret_cast<size_t>(from) % 16;
        const uint4* piece = reinterpret_cast<const uint4*>(from - before);
        uint4 x = __ldg(piece);
        if (before) {
            const uint4 y = before + n > 16 ? __ldg(piece + 1) : uint4{};
            unsigned w[8] = {x.x, x.y, x.z, x.w, y.x, y.y, y.z, y.w};
#pragma unroll
            for (int b = 2; b >= 1; b--)  // by 8 and 4 bytes
#pragma unroll
                for (int v = 0; v < 4 + b; v++) w[v] = before & 4 * b ? w[min(v + b, 7)] : w[v];
            const unsigned bits = before % 4 * 8;
            x = {__funnelshift_r(w[0], w[1], bits), __funnelshift_r(w[1], w[2], bits), __funnelshift_r(w[2], w[3], bits),
                 __funnelshift_r(w[3], w[4], bits)};
        }
        const int by = __ldg(k);
        const unsigned words[4] = {x.x, x.y, x.z, x.w};
#pragma unroll
        for (int c = 0; c < 16; c++) sum[c] += int(words[c / 4] >> (c % 4 * 8) & 255) * by;
    }
    uint8_t* to = p.to + blockIdx.z * p.to_image + row * p.to_row + at;
    unsigned out[4] = {};
#pragma unroll
    for (int c = 0; c < 16; c++) out[c / 4] |= unsigned(rounded(sum[c])) << (c % 4 * 8);
    if (n == 16 && reinterpret_cast<size_t>(to) % 16 == 0) {
        *reinterpret_cast<uint4*>(to) = {out[0], out[1], out[2], out[3]};
    } else if (n == 16 && reinterpret_cast<size_t>(to) % 8 == 0) {
        *reinterpret_cast<uint2*>(to) = {out[0], out[1]};
        *reinterpret_cast<uint2*>(to + 8) = {out[2], out[3]};
    } else {
#pragma unroll
        for (int c = 0; c < 16; c++)
            if (c < n) to[c] = out[c / 4] >> (c % 4 * 8);
    }
}
