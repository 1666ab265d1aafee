#include <cooperative_groups.h>
__device__ float factor = 2.f;
__constant__ float offset[4] = {1.f, 2.f, 3.f, 4.f};
extern "C" __global__ void scale(float* x, int n) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) x[i] = x[i] * factor + offset[0];
}
extern "C" __global__ void __launch_bounds__(128) bounded(float* x) { x[threadIdx.x] = 1.f; }
extern "C" __global__ void everyone(int* count, int* seen) {
  if (threadIdx.x == 0) atomicAdd(count, 1);
  cooperative_groups::this_grid().sync();
  if (threadIdx.x == 0) seen[blockIdx.x] = *(volatile int*)count;
}
extern "C" __global__ void mixed(char a, double b, short c, float* out) { *out = a + (float)b + c; }
