// Activations, computed inside a product.

#pragma once

#include "common.h"

namespace {

enum Activation { NONE, GELU, GELU_TANH, RELU, SILU };  // as in kernels.py and decoder.py

// x * (1 + erf(x / sqrt(2))) / 2, with erf as a quotient of polynomials; the error is below 2e-7.
inline float gelu(float x) {
    const float far = 3.92572478f, half = 0.5f * x;
    float z = x * 0.707106781f;
    z = z > far ? far : z < -far ? -far : z;
    const float square = z * z;
    float above = 2.29050659e-4f;
    above = above * square + 3.40829101e-3f;
    above = above * square + 5.09556951e-2f;
    above = above * square + 1.85208322e-1f;
    above = above * square + 1.12837914f;
    float below = -1.17916030e-7f;
    below = below * square + 2.35479665e-5f;
    below = below * square + 1.01796253e-3f;
    below = below * square + 1.40704702e-2f;
    below = below * square + 1.10985052e-1f;
    below = below * square + 4.97469251e-1f;
    below = below * square + 1.0f;
    return z <= -far ? 0.0f : half + half * (z * above / below);  // the true value is below 1e-7 there
}

inline float gelu_tanh(float x) {
    const float twice = 1.59576912f * (x + 0.044715f * x * x * x);  // x * (1 + tanh(twice / 2)) / 2
    const float small = exponential(-std::fabs(twice));
    return x * (twice > 0 ? 1.0f : small) / (1 + small);
}

}  // namespace
