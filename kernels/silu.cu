// The gate of an MLP.
//
//   x[r][c] = silu(x[r][c]) * y[r][c],  silu(u) = u / (1 + exp(-u))
//
// x: (rows, width) BF16, changed in place; y: (rows, width) BF16
// Launch: grid (columns / 8 / threads, rows or fewer), no shared memory.
#include "both.h"

template <int W>
__device__ __forceinline__ void gate(bf16 *x, const bf16 *y, int rows, int width) {
    const int column = (blockIdx.x * blockDim.x + threadIdx.x) * W;
    if (column >= width) return;
    for (int row = blockIdx.y; row < rows; row += gridDim.y) {
        const size_t at = static_cast<size_t>(row) * width + column;
        Pack<bf16, W> gates = load<W>(x + at), values = load<W>(y + at);
        for (int i = 0; i < W; i++) gates.at[i] = to_bf16(silu(to_f32(gates.at[i])) * to_f32(values.at[i]));
        store(x + at, gates);
    }
}

extern "C" __global__ void __launch_bounds__(256)
    silu_product(bf16 *x, const bf16 *__restrict__ y, int rows, int width) {
    if (width % 8 == 0)
        gate<8>(x, y, rows, width);
    else
        gate<1>(x, y, rows, width);
}
ENTRY(silu_product)
