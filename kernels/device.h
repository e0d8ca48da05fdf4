// The words of both.h as instructions of the card (sm_80 and later).
#pragma once

// The host half registers its entry points with this; the card finds kernels by their names.
#define ENTRY(kernel)

// The memory of a block that all its threads share; how much of it there is, the launch says.
#define SHARED(T, name)                                     \
    extern __shared__ __align__(16) unsigned char shared[]; \
    T *name = reinterpret_cast<T *>(shared)

__device__ __forceinline__ bf16 to_bf16(float x) {
    bf16 y;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(y.bits) : "f"(x));
    return y;
}

// Two numbers in one word, `low` at the lower address.
__device__ __forceinline__ uint32_t to_bf16x2(float low, float high) {
    uint32_t pair;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
    return pair;
}

// 2 to the x, to about 2 units in the last place.
__device__ __forceinline__ float exp2_fast(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

__device__ __forceinline__ float shuffle_xor(float x, int mask) {
    return __shfl_xor_sync(0xffffffffu, x, mask);
}

__device__ __forceinline__ uint32_t shared_address(const void *p) {
    return static_cast<uint32_t>(__cvta_generic_to_shared(p));
}

// Four matrices of 8x8 from shared memory; lane l names row l % 8 of matrix l / 8. Lane l receives of each matrix the
// elements (l / 4, 2 (l % 4)) and the one right of it.
__device__ __forceinline__ void load_matrices(uint32_t out[4], const bf16 *row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
                 : "r"(shared_address(row))
                 : "memory");
}

// The same, each matrix transposed: elements (2 (l % 4), l / 4) and the one below it.
__device__ __forceinline__ void load_matrices_transposed(uint32_t out[4], const bf16 *row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
                 : "r"(shared_address(row))
                 : "memory");
}

// c += a b on the tensor cores. a: 16x16 by rows, b: 16x8 by columns, c: 16x8 in f32.
__device__ __forceinline__ void multiply_add(float c[4], const uint32_t a[4], uint32_t b0, uint32_t b1) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// Begins to copy 16 bytes to shared memory; zeros where `from` is not to be read.
__device__ __forceinline__ void copy_later(void *to, const void *from, bool readable) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;"
                 :
                 : "r"(shared_address(to)), "l"(from), "r"(readable ? 16 : 0)
                 : "memory");
}

// Closes a group of copies.
__device__ __forceinline__ void copies_end() {
    asm volatile("cp.async.commit_group;" ::: "memory");
}

// Waits for this thread's copies, all but those of the last `N` groups.
template <int N>
__device__ __forceinline__ void copies_arrived() {
    asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
}
