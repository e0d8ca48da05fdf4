// Widens FP8 weights to BF16.
//
//   dst[i] = bf16(e4m3(src[i]) * scale)
//
// src: count bytes of E4M3 (sign 1, exponent 4 with bias 7, mantissa 3; no infinity, 0x7f and 0xff are NaN)
// dst: count BF16 numbers; one scratch buffer serves every matrix of a network in turn
// Both start at multiples of 32 bytes. Launch: any grid, blocks of any size, no shared memory.
#include "both.h"

// The seven bits of magnitude below an f32's exponent, times 2^120: right for normal and subnormal numbers alike.
__device__ __forceinline__ float e4m3(uint8_t code) {
    uint32_t magnitude = code & 0x7f, sign = static_cast<uint32_t>(code & 0x80) << 24;
    float value = __uint_as_float(magnitude << 20) * 1.329227995784916e36f;
    uint32_t bits = magnitude == 0x7f ? 0x7fc00000u : __float_as_uint(value);
    return __uint_as_float(bits | sign);
}

extern "C" __global__ void __launch_bounds__(256)
    fp8_to_bf16(const uint8_t *__restrict__ src, bf16 *__restrict__ dst, float scale, uint64_t count) {
    constexpr int W = 8;
    const uint64_t thread = static_cast<uint64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
    const uint64_t threads = static_cast<uint64_t>(gridDim.x) * blockDim.x;
    for (uint64_t pack = thread; pack < count / W; pack += threads) {
        Pack<uint8_t, W> codes = load<W>(src + pack * W);
        Pack<bf16, W> wide;
        for (int i = 0; i < W; i++) wide.at[i] = to_bf16(e4m3(codes.at[i]) * scale);
        store(dst + pack * W, wide);
    }
    const uint64_t rest = count / W * W + thread;
    if (rest < count) dst[rest] = to_bf16(e4m3(src[rest]) * scale);
}
ENTRY(fp8_to_bf16)
