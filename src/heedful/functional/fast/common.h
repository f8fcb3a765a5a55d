// Shared by all compiled loops: two number types and an exponential.

#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

namespace {

struct bfloat16 {
    uint16_t bits;
};

inline float load(float x) { return x; }

inline float load(bfloat16 x) {
    uint32_t bits = static_cast<uint32_t>(x.bits) << 16;
    float result;
    std::memcpy(&result, &bits, sizeof result);
    return result;
}

inline void store(float &to, float x) { to = x; }

inline void store(bfloat16 &to, float x) {  // to the nearest, ties to even
    uint32_t bits;
    std::memcpy(&bits, &x, sizeof bits);
    to.bits = static_cast<uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

// e^x for x <= 0, with a relative error below 2e-7; 0 if it would be below the smallest normal number.
inline float exponential(float x) {
    float power = x * 1.44269504f;
    power = power < -127.0f ? -127.0f : power;
    float whole = std::floor(power);
    float part = power - whole;  // 2^part by its Taylor series in part * ln 2, [0, 1)
    float result = 1.52527338e-5f;
    result = result * part + 1.54035304e-4f;
    result = result * part + 1.33335581e-3f;
    result = result * part + 9.61812911e-3f;
    result = result * part + 5.55041087e-2f;
    result = result * part + 2.40226507e-1f;
    result = result * part + 6.93147181e-1f;
    result = result * part + 1.0f;
    uint32_t bits = static_cast<uint32_t>(static_cast<int32_t>(whole) + 127) << 23;
    float scale;
    std::memcpy(&scale, &bits, sizeof scale);
    return result * scale;
}

}  // namespace
