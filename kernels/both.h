// What kernels are written with, twice over: nvcc gets the card's instructions, any C++ compiler gets the same words
// acted out on the processor. A kernel includes this and nothing else.
#pragma once
#include <cstdint>

// A BF16 number is the upper half of an f32.
struct bf16 {
    uint16_t bits;
};

#ifdef __CUDACC__
#include "device.h"
#else
#include "host.h"
#endif

// Neighbours that are read and written as one word, up to 16 bytes.
template <class T, int W>
struct alignas(sizeof(T) * W) Pack {
    T at[W];
};

template <int W, class T>
__device__ __forceinline__ Pack<T, W> load(const T *from) {
    return *reinterpret_cast<const Pack<T, W> *>(from);
}

template <int W, class T>
__device__ __forceinline__ void store(T *to, const Pack<T, W> &pack) {
    *reinterpret_cast<Pack<T, W> *>(to) = pack;
}

__device__ __forceinline__ float to_f32(bf16 x) {
    return __uint_as_float(static_cast<uint32_t>(x.bits) << 16);
}

// u / (1 + exp(-u)), in powers of two.
__device__ __forceinline__ float silu(float u) {
    constexpr float MINUS_LOG2E = -1.442695041f;
    return u / (1 + exp2_fast(MINUS_LOG2E * u));
}

__device__ __forceinline__ float sum_of_warp(float x) {
    for (int distance = 16; distance > 0; distance /= 2) x += shuffle_xor(x, distance);
    return x;
}

__device__ __forceinline__ float most_of_warp(float x) {
    for (int distance = 16; distance > 0; distance /= 2) x = fmaxf(x, shuffle_xor(x, distance));
    return x;
}

// A number of each warp, brought together for the whole block: `join(join(a, b), ..)`. `meeting`: 32 floats that all
// threads share. Every thread has to come here.
template <class Join>
__device__ __forceinline__ float over_block(float of_warp, float *meeting, Join join) {
    __syncthreads(); // whoever still reads the last result
    if (threadIdx.x % 32 == 0) meeting[threadIdx.x / 32] = of_warp;
    __syncthreads();
    float all = meeting[0];
    for (unsigned warp = 1; warp < (blockDim.x + 31) / 32; warp++) all = join(all, meeting[warp]);
    return all;
}

__device__ __forceinline__ float sum_of_block(float x, float *meeting) {
    return over_block(sum_of_warp(x), meeting, [](float a, float b) { return a + b; });
}

__device__ __forceinline__ float most_of_block(float x, float *meeting) {
    return over_block(most_of_warp(x), meeting, [](float a, float b) { return fmaxf(a, b); });
}
