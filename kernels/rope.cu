// Normalises the heads of queries or keys and turns them by their tokens' places, in place.
//
//   y = x / sqrt(mean(x^2) + eps) * weight
//   (x[2p], x[2p + 1]) = (y[2p] cos[p] - y[2p + 1] sin[p], y[2p] sin[p] + y[2p + 1] cos[p])
//
// x: (tokens, heads, 128) BF16; weight: 128 BF16 numbers
// cos, sin: (tokens, 64) f32. Pairs 0-7 turn by the picture, 8-35 by the row, 36-63 by the column of a token; who makes
// the tables knows that, and rounds them.
// Launch: one warp a head, any grid, blocks a multiple of 32, no shared memory.
#include "both.h"

extern "C" __global__ void __launch_bounds__(256)
    norm_rope(bf16 *x, const bf16 *__restrict__ weight, const float *__restrict__ cos, const float *__restrict__ sin,
              int tokens, int heads, float eps) {
    constexpr int WIDTH = 128, PAIRS = WIDTH / 2, W = WIDTH / 32;
    const int lane = threadIdx.x % 32;
    const int warps = gridDim.x * (blockDim.x / 32);
    const Pack<bf16, W> weights = load<W>(weight + lane * W);
    for (int head = blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32; head < tokens * heads; head += warps) {
        bf16 *own = x + static_cast<size_t>(head) * WIDTH + lane * W;
        Pack<bf16, W> pack = load<W>(own);
        float y[W], squares = 0;
        for (int i = 0; i < W; i++) y[i] = to_f32(pack.at[i]), squares += y[i] * y[i];
        const float factor = 1 / sqrtf(sum_of_warp(squares) / WIDTH + eps);
        for (int i = 0; i < W; i++) y[i] *= factor * to_f32(weights.at[i]);
        const size_t pairs = static_cast<size_t>(head / heads) * PAIRS + lane * (W / 2);
        const Pack<float, W / 2> c = load<W / 2>(cos + pairs), s = load<W / 2>(sin + pairs);
        for (int i = 0; i < W / 2; i++) {
            pack.at[2 * i] = to_bf16(y[2 * i] * c.at[i] - y[2 * i + 1] * s.at[i]);
            pack.at[2 * i + 1] = to_bf16(y[2 * i] * s.at[i] + y[2 * i + 1] * c.at[i]);
        }
        store(own, pack);
    }
}
ENTRY(norm_rope)
