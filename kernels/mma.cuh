// Every instruction that C++ cannot spell: ldmatrix, mma.sync, cp.async, conversions. The only inline PTX of the kernels.
//
// Fragments, lane = 4g + t (g 0..7, t 0..3), as mma.sync defines them; a "word" is 4 bytes: two 16-bit elements or one tf32.
//   A, 16 rows x 8 words     a[0] (g, t)  a[1] (g+8, t)  a[2] (g, t+4)  a[3] (g+8, t+4)
//   B, 8 columns x 8 words   b0 (column g, t)  b1 (column g, t+4)
//   C, 16 rows x 8 columns   c[0] (g, 2t)  c[1] (g, 2t+1)  c[2] (g+8, 2t)  c[3] (g+8, 2t+1)
// ldmatrix moves matrices of 8 rows x 16 bytes; lane 8i + r names row r of matrix i and lane 4g + t receives word t of row g
// of each. From rows of A, lane l naming row l % 16, word 4 * (l / 16), comes a whole A fragment; from columns of B stored as
// rows, lane l naming column l % 8 + l / 16 * 8, word l / 8 % 2 * 4, come those of two: {r[0], r[1]} for columns 0..7,
// {r[2], r[3]} for 8..15 (mma wants the pair in neighbouring registers: any other order costs moves). 32 bytes of K are one
// step in every element type.
#pragma once
#include <cstdint>

#define INLINE __device__ __forceinline__

// Address of shared memory as the instructions below take it.
INLINE uint32_t shared_address(const void* p) { return static_cast<uint32_t>(__cvta_generic_to_shared(p)); }

INLINE void ldmatrix_x4(uint32_t (&r)[4], uint32_t at) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(at)
                 : "memory");
}
// Each 8x8 matrix of 16-bit elements transposed.
INLINE void ldmatrix_x4_trans(uint32_t (&r)[4], uint32_t at) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(at)
                 : "memory");
}

// c += a * b, f32 accumulation: m16n8k16 for 16-bit elements, m16n8k8 for tf32.
#define MMA(NAME, SHAPE)                                                                                    \
    INLINE void NAME(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {                     \
        asm("mma.sync.aligned." SHAPE " {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"    \
            : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])                                                \
            : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));                                \
    }
MMA(mma_bf16, "m16n8k16.row.col.f32.bf16.bf16.f32")
MMA(mma_f16, "m16n8k16.row.col.f32.f16.f16.f32")
MMA(mma_tf32, "m16n8k8.row.col.f32.tf32.tf32.f32")
#undef MMA

// Copies 16 bytes from device to shared memory without passing registers: the first `bytes` of them, 0 to 16, and zeros.
INLINE void cp_async_part(uint32_t to, const void* from, int bytes) {
    asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;" ::"r"(to),
                 "l"(__cvta_generic_to_global(from)), "r"(bytes)
                 : "memory");
}
// Zeros, and nothing read, unless `valid`.
INLINE void cp_async(uint32_t to, const void* from, bool valid) { cp_async_part(to, from, valid ? 16 : 0); }
INLINE void cp_async(uint32_t to, const void* from) {
    asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16;" ::"r"(to), "l"(__cvta_generic_to_global(from))
                 : "memory");
}
// Whole accesses of shared memory: nvcc splits some stores of vectors, and the parts conflict.
INLINE void store_shared(uint32_t at, uint32_t x) { asm volatile("st.shared.b32 [%0], %1;" ::"r"(at), "r"(x) : "memory"); }
INLINE void store_shared(uint32_t at, float2 x) {
    asm volatile("st.shared.v2.f32 [%0], {%1, %2};" ::"r"(at), "f"(x.x), "f"(x.y) : "memory");
}
INLINE void store_shared(uint32_t at, float4 x) {
    asm volatile("st.shared.v4.f32 [%0], {%1, %2, %3, %4};" ::"r"(at), "f"(x.x), "f"(x.y), "f"(x.z), "f"(x.w) : "memory");
}
INLINE void store_shared(uint32_t at, uint4 x) {
    asm volatile("st.shared.v4.b32 [%0], {%1, %2, %3, %4};" ::"r"(at), "r"(x.x), "r"(x.y), "r"(x.z), "r"(x.w) : "memory");
}
// Closes a group of copies; waits until at most PENDING groups of this thread are under way (a barrier must follow).
INLINE void cp_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int PENDING>
INLINE void cp_async_wait() {
    asm volatile("cp.async.wait_group %0;" ::"n"(PENDING) : "memory");
}

// Two floats rounded to nearest even, the first in the low half.
INLINE uint32_t pack_bf16(float lo, float hi) {
    uint32_t r;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(hi), "f"(lo));
    return r;
}
INLINE uint32_t pack_f16(float lo, float hi) {
    uint32_t r;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(hi), "f"(lo));
    return r;
}
INLINE float from_f16(uint16_t bits) {
    float r;
    asm("cvt.f32.f16 %0, %1;" : "=f"(r) : "h"(bits));
    return r;
}
// Rounded to 10 bits of mantissa, half away from zero, the low 13 bits zero.
INLINE float round_tf32(float x) {
    uint32_t r;
    asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(r) : "f"(x));
    return __uint_as_float(r & 0xffffe000u);
}

// 2^x, relative error 2^-22; denormal results are zero.
INLINE float exp2_approx(float x) {
    float r;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(r) : "f"(x));
    return r;
}
// 1/x, relative error 2^-23; of infinity 0.
INLINE float reciprocal_approx(float x) {
    float r;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(r) : "f"(x));
    return r;
}
