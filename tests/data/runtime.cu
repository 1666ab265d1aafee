// Kernels for the tests of the runtime. `nvcc -ptx -arch=compute_80 -o runtime.ptx runtime.cu`
struct Axpy {
    const float* x;
    float* y;
    unsigned n;
    float a;
};

// y += a * x
extern "C" __global__ __launch_bounds__(256) void axpy(const __grid_constant__ Axpy p) {
    const unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < p.n) p.y[i] += p.a * p.x[i];
}

// y reversed, by way of dynamic shared memory; one block.
extern "C" __global__ __launch_bounds__(256) void reverse(const __grid_constant__ Axpy p) {
    extern __shared__ float s[];
    for (unsigned i = threadIdx.x; i < p.n; i += blockDim.x) s[i] = p.x[i];
    __syncthreads();
    for (unsigned i = threadIdx.x; i < p.n; i += blockDim.x) p.y[i] = s[p.n - 1 - i];
}

extern "C" __global__ void two(float* x, float a) { x[threadIdx.x] = a; }
