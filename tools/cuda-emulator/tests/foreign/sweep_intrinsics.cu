// nvcc's intrinsics. A kernel takes three columns of 64-bit words (values of types A, B, C in their low bits) and leaves the bits
// of its n-th expression of row i in r[n * ROWS + i]. With -DLIST the preprocessor makes of it the list of kernels and expressions.
#ifdef LIST
#define O(...) QUOTE(__VA_ARGS__)
#define QUOTE(...) #__VA_ARGS__
#define AT(F, T) QUOTE(F<T>(a))
#define K(NAME, A, B, C) kernel NAME A B C
#define END
#else
#include <cstring>
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_fp8.h>
#define O(...) *r = bits(__VA_ARGS__), r += ROWS;
// A store to where the result belongs.
#define AT(F, T) F((T*)r, from<T>(x[i])), r += ROWS;
#define K(NAME, A, B, C) \
    extern "C" __global__ void NAME(u64 const* x, u64 const* y, u64 const* z, u64* r) { \
        int i = blockIdx.x * blockDim.x + threadIdx.x; \
        [[maybe_unused]] auto a = from<A>(x[i]); \
        [[maybe_unused]] auto b = from<B>(y[i]); \
        [[maybe_unused]] auto c = from<C>(z[i]); \
        [[maybe_unused]] int n = int(z[i] % 4200) - 2100; \
        r += i;
#define END }
constexpr int ROWS = 4096;
using u8 = unsigned char;
using u16 = unsigned short;
using u32 = unsigned;
using u64 = unsigned long long;
using u128 = unsigned __int128;
using s8 = signed char;
using s32 = int;
using s64 = long long;
using f16 = __half;
using f16x2 = __half2;
using bf16 = __nv_bfloat16;
using bf16x2 = __nv_bfloat162;
using f32 = float;
using f64 = double;
template <class T>
__device__ T from(u64 x) {
    T t;
    memcpy(&t, &x, sizeof t);
    return t;
}
template <class T>
__device__ u64 bits(T t) {
    u64 x = 0;
    memcpy(&x, &t, sizeof t);
    return x;
}
__device__ u64 vibmax(s32 a, s32 b) { bool p; u64 r = u32(__vibmax_s32(a, b, &p)); return r | u64(p) << 32; }
__device__ u64 vibmin(s32 a, s32 b) { bool p; u64 r = u32(__vibmin_s32(a, b, &p)); return r | u64(p) << 32; }
__device__ u64 vibmax(u32 a, u32 b) { bool p; u64 r = __vibmax_u32(a, b, &p); return r | u64(p) << 32; }
__device__ u64 vibmin(u32 a, u32 b) { bool p; u64 r = __vibmin_u32(a, b, &p); return r | u64(p) << 32; }
__device__ u64 vibmax_s16x2(u32 a, u32 b) { bool h, l; u64 r = __vibmax_s16x2(a, b, &h, &l); return r | u64(l) << 32 | u64(h) << 33; }
__device__ u64 vibmin_u16x2(u32 a, u32 b) { bool h, l; u64 r = __vibmin_u16x2(a, b, &h, &l); return r | u64(l) << 32 | u64(h) << 33; }
// The parts of functions that have two results.
template <class T>
__device__ T fraction(T a) { int e; return frexp(a, &e); }
template <class T>
__device__ int power(T a) { int e; frexp(a, &e); return e; }
template <class T>
__device__ T whole(T a) { T w; modf(a, &w); return w; }
template <class T>
__device__ T rest(T a) { T w; return modf(a, &w); }
template <class T>
__device__ T left(T a, T b) { int q; return remquo(a, b, &q); }
template <class T>
__device__ int quotient(T a, T b) { int q; remquo(a, b, &q); return q; }
__device__ float sine(float a) { float s, c; __sincosf(a, &s, &c); return s; }
__device__ float cosine(float a) { float s, c; __sincosf(a, &s, &c); return c; }
// An atomic addition to b, and what was there before.
template <class T>
__device__ T fetched(u64* r, T a, T b) { *(T*)r = b; return atomicAdd((T*)r, a); }
template <class T>
__device__ T added(u64* r, T a, T b) { *(T*)r = b, atomicAdd((T*)r, a); return *(T volatile*)r; }
template <>
__device__ f16x2 added(u64* r, f16x2 a, f16x2 b) { *(f16x2*)r = b, atomicAdd((f16x2*)r, a); return from<f16x2>(*(u32 volatile*)r); }
template <>
__device__ bf16x2 added(u64* r, bf16x2 a, bf16x2 b) { *(bf16x2*)r = b, atomicAdd((bf16x2*)r, a); return from<bf16x2>(*(u32 volatile*)r); }
#endif
#define EACH(M, F) M(F##_rn) M(F##_rz) M(F##_ru) M(F##_rd)
#define A1(F) O(F(a))
#define A2(F) O(F(a, b))
#define A3(F) O(F(a, b, c))
#define DIRECTED1(F) EACH(A1, F)
#define DIRECTED2(F) EACH(A2, F)
#define DIRECTED3(F) EACH(A3, F)
#define COMPARE(M, S) M(__heq##S) M(__hne##S) M(__hlt##S) M(__hle##S) M(__hgt##S) M(__hge##S) \
    M(__hequ##S) M(__hneu##S) M(__hltu##S) M(__hleu##S) M(__hgtu##S) M(__hgeu##S)
#define BOTH(M, P) M(P##eq2) M(P##ne2) M(P##lt2) M(P##le2) M(P##gt2) M(P##ge2) M(P##equ2) M(P##neu2) M(P##ltu2) M(P##leu2) M(P##gtu2) M(P##geu2)
#define ARITHMETIC(S) A2(__hadd##S) A2(__hadd##S##_rn) A2(__hadd##S##_sat) A2(__hsub##S) A2(__hsub##S##_rn) A2(__hsub##S##_sat) \
    A2(__hmul##S) A2(__hmul##S##_rn) A2(__hmul##S##_sat) A3(__hfma##S) A3(__hfma##S##_sat) A3(__hfma##S##_relu) A2(__h##S##div) \
    A1(__hneg##S) A1(__habs##S) A2(__hmin##S) A2(__hmax##S) A2(__hmin##S##_nan) A2(__hmax##S##_nan) A1(__hisnan##S)
#define MATHEMATICS(P) A1(P##sqrt) A1(P##rsqrt) A1(P##rcp) A1(P##exp) A1(P##exp2) A1(P##exp10) A1(P##log) A1(P##log2) A1(P##log10) \
    A1(P##sin) A1(P##cos) A1(P##tanh) A1(P##ceil) A1(P##floor) A1(P##trunc) A1(P##rint)
#define SHUFFLES O(__shfl_sync(~0u, a, 3)) O(__shfl_up_sync(~0u, a, 2)) O(__shfl_down_sync(~0u, a, 5, 16)) O(__shfl_xor_sync(~0u, a, 9))
#define NARROW(H, V, T) \
    K(T##_arithmetic, T, T, T) ARITHMETIC() A1(__hisinf) COMPARE(A2, ) END \
    K(T##_mathematics, T, u8, u8) MATHEMATICS(h) A1(htanh_approx) END \
    K(T##x2_arithmetic, T##x2, T##x2, T##x2) ARITHMETIC(2) A3(__hcmadd) COMPARE(A2, 2) COMPARE(A2, 2_mask) BOTH(A2, __hb) \
        A1(__low2##H) A1(__high2##H) A1(__low2##V) A1(__high2##V) A1(__low2float) A1(__high2float) A1(__lowhigh2highlow) \
        A2(__lows2##V) A2(__highs2##V) A1(__##V##2float2) SHUFFLES END \
    K(T##x2_mathematics, T##x2, u8, u8) MATHEMATICS(h2) A1(h2tanh_approx) END \
    K(T##_integers, T, u8, u8) DIRECTED1(__##H##2int) DIRECTED1(__##H##2uint) DIRECTED1(__##H##2short) DIRECTED1(__##H##2ushort) \
        DIRECTED1(__##H##2ll) DIRECTED1(__##H##2ull) A1(__##H##2char_rz) A1(__##H##2uchar_rz) A1(__##H##2float) \
        A1(__##H##_as_short) A1(__##H##_as_ushort) A1(__##H##2##V) END \
    K(T##_from_words, u32, u8, u8) DIRECTED1(__int2##H) DIRECTED1(__uint2##H) DIRECTED1(__short2##H) DIRECTED1(__ushort2##H) \
        A1(__short_as_##H) A1(__ushort_as_##H) END \
    K(T##_from_longs, u64, u8, u8) DIRECTED1(__ll2##H) DIRECTED1(__ull2##H) END \
    K(T##_from_floats, f32, f32, u8) A1(__float2##H) DIRECTED1(__float2##H) A1(__float2##V##_rn) A2(__floats2##V##_rn) \
        O(__float22##V##_rn(make_float2(a, b))) END \
    K(T##_from_doubles, f64, u8, u8) A1(__double2##H) END \
    K(T##_memory, T, T, u8) SHUFFLES LOADS(T) STORES(T) O(fetched(r, a, b)) O(added(r, a, b)) O(__halves2##V(a, b)) END \
    K(T##x2_memory, T##x2, T##x2, u8) LOADS(T##x2) STORES(T##x2) O(fetched(r, a, b)) O(added(r, a, b)) END
#define LOADS(T) O(__ldg((T const*)(x + i))) O(__ldca((T const*)(x + i))) O(__ldcg((T const*)(x + i))) O(__ldcs((T const*)(x + i))) \
    O(__ldlu((T const*)(x + i))) O(__ldcv((T const*)(x + i)))
#define STORES(T) AT(__stwb, T) AT(__stcg, T) AT(__stcs, T) AT(__stwt, T)
NARROW(half, half2, f16)
NARROW(bfloat16, bfloat162, bf16)

K(words_memory, u64, u64, u8) LOADS(s8) LOADS(uchar4) LOADS(short2) LOADS(ushort4) LOADS(int2) LOADS(float) LOADS(float2) LOADS(double) LOADS(u64)
    STORES(s8) STORES(uchar4) STORES(short2) STORES(ushort4) STORES(int2) STORES(float) STORES(float2) STORES(double) STORES(u64) SHUFFLES
END

#define KINDS(M, F) M(F, __NV_SATFINITE, __NV_E4M3) M(F, __NV_SATFINITE, __NV_E5M2) M(F, __NV_NOSAT, __NV_E4M3) M(F, __NV_NOSAT, __NV_E5M2)
#define SCALES(M, F) M(F, __NV_SATFINITE, cudaRoundZero) M(F, __NV_SATFINITE, cudaRoundPosInf) M(F, __NV_NOSAT, cudaRoundZero) M(F, __NV_NOSAT, cudaRoundPosInf)
#define F1(F, S, I) O(F(a, S, I))
#define F32X2(F, S, I) O(F(make_float2(a, b), S, I))
#define F64X2(F, S, I) O(F(make_double2(a, b), S, I))
#define UP(I) O(__nv_cvt_fp8_to_halfraw(a, I)) O(__nv_cvt_fp8x2_to_halfraw2(b, I))
K(fp8_from_f32, f32, f32, u8) KINDS(F1, __nv_cvt_float_to_fp8) KINDS(F32X2, __nv_cvt_float2_to_fp8x2) SCALES(F1, __nv_cvt_float_to_e8m0) END
K(fp8_from_f64, f64, f64, u8) KINDS(F1, __nv_cvt_double_to_fp8) KINDS(F64X2, __nv_cvt_double2_to_fp8x2) SCALES(F1, __nv_cvt_double_to_e8m0) END
K(fp8_from_f16, f16, u8, u8) KINDS(F1, __nv_cvt_halfraw_to_fp8) END
K(fp8_from_bf16, bf16, u8, u8) KINDS(F1, __nv_cvt_bfloat16raw_to_fp8) SCALES(F1, __nv_cvt_bfloat16raw_to_e8m0) END
K(fp8_from_f16x2, f16x2, u8, u8) KINDS(F1, __nv_cvt_halfraw2_to_fp8x2) END
K(fp8_from_bf16x2, bf16x2, u8, u8) KINDS(F1, __nv_cvt_bfloat16raw2_to_fp8x2) END
K(fp8_up, u8, u16, u8) UP(__NV_E4M3) UP(__NV_E5M2) A1(__nv_cvt_e8m0_to_bf16raw) END

#define VIDEO1(N) A1(__vabs##N) A1(__vabsss##N) A1(__vneg##N) A1(__vnegss##N)
#define VIDEO2(N) A2(__vadd##N) A2(__vaddss##N) A2(__vaddus##N) A2(__vsub##N) A2(__vsubss##N) A2(__vsubus##N) A2(__vabsdiffs##N) A2(__vabsdiffu##N) \
    A2(__vavgs##N) A2(__vavgu##N) A2(__vhaddu##N) A2(__vmaxs##N) A2(__vmaxu##N) A2(__vmins##N) A2(__vminu##N) A2(__vsads##N) A2(__vsadu##N) \
    VIDEO_COMPARE(cmp, N) VIDEO_COMPARE(set, N)
#define VIDEO_COMPARE(C, N) A2(__v##C##eq##N) A2(__v##C##ne##N) A2(__v##C##ges##N) A2(__v##C##geu##N) A2(__v##C##gts##N) A2(__v##C##gtu##N) \
    A2(__v##C##les##N) A2(__v##C##leu##N) A2(__v##C##lts##N) A2(__v##C##ltu##N)
#define EXTREME(M, S) A3(__viadd##M##S) A3(__viadd##M##S##_relu) A3(__vi##M##3##S) A3(__vi##M##3##S##_relu) A2(__vi##M##S##_relu)
K(video2, u32, u32, u32) VIDEO1(2) VIDEO2(2) END
K(video4, u32, u32, u32) VIDEO1(4) VIDEO2(4) END
K(extremes, u32, u32, u32) EXTREME(max, _s32) EXTREME(min, _s32) EXTREME(max, _s16x2) EXTREME(min, _s16x2)
    A3(__viaddmax_u32) A3(__viaddmin_u32) A3(__vimax3_u32) A3(__vimin3_u32) A3(__viaddmax_u16x2) A3(__viaddmin_u16x2) A3(__vimax3_u16x2) A3(__vimin3_u16x2)
    O(vibmax(s32(a), s32(b))) O(vibmin(s32(a), s32(b))) A2(vibmax) A2(vibmin) A2(vibmax_s16x2) A2(vibmin_u16x2)
END
K(words, u32, u32, u32) A1(__brev) O(__clz(s32(a))) O(__ffs(s32(a))) A1(__popc) O(__fns(a, b % 32, s32(c) % 8)) A3(__funnelshift_l) A3(__funnelshift_lc)
    A3(__funnelshift_r) A3(__funnelshift_rc) A3(__byte_perm) O(__mulhi(s32(a), s32(b))) A2(__umulhi) O(__mul24(s32(a), s32(b))) A2(__umul24)
    O(__sad(s32(a), s32(b), c)) A3(__usad) O(__hadd(s32(a), s32(b))) O(__rhadd(s32(a), s32(b))) A2(__uhadd) A2(__urhadd)
    O(__dp4a(s32(a), s32(b), s32(c))) A3(__dp4a) O(__dp2a_lo(s32(a), s32(b), s32(c))) A3(__dp2a_lo) O(__dp2a_hi(s32(a), s32(b), s32(c))) A3(__dp2a_hi)
    O(a / (b | 1)) O(a % (b | 1)) O(s32(a) / s32(b >> 1 | 1)) O(s32(a) % s32(b >> 1 | 1)) O(s32(a) >> b % 32)
END
K(longs, u64, u64, u64) A1(__brevll) O(__clzll(s64(a))) O(__ffsll(s64(a))) A1(__popcll) O(__mul64hi(s64(a), s64(b))) A2(__umul64hi)
    O(a / (b | 1)) O(a % (b | 1)) O(s64(a) / s64(b >> 1 | 1)) O(s64(a) % s64(b >> 1 | 1)) O(u64((u128(a) << 64 | b) / (c | 1)))
    O(u64((u128(a) << 64 | b) % (c | 1))) O(s64(a) >> b % 64)
END
K(f32_rounded, f32, f32, f32) DIRECTED2(__fadd) DIRECTED2(__fsub) DIRECTED2(__fmul) DIRECTED3(__fmaf) DIRECTED3(__fmaf_ieee) DIRECTED2(__fdiv)
    DIRECTED1(__frcp) DIRECTED1(__fsqrt) A1(__frsqrt_rn) A1(__saturatef)
END
K(f64_rounded, f64, f64, f64) DIRECTED2(__dadd) DIRECTED2(__dsub) DIRECTED2(__dmul) DIRECTED3(__fma) DIRECTED2(__ddiv) DIRECTED1(__drcp) DIRECTED1(__dsqrt) END
K(f32_casts, f32, u8, u8) DIRECTED1(__float2int) DIRECTED1(__float2uint) DIRECTED1(__float2ll) DIRECTED1(__float2ull) A1(__float_as_int) A1(__float_as_uint)
END
K(f64_casts, f64, u8, u8) DIRECTED1(__double2int) DIRECTED1(__double2uint) DIRECTED1(__double2ll) DIRECTED1(__double2ull) DIRECTED1(__double2float)
    A1(__double2hiint) A1(__double2loint) A1(__double_as_longlong)
END
K(u32_casts, u32, u32, u8) DIRECTED1(__int2float) DIRECTED1(__uint2float) A1(__int2double_rn) A1(__uint2double_rn) A1(__int_as_float) A1(__uint_as_float)
    A2(__hiloint2double)
END
K(u64_casts, u64, u8, u8) DIRECTED1(__ll2float) DIRECTED1(__ull2float) DIRECTED1(__ll2double) DIRECTED1(__ull2double) A1(__longlong_as_double) END

#define EXACT(S) A1(ceil##S) A1(floor##S) A1(trunc##S) A1(rint##S) A1(nearbyint##S) A1(round##S) A1(fabs##S) A1(logb##S) A1(ilogb##S) A1(sqrt##S) \
    A2(fdim##S) A2(nextafter##S) A2(copysign##S) A2(fmax##S) A2(fmin##S) A2(fmod##S) A2(remainder##S) A2(left) A2(quotient) A3(fma##S) \
    O(ldexp##S(a, n)) O(scalbn##S(a, n)) O(scalbln##S(a, n)) A1(fraction) A1(power) A1(whole) A1(rest) \
    A1(lrint##S) A1(llrint##S) A1(lround##S) A1(llround##S) O(bool(isnan(a))) O(bool(isinf(a))) O(bool(isfinite(a))) O(bool(signbit(a))) O(a / b)
K(f32_exact, f32, f32, f32) EXACT(f) END
K(f64_exact, f64, f64, f64) EXACT() END
K(f32_fast, f32, f32, u8) A1(__sinf) A1(__cosf) A1(sine) A1(cosine) A1(__tanf) A1(__tanhf) A1(__expf) A1(__exp10f) A1(__logf) A1(__log2f) A1(__log10f) A2(__powf)
    A2(__fdividef)
END
