// Products in eight bits: what comes before and after them.
//
//   quantise_rows: scales[r] = max_c |x[r][c]| / 127;  out[r][c] = round(x[r][c] / scales[r]), halves to even
//   rescale:       out[r][c] = bf16(sums[r][c] * row_scales[r] * column_scales[c])
//
// Rows are tokens for activations and outputs for weights, so the scales of a product's columns are those of the rows of
// the weights. Between the two kernels lies one product: sums = x wᵀ, 8-bit integers to 32 bits.
// x: (rows, width) BF16; out of quantise_rows: (rows, width) int8; scales: f32; a row of zeros has the scale 0
// sums: (rows, width) int32
// Launch: quantise_rows one block a row, threads a multiple of 32, 32 floats of shared memory;
//         rescale grid (columns / 4 / threads, rows or fewer), no shared memory.
#include "both.h"

template <int W>
__device__ __forceinline__ void quantise_row(const bf16 *x, int8_t *out, float *scale, int width, float *meeting) {
    float most = 0;
    for (int first = threadIdx.x * W; first < width; first += blockDim.x * W) {
        Pack<bf16, W> pack = load<W>(x + first);
        for (int i = 0; i < W; i++) most = fmaxf(most, fabsf(to_f32(pack.at[i])));
    }
    most = most_of_block(most, meeting);
    if (threadIdx.x == 0) *scale = most / 127;
    const float factor = most > 0 ? 127 / most : 0;
    for (int first = threadIdx.x * W; first < width; first += blockDim.x * W) {
        Pack<bf16, W> pack = load<W>(x + first);
        Pack<int8_t, W> small;
        for (int i = 0; i < W; i++) small.at[i] = static_cast<int8_t>(rintf(to_f32(pack.at[i]) * factor));
        store(out + first, small);
    }
}

extern "C" __global__ void __launch_bounds__(256)
    quantise_rows(const bf16 *__restrict__ x, int8_t *__restrict__ out, float *__restrict__ scales, int width) {
    SHARED(float, meeting);
    const size_t row = static_cast<size_t>(blockIdx.x) * width;
    if (width % 8 == 0)
        quantise_row<8>(x + row, out + row, scales + blockIdx.x, width, meeting);
    else
        quantise_row<1>(x + row, out + row, scales + blockIdx.x, width, meeting);
}
ENTRY(quantise_rows)

template <int W>
__device__ __forceinline__ void rescale_columns(const int32_t *sums, const float *row_scales, const float *column_scales,
                                                bf16 *out, int rows, int width) {
    const int column = (blockIdx.x * blockDim.x + threadIdx.x) * W;
    if (column >= width) return;
    const Pack<float, W> scales = load<W>(column_scales + column);
    for (int row = blockIdx.y; row < rows; row += gridDim.y) {
        const size_t at = static_cast<size_t>(row) * width + column;
        const Pack<int32_t, W> sum = load<W>(sums + at);
        Pack<bf16, W> y;
        for (int i = 0; i < W; i++) y.at[i] = to_bf16(sum.at[i] * row_scales[row] * scales.at[i]);
        store(out + at, y);
    }
}

extern "C" __global__ void __launch_bounds__(256)
    rescale(const int32_t *__restrict__ sums, const float *__restrict__ row_scales,
            const float *__restrict__ column_scales, bf16 *__restrict__ out, int rows, int width) {
    if (width % 4 == 0)
        rescale_columns<4>(sums, row_scales, column_scales, out, rows, width);
    else
        rescale_columns<1>(sums, row_scales, column_scales, out, rows, width);
}
ENTRY(rescale)
