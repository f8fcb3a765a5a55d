// Attention of packed rows in bf16, in the tiles of a processor that has them (AMX); packed_attention.cpp has the plain version.
//
// Scores and sums are fp32. Probabilities and the scores' gradients are rounded to bf16 when they are multiplied again. Whatever the
// tiles produce is kept in blocks of 32 x 32 numbers.

#pragma once

#include <vector>

#include "panel_product.h"
#include "transpose.h"

#if HAS_BFLOAT16_TILES

namespace {

constexpr int64_t SIDE = 32;                    // of a block
constexpr int64_t BLOCK = SIDE * SIDE;          // numbers of a block
constexpr int64_t GRADIENT_QUERIES = 4 * SIDE;  // whose gradients of keys and values are summed in the tiles before they are added
constexpr int64_t WORDS = SIDE / 2;             // pairs of bf16

inline int64_t sides(int64_t count) { return (count + SIDE - 1) / SIDE; }

template <typename Number>
Number *lines(std::vector<Number> &memory) {  // begins with a line of the cache
    return reinterpret_cast<Number *>((reinterpret_cast<uintptr_t>(memory.data()) + 63) / 64 * 64);
}

template <typename Number>
std::vector<Number> line_memory(int64_t count) { return std::vector<Number>(count + 64 / sizeof(Number)); }

inline __m512i interleaved(__m512i first, __m512i second, bool right) {  // words of the left or right sixteen numbers of two rows
    alignas(64) static constexpr int16_t PLACES[2][32] = {
        {0, 32, 1, 33, 2, 34, 3, 35, 4, 36, 5, 37, 6, 38, 7, 39, 8, 40, 9, 41, 10, 42, 11, 43, 12, 44, 13, 45, 14, 46, 15, 47},
        {16, 48, 17, 49, 18, 50, 19, 51, 20, 52, 21, 53, 22, 54, 23, 55, 24, 56, 25, 57, 26, 58, 27, 59, 28, 60, 29, 61, 30, 62, 31, 63}};
    return _mm512_permutex2var_epi16(first, _mm512_load_si512(PLACES[right]), second);
}

// Rows [32, width] -> panels that are multiplied along the rows: [width / 32, all rows / 2, 32, 2]; `to` is the first row's place.
inline void pack_along_rows(const bfloat16 *rows, int64_t width, int64_t all, bfloat16 *to) {
    for (int64_t column = 0; column < width; column += SIDE)
        for (int64_t word = 0; word < WORDS; word++) {
            const __m512i first = _mm512_loadu_si512(rows + 2 * word * width + column);
            const __m512i second = _mm512_loadu_si512(rows + (2 * word + 1) * width + column);
            bfloat16 *place = to + column * all + word * 2 * SIDE;
            _mm512_store_si512(place, interleaved(first, second, false));
            _mm512_store_si512(place + SIDE, interleaved(first, second, true));
        }
}

// Rows [32, width] -> a panel that is multiplied along the width: [width / 2, 32, 2].
inline void pack_along_width(const bfloat16 *rows, int64_t width, bfloat16 *to) {
    for (int64_t word = 0; word < width / 2; word += 16)
        for (int64_t half = 0; half < 2; half++) {
            __m512i words[16];
            for (int64_t i = 0; i < 16; i++) words[i] = _mm512_loadu_si512(rows + (half * 16 + i) * width + 2 * word);
            transpose(words);
            for (int64_t i = 0; i < 16; i++) _mm512_store_si512(to + (word + i) * 2 * SIDE + half * SIDE, words[i]);
        }
}

// Rows [32, width] -> [width, ...], `stride` numbers from one to the next.
inline void transpose_numbers(const bfloat16 *rows, int64_t width, bfloat16 *to, int64_t stride) {
    for (int64_t column = 0; column < width; column += SIDE) {
        __m512i left[WORDS], right[WORDS];
        for (int64_t word = 0; word < WORDS; word++) {
            const __m512i first = _mm512_loadu_si512(rows + 2 * word * width + column);
            const __m512i second = _mm512_loadu_si512(rows + (2 * word + 1) * width + column);
            left[word] = interleaved(first, second, false), right[word] = interleaved(first, second, true);
        }
        transpose(left);
        transpose(right);
        for (int64_t i = 0; i < 16; i++) {
            _mm512_storeu_si512(to + (column + i) * stride, left[i]);
            _mm512_storeu_si512(to + (column + 16 + i) * stride, right[i]);
        }
    }
}

// blocks [panels, 32, 32] = rows [32, depth] times panels [panels, depth / 2, 32, 2].
inline void block_products(const bfloat16 *rows, int64_t stride, const bfloat16 *panels, int64_t panel_stride, int64_t count, int64_t depth,
                           float *blocks) {
    for (int64_t panel = 0; panel < count; panel++) {
        const char *weight = reinterpret_cast<const char *>(panels + panel * panel_stride);
        multiply_in_tiles<true, Panels::USED_ONCE>({weight, weight, 0, depth / 2}, reinterpret_cast<const char *>(rows), stride * 2,
                                                   blocks + panel * BLOCK);
    }
}

struct TileScratch {
    int64_t width, all;  // all: keys of the longest group, in whole blocks
    std::vector<bfloat16> keys, values, keys_by_width, keys_by_rows, values_by_width, values_by_rows;
    std::vector<bfloat16> query, gradient, query_columns, gradient_columns, rows, packed, packed_gradient;
    std::vector<float> scores, score_gradient, output, key_gradient, value_gradient;

    TileScratch(int64_t longest, int64_t width_, bool backward) : width(width_), all(sides(longest) * SIDE) {
        shape_tiles(TILE_ROWS, TILE_ROWS);
        const int64_t queries = backward ? GRADIENT_QUERIES : SIDE;
        for (auto *of_keys : {&keys, &values, &keys_by_width, &values_by_rows}) *of_keys = line_memory<bfloat16>(all * width);
        query = line_memory<bfloat16>(queries * width);
        rows = line_memory<bfloat16>(SIDE * row_stride());
        scores = line_memory<float>(SIDE * all);
        output = line_memory<float>(SIDE * width);
        if (backward) {
            for (auto *of_keys : {&keys_by_rows, &values_by_width}) *of_keys = line_memory<bfloat16>(all * width);
            for (auto *of_queries : {&gradient, &query_columns, &gradient_columns}) *of_queries = line_memory<bfloat16>(queries * width);
            for (auto *of_both : {&packed, &packed_gradient}) *of_both = line_memory<bfloat16>(queries * all);
            score_gradient = line_memory<float>(SIDE * all);
            for (auto *sums : {&key_gradient, &value_gradient}) *sums = line_memory<float>(all * width);
        }
    }
    TileScratch(const TileScratch &) = delete;
    ~TileScratch() { _tile_release(); }

    int64_t row_stride() const { return all + SIDE; }  // of probabilities; one line more, so that rows lie in other sets of the cache
};

// Copies keys and values of `count` rows to positions `position`, position + 1, ... of the current group, and packs their blocks anew.
template <typename Problem>
void bring(const Problem &p, TileScratch &s, int64_t head, int64_t start, int64_t count, int64_t position, int64_t, bool backward) {
    const int64_t width = p.width, end = position + count, first = position / SIDE;
    const auto copy = [&](const bfloat16 *from, int64_t stride, bfloat16 *to) {
        for (int64_t i = 0; i < count; i++) std::memcpy(to + (position + i) * width, from + (start + i) * stride + head * width, width * 2);
        std::fill(to + end * width, to + sides(end) * SIDE * width, bfloat16{0});
    };
    bfloat16 *keys = lines(s.keys), *values = lines(s.values);
    copy(p.key, p.key_row, keys);
    copy(p.value, p.value_row, values);
    for (int64_t block = first; block < sides(end); block++) {
        const int64_t at = block * SIDE * width, word = block * SIDE * SIDE;
        pack_along_width(keys + at, width, lines(s.keys_by_width) + at);
        pack_along_rows(values + at, width, s.all, lines(s.values_by_rows) + word);
        if (!backward) continue;
        pack_along_rows(keys + at, width, s.all, lines(s.keys_by_rows) + word);
        pack_along_width(values + at, width, lines(s.values_by_width) + at);
        for (float *sums : {lines(s.key_gradient) + at, lines(s.value_gradient) + at})  // [width, 32 keys]
            for (int64_t i = 0; i < width; i++)
                for (int64_t key = std::max<int64_t>(0, position - block * SIDE); key < SIDE; key++) sums[i * SIDE + key] = 0;
    }
}

// Up to 32 rows of one head -> [32, width], filled up with 0.
inline void copy_rows(const bfloat16 *from, int64_t stride, int64_t count, int64_t width, bfloat16 *to) {
    for (int64_t i = 0; i < count; i++) std::memcpy(to + i * width, from + i * stride, width * 2);
    std::fill(to + count * width, to + SIDE * width, bfloat16{0});
}

// Which keys a query at `position` sees of sixteen that begin at `key`.
inline __mmask16 seen_of(int64_t key, int64_t position, int64_t window) {
    const auto below = [](int64_t count) { return count <= 0 ? 0u : count >= 16 ? 0xffffu : (1u << count) - 1; };
    const int64_t begin = window ? position + 1 - window : 0;
    return static_cast<__mmask16>(below(position + 1 - key) & ~below(begin - key));
}

// Blocks of scores of queries at positions first, first + 1, ... -> softmax(scaling * score) over the keys each sees, 0 elsewhere.
inline void block_softmax(float *blocks, int64_t queries, int64_t panels, int64_t first, int64_t window, float scaling) {
    const __m512 lowest = _mm512_set1_ps(-INFINITY), factor = _mm512_set1_ps(scaling);
    for (int64_t i = 0; i < SIDE; i++) {
        float *row = blocks + i * SIDE;
        const auto each = [&](auto compute) {
            for (int64_t panel = 0; panel < panels; panel++)
                for (int64_t half = 0; half < SIDE; half += 16)
                    compute(row + panel * BLOCK + half, seen_of(panel * SIDE + half, first + i, window));
        };
        if (i >= queries) {
            each([](float *at, __mmask16) { _mm512_store_ps(at, _mm512_setzero_ps()); });
            continue;
        }
        __m512 highest = lowest, total = _mm512_setzero_ps();
        each([&](float *at, __mmask16 seen) { highest = _mm512_mask_max_ps(highest, seen, highest, _mm512_mul_ps(_mm512_load_ps(at), factor)); });
        const __m512 most = _mm512_set1_ps(_mm512_reduce_max_ps(highest));
        each([&](float *at, __mmask16 seen) {
            const __m512 power = _mm512_maskz_mov_ps(seen, exponential(_mm512_fmsub_ps(_mm512_load_ps(at), factor, most)));
            _mm512_store_ps(at, power);
            total = _mm512_add_ps(total, power);
        });
        const __m512 share = _mm512_set1_ps(1 / _mm512_reduce_add_ps(total));
        each([&](float *at, __mmask16) { _mm512_store_ps(at, _mm512_mul_ps(_mm512_load_ps(at), share)); });
    }
}

// Gradients of probabilities -> gradients of scores, P * (dP - sum of P * dP), in place.
inline void block_softmax_backward(const float *probabilities, float *gradients, int64_t panels) {
    for (int64_t i = 0; i < SIDE; i++) {
        const auto each = [&](auto compute) {
            for (int64_t panel = 0; panel < panels; panel++)
                for (int64_t half = 0; half < SIDE; half += 16) {
                    const int64_t at = panel * BLOCK + i * SIDE + half;
                    compute(_mm512_load_ps(probabilities + at), gradients + at);
                }
        };
        __m512 total = _mm512_setzero_ps();
        each([&](__m512 share, float *at) { total = _mm512_fmadd_ps(share, _mm512_load_ps(at), total); });
        const __m512 sum = _mm512_set1_ps(_mm512_reduce_add_ps(total));
        each([&](__m512 share, float *at) { _mm512_store_ps(at, _mm512_mul_ps(share, _mm512_sub_ps(_mm512_load_ps(at), sum))); });
    }
}

inline __m512i rounded_row(const float *row) { return (__m512i)_mm512_cvtne2ps_pbh(_mm512_load_ps(row + 16), _mm512_load_ps(row)); }

// Blocks [panels, 32, 32] -> bf16 rows [32, ...].
inline void round_to_rows(const float *blocks, int64_t panels, bfloat16 *rows, int64_t stride) {
    for (int64_t panel = 0; panel < panels; panel++)
        for (int64_t i = 0; i < SIDE; i++) _mm512_store_si512(rows + i * stride + panel * SIDE, rounded_row(blocks + panel * BLOCK + i * SIDE));
}

// Blocks [panels, 32 queries, 32] -> panels that are multiplied along the queries, `stride` numbers from one to the next. Of the
// panels that are missing, up to `all`, every number is 0.
inline void round_to_panels(const float *blocks, int64_t panels, int64_t all, bfloat16 *to, int64_t stride) {
    for (int64_t panel = 0; panel < panels; panel++)
        for (int64_t word = 0; word < WORDS; word++) {
            const float *row = blocks + panel * BLOCK + 2 * word * SIDE;
            const __m512i first = rounded_row(row), second = rounded_row(row + SIDE);
            bfloat16 *place = to + panel * stride + word * 2 * SIDE;
            _mm512_store_si512(place, interleaved(first, second, false));
            _mm512_store_si512(place + SIDE, interleaved(first, second, true));
        }
    for (int64_t panel = panels; panel < all; panel++) std::fill_n(to + panel * stride, BLOCK, bfloat16{0});
}

// Blocks [width / 32, 32, 32] times a factor -> bf16 rows.
inline void scatter_blocks(const float *blocks, int64_t count, int64_t width, float factor, bfloat16 *to, int64_t stride) {
    const __m512 times = _mm512_set1_ps(factor);
    for (int64_t i = 0; i < count; i++)
        for (int64_t column = 0; column < width; column += SIDE) {
            const float *row = blocks + column * SIDE + i * SIDE;
            Number<bfloat16>::store(to + i * stride + column, _mm512_mul_ps(_mm512_load_ps(row), times),
                                    _mm512_mul_ps(_mm512_load_ps(row + 16), times), ~0u);
        }
}

// Queries [from, to) of a range that starts at row `start` and position `position`.
template <typename Problem>
void forward_range(const Problem &p, TileScratch &s, int64_t head, const int64_t *range, int64_t position, int64_t, bfloat16 *output) {
    const int64_t start = range[0], from = range[2], to = range[3], width = p.width, heads = p.key_heads * p.repeats, stride = s.row_stride();
    bfloat16 *query = lines(s.query), *rows = lines(s.rows);
    float *scores = lines(s.scores), *blocks = lines(s.output);
    for (int64_t q = head * p.repeats; q < (head + 1) * p.repeats; q++)
        for (int64_t first = from; first < to; first += SIDE) {
            const int64_t count = std::min(SIDE, to - first), row = start + first, panels = sides(position + first + count);
            copy_rows(p.query + row * p.query_row + q * width, p.query_row, count, width, query);
            block_products(query, width, lines(s.keys_by_width), SIDE * width, panels, width, scores);
            block_softmax(scores, count, panels, position + first, p.window, p.scaling);
            round_to_rows(scores, panels, rows, stride);
            block_products(rows, stride, lines(s.values_by_rows), SIDE * s.all, width / SIDE, panels * SIDE, blocks);
            scatter_blocks(blocks, count, width, 1, output + (row * heads + q) * width, heads * width);
        }
}

// sums [panels, width, 32 keys] += columns [width, queries] times panels of keys, multiplied along the queries.
inline void add_key_gradients(const bfloat16 *columns, int64_t width, const bfloat16 *packed, int64_t queries, int64_t panels, float *sums) {
    for (int64_t panel = 0; panel < panels; panel++) {
        const char *weight = reinterpret_cast<const char *>(packed + panel * SIDE * GRADIENT_QUERIES);
        for (int64_t column = 0; column < width; column += SIDE)
            multiply_in_tiles<true, Panels::USED_ONCE, true>({weight, weight, 0, queries / 2},
                                                             reinterpret_cast<const char *>(columns + column * GRADIENT_QUERIES),
                                                             GRADIENT_QUERIES * 2, sums + (panel * width + column) * SIDE);
    }
}

template <typename Problem>
void backward_range(const Problem &p, TileScratch &s, int64_t head, const int64_t *range, int64_t position, int64_t,
                    const bfloat16 *output_gradient, bfloat16 *query_gradient) {
    const int64_t start = range[0], from = range[2], to = range[3], width = p.width, heads = p.key_heads * p.repeats, stride = s.row_stride();
    bfloat16 *rows = lines(s.rows);
    float *scores = lines(s.scores), *gradients = lines(s.score_gradient), *blocks = lines(s.output);
    for (int64_t q = head * p.repeats; q < (head + 1) * p.repeats; q++)
        for (int64_t begin = from; begin < to; begin += GRADIENT_QUERIES) {
            const int64_t end = std::min(to, begin + GRADIENT_QUERIES), all = sides(position + end);
            for (int64_t first = begin; first < end; first += SIDE) {
                const int64_t count = std::min(SIDE, end - first), row = start + first, panels = sides(position + first + count);
                const int64_t place = (row * heads + q) * width, in = first - begin;
                bfloat16 *query = lines(s.query) + in * width, *gradient = lines(s.gradient) + in * width;
                copy_rows(p.query + row * p.query_row + q * width, p.query_row, count, width, query);
                copy_rows(output_gradient + place, heads * width, count, width, gradient);
                transpose_numbers(query, width, lines(s.query_columns) + in, GRADIENT_QUERIES);
                transpose_numbers(gradient, width, lines(s.gradient_columns) + in, GRADIENT_QUERIES);
                block_products(query, width, lines(s.keys_by_width), SIDE * width, panels, width, scores);
                block_softmax(scores, count, panels, position + first, p.window, p.scaling);
                block_products(gradient, width, lines(s.values_by_width), SIDE * width, panels, width, gradients);
                block_softmax_backward(scores, gradients, panels);
                round_to_panels(scores, panels, all, lines(s.packed) + in * SIDE, SIDE * GRADIENT_QUERIES);
                round_to_panels(gradients, panels, all, lines(s.packed_gradient) + in * SIDE, SIDE * GRADIENT_QUERIES);
                round_to_rows(gradients, panels, rows, stride);
                block_products(rows, stride, lines(s.keys_by_rows), SIDE * s.all, width / SIDE, panels * SIDE, blocks);
                scatter_blocks(blocks, count, width, p.scaling, query_gradient + place, heads * width);
            }
            const int64_t queries = sides(end - begin) * SIDE;
            add_key_gradients(lines(s.gradient_columns), width, lines(s.packed), queries, all, lines(s.value_gradient));
            add_key_gradients(lines(s.query_columns), width, lines(s.packed_gradient), queries, all, lines(s.key_gradient));
        }
}

// Sums [panels, width, 32 keys] of keys `position`, position + 1, ... times a factor -> bf16 rows.
inline void scatter_keys(const float *sums, int64_t position, int64_t count, int64_t width, float factor, bfloat16 *to, int64_t stride) {
    const __m512 times = _mm512_set1_ps(factor);
    for (int64_t key = position / 16 * 16; key < position + count; key += 16)
        for (int64_t column = 0; column < width; column += 16) {
            __m512i block[16];
            for (int64_t i = 0; i < 16; i++)
                block[i] = (__m512i)_mm512_load_ps(sums + (key / SIDE * width + column + i) * SIDE + key % SIDE);
            transpose(block);
            for (int64_t i = std::max<int64_t>(0, position - key); i < std::min<int64_t>(16, position + count - key); i++)
                Number<bfloat16>::store16(to + (key + i - position) * stride + column, _mm512_mul_ps((__m512)block[i], times));
        }
}

}  // namespace

#endif
