// Rows times one panel of a packed weight: 32 columns, [inputs * size / 4, 32 columns, 32 bits].
//
// The panel is read once for up to twelve rows, whose sums stay in registers. A processor with tiles for bf16 (AMX) takes 32 rows at
// once instead, because its tiles read the same layout. Every sum follows the order of the inputs (in tiles: first the even and the
// odd inputs of 32), so a row's bits do not depend on the number of rows. Which of the two is used depends only on the weight and on
// the processor.

#pragma once

#include <algorithm>
#include <type_traits>

#include "dot_pairs.h"

#if HAS_BFLOAT16_PRODUCTS && defined(__AMX_TILE__) && defined(__AMX_BF16__) && defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>

#define HAS_BFLOAT16_TILES 1
#endif

#if HAS_FLOAT32_PRODUCTS

namespace {

constexpr int64_t COLUMNS = 32;          // per panel: two registers, or two tiles
constexpr int64_t REGISTER_ROWS = 12;    // 24 registers of sums
constexpr int64_t MOST_ROWS = 32;        // of any kind of product
constexpr int64_t BLOCK_BYTES = 262144;  // of rows that stay in the second-level cache while panels stream past

// Whether the rows are so many that each panel is used several times in turn.
enum class Panels { USED_ONCE, USED_AGAIN };

// One panel, and what is fetched into the second-level cache meanwhile. steps: of 32 bits of input, 128 bytes of weight each.
struct Panel {
    const char *weight, *ahead;
    int64_t ahead_step, steps;
};

template <typename T, int ROWS>
void multiply_in_registers(const Panel &panel, const char *rows, int64_t stride, float *to) {
    __m512 sums[ROWS][2];
    for (int r = 0; r < ROWS; r++) sums[r][0] = sums[r][1] = _mm512_setzero_ps();
    // Three pointers and two distances reach all rows, because one pointer per row would not fit into the registers.
    const int64_t three = 3 * stride;
    const char *weight = panel.weight, *ahead = panel.ahead;
    const char *first = rows, *second = first + 4 * stride, *third = second + 4 * stride;
    for (int64_t k = 0; k < panel.steps; k++) {
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
        weight += COLUMNS * 4;
        ahead += panel.ahead_step;
        first += 4, second += 4, third += 4;
    }
    for (int r = 0; r < ROWS; r++) {
        _mm512_store_ps(to + r * COLUMNS, sums[r][0]);
        _mm512_store_ps(to + r * COLUMNS + 16, sums[r][1]);
    }
}

#if HAS_BFLOAT16_TILES

constexpr int64_t TILE_ROWS = 16;
constexpr int64_t TILE_STEPS = 16;            // of 32 bits of input: 64 bytes of a row
constexpr int64_t TILE_BLOCK_BYTES = 786432;  // as BLOCK_BYTES: processors with tiles have two megabytes of second-level cache

// The system hands out tiles only to a process that has asked for them.
inline bool tiles_are_granted() {
    static const bool granted = syscall(SYS_arch_prctl, 0x1023 /* ARCH_REQ_XCOMP_PERM */, 18 /* tile data */) == 0;
    return granted;
}

// Tiles 0 and 1: sums of the first rows; 2 and 3: of the second rows; 4 and 5: their inputs; 6 and 7: the panel's left and right half.
inline void shape_tiles(int64_t first, int64_t second) {
    struct alignas(64) {
        uint8_t palette = 1, start_row = 0, zeros[14] = {};
        uint16_t row_bytes[16] = {};
        uint8_t rows[16] = {};
    } shape;
    const int64_t counts[8] = {first, first, second, second, first, second, TILE_STEPS, TILE_STEPS};
    for (int i = 0; i < 8; i++)
        if (counts[i]) shape.row_bytes[i] = 64, shape.rows[i] = static_cast<uint8_t>(counts[i]);
    asm volatile("" : : "r"(&shape) : "memory");  // GCC believes that the next line reads the first eight bytes only
    _tile_loadconfig(&shape);
}

// Loads a tile of rows. Of a panel that is used again they go past the first-level cache, so that the panel stays there.
#define LOAD_ROWS(TILE, FROM)                    \
    if constexpr (PANELS == Panels::USED_AGAIN)  \
        _tile_stream_loadd(TILE, FROM, stride);  \
    else                                         \
        _tile_loadd(TILE, FROM, stride)

// One row of tiles or BOTH. ADDS: to what is in `to`.
template <bool BOTH, Panels PANELS, bool ADDS = false>
void multiply_in_tiles(const Panel &panel, const char *rows, int64_t stride, float *to) {
    if constexpr (ADDS) {
        _tile_loadd(0, to, COLUMNS * 4);
        _tile_loadd(1, to + 16, COLUMNS * 4);
    } else {
        _tile_zero(0);
        _tile_zero(1);
    }
    if constexpr (BOTH && ADDS) {
        _tile_loadd(2, to + TILE_ROWS * COLUMNS, COLUMNS * 4);
        _tile_loadd(3, to + TILE_ROWS * COLUMNS + 16, COLUMNS * 4);
    } else if constexpr (BOTH) {
        _tile_zero(2);
        _tile_zero(3);
    }
    const char *weight = panel.weight, *ahead = panel.ahead, *below = rows + TILE_ROWS * stride;
    for (int64_t k = 0; k < panel.steps; k += TILE_STEPS) {
        for (int64_t line = 0; line < TILE_STEPS * panel.ahead_step; line += 64) _mm_prefetch(ahead + line, _MM_HINT_T1);
        _tile_loadd(6, weight, COLUMNS * 4);
        LOAD_ROWS(4, rows);
        _tile_dpbf16ps(0, 4, 6);
        _tile_loadd(7, weight + 64, COLUMNS * 4);
        _tile_dpbf16ps(1, 4, 7);
        if constexpr (BOTH) {
            LOAD_ROWS(5, below);
            _tile_dpbf16ps(2, 5, 6);
            _tile_dpbf16ps(3, 5, 7);
        }
        weight += TILE_STEPS * COLUMNS * 4;
        ahead += TILE_STEPS * panel.ahead_step;
        rows += 64, below += 64;
    }
    _tile_stored(0, to, COLUMNS * 4);
    _tile_stored(1, to + 16, COLUMNS * 4);
    if constexpr (BOTH) {
        _tile_stored(2, to + TILE_ROWS * COLUMNS, COLUMNS * 4);
        _tile_stored(3, to + TILE_ROWS * COLUMNS + 16, COLUMNS * 4);
    }
}

#undef LOAD_ROWS

template <typename T>
inline bool fits_tiles(int64_t steps) {
    return std::is_same_v<T, bfloat16> && steps % TILE_STEPS == 0 && tiles_are_granted();
}

#endif

// One thread's products of rows with the panels of one weight. steps: of 32 bits of input.
template <typename T>
class PanelProduct {
   public:
    explicit PanelProduct(int64_t steps) : steps_(steps) {
#if HAS_BFLOAT16_TILES
        in_tiles_ = fits_tiles<T>(steps);
        if (in_tiles_) block_bytes_ = TILE_BLOCK_BYTES;
#endif
    }
    PanelProduct(const PanelProduct &) = delete;
    ~PanelProduct() {
#if HAS_BFLOAT16_TILES
        if (shaped_for_) _tile_release();
#endif
    }

    // How many rows are multiplied at once.
    int64_t most() const { return in_tiles_ ? MOST_ROWS : REGISTER_ROWS; }

    // How many rows make a block that stays in the cache.
    int64_t block() const { return std::max<int64_t>(1, block_bytes_ / (steps_ * 4 * most())) * most(); }

    // to: [rows, 32], in lines of the cache. stride: bytes from one row to the next.
    void operator()(Panels panels, const char *weight, const char *ahead, int64_t ahead_step, const char *rows, int64_t stride, int64_t count,
                    float *to) {
        const Panel panel = {weight, ahead, ahead_step, steps_};
#if HAS_BFLOAT16_TILES
        if (in_tiles_) {
            if (count != shaped_for_) shape_tiles(std::min(count, TILE_ROWS), std::max<int64_t>(0, count - TILE_ROWS));
            shaped_for_ = count;
            const bool both = count > TILE_ROWS;
            if (panels == Panels::USED_AGAIN)
                return both ? multiply_in_tiles<true, Panels::USED_AGAIN>(panel, rows, stride, to)
                            : multiply_in_tiles<false, Panels::USED_AGAIN>(panel, rows, stride, to);
            return both ? multiply_in_tiles<true, Panels::USED_ONCE>(panel, rows, stride, to)
                        : multiply_in_tiles<false, Panels::USED_ONCE>(panel, rows, stride, to);
        }
#endif
        using Multiply = void (*)(const Panel &, const char *, int64_t, float *);
        static constexpr Multiply FOR_ROWS[REGISTER_ROWS + 1] = {
            nullptr,
            multiply_in_registers<T, 1>,
            multiply_in_registers<T, 2>,
            multiply_in_registers<T, 3>,
            multiply_in_registers<T, 4>,
            multiply_in_registers<T, 5>,
            multiply_in_registers<T, 6>,
            multiply_in_registers<T, 7>,
            multiply_in_registers<T, 8>,
            multiply_in_registers<T, 9>,
            multiply_in_registers<T, 10>,
            multiply_in_registers<T, 11>,
            multiply_in_registers<T, 12>};
        FOR_ROWS[count](panel, rows, stride, to);
    }

   private:
    int64_t steps_, shaped_for_ = 0, block_bytes_ = BLOCK_BYTES;
    bool in_tiles_ = false;
};

}  // namespace

#endif
