// What forward.cpp and mixing.cpp share: numbers, shares of work, and the order of numbers in a packed table.

#pragma once

#include <immintrin.h>

#include <algorithm>
#include <cstdint>

#include "matrix_unit.h"

namespace {

using bf16 = uint16_t;
constexpr float EPS = 1e-6f;  // LayerNorm's

int up(int value, int multiple) { return (value + multiple - 1) / multiple * multiple; }

// Share `i` of `count` of [0, size), its ends multiples of `unit`.
struct Share {
    int begin, end;
    Share(int size, int i, int count, int unit = 1) {
        const int64_t units = parts(size, unit);
        begin = std::min<int64_t>(size, units * i / count * unit);
        end = std::min<int64_t>(size, units * (i + 1) / count * unit);
    }
    int size() const { return end - begin; }
};

// Two rows in bfloat16, number by number, as a packed B has them.
__m512i interleave(__m512 even, __m512 odd) {
    const __m512i order = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6,
                                           21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
    return _mm512_permutexvar_epi16(order, (__m512i)_mm512_cvtne2ps_pbh(odd, even));
}

}  // namespace
