// Turns the heads of queries or keys by their tokens' places, in place. A pair is a number of the first half of a head and
// its like of the second.
//
//   (x[p], x[p + 64]) = (x[p] cos[p] - x[p + 64] sin[p], x[p] sin[p] + x[p + 64] cos[p])
//
// x: (tokens, heads, 128) BF16; cos, sin: (tokens, 64) f32
// Launch: one warp a head, any grid, blocks a multiple of 32, no shared memory.
#include "both.h"

extern "C" __global__ void __launch_bounds__(256)
    rope_halves(bf16 *x, const float *__restrict__ cos, const float *__restrict__ sin, int tokens, int heads) {
    constexpr int WIDTH = 128, PAIRS = WIDTH / 2, W = PAIRS / 32;
    const int lane = threadIdx.x % 32;
    const int warps = gridDim.x * (blockDim.x / 32);
    for (int head = blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32; head < tokens * heads; head += warps) {
        bf16 *first = x + static_cast<size_t>(head) * WIDTH + lane * W;
        Pack<bf16, W> u = load<W>(first), v = load<W>(first + PAIRS);
        const size_t pairs = static_cast<size_t>(head / heads) * PAIRS + lane * W;
        const Pack<float, W> c = load<W>(cos + pairs), s = load<W>(sin + pairs);
        for (int i = 0; i < W; i++) {
            const float a = to_f32(u.at[i]), b = to_f32(v.at[i]);
            u.at[i] = to_bf16(a * c.at[i] - b * s.at[i]);
            v.at[i] = to_bf16(a * s.at[i] + b * c.at[i]);
        }
        store(first, u);
        store(first + PAIRS, v);
    }
}
ENTRY(rope_halves)
