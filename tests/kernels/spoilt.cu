// Kernels with the mistakes that `host.h` is there to notice.
#include "both.h"

// Threads read what their neighbours may not have written yet.
extern "C" __global__ void without_barrier(float *out) {
    SHARED(float, meeting);
    meeting[threadIdx.x] = static_cast<float>(threadIdx.x);
    out[threadIdx.x] = meeting[(threadIdx.x + 1) % blockDim.x];
}
ENTRY(without_barrier)

// Some threads leave before a barrier where the others wait for them.
extern "C" __global__ void without_all(float *out) {
    if (threadIdx.x % 2) return;
    __syncthreads();
    out[threadIdx.x] = 0;
}
ENTRY(without_all)

// A copy is used before it was waited for.
extern "C" __global__ void without_waiting(float *out) {
    SHARED(float, copy);
    copy_later(copy + 4 * threadIdx.x, out + 4 * threadIdx.x, true);
    copies_end();
    copies_arrived<1>();
    out[4 * threadIdx.x] = copy[4 * threadIdx.x];
}
ENTRY(without_waiting)
