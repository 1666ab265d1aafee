// What PTX has beyond arithmetic: initialised and pointing variables, calls through pointers, static and dynamic shared
// memory, launch bounds, local arrays, switch tables, inline assembly, printf.
#include <cstdio>

struct Pair {
    short first;
    double second;
};
__constant__ Pair pairs[3] = {{1, 2.5}, {-3, 1e-300}, {7, -0.0}};
__device__ float const* cursor;
__device__ char const* words[2] = {"one\n", "\"two\""};
extern __shared__ float dynamic[];

__noinline__ __device__ float twice(float x) { return 2 * x; }
__noinline__ __device__ float square(float x) { return x * x; }
__device__ float (*const table[2])(float) = {twice, square};

template <class T>
__global__ void __launch_bounds__(128, 2) mixed(T* y, Pair by_value, int which) {
    __shared__ T room[128];
    T local[8];
    for (int i = 0; i < 8; i++) local[i] = T(i + which);
    room[threadIdx.x] = local[which & 7];
    __syncthreads();
    dynamic[threadIdx.x] = table[which & 1](float(room[127 - threadIdx.x]));
    unsigned clock;
    asm volatile("{ .reg .b32 t; mov.u32 t, %%clock; add.u32 %0, t, 1; }" : "=r"(clock));
    switch (which) {
    case 0: y[0] = T(pairs[0].first); break;
    case 1: y[1] = T(pairs[which].second); break;
    case 2: y[2] = T(by_value.first); break;
    case 3: y[3] = T(by_value.second); break;
    case 4: y[4] = T(clock == 0); break;
    case 5: printf("%s %d\n", words[which & 1], which); break;
    default: y[5] = T(*cursor);
    }
    atomicAdd(&dynamic[0], 1.f);
}
template __global__ void mixed<float>(float*, Pair, int);
template __global__ void mixed<double>(double*, Pair, int);
