// Normalises rows in f32, one block a row.
//
//   layer_norm_modulate: out = (x - mean(x)) / sqrt(var(x) + eps) * (1 + scale) + shift
//   rms_norm:            out = x / sqrt(mean(x^2) + eps) * weight
//
// x, out: (rows, width) BF16, may be the same; shift, scale, weight: width BF16 numbers, the same for every row
// Launch: one block a row, threads a multiple of 32, 32 floats of shared memory.
#include "both.h"

// Calls f(index, value) for this thread's share of a row.
template <int W, class F>
__device__ __forceinline__ void for_share(const bf16 *row, int width, F f) {
    for (int first = threadIdx.x * W; first < width; first += blockDim.x * W) {
        Pack<bf16, W> x = load<W>(row + first);
        for (int i = 0; i < W; i++) f(to_f32(x.at[i]));
    }
}

template <int W>
__device__ __forceinline__ void layer_norm_row(const bf16 *x, const bf16 *shift, const bf16 *scale, bf16 *out, int width,
                                               float eps, float *meeting) {
    float sum = 0, squares = 0;
    for_share<W>(x, width, [&](float x) { sum += x; });
    const float mean = sum_of_block(sum, meeting) / width;
    for_share<W>(x, width, [&](float x) { squares += (x - mean) * (x - mean); });
    const float factor = 1 / sqrtf(sum_of_block(squares, meeting) / width + eps);
    for (int first = threadIdx.x * W; first < width; first += blockDim.x * W) {
        Pack<bf16, W> x_pack = load<W>(x + first), shifts = load<W>(shift + first), scales = load<W>(scale + first), y;
        for (int i = 0; i < W; i++)
            y.at[i] =
                to_bf16((to_f32(x_pack.at[i]) - mean) * factor * (1 + to_f32(scales.at[i])) + to_f32(shifts.at[i]));
        store(out + first, y);
    }
}

extern "C" __global__ void __launch_bounds__(256)
    layer_norm_modulate(const bf16 *x, const bf16 *__restrict__ shift, const bf16 *__restrict__ scale, bf16 *out,
                        int width, float eps) {
    SHARED(float, meeting);
    const size_t row = static_cast<size_t>(blockIdx.x) * width;
    if (width % 8 == 0)
        layer_norm_row<8>(x + row, shift, scale, out + row, width, eps, meeting);
    else
        layer_norm_row<1>(x + row, shift, scale, out + row, width, eps, meeting);
}
ENTRY(layer_norm_modulate)

template <int W>
__device__ __forceinline__ void rms_norm_row(const bf16 *x, const bf16 *weight, bf16 *out, int width, float eps,
                                             float *meeting) {
    float squares = 0;
    for_share<W>(x, width, [&](float x) { squares += x * x; });
    const float factor = 1 / sqrtf(sum_of_block(squares, meeting) / width + eps);
    for (int first = threadIdx.x * W; first < width; first += blockDim.x * W) {
        Pack<bf16, W> x_pack = load<W>(x + first), weights = load<W>(weight + first), y;
        for (int i = 0; i < W; i++) y.at[i] = to_bf16(to_f32(x_pack.at[i]) * factor * to_f32(weights.at[i]));
        store(out + first, y);
    }
}

extern "C" __global__ void __launch_bounds__(256)
    rms_norm(const bf16 *x, const bf16 *__restrict__ weight, bf16 *out, int width, float eps) {
    SHARED(float, meeting);
    const size_t row = static_cast<size_t>(blockIdx.x) * width;
    if (width % 8 == 0)
        rms_norm_row<8>(x + row, weight, out + row, width, eps, meeting);
    else
        rms_norm_row<1>(x + row, weight, out + row, width, eps, meeting);
}
ENTRY(rms_norm)
