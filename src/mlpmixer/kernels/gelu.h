// The GELU of tables in bfloat16, for training and for answers.

#pragma once

#include <immintrin.h>

namespace {

// x · Φ(x), or, where not `exact`, x · (1 + tanh u) / 2, within 7e-5 of its size, and its slope within 2e-4: bfloat16 has
// steps of 4e-3. Both are x · s with s = 1 / (1 + 2^(x · p(x²))). For Φ, which that is within 2.6e-5, p was fitted from
// −5 to 5; beyond, it is 0 or 1. s rises by −ln 2 · s · (1 − s) · (x · p(x²))′.
struct Gelu {
    __m512 value, slope;

    Gelu(__m512 x, bool exact) {
        const auto all = [](float value) { return _mm512_set1_ps(value); };
        const auto map = [](__m512 a, __m512 x, __m512 b) { return _mm512_fmadd_ps(a, x, b); };
        const __m512 square = _mm512_mul_ps(x, x), x2 = exact ? _mm512_min_ps(square, all(25.f)) : square;
        const __m512 p = exact ? map(map(all(1.01881117e-3f), x2, all(-0.106803741f)), x2, all(-2.30109055f))
                               : map(all(-0.10294324f), x2, all(-2.30220820f));
        const __m512 u = _mm512_mul_ps(x, p), rest = _mm512_reduce_ps(u, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC);
        const __m512 power =
            map(map(map(all(0.0780238f), rest, all(0.22606793f)), rest, all(0.69583338f)), rest, all(0.99992522f));
        const __m512 s = _mm512_rcp14_ps(_mm512_add_ps(all(1.f), _mm512_scalef_ps(power, u)));  // (scalef rounds u down)
        value = _mm512_mul_ps(x, s);
        const __m512 rise = exact ? map(map(all(-3.53093045e-3f), x2, all(0.222092136f)), x2, all(1.59499443f))
                                  : map(all(0.214064444f), x2, all(1.59576912f));
        slope = map(_mm512_mul_ps(rise, value), _mm512_sub_ps(all(1.f), s), s);
    }
};

}  // namespace
