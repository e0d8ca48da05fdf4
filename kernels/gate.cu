// Adds the result of a layer to the stream it came from.
//
//   x[r][c] = bf16(x[r][c] + gate[c] * y[r][c])
//
// x, y: (rows, width) BF16; gate: width BF16 numbers, the same for every row
// Launch: grid (columns / 8 / threads, rows or fewer), no shared memory.
#include "both.h"

template <int W>
__device__ __forceinline__ void add_gated(bf16 *x, const bf16 *gate, const bf16 *y, int rows, int width) {
    const int column = (blockIdx.x * blockDim.x + threadIdx.x) * W;
    if (column >= width) return;
    const Pack<bf16, W> gates = load<W>(gate + column);
    for (int row = blockIdx.y; row < rows; row += gridDim.y) {
        const size_t at = static_cast<size_t>(row) * width + column;
        Pack<bf16, W> sum = load<W>(x + at), added = load<W>(y + at);
        for (int i = 0; i < W; i++)
            sum.at[i] = to_bf16(fmaf(to_f32(gates.at[i]), to_f32(added.at[i]), to_f32(sum.at[i])));
        store(x + at, sum);
    }
}

extern "C" __global__ void __launch_bounds__(256)
    gated_sum(bf16 *x, const bf16 *__restrict__ gate, const bf16 *__restrict__ y, int rows, int width) {
    if (width % 8 == 0)
        add_gated<8>(x, gate, y, rows, width);
    else
        add_gated<1>(x, gate, y, rows, width);
}
ENTRY(gated_sum)
