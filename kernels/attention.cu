// Attention without a matrix of scores (Dao et al., "FlashAttention", 2022; the order of loops of FlashAttention-2).
//
//   out[i] = sum_j p_ij v[j] / sum_j p_ij,  p_ij = exp(scale q[i] . k[j] - m_i),  m_i the largest exponent so far
//
// q, out: (queries, heads, 128) BF16; k, v: (keys, heads / group, 128) BF16, each of their heads serves `group` of q's
// q_stride, kv_stride: numbers from one token to the next, multiples of 8, so that a part of a wider row will do
// causal: query i sees keys up to i + keys - queries only, and there are no more queries than keys
// Several such sequences may follow each other, each of which looks at itself only.
//
// A block has 64 queries of one head and walks over the keys, 64 at a time. Its four warps have 16 queries each: their
// products and sums stay in registers, in f32. While a warp multiplies by the keys, the values arrive; while it
// multiplies by the values, the next keys do. Rows in shared memory are 16 words of 16 bytes, and word w of row r lies at
// w ^ (r % 8), so that the eight rows of a matrix fragment lie in different banks.
// Launch: grid (queries / 64, heads, sequences), 128 threads, 32 KiB of shared memory.
#include "both.h"

namespace {

constexpr int WIDTH = 128, QUERIES = 64, KEYS = 64, THREADS = 128;
constexpr int WORDS = WIDTH / 8;  // of 16 bytes in a row
constexpr int STEPS = WIDTH / 16; // of a product over the width of a head
static_assert(QUERIES == KEYS, "queries arrive where keys will");
constexpr float LOG2E = 1.4426950408889634f;

__device__ __forceinline__ bf16 *word_at(bf16 *tile, int row, int word) {
    return tile + row * WIDTH + (word ^ row % 8) * 8;
}

// Begins to bring rows `first`.. of a head; rows past the end become zeros.
__device__ __forceinline__ void bring(bf16 *tile, const bf16 *from, int first, int rows, int stride) {
    for (int i = threadIdx.x; i < KEYS * WORDS; i += THREADS) {
        const int row = i / WORDS, word = i % WORDS;
        const bool there = first + row < rows;
        const size_t at = there ? static_cast<size_t>(first + row) * stride : 0;
        copy_later(word_at(tile, row, word), from + at + word * 8, there);
    }
    copies_end();
}

// The largest and the sum over the four lanes that share a row of a fragment.
__device__ __forceinline__ float most_of_four(float x) {
    x = fmaxf(x, shuffle_xor(x, 1));
    return fmaxf(x, shuffle_xor(x, 2));
}

__device__ __forceinline__ float sum_of_four(float x) {
    x += shuffle_xor(x, 1);
    return x + shuffle_xor(x, 2);
}

// What a warp knows of its 16 queries. A lane holds rows l / 4 and l / 4 + 8 of every fragment.
struct Rows {
    uint32_t q[STEPS][4];
    float out[WIDTH / 8][4];
    float most[2], sum[2];

    __device__ __forceinline__ void take_queries(bf16 *tile) {
        const int lane = threadIdx.x % 32, row = threadIdx.x / 32 * 16 + lane % 16;
#pragma unroll
        for (int step = 0; step < STEPS; step++) load_matrices(q[step], word_at(tile, row, 2 * step + lane / 16));
    }

    // scores = q kᵀ: (16, 64).
    __device__ __forceinline__ void score(bf16 *tile, float scores[KEYS / 8][4]) const {
        const int lane = threadIdx.x % 32, row = lane / 16 * 8 + lane % 8, word = lane / 8 % 2;
#pragma unroll
        for (int pair = 0; pair < KEYS / 16; pair++) {
#pragma unroll
            for (int i = 0; i < 4; i++) scores[2 * pair][i] = scores[2 * pair + 1][i] = 0;
#pragma unroll
            for (int step = 0; step < STEPS; step++) {
                uint32_t k[4];
                load_matrices(k, word_at(tile, 16 * pair + row, 2 * step + word));
                multiply_add(scores[2 * pair], q[step], k[0], k[1]);
                multiply_add(scores[2 * pair + 1], q[step], k[2], k[3]);
            }
        }
    }

    // Turns scores into weights; what was summed before shrinks to the new scale. `seen[half]`: how many keys of the
    // tile the row may look at.
    __device__ __forceinline__ void weigh(float scores[KEYS / 8][4], float scale_log2, const int seen[2]) {
        const int column = threadIdx.x % 4 * 2;
#pragma unroll
        for (int half = 0; half < 2; half++) {
            float largest = most[half];
#pragma unroll
            for (int tile = 0; tile < KEYS / 8; tile++)
#pragma unroll
                for (int i = 2 * half; i < 2 * half + 2; i++) {
                    const bool hidden = 8 * tile + column + i % 2 >= seen[half];
                    scores[tile][i] = hidden ? -INFINITY : scores[tile][i] * scale_log2;
                    largest = fmaxf(largest, scores[tile][i]);
                }
            largest = most_of_four(largest);
            const float shrink = exp2_fast(most[half] - largest);
            most[half] = largest;
            float added = 0;
#pragma unroll
            for (int tile = 0; tile < KEYS / 8; tile++)
#pragma unroll
                for (int i = 2 * half; i < 2 * half + 2; i++) {
                    scores[tile][i] = exp2_fast(scores[tile][i] - largest);
                    added += scores[tile][i];
                }
            sum[half] = sum[half] * shrink + added;
#pragma unroll
            for (int tile = 0; tile < WIDTH / 8; tile++)
#pragma unroll
                for (int i = 2 * half; i < 2 * half + 2; i++) out[tile][i] *= shrink;
        }
    }

    // out += weights v.
    __device__ __forceinline__ void gather(bf16 *tile, const float weights[KEYS / 8][4]) {
        const int lane = threadIdx.x % 32, row = lane % 16, word = lane / 16;
#pragma unroll
        for (int step = 0; step < KEYS / 16; step++) {
            const float *left = weights[2 * step], *right = weights[2 * step + 1];
            const uint32_t p[4] = {to_bf16x2(left[0], left[1]), to_bf16x2(left[2], left[3]),
                                   to_bf16x2(right[0], right[1]), to_bf16x2(right[2], right[3])};
#pragma unroll
            for (int pair = 0; pair < WIDTH / 16; pair++) {
                uint32_t v[4];
                load_matrices_transposed(v, word_at(tile, 16 * step + row, 2 * pair + word));
                multiply_add(out[2 * pair], p, v[0], v[1]);
                multiply_add(out[2 * pair + 1], p, v[2], v[3]);
            }
        }
    }
};

} // namespace

extern "C" __global__ void __launch_bounds__(THREADS, 2)
    attention(const bf16 *__restrict__ q, const bf16 *__restrict__ k, const bf16 *__restrict__ v,
              bf16 *__restrict__ out, int queries, int keys, int q_stride, int kv_stride, int group, float scale,
              int causal) {
    SHARED(bf16, k_tile);
    bf16 *v_tile = k_tile + KEYS * WIDTH;
    const int first = blockIdx.x * QUERIES, head = blockIdx.y;
    const size_t own_q = static_cast<size_t>(blockIdx.z) * queries * q_stride + head * WIDTH;
    const size_t own_kv = static_cast<size_t>(blockIdx.z) * keys * kv_stride + head / group * WIDTH;
    q += own_q, out += own_q, k += own_kv, v += own_kv;

    Rows rows;
    bring(k_tile, q, first, queries, q_stride);
    copies_arrived<0>();
    __syncthreads();
    rows.take_queries(k_tile);
    __syncthreads();
#pragma unroll
    for (int i = 0; i < 4 * WIDTH / 8; i++) rows.out[i / 4][i % 4] = 0;
    rows.most[0] = rows.most[1] = -INFINITY;
    rows.sum[0] = rows.sum[1] = 0;

    const int own = first + threadIdx.x / 32 * 16 + threadIdx.x % 32 / 4;
    const int last = causal ? min(keys, first + QUERIES + keys - queries) : keys;
    bring(k_tile, k, 0, keys, kv_stride);
    for (int start = 0; start < last; start += KEYS) {
        bring(v_tile, v, start, keys, kv_stride);
        copies_arrived<1>();
        __syncthreads();
        float scores[KEYS / 8][4];
        rows.score(k_tile, scores);
        __syncthreads();
        if (start + KEYS < last)
            bring(k_tile, k, start + KEYS, keys, kv_stride);
        else
            copies_end();
        int seen[2];
        for (int half = 0; half < 2; half++)
            seen[half] = min(keys, causal ? own + 8 * half + 1 + keys - queries : keys) - start;
        rows.weigh(scores, scale * LOG2E, seen);
        copies_arrived<1>();
        __syncthreads();
        rows.gather(v_tile, scores);
        __syncthreads();
    }

#pragma unroll
    for (int half = 0; half < 2; half++) {
        const float whole = 1 / sum_of_four(rows.sum[half]);
        const int row = own + 8 * half;
        if (row >= queries) continue;
        bf16 *to = out + static_cast<size_t>(row) * q_stride + threadIdx.x % 4 * 2;
#pragma unroll
        for (int tile = 0; tile < WIDTH / 8; tile++) {
            const float *pair = rows.out[tile] + 2 * half;
            *reinterpret_cast<uint32_t *>(to + 8 * tile) = to_bf16x2(pair[0] * whole, pair[1] * whole);
        }
    }
}
ENTRY(attention)
