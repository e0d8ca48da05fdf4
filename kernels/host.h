// The words of both.h acted out on the processor, so that a kernel's own source can be tested without a card.
//
// Every thread of a block is a fiber. A fiber runs until it waits for its warp or its block; then the next one runs.
// Instructions of a whole warp (shuffles, matrix fragments, products) exchange their operands as the card's manual says.
// A launch fails, and says why, when
//   - memory outside what was handed over is touched: buffers and shared memory end at pages that nobody may touch;
//   - threads wait for others that will never come;
//   - the launch's arguments are not the kernel's.
// Shared memory begins as NaN, copies arrive when they are waited for and no sooner, and the order of the fibers is
// chosen by the caller: results that depend on it lack a barrier.
#pragma once
#include <algorithm>
#include <csetjmp>
#include <csignal>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>
#include <utility>
#include <vector>

#define __global__
#define __device__
#define __forceinline__ inline
#define __launch_bounds__(...)

struct dim3 {
    unsigned x, y, z;
};

namespace host {

enum class Waits { nothing, warp, block, ended };

constexpr size_t STACK_BYTES = 1 << 16;
constexpr int WARP = 32;

struct Copy {
    void *to;
    const void *from;
    bool readable;
};

struct Fiber {
    ucontext_t start;
    // Where it waits, once it was started. Such jumps leave the mask of signals alone, which takes a call of the system.
    jmp_buf place;
    bool started;
    dim3 index;
    Waits waits;
    // How many exchanges it has been to; which of the two tables the next one uses.
    unsigned exchanges;
    std::vector<std::vector<Copy>> copies;
};

// What the lanes of a warp lay on the table: one table while the other is still being read.
struct Table {
    uint32_t words[WARP][10];
    const bf16 *rows[WARP];
};

struct Warp {
    Table tables[2];
};

struct Block {
    std::vector<Fiber> fibers;
    std::vector<Warp> warps;
    unsigned char *stacks = nullptr;
    size_t stacks_bytes = 0;
    unsigned char *shared_pages = nullptr;
    size_t shared_pages_bytes = 0;
    jmp_buf scheduler;
    Fiber *current = nullptr;
    // All fibers came to the end of the body, and can begin it anew.
    bool at_end = false;
    void (*body)(void *) = nullptr;
    void *body_data = nullptr;
    unsigned char *shared_start = nullptr;
    dim3 index, size, grid;
    sigjmp_buf rescue;
    volatile bool launched = false;
    char message[256];

    ~Block() {
        if (stacks) munmap(stacks, stacks_bytes);
        if (shared_pages) munmap(shared_pages, shared_pages_bytes);
    }
};

// The block of this thread. A plain pointer, because every word of a kernel asks for it.
inline thread_local Block *block;

inline void find_block() {
    thread_local Block own;
    block = &own;
}

inline void wait_for(Waits what) {
    Fiber *self = block->current;
    self->waits = what;
    if (!_setjmp(self->place)) _longjmp(block->scheduler, 1);
}

inline unsigned lane() {
    return block->current->index.x % WARP;
}

// Lays something on the warp's table; when all lanes have, everybody sees all of it.
template <class Lay>
inline const Table &exchange(Lay lay) {
    Fiber *self = block->current;
    Table &table = block->warps[self->index.x / WARP].tables[self->exchanges++ % 2];
    lay(table, lane());
    wait_for(Waits::warp);
    return table;
}

inline void enter() {
    for (;;) {
        block->body(block->body_data);
        wait_for(Waits::ended);
    }
}

// Lets a fiber run until it waits. Nothing in this frame changes meanwhile, as setjmp asks.
[[gnu::noinline]] inline void resume(Fiber *fiber) {
    block->current = fiber;
    if (_setjmp(block->scheduler)) return;
    if (fiber->started) _longjmp(fiber->place, 1);
    fiber->started = true;
    setcontext(&fiber->start);
}

inline size_t page() {
    return static_cast<size_t>(sysconf(_SC_PAGESIZE));
}

// Shared memory that ends at a page nobody may touch.
inline void prepare_shared(size_t bytes) {
    size_t room = (bytes + page() - 1) / page() * page();
    if (room + page() != block->shared_pages_bytes) {
        if (block->shared_pages) munmap(block->shared_pages, block->shared_pages_bytes);
        block->shared_pages_bytes = room + page();
        block->shared_pages = static_cast<unsigned char *>(
            mmap(nullptr, block->shared_pages_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
        mprotect(block->shared_pages + room, page(), PROT_NONE);
    }
    block->shared_start = block->shared_pages + (room - bytes) / 16 * 16;
    memset(block->shared_pages, 0xff, room);
}

inline void prepare_fibers(size_t count) {
    if (block->stacks_bytes < count * STACK_BYTES) {
        if (block->stacks) munmap(block->stacks, block->stacks_bytes);
        block->stacks_bytes = count * STACK_BYTES;
        block->stacks = static_cast<unsigned char *>(
            mmap(nullptr, block->stacks_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    }
    bool anew = !block->at_end || block->fibers.size() != count;
    block->at_end = false;
    block->fibers.resize(count);
    block->warps.resize((count + WARP - 1) / WARP);
    for (size_t i = 0; i < count; i++) {
        Fiber &fiber = block->fibers[i];
        fiber.index = {static_cast<unsigned>(i), 0, 0};
        fiber.waits = Waits::nothing;
        fiber.exchanges = 0;
        fiber.copies.assign(1, {});
        if (!anew) continue;
        fiber.started = false;
        getcontext(&fiber.start);
        fiber.start.uc_stack.ss_sp = block->stacks + i * STACK_BYTES;
        fiber.start.uc_stack.ss_size = STACK_BYTES;
        fiber.start.uc_link = nullptr;
        makecontext(&fiber.start, enter, 0);
    }
}

// The order in which `count` things come: 0 as they are numbered, 1 backwards, else mixed by that number.
inline std::vector<size_t> ordered(size_t count, unsigned order) {
    std::vector<size_t> numbers(count);
    for (size_t i = 0; i < count; i++) numbers[i] = order == 1 ? count - 1 - i : i;
    for (size_t i = count; order > 1 && i > 1; i--) {
        order = order * 1664525u + 1013904223u;
        std::swap(numbers[i - 1], numbers[order % i]);
    }
    return numbers;
}

// Runs the fibers of one warp until none can go on alone.
inline void run_warp(size_t warp, unsigned order) {
    size_t first = warp * WARP, count = std::min<size_t>(WARP, block->fibers.size() - first);
    std::vector<size_t> lanes = ordered(count, order);
    for (bool moved = true; moved;) {
        moved = false;
        for (size_t lane : lanes) {
            Fiber &fiber = block->fibers[first + lane];
            if (fiber.waits != Waits::nothing) continue;
            resume(&fiber);
            moved = true;
        }
        bool met = true;
        for (size_t lane : lanes) met = met && block->fibers[first + lane].waits == Waits::warp;
        for (size_t lane : lanes)
            if (met) block->fibers[first + lane].waits = Waits::nothing;
        moved = moved && met;
    }
}

// Runs one block to its end; what went wrong, or null.
inline const char *run_block(unsigned order) {
    for (;;) {
        for (size_t warp : ordered(block->warps.size(), order)) run_warp(warp, order);
        size_t at_barrier = 0, ended = 0;
        for (Fiber &fiber : block->fibers) {
            at_barrier += fiber.waits == Waits::block;
            ended += fiber.waits == Waits::ended;
        }
        block->at_end = ended == block->fibers.size();
        if (block->at_end) return nullptr;
        if (at_barrier < block->fibers.size()) return "some threads wait for others that do not come";
        for (Fiber &fiber : block->fibers) fiber.waits = Waits::nothing;
    }
}

inline struct sigaction former_handler;

inline void on_fault(int signal, siginfo_t *info, void *) {
    if (block && block->launched) {
        snprintf(block->message, sizeof block->message,
                 "memory out of range at %p by thread %u of block (%u, %u, %u)", info->si_addr,
                 block->current->index.x, block->index.x, block->index.y, block->index.z);
        siglongjmp(block->rescue, 1);
    }
    // Not ours: whoever was there before deals with it when the instruction faults again.
    sigaction(signal, &former_handler, nullptr);
}

inline void watch_faults() {
    static const bool watching = [] {
        struct sigaction action = {};
        action.sa_sigaction = on_fault;
        action.sa_flags = SA_SIGINFO | SA_NODEFER;
        return sigaction(SIGSEGV, &action, &former_handler) == 0;
    }();
    (void)watching;
}

template <class... A, size_t... I>
const char *launch(void (*kernel)(A...), dim3 grid, dim3 size, size_t shared_bytes, unsigned order,
                   void *const *arguments, const size_t *sizes, size_t count, std::index_sequence<I...>) {
    if (count != sizeof...(A)) return "the kernel takes another number of arguments";
    if (!((sizes[I] == sizeof(A)) && ...)) return "an argument has another size in the kernel";
    if (size.y != 1 || size.z != 1 || size.x == 0 || size.x > 1024) return "a block has 1 to 1024 threads in one row";
    auto body = [&] { kernel(*static_cast<std::remove_reference_t<A> *>(arguments[I])...); };
    find_block();
    block->body = [](void *data) { (*static_cast<decltype(body) *>(data))(); };
    block->body_data = &body;
    block->grid = grid, block->size = size;
    watch_faults();
    const char *failure = nullptr;
    if (sigsetjmp(block->rescue, 1)) {
        block->launched = false;
        return block->message;
    }
    block->launched = true;
    size_t blocks = static_cast<size_t>(grid.x) * grid.y * grid.z;
    for (size_t i = 0; i < blocks && !failure; i++) {
        block->index = {static_cast<unsigned>(i % grid.x), static_cast<unsigned>(i / grid.x % grid.y),
                        static_cast<unsigned>(i / grid.x / grid.y)};
        prepare_shared(shared_bytes);
        prepare_fibers(size.x);
        failure = run_block(order);
    }
    block->launched = false;
    return failure;
}

} // namespace host

#define threadIdx (host::block->current->index)
#define blockIdx (host::block->index)
#define blockDim (host::block->size)
#define gridDim (host::block->grid)

#define ENTRY(kernel)                                                                                            \
    template <class... A>                                                                                        \
    static auto numbers_of_##kernel(void (*)(A...)) {                                                            \
        return std::index_sequence_for<A...>{};                                                                  \
    }                                                                                                            \
    extern "C" const char *host_##kernel(const unsigned *grid, unsigned threads, size_t shared_bytes,            \
                                         unsigned order, void *const *arguments, const size_t *sizes,            \
                                         size_t count) {                                                         \
        return host::launch(kernel, {grid[0], grid[1], grid[2]}, {threads, 1, 1}, shared_bytes, order, arguments, \
                            sizes, count, numbers_of_##kernel(kernel));                                          \
    }

#define SHARED(T, name) T *name = reinterpret_cast<T *>(host::block->shared_start)

static inline void __syncthreads() {
    host::wait_for(host::Waits::block);
}

using std::min;

static inline float __uint_as_float(uint32_t u) {
    float f;
    memcpy(&f, &u, 4);
    return f;
}

static inline uint32_t __float_as_uint(float f) {
    uint32_t u;
    memcpy(&u, &f, 4);
    return u;
}

static inline bf16 to_bf16(float x) {
    uint32_t u = __float_as_uint(x);
    if ((u & 0x7fffffffu) > 0x7f800000u) return bf16{0x7fff};
    return bf16{static_cast<uint16_t>((u + 0x7fffu + (u >> 16 & 1u)) >> 16)};
}

static inline uint32_t to_bf16x2(float low, float high) {
    return to_bf16(low).bits | static_cast<uint32_t>(to_bf16(high).bits) << 16;
}

static inline float exp2_fast(float x) {
    return exp2f(x);
}

static inline float shuffle_xor(float x, int mask) {
    const host::Table &table =
        host::exchange([x](host::Table &table, unsigned lane) { table.words[lane][0] = __float_as_uint(x); });
    return __uint_as_float(table.words[host::lane() ^ static_cast<unsigned>(mask)][0]);
}

static inline const host::Table &lay_row(const bf16 *row) {
    return host::exchange([row](host::Table &table, unsigned lane) { table.rows[lane] = row; });
}

static inline void load_matrices(uint32_t out[4], const bf16 *row) {
    const host::Table &table = lay_row(row);
    unsigned lane = host::lane();
    for (unsigned matrix = 0; matrix < 4; matrix++)
        memcpy(&out[matrix], table.rows[8 * matrix + lane / 4] + 2 * (lane % 4), 4);
}

static inline void load_matrices_transposed(uint32_t out[4], const bf16 *row) {
    const host::Table &table = lay_row(row);
    unsigned lane = host::lane();
    for (unsigned matrix = 0; matrix < 4; matrix++) {
        const bf16 *const *rows = table.rows + 8 * matrix + 2 * (lane % 4);
        out[matrix] = rows[0][lane / 4].bits | static_cast<uint32_t>(rows[1][lane / 4].bits) << 16;
    }
}

// Fragments (PTX manual, "Matrix fragments for mma.m16n8k16"): of a, lane l holds rows l / 4 (words 0, 2) and 8 below
// (1, 3), columns 2 (l % 4) (0, 1) and 8 right of it (2, 3), each with its right neighbour. Of b, column l / 4, rows
// 2 (l % 4) and 8 below. Of c, row l / 4 (0, 1) and 8 below (2, 3), column 2 (l % 4) and its right neighbour.
static inline void multiply_add(float c[4], const uint32_t a[4], uint32_t b0, uint32_t b1) {
    const host::Table &table = host::exchange([=](host::Table &table, unsigned lane) {
        memcpy(table.words[lane], a, 16);
        table.words[lane][4] = b0;
        table.words[lane][5] = b1;
    });
    auto half = [](uint32_t word, unsigned upper) { return __uint_as_float(upper ? word & 0xffff0000u : word << 16); };
    unsigned lane = host::lane();
    for (unsigned i = 0; i < 4; i++) {
        unsigned below = i / 2, column = 2 * (lane % 4) + i % 2;
        float sum = 0;
        for (unsigned k = 0; k < 16; k++) {
            unsigned holder = k % 8 / 2, right = k / 8;
            uint32_t left_word = table.words[lane / 4 * 4 + holder][below + 2 * right];
            uint32_t right_word = table.words[column * 4 + holder][4 + right];
            sum += half(left_word, k % 2) * half(right_word, k % 2);
        }
        c[i] += sum;
    }
}

static inline void copy_later(void *to, const void *from, bool readable) {
    host::block->current->copies.back().push_back({to, from, readable});
}

static inline void copies_end() {
    host::block->current->copies.emplace_back();
}

template <int N>
static inline void copies_arrived() {
    auto &groups = host::block->current->copies;
    while (groups.size() > N + 1) {
        for (const host::Copy &copy : groups.front()) {
            if (copy.readable)
                memcpy(copy.to, copy.from, 16);
            else
                memset(copy.to, 0, 16);
        }
        groups.erase(groups.begin());
    }
}
