// Products of rows with a weight that was packed once, for generation, which multiplies a few rows by every weight of the model.
//
// With eight rows, oneDNN reads 25 GB/s of weights, and it keeps half a megabyte for each number of rows it has seen. Here a panel
// of 32 columns is read once for many rows. For bf16 the product is left out on processors that lack the dot product of pairs.

#include <algorithm>

#include "activations.h"
#include "panel_product.h"

#if HAS_FLOAT32_PRODUCTS

namespace {

constexpr int64_t AHEAD = 16384;  // bytes of the weight to prefetch

// One function for every number of rows, so that the same instructions give the same bits.
__attribute__((noinline)) void activate(float *sums, int64_t activation) {
    if (activation == GELU) {
#pragma omp simd
        for (int64_t i = 0; i < COLUMNS; i++) sums[i] = gelu(sums[i]);
    } else if (activation == GELU_TANH) {
#pragma omp simd
        for (int64_t i = 0; i < COLUMNS; i++) sums[i] = gelu_tanh(sums[i]);
    } else if (activation == RELU) {
#pragma omp simd
        for (int64_t i = 0; i < COLUMNS; i++) sums[i] = sums[i] > 0 ? sums[i] : 0;
    }
}

// Sums [rows, 32] -> activation(sums + addend), as far as the panel's columns are outputs (the rest is filler).
template <typename T>
void finish(const float *sums, int64_t rows, const float *addend, int64_t activation, int64_t columns, T *output, int64_t stride) {
    const __m512 left = _mm512_load_ps(addend), right = _mm512_load_ps(addend + 16);
    const __mmask32 kept = columns == COLUMNS ? ~0u : (1u << columns) - 1;
    for (int64_t r = 0; r < rows; r++) {
        __m512 a = _mm512_add_ps(_mm512_load_ps(sums + r * COLUMNS), left);
        __m512 b = _mm512_add_ps(_mm512_load_ps(sums + r * COLUMNS + 16), right);
        if (activation != NONE) {
            alignas(64) float both[COLUMNS];
            _mm512_store_ps(both, a), _mm512_store_ps(both + 16, b);
            activate(both, activation);
            a = _mm512_load_ps(both), b = _mm512_load_ps(both + 16);
        }
        Number<T>::store(output + r * stride, a, b, kept);
    }
}

template <typename T>
void packed_product(int64_t count, int64_t inputs, int64_t outputs, const T *rows, int64_t stride, const T *weight, const T *bias,
                    int64_t activation, T *output) {
    const int64_t panels = (outputs + COLUMNS - 1) / COLUMNS, steps = inputs / Number<T>::TOGETHER;
    const bool large = count * inputs * outputs > 32768;
#pragma omp parallel if (large)
    {
        PanelProduct<T> product(steps);
        const int64_t most = product.most();
        int64_t block = product.block();
        if (panels < 8) block = std::min(block, (count * panels / 8 / most + 1) * most);  // enough pieces for all threads
        const int64_t blocks = (count + block - 1) / block;
        block = (count + blocks - 1) / blocks;  // blocks of equal size, so each thread gets the same number
        alignas(64) float sums[MOST_ROWS * COLUMNS];
#pragma omp for schedule(static)
        for (int64_t piece = 0; piece < blocks * panels; piece++) {
            const int64_t begin = piece / panels * block, end = std::min(count, begin + block), column = piece % panels * COLUMNS;
            const int64_t columns = std::min(COLUMNS, outputs - column);
            alignas(64) float addend[COLUMNS] = {};
            if (bias)
                for (int64_t i = 0; i < columns; i++) addend[i] = load(bias[column + i]);
            const char *panel = reinterpret_cast<const char *>(weight + column * inputs);
            // Equal parts, because twelve rows and then one take longer than seven and six.
            const int64_t parts = (end - begin + most - 1) / most, size = (end - begin + parts - 1) / parts;
            const Panels use = parts > 1 ? Panels::USED_AGAIN : Panels::USED_ONCE;
            for (int64_t row = begin; row < end; row += size) {
                const int64_t some = std::min(size, end - row);
                product(use, panel, panel + AHEAD, COLUMNS * 4, reinterpret_cast<const char *>(rows + row * stride), stride * sizeof(T), some, sums);
                finish(sums, some, addend, activation, columns, output + row * outputs + column, outputs);
            }
        }
    }
}

}  // namespace

#endif

extern "C" {

#define PACKED_PRODUCT(NAME, T)                                                                                                       \
    void NAME(int64_t count, int64_t inputs, int64_t outputs, const T *rows, int64_t stride, const T *weight, const T *bias,           \
              int64_t activation, T *output) {                                                                                         \
        packed_product(count, inputs, outputs, rows, stride, weight, bias, activation, output);                                        \
    }
#if HAS_FLOAT32_PRODUCTS
PACKED_PRODUCT(packed_product_float32, float)
#endif
#if HAS_BFLOAT16_PRODUCTS
PACKED_PRODUCT(packed_product_bfloat16, bfloat16)
#endif
}
