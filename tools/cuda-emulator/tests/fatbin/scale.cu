// y[n] = a·x[n], long enough that compression finds something.
extern "C" __global__ void scale(float const* x, float* y, float a, int n) {
    for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) y[i] = a * x[i];
}
