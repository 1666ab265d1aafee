// The mathematics library: y[i] = f(x[i]) or f(x[i], z[i]), in float and double.
#define ONE(F) \
    extern "C" __global__ void F##_32(float const* x, float const*, float* y) { y[threadIdx.x] = F##f(x[threadIdx.x]); } \
    extern "C" __global__ void F##_64(double const* x, double const*, double* y) { y[threadIdx.x] = F(x[threadIdx.x]); }
#define TWO(F) \
    extern "C" __global__ void F##_32(float const* x, float const* z, float* y) { y[threadIdx.x] = F##f(x[threadIdx.x], z[threadIdx.x]); } \
    extern "C" __global__ void F##_64(double const* x, double const* z, double* y) { y[threadIdx.x] = F(x[threadIdx.x], z[threadIdx.x]); }
ONE(sin)
ONE(cos)
ONE(tan)
ONE(asin)
ONE(acos)
ONE(atan)
ONE(sinh)
ONE(cosh)
ONE(tanh)
ONE(asinh)
ONE(acosh)
ONE(atanh)
ONE(exp)
ONE(exp2)
ONE(expm1)
ONE(log)
ONE(log2)
ONE(log10)
ONE(log1p)
ONE(sqrt)
ONE(cbrt)
TWO(pow)
TWO(atan2)
TWO(hypot)
TWO(fmod)
// With a third and a fourth argument; of an order.
#define THREE(F) \
    extern "C" __global__ void F##_32(float const* x, float const* z, float* y) { y[threadIdx.x] = F##f(x[threadIdx.x], z[threadIdx.x], 1.5f); } \
    extern "C" __global__ void F##_64(double const* x, double const* z, double* y) { y[threadIdx.x] = F(x[threadIdx.x], z[threadIdx.x], 1.5); }
#define FOUR(F) \
    extern "C" __global__ void F##_32(float const* x, float const* z, float* y) { y[threadIdx.x] = F##f(x[threadIdx.x], z[threadIdx.x], 1.5f, 0.25f); } \
    extern "C" __global__ void F##_64(double const* x, double const* z, double* y) { y[threadIdx.x] = F(x[threadIdx.x], z[threadIdx.x], 1.5, 0.25); }
#define ORDER(F) \
    extern "C" __global__ void F##_32(float const* x, float const*, float* y) { y[threadIdx.x] = F##f(3, x[threadIdx.x]); } \
    extern "C" __global__ void F##_64(double const* x, double const*, double* y) { y[threadIdx.x] = F(3, x[threadIdx.x]); }
ONE(exp10)
ONE(sinpi)
ONE(cospi)
ONE(rsqrt)
ONE(rcbrt)
TWO(rhypot)
THREE(norm3d)
THREE(rnorm3d)
FOUR(norm4d)
FOUR(rnorm4d)
ONE(erf)
ONE(erfc)
ONE(erfcx)
ONE(erfinv)
ONE(erfcinv)
ONE(normcdf)
ONE(normcdfinv)
ONE(tgamma)
ONE(lgamma)
ONE(j0)
ONE(j1)
ONE(y0)
ONE(y1)
ORDER(jn)
ORDER(yn)
ONE(cyl_bessel_i0)
ONE(cyl_bessel_i1)
