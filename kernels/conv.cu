// Lays the inputs of a convolution out as a matrix, so that a matrix product with the weights (out channels, taps,
// channels) is the convolution.
//
//   columns[(oy - first_row) ow + ox][(ky kw + kx) channels + c] =
//       x[(oy stride + ky - top) / zoom][(ox stride + kx - left) / zoom][c]
//
// and 0 where that is outside of the picture, zoomed to (zoom h, zoom w) by repeating its points.
//
// x: (h, w, channels) BF16; columns: (rows ow, kh kw channels) BF16, for output rows first_row .. first_row + rows;
// channels a multiple of 8
// A band of rows at a time: the whole matrix of a large picture would take gigabytes.
// Launch: grid (ow kw channels / 8 / threads, rows or fewer), no shared memory.
#include "both.h"

extern "C" __global__ void __launch_bounds__(256)
    picture_columns(const bf16 *__restrict__ x, bf16 *__restrict__ columns, int channels, int h, int w, int kernel_h,
                    int kernel_w, int stride, int top, int left, int zoom, int out_w, int first_row, int rows) {
    constexpr int W = 8;
    const int words = channels / W, across = kernel_w * words; // of 16 bytes
    const int at = blockIdx.x * blockDim.x + threadIdx.x;
    if (at >= out_w * across) return;
    const int out_x = at / across, tap = at % across;
    const int x_at = out_x * stride + tap / words - left;
    const bool in_row = x_at >= 0 && x_at < w * zoom;
    const bf16 *from = x + static_cast<size_t>(in_row ? x_at / zoom : 0) * channels + tap % words * W;
    for (int row = blockIdx.y; row < rows; row += gridDim.y) {
        bf16 *to = columns + (static_cast<size_t>(row) * out_w + out_x) * kernel_h * across * W + tap * W;
        for (int tap_y = 0; tap_y < kernel_h; tap_y++) {
            const int y = (first_row + row) * stride + tap_y - top;
            const bool inside = in_row && y >= 0 && y < h * zoom;
            Pack<bf16, W> pack = {};
            if (inside) pack = load<W>(from + static_cast<size_t>(y / zoom) * w * channels);
            store(to + static_cast<size_t>(tap_y) * across * W, pack);
        }
    }
}
ENTRY(picture_columns)
