// Inner loops on a CPU. For decoding: attention of one new token to its cache, the sum and the norm between the products, and
// drawing the next token. For training: log-probs, entropies and gradients of a softmax over the vocabulary, without an fp32 copy.
//
// kernels.py compiles this file once on the user's machine and documents each argument. torch's own batched products take a
// microsecond for each head of each request, whatever its length, and read the padding too. Every row is computed separately and in
// a fixed order, so its bits do not depend on the batch. Sums are in fp32, sums of sums in double.

#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

#include "common.h"

namespace {

// Attention of one query head to keys and values [count, width] -> output [width]. WIDTH: the width if known at compile time, else 0.
template <typename T, int WIDTH>
void attend_head(const float *query, const T *keys, const T *values, int64_t count, int64_t any_width, float *weights, T *output) {
    const int64_t width = WIDTH ? WIDTH : any_width;
    float highest = -INFINITY;
    for (int64_t i = 0; i < count; i++) {
        const T *key = keys + i * width;
        float score = 0;
#pragma omp simd reduction(+ : score)
        for (int64_t j = 0; j < width; j++) score += query[j] * load(key[j]);
        weights[i] = score;
        highest = score > highest ? score : highest;
    }
    float total = 0;
#pragma omp simd reduction(+ : total)
    for (int64_t i = 0; i < count; i++) {
        weights[i] = exponential(weights[i] - highest);
        total += weights[i];
    }
    alignas(64) float sums[WIDTH ? WIDTH : 1024] = {};
    for (int64_t i = 0; i < count; i++) {
        const T *value = values + i * width;
        const float weight = weights[i];
#pragma omp simd
        for (int64_t j = 0; j < width; j++) sums[j] += weight * load(value[j]);
    }
    for (int64_t j = 0; j < width; j++) store(output[j], sums[j] / total);
}

template <typename T, int WIDTH>
void attend_rows(int64_t rows, int64_t key_heads, int64_t queries, int64_t width, int64_t length, const T *query, int64_t query_stride,
                 const T *key, const T *value, int64_t key_stride, T *keys, T *values, const int64_t *positions, int64_t window,
                 float scaling, T *output) {
#pragma omp parallel if (rows * key_heads * length * width > 65536)
    {
        std::vector<float> weights(length);
        alignas(64) float scaled[1024];
#pragma omp for schedule(static)
        for (int64_t item = 0; item < rows * key_heads; item++) {
            const int64_t row = item / key_heads, head = item % key_heads, last = positions[row];
            T *row_keys = keys + item * length * width, *row_values = values + item * length * width;
            std::memcpy(row_keys + last * width, key + row * key_stride + head * width, width * sizeof(T));
            std::memcpy(row_values + last * width, value + row * key_stride + head * width, width * sizeof(T));
            const int64_t first = window && last >= window ? last - window + 1 : 0;
            for (int64_t g = head * queries; g < (head + 1) * queries; g++) {
                const T *from = query + row * query_stride + g * width;
                for (int64_t j = 0; j < width; j++) scaled[j] = scaling * load(from[j]);
                attend_head<T, WIDTH>(scaled, row_keys + first * width, row_values + first * width, last - first + 1, width,
                                      weights.data(), output + (row * key_heads * queries + g) * width);
            }
        }
    }
}

template <typename T, typename... Arguments>
void attend(int64_t rows, int64_t key_heads, int64_t queries, int64_t width, Arguments... more) {
    switch (width) {
        case 32: return attend_rows<T, 32>(rows, key_heads, queries, width, more...);
        case 64: return attend_rows<T, 64>(rows, key_heads, queries, width, more...);
        case 128: return attend_rows<T, 128>(rows, key_heads, queries, width, more...);
        default: return attend_rows<T, 0>(rows, key_heads, queries, width, more...);
    }
}

// hidden += addend (if there is one), then output = layer norm of hidden.
template <typename T>
void add_norm(int64_t rows, int64_t width, T *hidden, const T *addend, const T *weight, const T *bias, float epsilon, T *output) {
#pragma omp parallel for schedule(static) if (rows * width > 65536)
    for (int64_t row = 0; row < rows; row++) {
        T *x = hidden + row * width, *to = output + row * width;
        const T *y = addend + (addend ? row * width : 0);
        float sum = 0, squares = 0;
        if (addend) {
#pragma omp simd
            for (int64_t j = 0; j < width; j++) store(x[j], load(x[j]) + load(y[j]));
        }
#pragma omp simd reduction(+ : sum)
        for (int64_t j = 0; j < width; j++) sum += load(x[j]);
        const float mean = sum / width;
#pragma omp simd reduction(+ : squares)
        for (int64_t j = 0; j < width; j++) squares += (load(x[j]) - mean) * (load(x[j]) - mean);
        const float scale = 1 / std::sqrt(squares / width + epsilon);
#pragma omp simd
        for (int64_t j = 0; j < width; j++) store(to[j], (load(x[j]) - mean) * scale * load(weight[j]) + load(bias[j]));
    }
}

constexpr int64_t BLOCK = 128;

template <typename T>
float highest_of(const T *scores, int64_t count) {
    float highest = -INFINITY;
#pragma omp simd reduction(max : highest)
    for (int64_t i = 0; i < count; i++) highest = load(scores[i]) > highest ? load(scores[i]) : highest;
    return highest;
}

// Sums e^x, and x * e^x, over x = scale * (score - highest). The entropy is log(total) - weighted / total.
template <typename T>
void softmax_sums(const T *scores, int64_t count, float scale, float highest, double *total, double *weighted) {
    *total = *weighted = 0;
    for (int64_t first = 0; first < count; first += BLOCK) {
        const int64_t end = first + BLOCK < count ? first + BLOCK : count;
        float sum = 0, product = 0;
#pragma omp simd reduction(+ : sum, product)
        for (int64_t i = first; i < end; i++) {
            const float x = scale * (load(scores[i]) - highest), weight = exponential(x);
            sum += weight;
            product += weight == 0 ? 0 : weight * x;  // 0 * -inf counts as 0
        }
        *total += sum;
        *weighted += product;
    }
}

template <typename T>
void token_statistics(int64_t rows, int64_t vocabulary, const T *logits, float scale, const int64_t *tokens, float *logprobs,
                      float *entropies) {
#pragma omp parallel for schedule(static) if (rows * vocabulary > 65536)
    for (int64_t row = 0; row < rows; row++) {
        const T *scores = logits + row * vocabulary;
        const float highest = highest_of(scores, vocabulary);
        double total, weighted;
        softmax_sums(scores, vocabulary, scale, highest, &total, &weighted);
        logprobs[row] = static_cast<float>(scale * (load(scores[tokens[row]]) - highest) - std::log(total));
        entropies[row] = static_cast<float>(std::log(total) - weighted / total);
    }
}

// Logits become softmax(scale * logits) - onehot(token), in place.
template <typename T>
void softmax_less_token(int64_t rows, int64_t vocabulary, T *logits, float scale, const int64_t *tokens) {
#pragma omp parallel for schedule(static) if (rows * vocabulary > 65536)
    for (int64_t row = 0; row < rows; row++) {
        T *scores = logits + row * vocabulary;
        const float highest = highest_of(scores, vocabulary);
        double total, weighted;
        softmax_sums(scores, vocabulary, scale, highest, &total, &weighted);
        const float share = static_cast<float>(1 / total);
        const float token = share * exponential(scale * (load(scores[tokens[row]]) - highest)) - 1;
#pragma omp simd
        for (int64_t i = 0; i < vocabulary; i++) store(scores[i], share * exponential(scale * (load(scores[i]) - highest)));
        store(scores[tokens[row]], token);
    }
}

template <typename T>
void draw(int64_t rows, int64_t vocabulary, const T *logits, int64_t stride, const double *numbers, int64_t *tokens, float *logprobs) {
    const int64_t blocks = (vocabulary + BLOCK - 1) / BLOCK;
#pragma omp parallel if (rows * vocabulary > 65536)
    {
        std::vector<float> weights(blocks * BLOCK);
        std::vector<double> sums(blocks);
#pragma omp for schedule(static)
        for (int64_t row = 0; row < rows; row++) {
            const T *scores = logits + row * stride;
            const float highest = highest_of(scores, vocabulary);
            double total = 0;
            for (int64_t block = 0; block < blocks; block++) {
                const int64_t first = block * BLOCK, count = vocabulary - first < BLOCK ? vocabulary - first : BLOCK;
                float sum = 0;
#pragma omp simd reduction(+ : sum)
                for (int64_t i = 0; i < count; i++) {
                    weights[first + i] = exponential(load(scores[first + i]) - highest);
                    sum += weights[first + i];
                }
                sums[block] = sum;
                total += sum;
            }
            // The token at which the cumulative distribution exceeds the number: first find its block, then its place in it.
            const double target = numbers[row] * total;
            double before = 0;
            int64_t block = 0;
            while (block + 1 < blocks && before + sums[block] <= target) before += sums[block++];
            const int64_t first = block * BLOCK, end = first + BLOCK < vocabulary ? first + BLOCK : vocabulary;
            double inner = 0, passed = 0;
            for (int64_t i = first; i < end; i++) inner += weights[i];
            double share = (target - before) / sums[block];
            const double wanted = inner * (share < 1 ? share : 1 - 0x1p-53);
            int64_t token = first;  // if rounding leaves no token, the last possible one
            for (int64_t i = first; i < end && passed <= wanted; i++) {
                passed += weights[i];
                if (weights[i] > 0) token = i;
            }
            tokens[row] = token;
            logprobs[row] = static_cast<float>(load(scores[token]) - highest - std::log(total));
        }
    }
}

}  // namespace

extern "C" {

#define ATTEND(NAME, T)                                                                                                               \
    void NAME(int64_t rows, int64_t key_heads, int64_t queries, int64_t width, int64_t length, const T *query, int64_t query_stride,   \
              const T *key, const T *value, int64_t key_stride, T *keys, T *values, const int64_t *positions, int64_t window,          \
              float scaling, T *output) {                                                                                              \
        attend<T>(rows, key_heads, queries, width, length, query, query_stride, key, value, key_stride, keys, values, positions,       \
                  window, scaling, output);                                                                                            \
    }
ATTEND(attend_float32, float)
ATTEND(attend_bfloat16, bfloat16)

#define ADD_NORM(NAME, T)                                                                                                             \
    void NAME(int64_t rows, int64_t width, T *hidden, const T *addend, const T *weight, const T *bias, float epsilon, T *output) {     \
        add_norm<T>(rows, width, hidden, addend, weight, bias, epsilon, output);                                                       \
    }
ADD_NORM(add_norm_float32, float)
ADD_NORM(add_norm_bfloat16, bfloat16)

void token_statistics_bfloat16(int64_t rows, int64_t vocabulary, const bfloat16 *logits, float scale, const int64_t *tokens,
                               float *logprobs, float *entropies) {
    token_statistics(rows, vocabulary, logits, scale, tokens, logprobs, entropies);
}

void softmax_less_token_bfloat16(int64_t rows, int64_t vocabulary, bfloat16 *logits, float scale, const int64_t *tokens) {
    softmax_less_token(rows, vocabulary, logits, scale, tokens);
}

#define DRAW(NAME, T)                                                                                                                 \
    void NAME(int64_t rows, int64_t vocabulary, const T *logits, int64_t stride, const double *numbers, int64_t *tokens,              \
              float *logprobs) {                                                                                                       \
        draw<T>(rows, vocabulary, logits, stride, numbers, tokens, logprobs);                                                          \
    }
DRAW(draw_float32, float)
DRAW(draw_bfloat16, bfloat16)
}
