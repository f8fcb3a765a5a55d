// Products with packed weights. The threads run through a whole pass together and share its pieces.
//
// While the rows are multiplied by one panel of the weight, the next one is fetched into the second-level cache.

#pragma once

#include <algorithm>
#include <atomic>
#include <thread>

#include "activations.h"
#include "panel_product.h"

#if HAS_FLOAT32_PRODUCTS

namespace {

struct Linear {
    const char *weight;  // [panels, inputs * size / 4, 32 columns, 32 bits]
    const float *bias;   // [panels, 32], or none
    int64_t inputs, panels;
};

struct alignas(64) Counter {
    std::atomic<int64_t> value;
};

// The threads of a pass. They go through its phases together and share the pieces of a phase. Each thread begins with its own stretch
// and then helps the others, so a thread that the system has suspended delays the others only if it has begun a piece.
struct Team {
    int thread, threads;
    Counter *counters;  // zeros: for each phase, how far each thread's stretch is taken, and how many pieces are done
    int64_t phase;

    int64_t begin_of(int64_t count, int owner) const { return count * owner / threads; }

    // Calls compute(piece, end of its stretch) for all pieces, and returns when all of them are done. Threads spin, because waits are
    // shorter than waking a thread; after a while they yield, in case others need the processor.
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
    const int64_t steps = p.linear.inputs / Number<T>::TOGETHER, panel_bytes = steps * COLUMNS * 4, panels = p.linear.panels;
    PanelProduct<T> product(steps);
    const int64_t most = product.most(), blocks = (p.count + product.block() - 1) / product.block(), block = (p.count + blocks - 1) / blocks;
    alignas(64) float sums[MOST_ROWS * COLUMNS];
    team.share(blocks * panels, [&](int64_t piece, int64_t end) {
        const int64_t first = piece / panels * block, last = std::min(p.count, first + block), panel = piece % panels;
        const char *weight = p.linear.weight + panel * panel_bytes;
        const char *ahead = piece + 1 < end ? p.linear.weight + (piece + 1) % panels * panel_bytes
                                            : p.next.weight + team.begin_of(p.next.panels, team.thread) * p.next.inputs * COLUMNS * sizeof(T);
        // Equal parts, because twelve rows and then one take longer than seven and six.
        const int64_t parts = (last - first + most - 1) / most, size = (last - first + parts - 1) / parts;
        const Panels use = parts > 1 ? Panels::USED_AGAIN : Panels::USED_ONCE;
        for (int64_t row = first, i = 0; row < last; row += size, i++) {
            const int64_t rows = std::min(size, last - row);
            const char *from = reinterpret_cast<const char *>(p.rows + row * p.stride);
            product(use, weight, ahead + i * panel_bytes / parts, COLUMNS * 4 / parts, from, p.stride * sizeof(T), rows, sums);
            finish(p, row, rows, panel, sums);
        }
    });
}

}  // namespace

#endif
