// The main loop of every matrix product: C (BM, BN) = A1 * B1^T [+ A2 * B2^T], rows of K elements on both sides.
//
// Layout  A and B row-major with any row stride that is a multiple of 16 bytes; K is a multiple of 16 bytes. Rows past the end
//         repeat the last one (whoever takes the result drops them); past the end of K zeros are filled in.
//         A stage of shared memory holds ROW = 64 or 128 bytes of K of each row of A, then of B. 16-byte pieces are permuted by
//         the row, so that neither the copies nor ldmatrix meet a bank twice: piece ^ (row % 8) for 128 bytes,
//         piece ^ (row / 2 % 4) for 64.
// Order   Each output is one chain of mma over ascending K, the second product after the first: its bits depend on no tile.
// Loop    cp.async fills stages ahead; per 32 bytes of K a warp loads the next step's fragments (ldmatrix.x4) while it
//         multiplies this one's; one barrier a stage.
// Result  in the warps' fragments: `fragments(f)` calls f(row, column, c0, c1) for two neighbours; `rows(shared, f)` passes them
//         through shared memory and calls f(row, column, float4) with the warp's lanes side by side in a row (see there).
#pragma once
#include "common.cuh"

// Rows of K elements.
template <class E>
struct Operand {
    const E* at;
    int rows;
    int stride;  // elements from row to row
};

// WARPS_M x WARPS_N warps, each a tile of (BM / WARPS_M, BN / WARPS_N). TAIL: there is a second product.
template <class E, int BM, int BN, int ROW, int WARPS_M, int WARPS_N, int STAGES, bool TAIL = false>
struct Gemm {
    static constexpr int THREADS = 32 * WARPS_M * WARPS_N;
    static constexpr int WM = BM / WARPS_M, WN = BN / WARPS_N;
    static constexpr int MI = WM / 16, NI = WN / 8;
    static constexpr int PIECES = ROW / 16, STEPS = ROW / 32, ELEMENTS = 16 / sizeof(E);
    static constexpr int STAGE = (BM + BN) * ROW;
    static constexpr int SLAB = WN + 8;  // floats from row to row in `rows`
    static constexpr int SLABS = THREADS / 32 * 16 * SLAB * 4;
    // Bytes of dynamic shared memory, aligned to 128.
    static constexpr int SHARED = STAGES * STAGE > SLABS ? STAGES * STAGE : SLABS;
    static constexpr int PASS = THREADS / 4;  // rows that one pass of copies covers, 64 bytes each
    static_assert(ROW == 64 || ROW == 128);
    static_assert(BM % PASS == 0 && BN % PASS == 0 && WM % 16 == 0 && WN % 32 == 0 && STAGES >= 2);

    float acc[MI][NI][4];

    // Makes values opaque: else ptxas computes addresses again from their parts in every pass of the loop, or holds 64-bit
    // products of offsets instead of the offsets (one wide multiply-add per copy is cheaper than two adds).
    template <int N>
    static INLINE void keep(uint32_t (&x)[N]) {
#pragma unroll
        for (int i = 0; i < N; i++) asm volatile("" : "+r"(x[i]));
    }

    // What this thread copies: piece `piece` (and + 4 of 128-byte rows) of every PASS-th row.
    struct Loader {
        const char *a, *b;
        uint32_t a_row[BM / PASS], b_row[BN / PASS];  // pieces from `a`, `b`
        int left;                                     // pieces of K not yet copied, less this thread's first
        INLINE void aim(const Operand<E>& x, const Operand<E>& y, int k, int row0, int col0, int row, int piece) {
            a = reinterpret_cast<const char*>(x.at), b = reinterpret_cast<const char*>(y.at);
#pragma unroll
            for (int i = 0; i < BM / PASS; i++)
                a_row[i] = uint32_t(min(row0 + row + i * PASS, x.rows - 1)) * uint32_t(x.stride / ELEMENTS) + piece;
#pragma unroll
            for (int i = 0; i < BN / PASS; i++)
                b_row[i] = uint32_t(min(col0 + row + i * PASS, y.rows - 1)) * uint32_t(y.stride / ELEMENTS) + piece;
            left = k / ELEMENTS - piece;
        }
        // One stage; `to` is this thread's place in it.
        INLINE void copy(uint32_t to) {
            keep(a_row), keep(b_row);
#pragma unroll
            for (int h = 0; h < PIECES / 4; h++) {
                const bool valid = left > 4 * h;
                const uint32_t at = to ^ (64 * h);
#pragma unroll
                for (int i = 0; i < BM / PASS; i++)
                    cp_async(at + i * PASS * ROW, a + size_t(a_row[i]) * 16 + 64 * h, valid);
#pragma unroll
                for (int i = 0; i < BN / PASS; i++)
                    cp_async(at + (BM + i * PASS) * ROW, b + size_t(b_row[i]) * 16 + 64 * h, valid);
            }
            a += ROW, b += ROW, left -= PIECES;
        }
    };

    static INLINE int swizzle(int row, int piece) {
        return row * ROW + 16 * (piece ^ (ROW == 128 ? row % 8 : row / 2 % 4));
    }

    // The product over k1 (and k2) elements for the tile at (row0, col0). `meanwhile()` runs while the first copies are under
    // way. `shared` is free again after the next barrier.
    template <class F>
    INLINE void run(char* shared, int row0, int col0, F meanwhile, Operand<E> a1, Operand<E> b1, int k1,
                    Operand<E> a2 = {}, Operand<E> b2 = {}, int k2 = 0) {
        const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
        const uint32_t base = shared_address(shared);
        // Eight lanes that share a pass of shared memory copy from rows whose pieces lie in different banks.
        const int row = warp * 8 + (ROW == 128 ? lane / 8 + lane / 4 % 2 * 4 : lane / 4), piece = lane % 4;
        uint32_t to[1] = {base + swizzle(row, piece)};
        const int tiles2 = TAIL ? ceil_div(k2, PIECES * ELEMENTS) : 0;
        int more = ceil_div(k1, PIECES * ELEMENTS) + tiles2;  // stages not yet copied; goes on below 0
        Loader loader;
        loader.aim(a1, b1, k1, row0, col0, row, piece);
        const auto load = [&](uint32_t stage) {
            if (more > 0) {
                if (TAIL && more == tiles2) loader.aim(a2, b2, k2, row0, col0, row, piece);
                loader.copy(to[0] + stage);
            }
            more--;
            cp_async_commit();
        };
        uint32_t a_at[STEPS], b_at[STEPS];
#pragma unroll
        for (int s = 0; s < STEPS; s++) {
            a_at[s] = base + swizzle(warp / WARPS_N * WM + lane % 16, lane / 16) ^ (32 * s);
            b_at[s] = base + BM * ROW + swizzle(warp % WARPS_N * WN + lane % 8 + lane / 16 * 8, lane / 8 % 2) ^ (32 * s);
        }
        keep(a_at), keep(b_at), keep(to);
        uint32_t a[2][MI][4], b[2][NI / 2][4];
        const auto fetch = [&](int s, uint32_t stage) {
#pragma unroll
            for (int i = 0; i < MI; i++) ldmatrix_x4(a[s % 2][i], a_at[s] + stage + i * 16 * ROW);
#pragma unroll
            for (int j = 0; j < NI / 2; j++) ldmatrix_x4(b[s % 2][j], b_at[s] + stage + j * 16 * ROW);
        };
        const auto multiply = [&](int s) {
#pragma unroll
            for (int i = 0; i < MI; i++)
#pragma unroll
                for (int j = 0; j < NI; j++)
                    E::mma(acc[i][j], a[s % 2][i], b[s % 2][j / 2][j % 2 * 2], b[s % 2][j / 2][j % 2 * 2 + 1]);
        };
#pragma unroll
        for (int s = 0; s < STAGES - 1; s++) load(s * STAGE);
        meanwhile();
#pragma unroll
        for (int i = 0; i < MI; i++)
#pragma unroll
            for (int j = 0; j < NI; j++)
#pragma unroll
                for (int c = 0; c < 4; c++) acc[i][j][c] = 0.f;
        cp_async_wait<STAGES - 2>();
        __syncthreads();
        fetch(0, 0);
        uint32_t read = 0, write = (STAGES - 1) * STAGE;
        for (;;) {
            load(write);  // into the stage that was read before the last barrier
#pragma unroll
            for (int s = 0; s < STEPS - 1; s++) {
                fetch(s + 1, read);
                multiply(s);
            }
            if (more <= 1 - STAGES) break;
            write = read;
            read = read == (STAGES - 1) * STAGE ? 0 : read + STAGE;
            cp_async_wait<STAGES - 2>();
            __syncthreads();
            fetch(0, read);
            multiply(STEPS - 1);
        }
        multiply(STEPS - 1);
        cp_async_wait<0>();
    }

    // f(row, column, c0, c1): two neighbouring columns, counted in the tile; f may write c0 and c1.
    template <class F>
    INLINE void fragments(F f) {
        const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
        const int row = warp / WARPS_N * WM + lane / 4, col = warp % WARPS_N * WN + 2 * (lane % 4);
#pragma unroll
        for (int i = 0; i < MI; i++)
#pragma unroll
            for (int h = 0; h < 2; h++)
#pragma unroll
                for (int j = 0; j < NI; j++)
                    f(row + 16 * i + 8 * h, col + 8 * j, acc[i][j][2 * h], acc[i][j][2 * h + 1]);
    }

    static INLINE int column() { return threadIdx.x / 32 % WARPS_N * WN + threadIdx.x % (WN / 4) * 4; }

    // f(row, column, x): four neighbouring columns, counted in the tile. WN / 4 lanes side by side hold the warp's WN columns of
    // a row; all lanes of a warp call f together, each with the same column() every time. Needs a barrier after `run`.
    template <class F>
    INLINE void rows(char* shared, F f) {
        constexpr int LANES = WN / 4, ROWS = 32 / LANES;
        const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
        float* slab = reinterpret_cast<float*>(shared) + warp * 16 * SLAB;
        const int col = lane % LANES * 4;
        const uint32_t to = shared_address(slab + lane / 4 * SLAB + lane % 4 * 2);
#pragma unroll
        for (int i = 0; i < MI; i++) {
#pragma unroll
            for (int j = 0; j < NI; j++)
#pragma unroll
                for (int h = 0; h < 2; h++)
                    store_shared(to + 4 * (8 * h * SLAB + 8 * j), float2{acc[i][j][2 * h], acc[i][j][2 * h + 1]});
            __syncwarp();
#pragma unroll 1
            for (int r = lane / LANES; r < 16; r += ROWS)
                f(warp / WARPS_N * WM + 16 * i + r, column(), *reinterpret_cast<const float4*>(slab + r * SLAB + col));
            __syncwarp();
        }
    }
};
