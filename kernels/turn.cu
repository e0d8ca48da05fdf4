// Multiplies groups of neighbours by the regular Hadamard matrix of their size, a power of four.
//
//   out[g][i] = sum_j H[i][j] x[g][j],  H = 1/sqrt(group) H4 x H4 x ..,  H4 y = half the sum of all four, less y[3 - i]
//
// H is its own inverse, so a product with turned weights is the product of turned inputs. Method: "ConvRot:
// rotation-based plug-and-play 4-bit quantization for diffusion transformers" (2025).
// x, out: count BF16 numbers, whole groups of 4 to 1024; they may be the same
// Launch: any grid, 256 threads, 1024 floats of shared memory.
#include "both.h"

struct Four {
    float a, b, c, d;
};

// One digit, to the base of four, of the places in a group.
__device__ __forceinline__ Four turned(Four x) {
    const float half = 0.5f * (x.a + x.b + x.c + x.d);
    return {half - x.d, half - x.c, half - x.b, half - x.a};
}

extern "C" __global__ void __launch_bounds__(256)
    turn_groups(const bf16 *x, bf16 *out, int group, uint64_t count) {
    constexpr int W = 4, CHUNK = 1024;
    SHARED(float, chunk);
    const int thread = threadIdx.x, mine = thread * W;
    for (uint64_t first = static_cast<uint64_t>(blockIdx.x) * CHUNK; first < count;
         first += static_cast<uint64_t>(gridDim.x) * CHUNK) {
        const bool has = first + mine < count;
        if (has) {
            const Pack<bf16, W> pack = load<W>(x + first + mine);
            const Four four =
                turned({to_f32(pack.at[0]), to_f32(pack.at[1]), to_f32(pack.at[2]), to_f32(pack.at[3])});
            store(chunk + mine, Pack<float, W>{four.a, four.b, four.c, four.d});
        }
        // Each four numbers belong to one thread, so nobody reads what another one writes between two barriers.
        for (int apart = W; apart < group; apart *= 4) {
            __syncthreads();
            float *at = chunk + thread / apart * 4 * apart + thread % apart;
            const Four four = turned({at[0], at[apart], at[2 * apart], at[3 * apart]});
            at[0] = four.a, at[apart] = four.b, at[2 * apart] = four.c, at[3 * apart] = four.d;
        }
        __syncthreads();
        if (has) {
            const Pack<float, W> pack = load<W>(chunk + mine);
            Pack<bf16, W> small;
            for (int i = 0; i < W; i++) small.at[i] = to_bf16(pack.at[i]);
            store(out + first + mine, small);
        }
        __syncthreads();
    }
}
ENTRY(turn_groups)
