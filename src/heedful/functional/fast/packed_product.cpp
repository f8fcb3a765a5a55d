// Products of rows with a weight that was packed once: for generation, which multiplies a few rows by every weight of the model.
//
// With eight rows, oneDNN reads 25 GB/s of weights, and it keeps half a megabyte for each number of rows it has seen. Here a panel
// of 32 columns is read once for up to twelve rows, whose sums stay in registers. Every sum follows the order of the inputs (for
// bf16 two at a time, with the processor's dot product of pairs), so a row's bits do not depend on the number of rows. The product
// is left out on processors that lack this instruction, or that have bf16 tiles, which are faster.

#include <algorithm>

#include "activations.h"
#include "dot_pairs.h"

#if HAS_FLOAT32_PRODUCTS

namespace {

constexpr int64_t COLUMNS = 32;  // per panel: two registers
constexpr int64_t TILE = 12;     // rows per tile: 24 registers of sums
constexpr int64_t BLOCK_BYTES = 262144;  // of rows that stay in the second-level cache while panels stream past
constexpr int64_t AHEAD = 16384;          // bytes of the weight to prefetch

// One function for every number of rows: the same instructions, the same bits.
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

struct Panel {
    int64_t steps, columns;  // steps of 32 bits of input; columns that are outputs (the rest is filler)
    const char *weight;      // [steps, 32 columns, 32 bits]
    const float *bias;       // [32]
    int64_t activation;
};

template <typename T, int ROWS>
void tile(const Panel &panel, const T *rows, int64_t stride, T *output, int64_t output_stride) {
    __m512 sums[ROWS][2];
    for (int r = 0; r < ROWS; r++) sums[r][0] = sums[r][1] = _mm512_setzero_ps();
    // Three pointers and two distances reach all rows: one pointer per row would not fit into the registers.
    const int64_t step = stride * sizeof(T), three = 3 * step;
    const char *weight = panel.weight, *first = reinterpret_cast<const char *>(rows);
    const char *second = first + 4 * step, *third = second + 4 * step;
    for (int64_t k = 0; k < panel.steps; k++) {
        _mm_prefetch(weight + AHEAD, _MM_HINT_T1);
        _mm_prefetch(weight + AHEAD + 64, _MM_HINT_T1);
        const __m512i left = _mm512_loadu_si512(weight), right = _mm512_loadu_si512(weight + 64);
#pragma GCC unroll 16
        for (int r = 0; r < ROWS; r++) {
            const char *base = r < 4 ? first : r < 8 ? second : third;
            const char *input = base + (r % 4 == 0 ? 0 : r % 4 == 1 ? step : r % 4 == 2 ? 2 * step : three);
            sums[r][0] = Number<T>::add(sums[r][0], input, left);
            sums[r][1] = Number<T>::add(sums[r][1], input, right);
        }
        weight += 2 * 64;
        first += 4, second += 4, third += 4;
    }
    const __m512 left = _mm512_loadu_ps(panel.bias), right = _mm512_loadu_ps(panel.bias + 16);
    const __mmask32 kept = panel.columns == COLUMNS ? ~0u : (1u << panel.columns) - 1;
#pragma GCC unroll 16
    for (int r = 0; r < ROWS; r++) {
        __m512 a = _mm512_add_ps(sums[r][0], left), b = _mm512_add_ps(sums[r][1], right);
        if (panel.activation != NONE) {
            alignas(64) float both[COLUMNS];
            _mm512_store_ps(both, a), _mm512_store_ps(both + 16, b);
            activate(both, panel.activation);
            a = _mm512_load_ps(both), b = _mm512_load_ps(both + 16);
        }
        Number<T>::store(output + r * output_stride, a, b, kept);
    }
}

template <typename T>
void packed_product(int64_t count, int64_t inputs, int64_t outputs, const T *rows, int64_t stride, const T *weight, const T *bias,
                    int64_t activation, T *output) {
    using Tile = void (*)(const Panel &, const T *, int64_t, T *, int64_t);
    static constexpr Tile TILES[TILE + 1] = {nullptr,    tile<T, 1>, tile<T, 2>, tile<T, 3>,  tile<T, 4>,  tile<T, 5>, tile<T, 6>,
                                             tile<T, 7>, tile<T, 8>, tile<T, 9>, tile<T, 10>, tile<T, 11>, tile<T, 12>};
    const int64_t panels = (outputs + COLUMNS - 1) / COLUMNS, row_bytes = inputs * sizeof(T);
    int64_t block = std::max<int64_t>(1, BLOCK_BYTES / (row_bytes * TILE)) * TILE;
    if (panels < 8) block = std::min(block, (count * panels / 8 / TILE + 1) * TILE);  // enough pieces for all threads
    const int64_t blocks = (count + block - 1) / block;
    block = (count + blocks - 1) / blocks;  // blocks of equal size, so each thread gets the same number
#pragma omp parallel for schedule(static) if (count * inputs * outputs > 32768)
    for (int64_t piece = 0; piece < blocks * panels; piece++) {
        const int64_t begin = piece / panels * block, end = std::min(count, begin + block), column = piece % panels * COLUMNS;
        const int64_t columns = std::min(COLUMNS, outputs - column);
        alignas(64) float addend[COLUMNS] = {};
        if (bias)
            for (int64_t i = 0; i < columns; i++) addend[i] = load(bias[column + i]);
        const char *from = reinterpret_cast<const char *>(weight + column * inputs);
        const Panel panel = {row_bytes / 4, columns, from, addend, activation};
        // Equal tiles: twelve rows and then one take longer than seven and six.
        const int64_t tiles = (end - begin + TILE - 1) / TILE, size = (end - begin + tiles - 1) / tiles;
        for (int64_t row = begin; row < end; row += size)
            TILES[std::min(size, end - row)](panel, rows + row * stride, stride, output + row * outputs + column, outputs);
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
