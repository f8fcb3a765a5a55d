// Attention of rows to a cache in pages of 32 tokens, in the layout that its products read.
//
// A page holds, for each layer, the keys of each key head and then the values of each key head. Keys of 16 tokens lie side by side
// (32 bits of each: one fp32 number or two bf16 numbers), so a register holds the scores of 16 tokens. Values of one token, or of two
// in bf16, lie side by side for 16 places of the head, so a register holds 16 places of the output. A row's numbers are summed in the
// order of the tokens, whatever other rows are computed with it.

#pragma once

#include "dot_pairs.h"

#if HAS_FLOAT32_PRODUCTS

namespace {

constexpr int64_t PAGE = 32;           // tokens, as in decoder.py
constexpr int QUERIES = 6;             // computed at once: with four registers of the output each, 24 registers
constexpr int64_t WIDE_REGISTERS = 4;  // registers of the output at once

inline int64_t up_to(int64_t count, int64_t multiple) { return (count + multiple - 1) / multiple * multiple; }

// Where the keys and values of one key head lie in a page.
template <typename T>
struct HeadPlace {
    int64_t words, wide;  // 32-bit words of a key; places of a value, rounded up to whole registers
    int64_t keys, values;  // bytes from the page's beginning

    static int64_t bytes_of_layer(int64_t key_heads, int64_t width) {
        const int64_t keys = PAGE * width * sizeof(T), values = PAGE * up_to(width, LANES_512) * sizeof(T);
        return key_heads * (keys + values);
    }

    HeadPlace(int64_t layer, int64_t head, int64_t key_heads, int64_t width)
        : words(width / Number<T>::TOGETHER), wide(up_to(width, LANES_512)) {
        const int64_t begin = layer * bytes_of_layer(key_heads, width), bytes = PAGE * width * sizeof(T);
        keys = begin + head * bytes;
        values = begin + key_heads * bytes + head * PAGE * wide * sizeof(T);
    }
};

// Puts a token's key and value [width] into its page. clean: no later token of the sequence is put beside it, so the number that
// shares 32 bits with this value must be made finite here, because it is multiplied by 0.
template <typename T>
void put(char *page, const HeadPlace<T> &place, int64_t token, const T *key, const T *value, int64_t width, bool clean) {
    constexpr int64_t TOGETHER = Number<T>::TOGETHER;
    T *to = reinterpret_cast<T *>(page + place.keys) + ((token / LANES_512) * place.words * LANES_512 + token % LANES_512) * TOGETHER;
    for (int64_t word = 0; word < place.words; word++) std::memcpy(to + word * LANES_512 * TOGETHER, key + word * TOGETHER, 4);
    to = reinterpret_cast<T *>(page + place.values) + token / TOGETHER * place.wide * TOGETHER + token % TOGETHER;
    for (int64_t i = 0; i < width; i++) to[i * TOGETHER] = value[i];
    for (int64_t i = width; i < place.wide; i++) to[i * TOGETHER] = T{};
    if (TOGETHER == 2 && token % 2 == 0 && clean)
        for (int64_t i = 0; i < place.wide; i++) to[i * TOGETHER + 1] = T{};
}

// Scores [queries, length] of one page. queries: [words, COUNT] words of 32 bits. ahead: keys to fetch, the next to be read.
template <typename T, int COUNT>
void scores_of_page(const char *queries, const char *keys, const char *ahead, int64_t words, float *scores, int64_t length) {
    __m512 sums[COUNT][2];
    for (int q = 0; q < COUNT; q++) sums[q][0] = sums[q][1] = _mm512_setzero_ps();
    for (int64_t word = 0; word < words; word++) {
        const __m512i left = _mm512_loadu_si512(keys + word * 64), right = _mm512_loadu_si512(keys + (words + word) * 64);
        _mm_prefetch(ahead + word * 64, _MM_HINT_T1);
        _mm_prefetch(ahead + (words + word) * 64, _MM_HINT_T1);
#pragma GCC unroll 8
        for (int q = 0; q < COUNT; q++) {
            sums[q][0] = Number<T>::add(sums[q][0], queries + (word * COUNT + q) * 4, left);
            sums[q][1] = Number<T>::add(sums[q][1], queries + (word * COUNT + q) * 4, right);
        }
    }
    for (int q = 0; q < COUNT; q++) {
        _mm512_storeu_ps(scores + q * length, sums[q][0]);
        _mm512_storeu_ps(scores + q * length + LANES_512, sums[q][1]);
    }
}

// Scores of the tokens first to last become e^(scaling * (score - highest)), 0 elsewhere, in the number type; returns their sum.
// weights: words of 32 bits, COUNT apart (the same place of the other queries lies between).
template <typename T, int COUNT>
float weigh(const float *scores, int64_t length, int64_t first, int64_t last, float scaling, char *weights) {
    const auto seen = [&](int64_t i) {
        const int64_t from = first - i, to = last - i;
        const uint32_t below = to >= 15 ? 0xffff : (1u << (to + 1)) - 1;
        return static_cast<__mmask16>(to < 0 ? 0 : from <= 0 ? below : from > 15 ? 0 : below & ~((1u << from) - 1));
    };
    __m512 most = _mm512_set1_ps(-INFINITY);
    for (int64_t i = 0; i < length; i += LANES_512) {
        const __mmask16 mask = seen(i);
        most = _mm512_mask_max_ps(most, mask, most, _mm512_loadu_ps(scores + i));
    }
    const __m512 highest = _mm512_set1_ps(_mm512_reduce_max_ps(most)), factor = _mm512_set1_ps(scaling);
    __m512 sum = _mm512_setzero_ps();
    alignas(64) T rounded[LANES_512];
    for (int64_t i = 0; i < length; i += LANES_512) {
        const __m512 x = _mm512_mul_ps(_mm512_sub_ps(_mm512_loadu_ps(scores + i), highest), factor);
        Number<T>::store16(rounded, _mm512_maskz_mov_ps(seen(i), exponential(x)));
        for (int64_t j = 0; j < LANES_512; j += Number<T>::TOGETHER)
            std::memcpy(weights + (i + j) / Number<T>::TOGETHER * COUNT * 4, rounded + j, 4);
        alignas(64) float exact[LANES_512];  // the sum of the rounded weights: they are shares of 1
        for (int64_t j = 0; j < LANES_512; j++) exact[j] = load(rounded[j]);
        sum = _mm512_add_ps(sum, _mm512_load_ps(exact));
    }
    return _mm512_reduce_add_ps(sum);
}

// Adds the weighted values of one page to REGISTERS registers of each query's output.
template <typename T, int COUNT, int REGISTERS>
void mix_page(const char *weights, const char *values, const char *ahead, int64_t wide, int64_t words,
              __m512 (&sums)[COUNT][REGISTERS]) {
    for (int64_t word = 0; word < words; word++) {
        __m512i from[REGISTERS];
#pragma GCC unroll 4
        for (int j = 0; j < REGISTERS; j++) {
            from[j] = _mm512_loadu_si512(values + word * wide * 4 + j * 64);
            _mm_prefetch(ahead + word * wide * 4 + j * 64, _MM_HINT_T1);
        }
#pragma GCC unroll 8
        for (int q = 0; q < COUNT; q++)
#pragma GCC unroll 4
            for (int j = 0; j < REGISTERS; j++) sums[q][j] = Number<T>::add(sums[q][j], weights + (word * COUNT + q) * 4, from[j]);
    }
}

// The queries of one tile: rows of one sequence, and query heads that share a key head.
template <typename T>
struct Queries {
    int count;
    T *vectors[QUERIES];                    // replaced by the outputs; both [width]
    int64_t first[QUERIES], last[QUERIES];  // the tokens that each sees
};

// What is attended to: pages [begin, end) of a sequence, up to the token `last`.
struct Seen {
    const int64_t *pages;  // their addresses
    int64_t begin, end, last;

    const char *page(int64_t number, int64_t offset) const { return reinterpret_cast<const char *>(pages[number]) + offset; }
    // The page as far from the beginning as `number` is in `other`; where there is none, the last one.
    const char *page_beside(const Seen &other, int64_t number, int64_t offset) const {
        const int64_t own = begin + number - other.begin;
        return page(own < end ? own : end - 1, offset);
    }
};

// The work after this tile. What it reads first is fetched in the meantime.
template <typename T>
struct Ahead {
    Seen seen;
    HeadPlace<T> place;
};

// REGISTERS * 16 places of the outputs, from place `at` on.
template <typename T, int COUNT, int REGISTERS>
void mix(const Seen &seen, const HeadPlace<T> &place, const Ahead<T> &ahead, int64_t at, const char *weights, const float *totals,
         const Queries<T> &queries, int64_t width) {
    constexpr int64_t WORDS = PAGE / Number<T>::TOGETHER;
    __m512 sums[COUNT][REGISTERS];
    for (int q = 0; q < COUNT; q++)
        for (int j = 0; j < REGISTERS; j++) sums[q][j] = _mm512_setzero_ps();
    for (int64_t page = seen.begin; page < seen.end; page++) {
        // Memory after the last token may never have been written.
        const int64_t words = page == seen.last / PAGE ? seen.last % PAGE / Number<T>::TOGETHER + 1 : WORDS;
        const char *shares = weights + (page - seen.begin) * WORDS * COUNT * 4;
        mix_page<T, COUNT, REGISTERS>(shares, seen.page(page, place.values + at * 4),
                                      ahead.seen.page_beside(seen, page, ahead.place.values + at * 4), place.wide, words, sums);
    }
    for (int q = 0; q < COUNT; q++)
        for (int j = 0; j < REGISTERS; j++) {
            alignas(64) T rounded[LANES_512];
            Number<T>::store16(rounded, _mm512_div_ps(sums[q][j], _mm512_set1_ps(totals[q])));
            const int64_t first = at + j * LANES_512, left = width - first, count = left < LANES_512 ? left : LANES_512;
            if (count > 0) std::memcpy(queries.vectors[q] + first, rounded, count * sizeof(T));
        }
}

// Bytes that one thread needs to attend to `length` tokens.
inline int64_t attention_scratch(int64_t length, int64_t width) { return QUERIES * (up_to(length, PAGE) * 8 + width * 4) + 256; }

template <typename T, int COUNT>
void attend_queries(Queries<T> &queries, const Seen &seen, const HeadPlace<T> &place, const Ahead<T> &ahead, int64_t width,
                    float scaling, char *scratch) {
    const int64_t length = (seen.end - seen.begin) * PAGE, before = seen.begin * PAGE;
    char *side_by_side = scratch, *weights = scratch + up_to(COUNT * width * 4, 64);
    float *scores = reinterpret_cast<float *>(weights + up_to(COUNT * length * 4, 64));
    for (int q = 0; q < COUNT; q++)
        for (int64_t word = 0; word < place.words; word++)
            std::memcpy(side_by_side + (word * COUNT + q) * 4, queries.vectors[q] + word * Number<T>::TOGETHER, 4);
    for (int64_t page = seen.begin; page < seen.end; page++)
        scores_of_page<T, COUNT>(side_by_side, seen.page(page, place.keys), ahead.seen.page_beside(seen, page, ahead.place.keys),
                                 place.words, scores + page * PAGE - before, length);
    float totals[COUNT];
    for (int q = 0; q < COUNT; q++)
        totals[q] = weigh<T, COUNT>(scores + q * length, length, queries.first[q] - before, queries.last[q] - before, scaling,
                                    weights + q * 4);
    for (int64_t at = 0; at < place.wide; at += WIDE_REGISTERS * LANES_512) switch (place.wide - at) {
            case 16: mix<T, COUNT, 1>(seen, place, ahead, at, weights, totals, queries, width); break;
            case 32: mix<T, COUNT, 2>(seen, place, ahead, at, weights, totals, queries, width); break;
            case 48: mix<T, COUNT, 3>(seen, place, ahead, at, weights, totals, queries, width); break;
            default: mix<T, COUNT, WIDE_REGISTERS>(seen, place, ahead, at, weights, totals, queries, width);
        }
}

template <typename T>
void attend_to_pages(Queries<T> &queries, const Seen &seen, const HeadPlace<T> &place, const Ahead<T> &ahead, int64_t width,
                     float scaling, char *scratch) {
    using Attend = void (*)(Queries<T> &, const Seen &, const HeadPlace<T> &, const Ahead<T> &, int64_t, float, char *);
    static constexpr Attend ATTEND[QUERIES + 1] = {nullptr,
                                                   attend_queries<T, 1>,
                                                   attend_queries<T, 2>,
                                                   attend_queries<T, 3>,
                                                   attend_queries<T, 4>,
                                                   attend_queries<T, 5>,
                                                   attend_queries<T, 6>};
    ATTEND[queries.count](queries, seen, place, ahead, width, scaling, scratch);
}

}  // namespace

#endif
