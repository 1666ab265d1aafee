// preprocess: frames to the network's crop, the bits of Pillow's antialiased bilinear: two passes, each rounded to 8 bits.
//
// Shapes   across: rows of `step` bytes a pixel to rows of RGB pixels; down: rows of bytes to rows of as many bytes. Frames
//          are `from_image` bytes apart, results `to_image`. Which pass is first is the host's choice (the frame's shape).
// Layout   rows `from_row` and `to_row` bytes apart, at any address. taps: first (n), count (n), then coefficients (width, n)
//          for the n outputs of the axis, relative to `origin`, the input that `from` points to.
// Dtype    u8; sums in i32: coefficients have 22 bits after the point and add up to 1.
// Writes   every output byte, nothing else.
// Grid     across (pixels of ROWS rows / 256, 1, B), a thread ROWS pixels of a column; down (4-byte pieces / 256, 1, B).
// Smem     none.
// Cost     a frame of 1024 x 1024: 3 MB read, 1 MB written, 0.5 MB after down; 2 x 6 multiply-adds a byte. Bound by L1.
// Source   Pillow's two-pass resampling.
// Checked  tests/ops/preprocess/cuda.rs
//
// Formats are resolved across: grey is repeated, BGR turned, alpha skipped; down is the same for all.
#include "common.cuh"

namespace {

constexpr int THREADS = 256;
constexpr int ROWS = 4;
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
INLINE void across(const PreprocessParams& p) {
    const unsigned i = blockIdx.x * THREADS + threadIdx.x;
    const unsigned column = i % p.outputs, row0 = i / p.outputs * ROWS;
    if (row0 >= p.other) return;
    const int first = __ldg(p.taps + column) - int(p.origin), count = __ldg(p.taps + p.outputs + column);
    const int* k = p.taps + 2 * p.outputs + column;
    const uint8_t* from[ROWS];
    int sum[ROWS][C];
#pragma unroll
    for (int r = 0; r < ROWS; r++) {
        from[r] = p.from + blockIdx.z * p.from_image + min(row0 + r, p.other - 1) * p.from_row + size_t(first) * STEP;
#pragma unroll
        for (int c = 0; c < C; c++) sum[r][c] = 1 << (BITS - 1);
    }
    for (int j = 0; j < count; j++, k += p.outputs) {
        const int w = __ldg(k);
#pragma unroll
        for (int r = 0; r < ROWS; r++)
#pragma unroll
            for (int c = 0; c < C; c++) sum[r][c] += int(__ldg(from[r] + j * STEP + c)) * w;
    }
#pragma unroll
    for (int r = 0; r < ROWS; r++) {
        if (row0 + r >= p.other) return;
        uint8_t* to = p.to + blockIdx.z * p.to_image + (row0 + r) * p.to_row + 3 * column;
#pragma unroll
        for (int c = 0; c < 3; c++) to[c] = rounded(sum[r][C == 1 ? 0 : TURN ? 2 - c : c]);
    }
}

}  // namespace

extern "C" __global__ __launch_bounds__(THREADS) void preprocess_fwd_across_u8(
    const __grid_constant__ PreprocessParams p) {
    switch (p.format) {
        case MONO8: return across<1, 1, false>(p);
        case RGB8: return across<3, 3, false>(p);
        case BGR8: return across<3, 3, true>(p);
        default: return across<4, 3, false>(p);
    }
}

extern "C" __global__ __launch_bounds__(THREADS) void preprocess_fwd_down_u8(
    const __grid_constant__ PreprocessParams p) {
    const unsigned i = blockIdx.x * THREADS + threadIdx.x, pieces = (p.other + 3) / 4;
    const unsigned row = i / pieces, at = i % pieces * 4;
    if (row >= p.outputs) return;
    const int first = __ldg(p.taps + row) - int(p.origin), count = __ldg(p.taps + p.outputs + row);
    const int* k = p.taps + 2 * p.outputs + row;
    const uint8_t* from = p.from + blockIdx.z * p.from_image + first * p.from_row + at;
    uint8_t* to = p.to + blockIdx.z * p.to_image + row * p.to_row + at;
    const unsigned n = min(4u, p.other - at);
    int sum[4];
#pragma unroll
    for (int c = 0; c < 4; c++) sum[c] = 1 << (BITS - 1);
    if (n == 4 && (reinterpret_cast<size_t>(from) | p.from_row) % 4 == 0) {
#pragma unroll 4
        for (int j = 0; j < count; j++, from += p.from_row, k += p.outputs) {
            const uchar4 x = __ldg(reinterpret_cast<const uchar4*>(from));
            const int w = __ldg(k);
            sum[0] += x.x * w, sum[1] += x.y * w, sum[2] += x.z * w, sum[3] += x.w * w;
        }
    } else {
        for (int j = 0; j < count; j++, from += p.from_row, k += p.outputs) {
            const int w = __ldg(k);
#pragma unroll
            for (int c = 0; c < 4; c++)
                if (c < n) sum[c] += int(__ldg(from + c)) * w;
        }
    }
    if (n == 4 && reinterpret_cast<size_t>(to) % 4 == 0) {
        *reinterpret_cast<uchar4*>(to) = {rounded(sum[0]), rounded(sum[1]), rounded(sum[2]), rounded(sum[3])};
    } else {
#pragma unroll
        for (int c = 0; c < 4; c++)
            if (c < n) to[c] = rounded(sum[c]);
    }
}
