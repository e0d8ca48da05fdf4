// The weights of an attention whose scores were written down, for heads that are too wide for attention.cu.
//
//   out[r][k] = exp(scale (x[r][k] - m_r)) / sum_j exp(scale (x[r][j] - m_r)),  m_r the largest of x[r]
//
// x: (rows, width) f32; out: (rows, width) BF16; scale not below 0
// Launch: one block a row, threads a multiple of 32, 32 floats of shared memory.
#include "both.h"

template <int W>
__device__ __forceinline__ void softmax(const float *x, bf16 *out, int width, float scale_log2, float *meeting) {
    float most = -INFINITY, sum = 0;
    for (int first = threadIdx.x * W; first < width; first += blockDim.x * W) {
        const Pack<float, W> pack = load<W>(x + first);
        for (int i = 0; i < W; i++) most = fmaxf(most, pack.at[i]);
    }
    most = most_of_block(most, meeting);
    for (int first = threadIdx.x * W; first < width; first += blockDim.x * W) {
        const Pack<float, W> pack = load<W>(x + first);
        for (int i = 0; i < W; i++) sum += exp2_fast(scale_log2 * (pack.at[i] - most));
    }
    const float whole = 1 / sum_of_block(sum, meeting);
    for (int first = threadIdx.x * W; first < width; first += blockDim.x * W) {
        const Pack<float, W> pack = load<W>(x + first);
        Pack<bf16, W> weights;
        for (int i = 0; i < W; i++) weights.at[i] = to_bf16(exp2_fast(scale_log2 * (pack.at[i] - most)) * whole);
        store(out + first, weights);
    }
}

extern "C" __global__ void __launch_bounds__(256)
    softmax_rows(const float *__restrict__ x, bf16 *__restrict__ out, int width, float scale) {
    constexpr float LOG2E = 1.4426950408889634f;
    SHARED(float, meeting);
    const size_t row = static_cast<size_t>(blockIdx.x) * width;
    if (width % 4 == 0)
        softmax<4>(x + row, out + row, width, scale * LOG2E, meeting);
    else
        softmax<1>(x + row, out + row, width, scale * LOG2E, meeting);
}
ENTRY(softmax_rows)
