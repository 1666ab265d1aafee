// Every mma atom of sm_89.
#include "cute.cuh"

using Any = Tile<Underscore, Underscore, Underscore>;
using Wide = Tile<_32, _32, _32>;
using L2 = SM75_U32x2_LDSM_N;
using L4 = SM75_U32x4_LDSM_N;
using E4 = float_e4m3_t;
using E5 = float_e5m2_t;

PRODUCT(e4m3_e4m3_f32, E4, E4, float, SM89_16x8x32_F32E4M3E4M3F32_TN, 2, 2, Wide, 64, 64, 128, 2, Fetch, L4, L4, 0.f)
PRODUCT(e4m3_e5m2_f32, E4, E5, float, SM89_16x8x32_F32E4M3E5M2F32_TN, 2, 2, Any, 32, 64, 64, 3, Fetch, L4, L2, 0.f)
PRODUCT(e5m2_e4m3_f32, E5, E4, float, SM89_16x8x32_F32E5M2E4M3F32_TN, 2, 2, Any, 64, 32, 64, 3, Fetch, L4, L2, 0.f)
PRODUCT(e5m2_e5m2_f32, E5, E5, float, SM89_16x8x32_F32E5M2E5M2F32_TN, 2, 1, Any, 32, 32, 64, 4, Fetch, L4, L2, 0.f)
PRODUCT(e4m3_e4m3_f16, E4, E4, half_t, SM89_16x8x32_F16E4M3E4M3F16_TN, 2, 2, Any, 64, 32, 64, 2, Fetch, L4, L2, half_t(0.f))
PRODUCT(e5m2_e4m3_f16, E5, E4, half_t, SM89_16x8x32_F16E5M2E4M3F16_TN, 2, 1, Any, 32, 32, 64, 2, Fetch, L4, L2, half_t(0.f))
