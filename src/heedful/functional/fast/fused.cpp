// The operations between the products of a rotary, gated model in training: the root-mean-square norm, the gated activation and the
// rotation by position, each with its gradient in one pass over memory.
//
// fused.py documents each argument. Arithmetic is in fp32; a row's bits do not depend on the other rows. torch's own operations
// read and write every intermediate result, most of them in fp32.

#include <cmath>
#include <cstdint>
#include <vector>

#include <omp.h>

#include "activations.h"
#include "common.h"

namespace {

constexpr int64_t WORTH_THREADS = 65536;

template <typename T>
float rounded(float x) {
    T number;
    store(number, x);
    return load(number);
}

// output = x / rms(x), times (offset + weight). Without an offset the quotient is rounded first, as Llama's class does.
template <typename T>
void rms_norm(int64_t rows, int64_t width, const T *input, const T *weight, float offset, float epsilon, T *output, float *scales) {
#pragma omp parallel for schedule(static) if (rows * width > WORTH_THREADS)
    for (int64_t row = 0; row < rows; row++) {
        const T *x = input + row * width;
        T *to = output + row * width;
        float squares = 0;
#pragma omp simd reduction(+ : squares)
        for (int64_t j = 0; j < width; j++) squares += load(x[j]) * load(x[j]);
        const float scale = 1 / std::sqrt(squares / width + epsilon);
        scales[row] = scale;
        if (offset == 0) {
#pragma omp simd
            for (int64_t j = 0; j < width; j++) store(to[j], rounded<T>(load(x[j]) * scale) * load(weight[j]));
        } else {
#pragma omp simd
            for (int64_t j = 0; j < width; j++) store(to[j], load(x[j]) * scale * (offset + load(weight[j])));
        }
    }
}

// With n = x * scale and h = gradient * (offset + weight): x's gradient is scale * (h - n * mean(h * n)), the weight's the sum of
// gradient * n over rows. Each thread adds up its own rows; their sums are added in the threads' order.
template <typename T>
void rms_norm_backward(int64_t rows, int64_t width, const T *gradient, const T *input, const T *weight, float offset,
                       const float *scales, T *input_gradient, float *weight_gradient) {
    const bool many = rows * width > WORTH_THREADS;
    const int64_t most = many ? omp_get_max_threads() : 1;
    std::vector<float> sums(most * width, 0.0f);
#pragma omp parallel num_threads(most) if (many)
    {
        float *sum = sums.data() + omp_get_thread_num() * width;
#pragma omp for schedule(static)
        for (int64_t row = 0; row < rows; row++) {
            const T *g = gradient + row * width, *x = input + row * width;
            T *to = input_gradient + row * width;
            const float scale = scales[row];
            float product = 0;
#pragma omp simd reduction(+ : product)
            for (int64_t j = 0; j < width; j++) product += load(g[j]) * (offset + load(weight[j])) * load(x[j]);
            const float share = product * scale * scale / width;
#pragma omp simd
            for (int64_t j = 0; j < width; j++) {
                sum[j] += load(g[j]) * load(x[j]) * scale;
                store(to[j], scale * (load(g[j]) * (offset + load(weight[j])) - load(x[j]) * share));
            }
        }
    }
    for (int64_t j = 0; j < width; j++) {
        float total = 0;
        for (int64_t thread = 0; thread < most; thread++) total += sums[thread * width + j];
        weight_gradient[j] = total;
    }
}

// Both activations are x * sigmoid(z(x)): SiLU with z = x, GELU by tanh with z = 1.5957... (x + 0.0447... x^3).
template <bool TANH>
inline void gate_of(float x, float &sigmoid, float &slope) {
    const float z = TANH ? 1.59576912f * (x + 0.044715f * x * x * x) : x;
    const float small = exponential(-std::fabs(z));
    sigmoid = (z > 0 ? 1.0f : small) / (1 + small);
    slope = TANH ? 1.59576912f * (1 + 0.134145f * x * x) : 1.0f;
}

template <typename T, bool TANH>
void gated_rows(int64_t count, const T *gate, const T *up, T *output) {
#pragma omp parallel for simd schedule(static) if (count > WORTH_THREADS)
    for (int64_t i = 0; i < count; i++) {
        float sigmoid, slope;
        const float x = load(gate[i]);
        gate_of<TANH>(x, sigmoid, slope);
        store(output[i], rounded<T>(x * sigmoid) * load(up[i]));
    }
}

template <typename T, bool TANH>
void gated_rows_backward(int64_t count, const T *gradient, const T *gate, const T *up, T *gate_gradient, T *up_gradient) {
#pragma omp parallel for simd schedule(static) if (count > WORTH_THREADS)
    for (int64_t i = 0; i < count; i++) {
        float sigmoid, slope;
        const float x = load(gate[i]), g = load(gradient[i]);
        gate_of<TANH>(x, sigmoid, slope);
        store(gate_gradient[i], g * load(up[i]) * sigmoid * (1 + x * (1 - sigmoid) * slope));
        store(up_gradient[i], g * rounded<T>(x * sigmoid));
    }
}

// Each head's halves a, b become a * cos - b * sin and b * cos + a * sin. sign = -1 rotates back, which is the gradient.
template <typename T>
void rotate(int64_t tokens, int64_t heads, int64_t width, const T *input, int64_t stride, const T *cosines, const T *sines, float sign,
            T *output) {
    const int64_t half = width / 2;
#pragma omp parallel for schedule(static) if (tokens * heads * width > WORTH_THREADS)
    for (int64_t token = 0; token < tokens; token++) {
        const T *c = cosines + token * width, *s = sines + token * width;
        for (int64_t head = 0; head < heads; head++) {
            const T *a = input + token * stride + head * width, *b = a + half;
            T *to = output + (token * heads + head) * width;
            // The gradient uses the sines of the half to which it goes, not of the half from which it comes.
            const T *first = sign > 0 ? s : s + half, *second = sign > 0 ? s + half : s;
#pragma omp simd
            for (int64_t j = 0; j < half; j++) {
                store(to[j], load(a[j]) * load(c[j]) - sign * load(b[j]) * load(first[j]));
                store(to[half + j], load(b[j]) * load(c[half + j]) + sign * load(a[j]) * load(second[j]));
            }
        }
    }
}

}  // namespace

extern "C" {

#define FUSED(KIND, T)                                                                                                                \
    void rms_norm_##KIND(int64_t rows, int64_t width, const T *input, const T *weight, float offset, float epsilon, T *output,        \
                         float *scales) {                                                                                             \
        rms_norm<T>(rows, width, input, weight, offset, epsilon, output, scales);                                                     \
    }                                                                                                                                 \
    void rms_norm_backward_##KIND(int64_t rows, int64_t width, const T *gradient, const T *input, const T *weight, float offset,      \
                                  const float *scales, T *input_gradient, float *weight_gradient) {                                   \
        rms_norm_backward<T>(rows, width, gradient, input, weight, offset, scales, input_gradient, weight_gradient);                  \
    }                                                                                                                                 \
    void gated_##KIND(int64_t count, int64_t tanh, const T *gate, const T *up, T *output) {                                           \
        tanh ? gated_rows<T, true>(count, gate, up, output) : gated_rows<T, false>(count, gate, up, output);                          \
    }                                                                                                                                 \
    void gated_backward_##KIND(int64_t count, int64_t tanh, const T *gradient, const T *gate, const T *up, T *gate_gradient,          \
                               T *up_gradient) {                                                                                      \
        tanh ? gated_rows_backward<T, true>(count, gradient, gate, up, gate_gradient, up_gradient)                                    \
             : gated_rows_backward<T, false>(count, gradient, gate, up, gate_gradient, up_gradient);                                  \
    }                                                                                                                                 \
    void rotate_##KIND(int64_t tokens, int64_t heads, int64_t width, const T *input, int64_t stride, const T *cosines, const T *sines, \
                       float sign, T *output) {                                                                                       \
        rotate<T>(tokens, heads, width, input, stride, cosines, sines, sign, output);                                                 \
    }
FUSED(float32, float)
FUSED(bfloat16, bfloat16)
}
