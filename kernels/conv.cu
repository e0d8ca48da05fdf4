// Lays the inputs of a convolution out as a matrix, so that a matrix product with the weights (out channels, channels *
// taps) is the convolution.
//
//   columns[(c kh + ky) kw + kx][(oy - first_row) ow + ox] = x[c][(oy stride + ky - top) / zoom][(ox stride + kx - left) / zoom]
//
// and 0 where that is outside of the picture, zoomed to (zoom h, zoom w) by repeating its points.
//
// x: (channels, h, w) BF16; columns: (channels kh kw, rows ow) BF16, for output rows first_row .. first_row + rows
// A band of rows at a time: the whole matrix of a large picture would take gigabytes.
// Launch: grid (columns / threads, channels kh kw or fewer), no shared memory.
#include "both.h"

extern "C" __global__ void __launch_bounds__(256)
    picture_columns(const bf16 *__restrict__ x, bf16 *__restrict__ columns, int channels, int h, int w, int kernel_h,
                    int kernel_w, int stride, int top, int left, int zoom, int out_w, int first_row, int rows) {
    const int column = blockIdx.x * blockDim.x + threadIdx.x;
    if (column >= rows * out_w) return;
    const int out_y = first_row + column / out_w, out_x = column % out_w;
    for (int tap = blockIdx.y; tap < channels * kernel_h * kernel_w; tap += gridDim.y) {
        const int channel = tap / (kernel_h * kernel_w), tap_y = tap / kernel_w % kernel_h, tap_x = tap % kernel_w;
        const int y = out_y * stride + tap_y - top, x_at = out_x * stride + tap_x - left;
        const bool inside = y >= 0 && y < h * zoom && x_at >= 0 && x_at < w * zoom;
        const size_t from = (static_cast<size_t>(channel) * h + y / zoom) * w + x_at / zoom;
        columns[static_cast<size_t>(tap) * rows * out_w + column] = inside ? x[from] : bf16{0};
    }
}
ENTRY(picture_columns)
