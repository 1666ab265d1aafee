// What the pairs share.
#define KERNEL extern "C" __global__ void
#define T (int(threadIdx.x))

__device__ __forceinline__ void copy_async(float* to, const float* from) {
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4;" ::"r"((unsigned)__cvta_generic_to_shared(to)), "l"(from) : "memory"); // <<
}
__device__ __forceinline__ void commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int N>
__device__ __forceinline__ void wait() {
    asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
}
__device__ __forceinline__ void mbarrier_init(unsigned long long* b, int n) {
    asm volatile("mbarrier.init.shared.b64 [%0], %1;" ::"r"((unsigned)__cvta_generic_to_shared(b)), "r"(n) : "memory");
}
__device__ __forceinline__ void mbarrier_arrive(unsigned long long* b) {
    asm volatile("{ .reg .b64 t; mbarrier.arrive.shared.b64 t, [%0]; }" ::"r"((unsigned)__cvta_generic_to_shared(b)) : "memory"); // <<
}
__device__ __forceinline__ void mbarrier_wait(unsigned long long* b, int parity) {
    asm volatile("{ .reg .pred p; AGAIN: mbarrier.test_wait.parity.shared.b64 p, [%0], %1; @!p bra AGAIN; }" ::"r"((unsigned)__cvta_generic_to_shared(b)), "r"(parity) : "memory"); // <<
}
__device__ __forceinline__ int add(int* at, int x) {
    int old;
    asm volatile("atom.add.u32 %0, [%1], %2;" : "=r"(old) : "l"(at), "r"(x) : "memory"); // <<
    return old;
}
__device__ __forceinline__ void add(float* at, float x) {
    asm volatile("red.add.f32 [%0], %1;" ::"l"(at), "f"(x) : "memory"); // <<
}
__device__ __forceinline__ float exchange(unsigned mask, float x) {
    float y;
    asm volatile("shfl.sync.bfly.b32 %0, %1, 1, 31, %2;" : "=f"(y) : "f"(x), "r"(mask)); // <<
    return y;
}
__device__ __forceinline__ unsigned ballot(unsigned mask, bool x) {
    unsigned y;
    asm volatile("{ .reg .pred p; setp.ne.u32 p, %1, 0; vote.sync.ballot.b32 %0, p, %2; }" : "=r"(y) : "r"((unsigned)x), "r"(mask)); // <<
    return y;
}
__device__ __forceinline__ void warp_barrier(unsigned mask) {
    asm volatile("bar.warp.sync %0;" ::"r"(mask) : "memory"); // <<
}
