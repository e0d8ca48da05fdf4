// Between the convolutions of a picture whose channels lie together.
//
//   channel_norm: u = x[p] / max(|x[p]|, 1e-12) sqrt(channels) weight;  out[p] = u, or u / (1 + exp(-u))
//   channel_sum:  out[p] = sum[p] + bias, or sum[p] + bias + added[p]
//
// x, sum, added, out: (places, channels) BF16, out may be one of the others, added may be null; weight, bias: channels BF16
// numbers; channels a multiple of 8
// Launch: channel_norm: one warp a place; channel_sum: one thread for 8 channels; any grid, no shared memory.
#include "both.h"

constexpr int W = 8;

extern "C" __global__ void __launch_bounds__(256)
    channel_norm(const bf16 *x, const bf16 *__restrict__ weight, bf16 *out, int places, int channels, int with_silu) {
    const int lane = threadIdx.x % 32;
    const int warps = gridDim.x * (blockDim.x / 32);
    for (int place = blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32; place < places; place += warps) {
        const size_t row = static_cast<size_t>(place) * channels;
        float squares = 0;
        for (int first = lane * W; first < channels; first += 32 * W) {
            const Pack<bf16, W> pack = load<W>(x + row + first);
            for (int i = 0; i < W; i++) squares += to_f32(pack.at[i]) * to_f32(pack.at[i]);
        }
        const float factor = sqrtf(static_cast<float>(channels)) / fmaxf(sqrtf(sum_of_warp(squares)), 1e-12f);
        for (int first = lane * W; first < channels; first += 32 * W) {
            Pack<bf16, W> pack = load<W>(x + row + first);
            const Pack<bf16, W> weights = load<W>(weight + first);
            for (int i = 0; i < W; i++) {
                const float u = to_f32(pack.at[i]) * factor * to_f32(weights.at[i]);
                pack.at[i] = to_bf16(with_silu ? silu(u) : u);
            }
            store(out + row + first, pack);
        }
    }
}
ENTRY(channel_norm)

extern "C" __global__ void __launch_bounds__(256)
    channel_sum(const bf16 *sum, const bf16 *__restrict__ bias, const bf16 *added, bf16 *out, uint64_t places,
                int channels) {
    const int words = channels / W;
    const uint64_t threads = static_cast<uint64_t>(gridDim.x) * blockDim.x;
    uint64_t at = static_cast<uint64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
    const int step = static_cast<int>(threads % words);
    int word = static_cast<int>(at % words);
    for (; at < places * words; at += threads, word += step, word -= word < words ? 0 : words) {
        Pack<bf16, W> pack = load<W>(sum + at * W), more = {};
        const Pack<bf16, W> biases = load<W>(bias + word * W);
        if (added) more = load<W>(added + at * W);
        for (int i = 0; i < W; i++)
            pack.at[i] = to_bf16(to_f32(pack.at[i]) + to_f32(biases.at[i]) + to_f32(more.at[i]));
        store(out + at * W, pack);
    }
}
ENTRY(channel_sum)
