// Products with packed weights, by threads that run through a whole pass and share out its pieces.
//
// A panel of 32 columns of the weight is read once for up to twelve rows, whose sums stay in registers. While it is multiplied by, the
// next one is fetched into the second-level cache. Every sum follows the order of the inputs, so a row's bits do not depend on the
// number of rows.

#pragma once

#include <algorithm>
#include <atomic>
#include <thread>

#include "activations.h"
#include "dot_pairs.h"

#if HAS_FLOAT32_PRODUCTS

namespace {

constexpr int64_t COLUMNS = 32;          // per panel: two registers
constexpr int64_t TILE = 12;             // rows per tile: 24 registers of sums
constexpr int64_t BLOCK_BYTES = 262144;  // of rows that stay in the second-level cache while panels stream past

struct Linear {
    const char *weight;  // [panels, inputs * size / 4, 32 columns, 32 bits]
    const float *bias;   // [panels, 32], or none
    int64_t inputs, panels;
};

struct alignas(64) Counter {
    std::atomic<int64_t> value;
};

// The threads of a pass. They go through its phases together; the pieces of a phase are shared out. Each thread begins with a stretch
// of its own and then helps the others, so a thread that the system has suspended delays the others only if it has begun a piece.
struct Team {
    int thread, threads;
    Counter *counters;  // zeros: for each phase, how far each thread's stretch is taken, and how many pieces are done
    int64_t phase;

    int64_t begin_of(int64_t count, int owner) const { return count * owner / threads; }

    // Calls compute(piece, end of its stretch) for all pieces, and returns when all of them are done. Waits are shorter than waking
    // a thread would take, so threads spin; where others need the processor, they give it away after a while.
    template <typename F>
    void share(int64_t count, F compute) {
        Counter *taken = counters + phase++ * (threads + 1), &done = taken[threads];
        int64_t own = 0;
        for (int i = 0; i < threads; i++) {
            const int owner = (thread + i) % threads;
            const int64_t begin = begin_of(count, owner), end = begin_of(count, owner + 1);
            if (taken[owner].value.load(std::memory_order_relaxed) >= end - begin) continue;
            for (int64_t piece; (piece = begin + taken[owner].value.fetch_add(1, std::memory_order_relaxed)) < end; own++)
                compute(piece, end);
        }
        if (own) done.value.fetch_add(own, std::memory_order_acq_rel);
        for (int tries = 0; done.value.load(std::memory_order_acquire) < count; tries++) {
            if (tries < 5000)
                _mm_pause();
            else
                std::this_thread::yield();
        }
    }
};

template <typename T, int ROWS>
void tile(const char *weight, const char *ahead, int64_t ahead_step, int64_t steps, const char *rows, int64_t stride, float *to) {
    __m512 sums[ROWS][2];
    for (int r = 0; r < ROWS; r++) sums[r][0] = sums[r][1] = _mm512_setzero_ps();
    // Three pointers and two distances reach all rows: one pointer per row would not fit into the registers.
    const int64_t three = 3 * stride;
    const char *first = rows, *second = first + 4 * stride, *third = second + 4 * stride;
    for (int64_t k = 0; k < steps; k++) {
        _mm_prefetch(ahead, _MM_HINT_T1);
        _mm_prefetch(ahead + 64, _MM_HINT_T1);
        const __m512i left = _mm512_loadu_si512(weight), right = _mm512_loadu_si512(weight + 64);
#pragma GCC unroll 16
        for (int r = 0; r < ROWS; r++) {
            const char *base = r < 4 ? first : r < 8 ? second : third;
            const char *input = base + (r % 4 == 0 ? 0 : r % 4 == 1 ? stride : r % 4 == 2 ? 2 * stride : three);
            sums[r][0] = Number<T>::add(sums[r][0], input, left);
            sums[r][1] = Number<T>::add(sums[r][1], input, right);
        }
        weight += 2 * 64;
        ahead += ahead_step;
        first += 4, second += 4, third += 4;
    }
    for (int r = 0; r < ROWS; r++) {
        _mm512_store_ps(to + r * COLUMNS, sums[r][0]);
        _mm512_store_ps(to + r * COLUMNS + 16, sums[r][1]);
    }
}

enum Destination { TO_FLOAT, ADD_TO_FLOAT, TO_NUMBER, GATE };

template <typename T>
struct Product {
    const Linear &linear;
    const T *rows;
    int64_t count, stride;  // rows; numbers from one to the next
    Destination destination;
    float *floats;
    T *numbers;
    int64_t to_stride, activation;
    const Linear &next;  // the product after this one: its first panel is fetched at the end

    int64_t blocks() const {
        const int64_t bytes = linear.inputs * static_cast<int64_t>(sizeof(T));
        const int64_t most = std::max<int64_t>(1, BLOCK_BYTES / (bytes * TILE)) * TILE;
        return (count + most - 1) / most;
    }
};

// activation(gate) * up.
__attribute__((noinline)) __m512 gate(__m512 gates, __m512 ups, int64_t activation) {
    const __m512 one = _mm512_set1_ps(1);
    if (activation == SILU) {
        const __m512 small = exponential(_mm512_sub_ps(_mm512_setzero_ps(), gates));
        return _mm512_mul_ps(_mm512_div_ps(gates, _mm512_add_ps(one, small)), ups);
    }
    alignas(64) float values[16];
    _mm512_store_ps(values, gates);
    for (float &value : values)
        value = activation == GELU ? gelu(value) : activation == GELU_TANH ? gelu_tanh(value) : value > 0 ? value : 0;
    return _mm512_mul_ps(_mm512_load_ps(values), ups);
}

template <typename T>
void finish(const Product<T> &p, int64_t row, int64_t rows, int64_t panel, const float *sums) {
    const float *bias = p.linear.bias ? p.linear.bias + panel * COLUMNS : nullptr;
    for (int64_t r = 0; r < rows; r++) {
        __m512 left = _mm512_load_ps(sums + r * COLUMNS), right = _mm512_load_ps(sums + r * COLUMNS + 16);
        if (bias) left = _mm512_add_ps(left, _mm512_loadu_ps(bias)), right = _mm512_add_ps(right, _mm512_loadu_ps(bias + 16));
        const int64_t at = (row + r) * p.to_stride + panel * COLUMNS;
        if (p.destination == ADD_TO_FLOAT) {
            left = _mm512_add_ps(left, _mm512_loadu_ps(p.floats + at));
            right = _mm512_add_ps(right, _mm512_loadu_ps(p.floats + at + 16));
        }
        if (p.destination == TO_NUMBER) {
            Number<T>::store16(p.numbers + at, left), Number<T>::store16(p.numbers + at + 16, right);
        } else if (p.destination == GATE) {
            Number<T>::store16(p.numbers + (row + r) * p.to_stride + panel * 16, gate(left, right, p.activation));
        } else {
            _mm512_storeu_ps(p.floats + at, left), _mm512_storeu_ps(p.floats + at + 16, right);
        }
    }
}

template <typename T>
void multiply(Team &team, const Product<T> &p) {
    if (!p.count) return;
    using Tile = void (*)(const char *, const char *, int64_t, int64_t, const char *, int64_t, float *);
    static constexpr Tile TILES[TILE + 1] = {nullptr,    tile<T, 1>, tile<T, 2>, tile<T, 3>,  tile<T, 4>,  tile<T, 5>, tile<T, 6>,
                                             tile<T, 7>, tile<T, 8>, tile<T, 9>, tile<T, 10>, tile<T, 11>, tile<T, 12>};
    const int64_t steps = p.linear.inputs / Number<T>::TOGETHER, panel_bytes = steps * COLUMNS * 4, panels = p.linear.panels;
    const int64_t blocks = p.blocks(), block = (p.count + blocks - 1) / blocks;
    alignas(64) float sums[TILE * COLUMNS];
    team.share(blocks * panels, [&](int64_t piece, int64_t end) {
        const int64_t first = piece / panels * block, last = std::min(p.count, first + block), panel = piece % panels;
        const char *weight = p.linear.weight + panel * panel_bytes;
        const char *ahead = piece + 1 < end ? p.linear.weight + (piece + 1) % panels * panel_bytes
                                            : p.next.weight + team.begin_of(p.next.panels, team.thread) * p.next.inputs * COLUMNS * sizeof(T);
        // Equal tiles: twelve rows and then one take longer than seven and six.
        const int64_t tiles = (last - first + TILE - 1) / TILE, size = (last - first + tiles - 1) / tiles;
        for (int64_t row = first, i = 0; row < last; row += size, i++) {
            const int64_t rows = std::min(size, last - row);
            const char *from = reinterpret_cast<const char *>(p.rows + row * p.stride);
            TILES[rows](weight, ahead + i * panel_bytes / tiles, COLUMNS * 4 / tiles, steps, from, p.stride * sizeof(T), sums);
            finish(p, row, rows, panel, sums);
        }
    });
}

}  // namespace

#endif
