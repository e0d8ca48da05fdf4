// What follows a matrix product: the bias, and after the first layer of an MLP the GELU, exact or by tanh.
//
//   add_bias:      x[r][c] = x[r][c] + bias[c]
//   bias_gelu:     u = x[r][c] + bias[c];  x[r][c] = u (1 + tanh(sqrt(2 / pi) (u + 0.044715 u^3))) / 2
//   bias_gelu_erf: u = x[r][c] + bias[c];  x[r][c] = u (1 + erf(u / sqrt(2))) / 2
//
// x: (rows, width) BF16, changed in place; bias: width BF16 numbers
// Launch: grid (columns / 8 / threads, rows or fewer), no shared memory.
#include "both.h"

template <int W, class F>
__device__ __forceinline__ void with_bias(bf16 *x, const bf16 *bias, int rows, int width, F f) {
    const int column = (blockIdx.x * blockDim.x + threadIdx.x) * W;
    if (column >= width) return;
    const Pack<bf16, W> biases = load<W>(bias + column);
    for (int row = blockIdx.y; row < rows; row += gridDim.y) {
        bf16 *at = x + static_cast<size_t>(row) * width + column;
        Pack<bf16, W> pack = load<W>(at);
        for (int i = 0; i < W; i++) pack.at[i] = to_bf16(f(to_f32(pack.at[i]) + to_f32(biases.at[i])));
        store(at, pack);
    }
}

template <class F>
__device__ __forceinline__ void with_bias_any(bf16 *x, const bf16 *bias, int rows, int width, F f) {
    if (width % 8 == 0)
        with_bias<8>(x, bias, rows, width, f);
    else
        with_bias<1>(x, bias, rows, width, f);
}

extern "C" __global__ void __launch_bounds__(256)
    add_bias(bf16 *x, const bf16 *__restrict__ bias, int rows, int width) {
    with_bias_any(x, bias, rows, width, [](float u) { return u; });
}
ENTRY(add_bias)

// (1 + tanh(v)) / 2 = 1 / (1 + exp(-2 v)), in powers of two.
__device__ __forceinline__ float gelu_tanh(float u) {
    constexpr float MINUS_TWICE_ROOT_LOG2E = -2.302208198f; // -2 sqrt(2 / pi) log2(e)
    return u / (1 + exp2_fast(MINUS_TWICE_ROOT_LOG2E * (u + 0.044715f * u * u * u)));
}

extern "C" __global__ void __launch_bounds__(256)
    bias_gelu(bf16 *x, const bf16 *__restrict__ bias, int rows, int width) {
    with_bias_any(x, bias, rows, width, gelu_tanh);
}
ENTRY(bias_gelu)

extern "C" __global__ void __launch_bounds__(256)
    bias_gelu_erf(bf16 *x, const bf16 *__restrict__ bias, int rows, int width) {
    constexpr float ROOT_HALF = 0.7071067812f;
    with_bias_any(x, bias, rows, width, [](float u) { return u * (0.5f + 0.5f * erff(ROOT_HALF * u)); });
}
ENTRY(bias_gelu_erf)
