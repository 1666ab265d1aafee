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
