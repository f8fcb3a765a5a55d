// Transposes sixteen rows of sixteen 32-bit words in registers.

#pragma once

#include "dot_pairs.h"

#if HAS_FLOAT32_PRODUCTS

namespace {

// Word w of all sixteen rows becomes row w.
inline void transpose(__m512i (&rows)[16]) {
    __m512i pairs[16], fours[16];
    for (int i = 0; i < 16; i += 2) {
        pairs[i] = _mm512_unpacklo_epi32(rows[i], rows[i + 1]);
        pairs[i + 1] = _mm512_unpackhi_epi32(rows[i], rows[i + 1]);
    }
    for (int i = 0; i < 16; i += 4) {
        fours[i] = _mm512_unpacklo_epi64(pairs[i], pairs[i + 2]);
        fours[i + 1] = _mm512_unpackhi_epi64(pairs[i], pairs[i + 2]);
        fours[i + 2] = _mm512_unpacklo_epi64(pairs[i + 1], pairs[i + 3]);
        fours[i + 3] = _mm512_unpackhi_epi64(pairs[i + 1], pairs[i + 3]);
    }
    for (int i = 0; i < 4; i++) {  // the four parts of a register, of rows 4g to 4g + 3, belong to words i, i + 4, i + 8, i + 12
        const __m512i even = _mm512_shuffle_i32x4(fours[i], fours[4 + i], 0x88), odd = _mm512_shuffle_i32x4(fours[i], fours[4 + i], 0xdd);
        const __m512i even_after = _mm512_shuffle_i32x4(fours[8 + i], fours[12 + i], 0x88);
        const __m512i odd_after = _mm512_shuffle_i32x4(fours[8 + i], fours[12 + i], 0xdd);
        rows[i] = _mm512_shuffle_i32x4(even, even_after, 0x88), rows[8 + i] = _mm512_shuffle_i32x4(even, even_after, 0xdd);
        rows[4 + i] = _mm512_shuffle_i32x4(odd, odd_after, 0x88), rows[12 + i] = _mm512_shuffle_i32x4(odd, odd_after, 0xdd);
    }
}

}  // namespace

#endif
