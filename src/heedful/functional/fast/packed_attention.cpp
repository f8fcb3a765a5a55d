// Attention of packed rows, forward and backward (kernels.py documents each argument).
//
// A group is a context (a prompt, or a whole sequence) and its branches (the responses). The context sees itself causally. A branch
// sees the whole context, and itself causally. One thread computes one group and key head in a fixed order, so the bits do not
// depend on the number of threads. Keys and values of a group are converted to fp32 once. Scores exist only for a few queries at a
// time; the backward pass recomputes them, so nothing is kept between the two passes. A processor with tiles (AMX) computes bf16 by
// tile_attention.h instead.

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

#include "common.h"
#include "tile_attention.h"

namespace {

constexpr int64_t LANES = 16;        // floats of a vector; widths and lengths are padded to it
constexpr int64_t QUERIES = 32;      // processed at a time: their scores stay in the second-level cache
#ifdef __AVX512F__
constexpr int TILE_VECTORS = 4;
#else
constexpr int TILE_VECTORS = 2;
#endif

typedef float Vector __attribute__((vector_size(LANES * sizeof(float)), aligned(4), may_alias));

inline int64_t padded(int64_t n) { return (n + LANES - 1) / LANES * LANES; }

// A tile of C [ROWS, VECTORS * 16] (+)= A [ROWS, depth] B [depth, ...]; A's element (i, k) is at i * row + k * column.
template <int ROWS, int VECTORS>
void tile(int64_t depth, const float *a, int64_t row, int64_t column, const float *b, int64_t b_row, float *c, int64_t c_row, bool add) {
    Vector sums[ROWS][VECTORS];
    for (int i = 0; i < ROWS; i++)
        for (int j = 0; j < VECTORS; j++) sums[i][j] = add ? *reinterpret_cast<const Vector *>(c + i * c_row + j * LANES) : Vector{};
    for (int64_t k = 0; k < depth; k++) {
        Vector from[VECTORS];
        for (int j = 0; j < VECTORS; j++) from[j] = *reinterpret_cast<const Vector *>(b + k * b_row + j * LANES);
        for (int i = 0; i < ROWS; i++) {
            const float factor = a[i * row + k * column];
            for (int j = 0; j < VECTORS; j++) sums[i][j] += factor * from[j];
        }
    }
    for (int i = 0; i < ROWS; i++)
        for (int j = 0; j < VECTORS; j++) *reinterpret_cast<Vector *>(c + i * c_row + j * LANES) = sums[i][j];
}

template <int ROWS, typename... Arguments>
void tile_of_vectors(int vectors, Arguments... more) {
    switch (vectors) {
        case 1: return tile<ROWS, 1>(more...);
        case 2: return tile<ROWS, 2>(more...);
#ifdef __AVX512F__
        case 3: return tile<ROWS, 3>(more...);
        default: return tile<ROWS, 4>(more...);
#endif
    }
}

// C [rows, columns] (+)= A [rows, depth] B [depth, columns]; columns is a multiple of 16.
void product(int64_t rows, int64_t columns, int64_t depth, const float *a, int64_t row, int64_t column, const float *b, int64_t b_row,
             float *c, int64_t c_row, bool add) {
    for (int64_t j = 0; j < columns; j += TILE_VECTORS * LANES) {
        const int vectors = static_cast<int>(std::min<int64_t>(TILE_VECTORS, (columns - j) / LANES));
        for (int64_t i = 0; i < rows;) {
            const int64_t left = rows - i;
            const float *from = a + i * row;
            float *to = c + i * c_row + j;
#ifdef __AVX512F__
            if (left >= 6) {
                tile_of_vectors<6>(vectors, depth, from, row, column, b + j, b_row, to, c_row, add);
                i += 6;
                continue;
            }
            if (left >= 4) {
                tile_of_vectors<4>(vectors, depth, from, row, column, b + j, b_row, to, c_row, add);
                i += 4;
                continue;
            }
#endif
            if (left >= 2) {
                tile_of_vectors<2>(vectors, depth, from, row, column, b + j, b_row, to, c_row, add);
                i += 2;
                continue;
            }
            tile_of_vectors<1>(vectors, depth, from, row, column, b + j, b_row, to, c_row, add);
            i += 1;
        }
    }
}

// Multiplies rows [count, width] of one head, `stride` apart, by a factor -> fp32 [count, padded width].
template <typename T>
void gather(const T *from, int64_t stride, int64_t count, int64_t width, float factor, float *to) {
    const int64_t wide = padded(width);
    for (int64_t i = 0; i < count; i++) {
        const T *row = from + i * stride;
        float *row_to = to + i * wide;
#pragma omp simd
        for (int64_t j = 0; j < width; j++) row_to[j] = factor * load(row[j]);
        for (int64_t j = width; j < wide; j++) row_to[j] = 0;
    }
}

// Transposes fp32 [count, padded width] into [width, ...], rows `length` apart, starting at column `first`.
void transpose(const float *from, int64_t count, int64_t width, float *to, int64_t length, int64_t first) {
    const int64_t wide = padded(width);
    for (int64_t i = 0; i < count; i++)
        for (int64_t j = 0; j < width; j++) to[j * length + first + i] = from[i * wide + j];
}

template <typename T>
void scatter(const float *from, int64_t count, int64_t width, float factor, T *to, int64_t stride) {
    const int64_t wide = padded(width);
    for (int64_t i = 0; i < count; i++) {
#pragma omp simd
        for (int64_t j = 0; j < width; j++) store(to[i * stride + j], factor * from[i * wide + j]);
    }
}

// Scores [queries, keys] of queries at positions first, first + 1, ... -> softmax over the keys each query sees, 0 elsewhere.
void causal_softmax(float *scores, int64_t queries, int64_t keys, int64_t first, int64_t window) {
    for (int64_t i = 0; i < queries; i++) {
        float *row = scores + i * keys;
        const int64_t end = first + i + 1, begin = window && end > window ? end - window : 0;
        float highest = row[begin];
#pragma omp simd reduction(max : highest)
        for (int64_t j = begin; j < end; j++) highest = row[j] > highest ? row[j] : highest;
        float total = 0;
#pragma omp simd reduction(+ : total)
        for (int64_t j = begin; j < end; j++) {
            row[j] = exponential(row[j] - highest);
            total += row[j];
        }
        const float share = 1 / total;
        for (int64_t j = 0; j < begin; j++) row[j] = 0;
#pragma omp simd
        for (int64_t j = begin; j < end; j++) row[j] *= share;
        for (int64_t j = end; j < keys; j++) row[j] = 0;
    }
}

// dP -> dS = P * (dP - sum of P * dP), row by row, in place.
void softmax_backward(const float *weights, float *gradients, int64_t queries, int64_t keys) {
    for (int64_t i = 0; i < queries; i++) {
        const float *p = weights + i * keys;
        float *g = gradients + i * keys;
        float sum = 0;
#pragma omp simd reduction(+ : sum)
        for (int64_t j = 0; j < keys; j++) sum += p[j] * g[j];
#pragma omp simd
        for (int64_t j = 0; j < keys; j++) g[j] = p[j] * (g[j] - sum);
    }
}

// The arguments of all calls: rows of queries, keys and values, and the ranges that see each other.
template <typename T>
struct Problem {
    int64_t groups, key_heads, repeats, width;  // repeats: query heads per key head
    const T *query, *key, *value;               // [rows, heads, width]; rows are `..._row` apart
    int64_t query_row, key_row, value_row;
    const int64_t *contexts;  // [groups, 4]: first row, length, first and last + 1 of the queries to compute
    const int64_t *branches;  // [branches, 4]: the same
    const int64_t *first_branch;  // [groups + 1]
    int64_t window;
    float scaling;
};

struct Scratch {
    std::vector<float> key, key_transposed, value, value_transposed, key_gradient, value_gradient, query, scores, gradient, output, more;

    Scratch(int64_t length, int64_t width, bool backward) {
        const int64_t wide = padded(width), long_ = padded(length);
        key.resize(long_ * wide);
        key_transposed.resize(width * long_);
        value.resize(long_ * wide);
        query.resize(QUERIES * wide);
        output.resize(QUERIES * wide);
        scores.resize(QUERIES * long_);
        if (backward) {
            value_transposed.resize(width * long_);
            key_gradient.resize(long_ * wide);
            value_gradient.resize(long_ * wide);
            gradient.resize(QUERIES * wide);
            more.resize(QUERIES * long_);
        }
    }
};

template <typename T>
int64_t longest(const Problem<T> &p) {
    int64_t result = 0;
    for (int64_t g = 0; g < p.groups; g++) {
        int64_t length = p.contexts[4 * g + 1], branch = 0;
        for (int64_t b = p.first_branch[g]; b < p.first_branch[g + 1]; b++) branch = std::max(branch, p.branches[4 * b + 1]);
        result = std::max(result, length + branch);
    }
    return result;
}

// Copies keys and values of `count` rows, starting at `start`, to positions `position`, position + 1, ... of the current group.
template <typename T>
void bring(const Problem<T> &p, Scratch &s, int64_t head, int64_t start, int64_t count, int64_t position, int64_t length, bool backward) {
    const int64_t wide = padded(p.width);
    gather(p.key + start * p.key_row + head * p.width, p.key_row, count, p.width, 1, s.key.data() + position * wide);
    transpose(s.key.data() + position * wide, count, p.width, s.key_transposed.data(), length, position);
    gather(p.value + start * p.value_row + head * p.width, p.value_row, count, p.width, 1, s.value.data() + position * wide);
    if (backward) {
        transpose(s.value.data() + position * wide, count, p.width, s.value_transposed.data(), length, position);
        std::fill_n(s.key_gradient.data() + position * wide, count * wide, 0.0f);
        std::fill_n(s.value_gradient.data() + position * wide, count * wide, 0.0f);
    }
}

// Queries [from, to) of a range that starts at row `start` and position `position`.
template <typename T>
void forward_range(const Problem<T> &p, Scratch &s, int64_t head, const int64_t *range, int64_t position, int64_t length, T *output) {
    const int64_t start = range[0], from = range[2], to = range[3], wide = padded(p.width), heads = p.key_heads * p.repeats;
    for (int64_t q = head * p.repeats; q < (head + 1) * p.repeats; q++) {
        for (int64_t first = from; first < to; first += QUERIES) {
            const int64_t count = std::min(QUERIES, to - first), row = start + first, keys = padded(position + first + count);
            gather(p.query + row * p.query_row + q * p.width, p.query_row, count, p.width, p.scaling, s.query.data());
            product(count, keys, p.width, s.query.data(), wide, 1, s.key_transposed.data(), length, s.scores.data(), keys, false);
            causal_softmax(s.scores.data(), count, keys, position + first, p.window);
            product(count, wide, position + first + count, s.scores.data(), keys, 1, s.value.data(), wide, s.output.data(), wide, false);
            scatter(s.output.data(), count, p.width, 1, output + (row * heads + q) * p.width, heads * p.width);
        }
    }
}

template <typename T>
void backward_range(const Problem<T> &p, Scratch &s, int64_t head, const int64_t *range, int64_t position, int64_t length,
                    const T *output_gradient, T *query_gradient) {
    const int64_t start = range[0], from = range[2], to = range[3], wide = padded(p.width), heads = p.key_heads * p.repeats;
    for (int64_t q = head * p.repeats; q < (head + 1) * p.repeats; q++) {
        for (int64_t first = from; first < to; first += QUERIES) {
            const int64_t count = std::min(QUERIES, to - first), row = start + first, seen = position + first + count, keys = padded(seen);
            const int64_t place = (row * heads + q) * p.width;
            float *weights = s.scores.data(), *scores = s.more.data();
            gather(p.query + row * p.query_row + q * p.width, p.query_row, count, p.width, p.scaling, s.query.data());
            gather(output_gradient + place, heads * p.width, count, p.width, 1, s.gradient.data());
            product(count, keys, p.width, s.query.data(), wide, 1, s.key_transposed.data(), length, weights, keys, false);
            causal_softmax(weights, count, keys, position + first, p.window);
            product(count, keys, p.width, s.gradient.data(), wide, 1, s.value_transposed.data(), length, scores, keys, false);
            product(seen, wide, count, weights, 1, keys, s.gradient.data(), wide, s.value_gradient.data(), wide, true);
            softmax_backward(weights, scores, count, keys);
            product(seen, wide, count, scores, 1, keys, s.query.data(), wide, s.key_gradient.data(), wide, true);
            product(count, wide, seen, scores, keys, 1, s.key.data(), wide, s.output.data(), wide, false);
            scatter(s.output.data(), count, p.width, p.scaling, query_gradient + place, heads * p.width);
        }
    }
}

// For every group and key head: calls `attend` on each range once its keys and values are ready, then `done` on each range, the
// branches before the context.
template <typename Memory, typename T, typename Attend, typename Done>
void each_range(const Problem<T> &p, bool backward, Attend attend, Done done) {
    const int64_t most = longest(p), length = padded(most);
#pragma omp parallel
    {
        Memory scratch(most, p.width, backward);
#pragma omp for schedule(dynamic)
        for (int64_t item = 0; item < p.groups * p.key_heads; item++) {
            const int64_t group = item / p.key_heads, head = item % p.key_heads;
            const int64_t *context = p.contexts + 4 * group;
            bring(p, scratch, head, context[0], context[1], 0, length, backward);
            attend(scratch, head, context, 0, length);
            for (int64_t b = p.first_branch[group]; b < p.first_branch[group + 1]; b++) {
                const int64_t *branch = p.branches + 4 * b;
                bring(p, scratch, head, branch[0], branch[1], context[1], length, backward);
                attend(scratch, head, branch, context[1], length);
                done(scratch, head, branch, context[1]);
            }
            done(scratch, head, context, 0);
        }
    }
}

template <typename Memory, typename T>
void forward_in(const Problem<T> &p, T *output) {
    each_range<Memory>(
        p, false,
        [&](Memory &s, int64_t head, const int64_t *range, int64_t position, int64_t length) {
            forward_range(p, s, head, range, position, length, output);
        },
        [](Memory &, int64_t, const int64_t *, int64_t) {});
}

template <typename T>
void put_gradients(Scratch &s, int64_t position, int64_t count, int64_t width, float, T *key, T *value, int64_t stride) {
    const int64_t wide = padded(width);
    scatter(s.key_gradient.data() + position * wide, count, width, 1, key, stride);
    scatter(s.value_gradient.data() + position * wide, count, width, 1, value, stride);
}

template <typename Memory, typename T>
void backward_in(const Problem<T> &p, const T *output_gradient, T *query_gradient, T *key_gradient, T *value_gradient) {
    const int64_t stride = p.key_heads * p.width;
    each_range<Memory>(
        p, true,
        [&](Memory &s, int64_t head, const int64_t *range, int64_t position, int64_t length) {
            backward_range(p, s, head, range, position, length, output_gradient, query_gradient);
        },
        [&](Memory &s, int64_t head, const int64_t *range, int64_t position) {
            const int64_t place = range[0] * stride + head * p.width;
            put_gradients(s, position, range[1], p.width, p.scaling, key_gradient + place, value_gradient + place, stride);
        });
}

#if HAS_BFLOAT16_TILES
void put_gradients(TileScratch &s, int64_t position, int64_t count, int64_t width, float scaling, bfloat16 *key, bfloat16 *value, int64_t stride) {
    scatter_keys(lines(s.key_gradient), position, count, width, scaling, key, stride);
    scatter_keys(lines(s.value_gradient), position, count, width, 1, value, stride);
}
#endif

// Returns from the function if tiles can do it: bf16, and heads of 32, 64, 96, ... numbers.
#if HAS_BFLOAT16_TILES
#define RETURN_FROM_TILES(CALL)                                                   \
    if constexpr (std::is_same_v<T, bfloat16>)                                    \
        if (p.width % SIDE == 0 && tiles_are_granted()) return CALL
#else
#define RETURN_FROM_TILES(CALL)
#endif

template <typename T>
void forward(const Problem<T> &p, T *output) {
    RETURN_FROM_TILES(forward_in<TileScratch>(p, output));
    forward_in<Scratch>(p, output);
}

template <typename T>
void backward(const Problem<T> &p, const T *output_gradient, T *query_gradient, T *key_gradient, T *value_gradient) {
    RETURN_FROM_TILES(backward_in<TileScratch>(p, output_gradient, query_gradient, key_gradient, value_gradient));
    backward_in<Scratch>(p, output_gradient, query_gradient, key_gradient, value_gradient);
}

}  // namespace

#define PACKED_ATTENTION(KIND, T)                                                                                                        \
    extern "C" void packed_attention_##KIND(int64_t groups, int64_t key_heads, int64_t repeats, int64_t width, const T *query,          \
                                            const T *key, const T *value, int64_t query_row, int64_t key_row, int64_t value_row,        \
                                            const int64_t *contexts, const int64_t *branches, const int64_t *first_branch,              \
                                            int64_t window, float scaling, T *output) {                                                 \
        forward<T>({groups, key_heads, repeats, width, query, key, value, query_row, key_row, value_row, contexts, branches,            \
                    first_branch, window, scaling}, output);                                                                             \
    }                                                                                                                                    \
    extern "C" void packed_attention_backward_##KIND(                                                                                   \
        int64_t groups, int64_t key_heads, int64_t repeats, int64_t width, const T *query, const T *key, const T *value,                \
        int64_t query_row, int64_t key_row, int64_t value_row, const int64_t *contexts, const int64_t *branches,                        \
        const int64_t *first_branch, int64_t window, float scaling, const T *output_gradient, T *query_gradient, T *key_gradient,       \
        T *value_gradient) {                                                                                                             \
        backward<T>({groups, key_heads, repeats, width, query, key, value, query_row, key_row, value_row, contexts, branches,           \
                     first_branch, window, scaling}, output_gradient, query_gradient, key_gradient, value_gradient);                    \
    }

PACKED_ATTENTION(float32, float)
PACKED_ATTENTION(bfloat16, bfloat16)
