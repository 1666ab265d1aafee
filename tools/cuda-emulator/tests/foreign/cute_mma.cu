// Every mma atom of sm_80 that takes 8-bit integers, f16, bf16, tf32 or f64, each fed by ldmatrix where it can.
#include "cute.cuh"

using Square = Tile<_32, _32, _16>;
using Wide = Tile<_32, _32, _32>;
using Any = Tile<Underscore, Underscore, Underscore>;
using Plain32 = UniversalCopy<uint32_t>;
using L1 = SM75_U32x1_LDSM_N;
using L2 = SM75_U32x2_LDSM_N;
using L4 = SM75_U32x4_LDSM_N;

PRODUCT(f16_m16n8k16, half_t, half_t, float, SM80_16x8x16_F32F16F16F32_TN, 2, 2, Square, 64, 64, 64, 3, Fetch, L4, L4, 0.f)
PRODUCT(f16_m16n8k8, half_t, half_t, float, SM80_16x8x8_F32F16F16F32_TN, 2, 2, Any, 64, 64, 32, 4, Fetch, L2, L1, 0.f)
PRODUCT(f16_m16n8k16_f16, half_t, half_t, half_t, SM80_16x8x16_F16F16F16F16_TN, 2, 2, Any, 64, 32, 32, 3, Fetch, L4, L2, half_t(0.f))
PRODUCT(f16_m16n8k8_f16, half_t, half_t, half_t, SM80_16x8x8_F16F16F16F16_TN, 2, 1, Any, 32, 32, 32, 2, Fetch, L2, L1, half_t(0.f))
PRODUCT(bf16_m16n8k16, bfloat16_t, bfloat16_t, float, SM80_16x8x16_F32BF16BF16F32_TN, 2, 2, Square, 64, 64, 32, 4, Fetch, L4, L4, 0.f)
PRODUCT(bf16_m16n8k8, bfloat16_t, bfloat16_t, bfloat16_t, SM80_16x8x8_F32BF16BF16F32_TN, 4, 1, Any, 64, 32, 64, 2, Fetch, L2, L1, 0.f)
PRODUCT(tf32_m16n8k8, tfloat32_t, tfloat32_t, float, SM80_16x8x8_F32TF32TF32F32_TN, 2, 2, Any, 64, 64, 32, 3, Fetch, L4, L2, 0.f)
PRODUCT(tf32_m16n8k4, tfloat32_t, tfloat32_t, float, SM80_16x8x4_F32TF32TF32F32_TN, 2, 2, Any, 32, 32, 32, 2, Fetch, L2, L1, 0.f)
PRODUCT(f64_m8n8k4, double, double, double, SM80_8x8x4_F64F64F64F64_TN, 2, 2, Any, 32, 32, 16, 3, Fetch, UniversalCopy<uint64_t>, UniversalCopy<uint64_t>, 0.)
PRODUCT(s8_m16n8k32, int8_t, int8_t, int, SM80_16x8x32_S32S8S8S32_TN, 2, 2, Wide, 64, 64, 64, 3, Fetch, L4, L4, 0)
PRODUCT(s8_m16n8k16, int8_t, int8_t, int, SM80_16x8x16_S32S8S8S32_TN, 2, 2, Any, 64, 32, 64, 2, Fetch, L2, L1, 0)
PRODUCT(s8_m8n8k16, int8_t, int8_t, int, SM80_8x8x16_S32S8S8S32_TN, 2, 2, Any, 32, 32, 64, 2, Fetch, L1, Plain32, 0)
PRODUCT(s8u8_m16n8k32, int8_t, uint8_t, int, SM80_16x8x32_S32S8U8S32_TN, 2, 2, Any, 64, 64, 128, 2, Fetch, L4, L2, 0)
PRODUCT(u8s8_m16n8k16, uint8_t, int8_t, int, SM80_16x8x16_S32U8S8S32_TN, 2, 1, Any, 32, 32, 64, 4, Fetch, L2, L1, 0)
PRODUCT(u8_m16n8k32_saturate, uint8_t, uint8_t, int, SM80_16x8x32_S32U8U8S32_TN_SATURATE, 2, 2, Any, 64, 64, 64, 3, Fetch, L4, L2, 2145000000)
PRODUCT(u8_m8n8k16, uint8_t, uint8_t, int, SM80_8x8x16_S32U8U8S32_TN, 1, 1, Any, 16, 16, 64, 2, Fetch, L1, L1, 5)
