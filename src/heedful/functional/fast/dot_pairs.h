// Multiply 32 bits of a row (one fp32 input or two bf16 inputs) by 16 columns of a packed weight or of a cache.
//
// bf16 is left out on processors that lack the instruction for it.

#pragma once

#include "common.h"

#if defined(__AVX512F__) && defined(__AVX512BW__)
#include <immintrin.h>

#include <initializer_list>

#define HAS_FLOAT32_PRODUCTS 1

namespace {

constexpr int64_t LANES_512 = 16;  // floats of a register

// e^x with a relative error below 3e-7 for every x; 0 or infinity if a float cannot hold it.
inline __m512 exponential(__m512 x) {
    const __m512 whole = _mm512_roundscale_ps(_mm512_mul_ps(x, _mm512_set1_ps(1.44269504f)), _MM_FROUND_TO_NEAREST_INT);
    __m512 part = _mm512_fnmadd_ps(whole, _mm512_set1_ps(0.693359375f), x);  // ln 2 in two parts
    part = _mm512_fnmadd_ps(whole, _mm512_set1_ps(-2.12194440e-4f), part);
    __m512 result = _mm512_set1_ps(1.0f / 720);
    for (const float factor : {1.0f / 120, 1.0f / 24, 1.0f / 6, 0.5f, 1.0f, 1.0f})
        result = _mm512_fmadd_ps(result, part, _mm512_set1_ps(factor));
    return _mm512_scalef_ps(result, whole);
}

template <typename T>
struct Number;

template <>
struct Number<float> {
    static constexpr int64_t TOGETHER = 1;  // inputs in 32 bits
    static __m512 add(__m512 sum, const char *input, __m512i weight) {
        float value;
        std::memcpy(&value, input, sizeof value);
        return _mm512_fmadd_ps(_mm512_set1_ps(value), _mm512_castsi512_ps(weight), sum);
    }
    static void store(float *to, __m512 left, __m512 right, __mmask32 kept) {
        _mm512_mask_storeu_ps(to, static_cast<__mmask16>(kept), left);
        _mm512_mask_storeu_ps(to + 16, static_cast<__mmask16>(kept >> 16), right);
    }
    static void store16(float *to, __m512 values) { _mm512_storeu_ps(to, values); }
};

#if defined(__AVX512BF16__)
#define HAS_BFLOAT16_PRODUCTS 1
template <>
struct Number<bfloat16> {
    static constexpr int64_t TOGETHER = 2;
    static __m512 add(__m512 sum, const char *input, __m512i weight) {
        int32_t pair;
        std::memcpy(&pair, input, sizeof pair);
        return _mm512_dpbf16_ps(sum, (__m512bh)_mm512_set1_epi32(pair), (__m512bh)weight);
    }
    static void store(bfloat16 *to, __m512 left, __m512 right, __mmask32 kept) {
        const __m512i rounded = (__m512i)_mm512_cvtne2ps_pbh(right, left);
        if (kept == ~0u)
            _mm512_storeu_si512(to, rounded);
        else
            _mm512_mask_storeu_epi16(to, kept, rounded);  // slow on some processors
    }
    static void store16(bfloat16 *to, __m512 values) {
        _mm256_storeu_si256(reinterpret_cast<__m256i *>(to), (__m256i)_mm512_cvtneps_pbh(values));
    }
};
#endif

}  // namespace

#endif
