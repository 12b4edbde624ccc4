// Token mixing and channel mixing for CPUs with bfloat16 products (AVX-512 BF16), forwards and backwards.
//
// Each half of a Mixer's layer is one function: LayerNorm, both maps, GELU, biases, the skip and its scale. What lies
// between the two maps stays in the cache, in pieces; the only thing that is kept for the way back, beside the half's
// input, is `h`, the hidden table before the GELU. Sums are in float32; tables are bfloat16, as under autocast.
//
// All products are one routine, `product`: A (rows, depth) times B (depth, columns). A lies row by row. B is "packed":
// panels of 64 columns, in each of which a row of the panel holds two rows of B, number by number (the instruction
// adds two neighboring products at a time). A tile of 6 by 64 sums is held in 24 registers while all of depth passes;
// then a function of the caller's, `finish`, gets them two rows at a time and does whatever comes next to them. Where
// there is a matrix unit (AMX), it makes the sums, of the same tables.
//
// Work is dealt out to threads in fixed shares, so equal input gives equal output, bit for bit.

#include <immintrin.h>
#include <omp.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>

#include "door.h"
#include "gelu.h"
#include "tables.h"

namespace {

constexpr int PANEL = 64;  // columns
constexpr int TILE = 6;    // rows
constexpr int BLOCK = AMX ? 32 : 17;  // tiles of a table's rows, at most, that one thread takes through both maps at a time
constexpr int CHUNK = 128;  // tiles, about, whose hidden tables are held at once on the way back

template <class T>
Array<T> zeros(size_t count) {
    auto made = array<T>(count);
    std::memset(made.get(), 0, count * sizeof(T));
    return made;
}

int half(int depth) { return (depth + 1) / 2; }  // pairs of rows
size_t packed(int depth, int columns) { return size_t(half(depth)) * 2 * up(columns, PANEL); }

int tiles(int rows) { return (rows + TILE - 1) / TILE; }

// A thread's share of `rows`, in whole tiles, and that in pieces of about equal length.
struct Pieces {
    int rows, count;
    Share mine;
    Pieces(int rows, int t, int threads) : rows(rows), mine(tiles(rows), t, threads) {
        count = (mine.end - mine.begin + BLOCK - 1) / BLOCK;
    }
    int begin(int piece) const { return std::min(rows, TILE * (mine.begin + (mine.end - mine.begin) * piece / count)); }
};

__m512 wide(const bf16* from) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)from)), 16));
}

void narrow(bf16* to, __m512 value) { _mm256_storeu_si256((__m256i*)to, (__m256i)_mm512_cvtneps_pbh(value)); }

// Where the pair that begins with `row` (even) has its 16 numbers from `column` on.
bf16* place(bf16* b, int depth, int row, int column) {
    return b + (size_t(column / PANEL) * half(depth) + row / 2) * 2 * PANEL + column % PANEL * 2;
}

// What `finish` will read, asked for while the sums are still being made.
struct Ahead {
    const void* table;
    int64_t stride;  // bytes from row to row
    int bytes;       // of a number

    void ask(int row, int column, int rows) const {
        for (int i = 0; i < rows; i++)
            for (int line = 0; line < PANEL * bytes; line += 64)
                _mm_prefetch((const char*)table + (row + i) * stride + int64_t(column) * bytes + line, _MM_HINT_T0);
    }
};

const Ahead NOTHING{nullptr, 0, 0};

// ROWS rows of A against a panel of B; `finish(row, column, even, odd)` for each pair of rows, 16 columns at a time.
// With an odd number of rows the last pair's odd half is to be left alone. Meanwhile a sixteenth of the `next` panel is
// asked for: a BLOCK has about so many tiles, and the last of them finds that the next panel is near.
template <int ROWS, class Finish>
[[gnu::always_inline]] inline void whole_tile(const bf16* a, int64_t stride, const bf16* b, const bf16* next, int pairs, int row, int column,
                 int columns, const Ahead& ahead, const Finish& finish) {
    if (ahead.table) ahead.ask(row, column, ROWS);
    next += int64_t(std::min(row / TILE, 15)) * (pairs / 4) * 32;
    __m512 sum[ROWS][4];
    for (int i = 0; i < ROWS; i++)
        for (int j = 0; j < 4; j++) sum[i][j] = _mm512_setzero_ps();
    for (int k = 0; k < pairs; k++) {
        const bf16* panel = b + size_t(k) * 2 * PANEL;
        if (k % 4 == 0) _mm_prefetch((const char*)(next + k * 8), _MM_HINT_T1);
        const __m512bh b0 = (__m512bh)_mm512_load_si512(panel), b1 = (__m512bh)_mm512_load_si512(panel + 32),
                       b2 = (__m512bh)_mm512_load_si512(panel + 64), b3 = (__m512bh)_mm512_load_si512(panel + 96);
#pragma GCC unroll 6
        for (int i = 0; i < ROWS; i++) {
            int32_t pair;
            std::memcpy(&pair, a + i * stride + 2 * k, 4);
            const __m512bh both = (__m512bh)_mm512_set1_epi32(pair);
            sum[i][0] = _mm512_dpbf16_ps(sum[i][0], both, b0);
            sum[i][1] = _mm512_dpbf16_ps(sum[i][1], both, b1);
            sum[i][2] = _mm512_dpbf16_ps(sum[i][2], both, b2);
            sum[i][3] = _mm512_dpbf16_ps(sum[i][3], both, b3);
        }
    }
#pragma GCC unroll 3
    for (int i = 0; i < ROWS; i += 2)
#pragma GCC unroll 4
        for (int j = 0; j < 4; j++)
            if (column + 16 * j < columns)
                finish(row + i, column + 16 * j, sum[i][j], i + 1 < ROWS ? sum[i + 1][j] : _mm512_setzero_ps());
}

// For the last rows, not worth a copy in each place. (Left to itself, a compiler takes some whole ones out as well, at a
// fifth of a function's time.)
template <int ROWS, class Finish>
void tile(const bf16* a, int64_t stride, const bf16* b, const bf16* next, int pairs, int row, int column, int columns,
          const Ahead& ahead, const Finish& finish) {
    whole_tile<ROWS>(a, stride, b, next, pairs, row, column, columns, ahead, finish);
}

// Pairs of bfloat16, as the matrix unit takes them.
struct Pairs {
    static constexpr int VECTORS = PANEL / 16;
    using Sum = __m512;
    static __m512 real(Sum sum) { return sum; }
    ADD_SQUARE(_tile_dpbf16ps)
};

// As many rows of a product as the matrix unit takes: all that come in pairs, or none.
template <class Finish>
int by_squares(const bf16* a, int64_t stride, int rows, const bf16* b, int pairs, int columns, int first, int last, const Ahead& ahead,
               const Finish& finish) {
#ifdef __AMX_TILE__
    const int even = rows / 2 * 2;
    if (!matrix_unit() || even < SIDE || stride % 2) return 0;
    const auto prepare = [&](int row, int panel) { ahead.ask(row, panel * PANEL, 1); };
    try {
        product_by_squares<Pairs>((const Word*)a, stride / 2, even, (const Word*)b, int64_t(pairs) * PANEL, pairs, columns, first, last,
                                  ahead.table ? even : 0, prepare,
                                          [&](int row, int column, const __m512* sums, int count) {
                                      for (int i = 0; i < count; i += 2) finish(row + i, column, sums[i], sums[i + 1]);
                                  });
    } catch (const std::bad_alloc&) {
        return 0;  // nothing was finished yet
    }
    return even;
#else
    return 0;
#endif
}

// A (rows, depth), whose rows are `stride` apart, times the panels [first, last) of B.
template <class Finish>
void product(const bf16* a, int64_t stride, int rows, const bf16* b, int depth, int columns, int first, int last,
             const Ahead& ahead, const Finish& finish) {
    const int pairs = half(depth), ready = by_squares(a, stride, rows, b, pairs, columns, first, last, ahead, finish);
    for (int panel = first; panel < last && ready < rows; panel++) {
        const bf16* at = b + size_t(panel) * pairs * 2 * PANEL;
        const bf16* next = b + size_t(panel + 1 < last ? panel + 1 : first) * pairs * 2 * PANEL;
        const int column = panel * PANEL;
        int row = ready;
        for (; row + TILE <= rows; row += TILE)
            whole_tile<TILE>(a + row * stride, stride, at, next, pairs, row, column, columns, ahead, finish);
        const bf16* rest = a + row * stride;
        switch (rows - row) {
            case 5: tile<5>(rest, stride, at, next, pairs, row, column, columns, ahead, finish); break;
            case 4: tile<4>(rest, stride, at, next, pairs, row, column, columns, ahead, finish); break;
            case 3: tile<3>(rest, stride, at, next, pairs, row, column, columns, ahead, finish); break;
            case 2: tile<2>(rest, stride, at, next, pairs, row, column, columns, ahead, finish); break;
            case 1: tile<1>(rest, stride, at, next, pairs, row, column, columns, ahead, finish); break;
        }
    }
}

template <class Finish>
void product(const bf16* a, int64_t stride, int rows, const bf16* b, int depth, int columns, const Ahead& ahead,
             const Finish& finish) {
    product(a, stride, rows, b, depth, columns, 0, up(columns, PANEL) / PANEL, ahead, finish);
}

// 16 by 16 numbers of 32 bits, in place.
void transpose(__m512i r[16]) {
    __m512i t[16];
    for (int i = 0; i < 8; i++) {
        t[2 * i] = _mm512_unpacklo_epi32(r[2 * i], r[2 * i + 1]);
        t[2 * i + 1] = _mm512_unpackhi_epi32(r[2 * i], r[2 * i + 1]);
    }
    for (int i = 0; i < 4; i++) {
        r[4 * i] = _mm512_unpacklo_epi64(t[4 * i], t[4 * i + 2]);
        r[4 * i + 1] = _mm512_unpackhi_epi64(t[4 * i], t[4 * i + 2]);
        r[4 * i + 2] = _mm512_unpacklo_epi64(t[4 * i + 1], t[4 * i + 3]);
        r[4 * i + 3] = _mm512_unpackhi_epi64(t[4 * i + 1], t[4 * i + 3]);
    }
    for (int i = 0; i < 4; i++) {
        t[i] = _mm512_shuffle_i32x4(r[i], r[i + 4], 0x88);
        t[i + 4] = _mm512_shuffle_i32x4(r[i], r[i + 4], 0xdd);
        t[i + 8] = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0x88);
        t[i + 12] = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0xdd);
    }
    for (int i = 0; i < 8; i++) {
        r[i] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0x88);
        r[i + 8] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0xdd);
    }
}

// Words of 32 bits, (rows, columns) → (columns, rows), both dimensions in steps of 16 but for a rest of rows.
void transpose(const uint32_t* from, int64_t from_stride, int rows, int columns, uint32_t* to, int64_t to_stride) {
    for (int r0 = 0; r0 < rows; r0 += 16) {
        const int count = std::min(16, rows - r0);
        const __mmask16 some = __mmask16((1u << count) - 1);
        for (int c0 = 0; c0 < columns; c0 += 16) {
            __m512i square[16];
            for (int i = 0; i < 16; i++)
                square[i] = i < count ? _mm512_loadu_si512(from + (r0 + i) * from_stride + c0) : _mm512_setzero_si512();
            transpose(square);
            for (int i = 0; i < 16; i++) _mm512_mask_storeu_epi32(to + (c0 + i) * to_stride + r0, some, square[i]);
        }
    }
}

// A row-by-row table (columns, depth) of bfloat16 becomes packed B (depth, columns): pairs along depth are neighbors
// already, so this transposes words of 32 bits. `depth` is a multiple of 32, `columns` of 16.
void pack_transposed(const bf16* table, int columns, int depth, bf16* b) {
    for (int c0 = 0; c0 < columns; c0 += PANEL) {
        uint32_t* panel = (uint32_t*)place(b, depth, 0, c0);
        transpose((const uint32_t*)(table + size_t(c0) * depth), depth / 2, std::min(PANEL, columns - c0), depth / 2, panel,
             PANEL);
    }
}

// A row-by-row table (rows, columns) of bfloat16 → (columns, rows), whose rows are `stride` apart; an odd number of
// rows is followed by zeros. `columns` is a multiple of 16.
void transpose_table(const bf16* table, int rows, int columns, bf16* to, int64_t stride) {
    const __m256i none = _mm256_setzero_si256();
    for (int r0 = 0; r0 < rows; r0 += 32) {
        const int pairs = std::min(16, half(rows - r0));
        const __mmask16 some = __mmask16((1u << pairs) - 1);
        for (int c = 0; c < columns; c += 16) {
            __m512i square[16];
            for (int i = 0; i < 16; i++) {
                const int r = r0 + 2 * i;
                const bf16* from = table + size_t(r) * columns + c;
                const __m256i even = r < rows ? _mm256_loadu_si256((const __m256i*)from) : none;
                const __m256i odd = r + 1 < rows ? _mm256_loadu_si256((const __m256i*)(from + columns)) : none;
                square[i] = _mm512_or_si512(_mm512_cvtepu16_epi32(even), _mm512_slli_epi32(_mm512_cvtepu16_epi32(odd), 16));
            }
            transpose(square);
            for (int i = 0; i < 16; i++) _mm512_mask_storeu_epi32((int32_t*)(to + (c + i) * stride + r0), some, square[i]);
        }
    }
}

// Weights, float32 (rows, columns), to bfloat16: row by row with rows padded to an even length by zero.
void to_bf16(const float* w, int rows, int columns, bf16* to, int threads) {
    const int stride = up(columns, 2);
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int r = 0; r < rows; r++) {
        int c = 0;
        for (; c + 16 <= columns; c += 16) narrow(to + size_t(r) * stride + c, _mm512_loadu_ps(w + size_t(r) * columns + c));
        if (c < stride) {
            const __mmask16 some = __mmask16((1u << (columns - c)) - 1), padded = __mmask16((1u << (stride - c)) - 1);
            const __m512 rest = _mm512_maskz_loadu_ps(some, w + size_t(r) * columns + c);
            _mm256_mask_storeu_epi16(to + size_t(r) * stride + c, padded, (__m256i)_mm512_cvtneps_pbh(rest));
        }
    }
}

bf16 rounded(float value) { return bf16(_mm_cvtsi128_si32((__m128i)_mm_cvtneps_pbh(_mm_set_ss(value)))); }

// Weights, float32 (rows, columns), as bfloat16 (columns, rows), rows of that padded to an even length by zero.
void to_bf16_transposed(const float* w, int rows, int columns, bf16* to) {
    const int stride = up(rows, 2);
    for (int c = 0; c < columns; c++)
        for (int r = 0; r < stride; r++) to[size_t(c) * stride + r] = r < rows ? rounded(w[size_t(r) * columns + c]) : 0;
}

// Weights, float32 (columns, depth), as packed B (depth, columns). `depth` is a multiple of 32, `columns` of 16.
void pack_transposed(const float* w, int columns, int depth, bf16* b, int threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int c = 0; c < columns; c += 16)
        for (int r = 0; r < depth; r += 32) {
            __m512i square[16];
            for (int i = 0; i < 16; i++) {
                const float* from = w + size_t(c + i) * depth + r;
                square[i] = (__m512i)_mm512_cvtne2ps_pbh(_mm512_loadu_ps(from + 16), _mm512_loadu_ps(from));
            }
            transpose(square);
            for (int i = 0; i < 16; i++) _mm512_store_si512(place(b, depth, r + 2 * i, c), square[i]);
        }
}

// Weights, float32 (depth, columns), as packed B.
void pack(const float* w, int depth, int columns, bf16* b, int threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int r = 0; r < depth; r += 2)
        for (int c = 0; c < columns; c += 16) {
            const __m512 odd = r + 1 < depth ? _mm512_loadu_ps(w + size_t(r + 1) * columns + c) : _mm512_setzero_ps();
            _mm512_store_si512(place(b, depth, r, c), interleave(_mm512_loadu_ps(w + size_t(r) * columns + c), odd));
        }
}

// LayerNorm of one row of a table.
struct Norm {
    const float *gamma, *beta;
    int channels;

    void measure(const bf16* x, float& mean, float& rate) const {
        __m512 sum = _mm512_setzero_ps(), squares = _mm512_setzero_ps();
        for (int c = 0; c < channels; c += 16) sum = _mm512_add_ps(sum, wide(x + c));
        mean = _mm512_reduce_add_ps(sum) / channels;
        for (int c = 0; c < channels; c += 16) {
            const __m512 away = _mm512_sub_ps(wide(x + c), _mm512_set1_ps(mean));
            squares = _mm512_fmadd_ps(away, away, squares);
        }
        rate = 1.f / std::sqrt(_mm512_reduce_add_ps(squares) / channels + EPS);
    }

    __m512 at(const bf16* x, int c, float mean, float rate) const {
        const __m512 even = _mm512_mul_ps(_mm512_sub_ps(wide(x + c), _mm512_set1_ps(mean)), _mm512_set1_ps(rate));
        return _mm512_fmadd_ps(even, _mm512_loadu_ps(gamma + c), _mm512_loadu_ps(beta + c));
    }

    // `to` = `skip` + the gradient that `dy`, at the output of the norm, has at x; adds to those of gamma and beta.
    void backward(const bf16* x, float mean, float rate, const float* dy, const bf16* skip, bf16* to, float* dgamma,
                  float* dbeta) const {
        const __m512 m = _mm512_set1_ps(mean), r = _mm512_set1_ps(rate);
        __m512 sum = _mm512_setzero_ps(), along = _mm512_setzero_ps();
        for (int c = 0; c < channels; c += 16) {
            const __m512 given = _mm512_loadu_ps(dy + c);
            const __m512 unit = _mm512_mul_ps(_mm512_sub_ps(wide(x + c), m), r);
            const __m512 scaled = _mm512_mul_ps(given, _mm512_loadu_ps(gamma + c));
            sum = _mm512_add_ps(sum, scaled);
            along = _mm512_fmadd_ps(scaled, unit, along);
            _mm512_storeu_ps(dgamma + c, _mm512_fmadd_ps(given, unit, _mm512_loadu_ps(dgamma + c)));
            _mm512_storeu_ps(dbeta + c, _mm512_add_ps(given, _mm512_loadu_ps(dbeta + c)));
        }
        const __m512 level = _mm512_set1_ps(_mm512_reduce_add_ps(sum) / channels);
        const __m512 tilt = _mm512_set1_ps(_mm512_reduce_add_ps(along) / channels);
        for (int c = 0; c < channels; c += 16) {
            const __m512 unit = _mm512_mul_ps(_mm512_sub_ps(wide(x + c), m), r);
            const __m512 scaled = _mm512_mul_ps(_mm512_loadu_ps(dy + c), _mm512_loadu_ps(gamma + c));
            const __m512 dx = _mm512_sub_ps(_mm512_sub_ps(scaled, level), _mm512_mul_ps(unit, tilt));
            narrow(to + c, _mm512_fmadd_ps(dx, r, wide(skip + c)));
        }
    }
};

void add(float* to, __m512 value) { _mm512_storeu_ps(to, _mm512_add_ps(_mm512_loadu_ps(to), value)); }

void put(float* to, __m512 value, bool first) {
    first ? _mm512_storeu_ps(to, value) : add(to, value);
}

// The threads' sums into one, in the order of the threads.
void gather(float* to, const float* sums, size_t count, int threads) {
    std::memcpy(to, sums, count * sizeof(float));
    for (int t = 1; t < threads; t++)
        for (size_t i = 0; i < count; i++) to[i] += sums[t * count + i];
}

// x + scale · (W2 · gelu(W1 · LN(x) + b1) + b2) for each image. Tables are (images, tokens, channels); `scale` is one
// number for each image, or null for 1; `h` (images, hidden, channels), or null to do without, and `norms`
// (images, tokens, 2) are kept for the way back.
int32_t tokens_forward(const bf16* x, const float* gamma, const float* beta, const float* w1, const float* b1,
                       const float* w2, const float* b2, const float* scale, int images, int tokens, int channels,
                       int hidden, int exact, int threads, bf16* y, bf16* h, float* norms) {
    const Norm norm{gamma, beta, channels};
    const int depth = up(tokens, 2);
    const auto first = array<bf16>(size_t(hidden) * depth), second = array<bf16>(size_t(tokens) * hidden);
    to_bf16(w1, hidden, tokens, first.get(), threads);
    to_bf16(w2, tokens, hidden, second.get(), threads);
    Team team;
#pragma omp parallel num_threads(threads)
    {
        const MatrixUnit unit;
        const auto normed = array_or_none<bf16>(packed(tokens, channels));
        const auto active = array_or_none<bf16>(packed(hidden, channels));
        const Share mine(team.has(normed, active) ? images : 0, omp_get_thread_num(), omp_get_num_threads());
        for (int image = mine.begin; image < mine.end; image++) {
            const size_t at = size_t(image) * tokens * channels;
            const bf16* in = x + at;
            bf16 *out = y + at, *kept = h ? h + size_t(image) * hidden * channels : nullptr;
            float* seen = norms + size_t(image) * tokens * 2;
            const __m512 by = _mm512_set1_ps(scale ? scale[image] : 1.f);
            for (int s = 0; s < tokens; s += 2) {
                const bf16 *even = in + size_t(s) * channels, *odd = even + channels;
                const bool pair = s + 1 < tokens;
                norm.measure(even, seen[2 * s], seen[2 * s + 1]);
                if (pair) norm.measure(odd, seen[2 * s + 2], seen[2 * s + 3]);
                for (int c = 0; c < channels; c += 16) {
                    const __m512 one = norm.at(even, c, seen[2 * s], seen[2 * s + 1]);
                    const __m512 two = pair ? norm.at(odd, c, seen[2 * s + 2], seen[2 * s + 3]) : _mm512_setzero_ps();
                    _mm512_store_si512(place(normed.get(), tokens, s, c), interleave(one, two));
                }
            }
            product(first.get(), depth, hidden, normed.get(), tokens, channels, NOTHING,
                    [&](int r, int c, __m512 even, __m512 odd) {
                even = _mm512_add_ps(even, _mm512_set1_ps(b1[r]));
                odd = _mm512_add_ps(odd, _mm512_set1_ps(b1[r + 1]));
                if (h) {
                    narrow(kept + size_t(r) * channels + c, even);
                    narrow(kept + size_t(r + 1) * channels + c, odd);
                }
                _mm512_store_si512(place(active.get(), hidden, r, c), interleave(Gelu(even, exact).value, Gelu(odd, exact).value));
            });
            product(second.get(), hidden, tokens, active.get(), hidden, channels, Ahead{in, channels * 2, 2},
                    [&](int r, int c, __m512 even, __m512 odd) {
                const size_t here = size_t(r) * channels + c;
                even = _mm512_add_ps(even, _mm512_set1_ps(b2[r]));
                narrow(out + here, _mm512_fmadd_ps(even, by, wide(in + here)));
                if (r + 1 < tokens) {
                    odd = _mm512_add_ps(odd, _mm512_set1_ps(b2[r + 1]));
                    narrow(out + here + channels, _mm512_fmadd_ps(odd, by, wide(in + here + channels)));
                }
            });
        }
    }
    team.require();
    return DONE;
}

// From `dy`, the gradient at y, to that at x and at all weights (float32, as the weights lie). Without `h` it is
// computed again.
int32_t tokens_backward(const bf16* dy, const bf16* x, const bf16* h, const float* norms, const float* gamma,
                        const float* beta, const float* w1, const float* b1, const float* w2, const float* scale,
                        int images, int tokens, int channels, int hidden, int exact, int threads, bf16* dx,
                        float* dgamma, float* dbeta, float* dw1, float* db1, float* dw2, float* db2) {
    const Norm norm{gamma, beta, channels};
    const int depth = up(tokens, 2);
    // W1 and W2 transposed, for the way back.
    const auto first = array<bf16>(size_t(tokens) * hidden), second = array<bf16>(size_t(hidden) * depth);
    to_bf16_transposed(w1, hidden, tokens, first.get());
    to_bf16_transposed(w2, tokens, hidden, second.get());
    const auto forth = array<bf16>(h ? 0 : size_t(hidden) * depth);
    if (!h) to_bf16(w1, hidden, tokens, forth.get(), threads);
    // Each thread's sums. The first is W1's transposed, with a row more: the ones below LN(x) make it that of b1.
    const size_t table = size_t(tokens) * hidden, wider = table + hidden;
    const auto sum1 = zeros<float>(wider * threads), sum2 = zeros<float>(table * threads);
    const auto sum_b2 = zeros<float>(size_t(tokens) * threads);
    const auto sum_gamma = zeros<float>(size_t(channels) * threads);
    const auto sum_beta = zeros<float>(size_t(channels) * threads);
    Team team;
#pragma omp parallel num_threads(threads)
    {
        const MatrixUnit unit;
        const int t = omp_get_thread_num();
        const size_t inside = size_t(hidden) * channels;
        const auto normed = array_or_none<bf16>(size_t(tokens + 1) * channels);
        const auto given = array_or_none<bf16>(size_t(tokens) * channels);
        const auto interleaved_dy = array_or_none<bf16>(packed(tokens, channels));
        const auto interleaved_dh = array_or_none<bf16>(packed(hidden, channels));
        const auto active = array_or_none<bf16>(inside), dh = array_or_none<bf16>(inside);
        const auto transposed_active = array_or_none<bf16>(packed(channels, hidden));
        const auto transposed_dh = array_or_none<bf16>(packed(channels, hidden));
        const auto dnormed = array_or_none<float>(size_t(tokens) * channels);
        const auto interleaved_normed = array_or_none<bf16>(h ? 0 : packed(tokens, channels));
        const auto again = array_or_none<bf16>(h ? 0 : inside);
        const bool ready = team.has(normed, given, interleaved_dy, interleaved_dh, active, dh, transposed_active, transposed_dh, dnormed, interleaved_normed, again);
        const Share mine(ready ? images : 0, t, omp_get_num_threads());
        if (ready) std::fill_n(normed.get() + size_t(tokens) * channels, channels, rounded(1.f));
        float *own1 = sum1.get() + t * wider, *own2 = sum2.get() + t * table, *own_b2 = sum_b2.get() + size_t(t) * tokens;
        for (int image = mine.begin; image < mine.end; image++) {
            const size_t at = size_t(image) * tokens * channels;
            const bf16 *in = x + at, *kept = h ? h + image * inside : again.get();
            const float* seen = norms + size_t(image) * tokens * 2;
            const __m512 by = _mm512_set1_ps(scale ? scale[image] : 1.f);
            for (int s = 0; s < tokens; s += 2) {
                __m512 sums[2] = {_mm512_setzero_ps(), _mm512_setzero_ps()};
                for (int c = 0; c < channels; c += 16) {
                    __m512 row[2] = {_mm512_setzero_ps(), _mm512_setzero_ps()}, clean[2] = {row[0], row[1]};
                    for (int i = 0; i < 2 && s + i < tokens; i++) {
                        const size_t here = size_t(s + i) * channels + c;
                        row[i] = _mm512_mul_ps(wide(dy + at + here), by);
                        sums[i] = _mm512_add_ps(sums[i], row[i]);
                        narrow(given.get() + here, row[i]);
                        clean[i] = norm.at(in + here - c, c, seen[2 * (s + i)], seen[2 * (s + i) + 1]);
                        narrow(normed.get() + here, clean[i]);
                    }
                    _mm512_store_si512(place(interleaved_dy.get(), tokens, s, c), interleave(row[0], row[1]));
                    if (!h) _mm512_store_si512(place(interleaved_normed.get(), tokens, s, c), interleave(clean[0], clean[1]));
                }
                for (int i = 0; i < 2 && s + i < tokens; i++) own_b2[s + i] += _mm512_reduce_add_ps(sums[i]);
            }
            if (!h)
                product(forth.get(), depth, hidden, interleaved_normed.get(), tokens, channels, NOTHING,
                        [&](int r, int c, __m512 even, __m512 odd) {
                    narrow(again.get() + size_t(r) * channels + c, _mm512_add_ps(even, _mm512_set1_ps(b1[r])));
                    narrow(again.get() + size_t(r + 1) * channels + c, _mm512_add_ps(odd, _mm512_set1_ps(b1[r + 1])));
                });
            product(second.get(), depth, hidden, interleaved_dy.get(), tokens, channels, Ahead{kept, channels * 2, 2},
                    [&](int r, int c, __m512 even, __m512 odd) {
                const size_t here = size_t(r) * channels + c;
                const Gelu one(wide(kept + here), exact), two(wide(kept + here + channels), exact);
                even = _mm512_mul_ps(even, one.slope);
                odd = _mm512_mul_ps(odd, two.slope);
                narrow(active.get() + here, one.value);
                narrow(active.get() + here + channels, two.value);
                narrow(dh.get() + here, even);
                narrow(dh.get() + here + channels, odd);
                _mm512_store_si512(place(interleaved_dh.get(), hidden, r, c), interleave(even, odd));
            });
            pack_transposed(active.get(), hidden, channels, transposed_active.get());
            pack_transposed(dh.get(), hidden, channels, transposed_dh.get());
            product(given.get(), channels, tokens, transposed_active.get(), channels, hidden, Ahead{own2, hidden * 4, 4},
                    [&](int r, int c, __m512 even, __m512 odd) {
                add(own2 + size_t(r) * hidden + c, even);
                if (r + 1 < tokens) add(own2 + size_t(r + 1) * hidden + c, odd);
            });
            product(normed.get(), channels, tokens + 1, transposed_dh.get(), channels, hidden, Ahead{own1, hidden * 4, 4},
                    [&](int r, int c, __m512 even, __m512 odd) {
                add(own1 + size_t(r) * hidden + c, even);
                if (r < tokens) add(own1 + size_t(r + 1) * hidden + c, odd);
            });
            product(first.get(), hidden, tokens, interleaved_dh.get(), hidden, channels, NOTHING,
                    [&](int r, int c, __m512 even, __m512 odd) {
                _mm512_storeu_ps(dnormed.get() + size_t(r) * channels + c, even);
                if (r + 1 < tokens) _mm512_storeu_ps(dnormed.get() + size_t(r + 1) * channels + c, odd);
            });
            for (int s = 0; s < tokens; s++) {
                const size_t here = size_t(s) * channels;
                norm.backward(in + here, seen[2 * s], seen[2 * s + 1], dnormed.get() + here, dy + at + here, dx + at + here,
                              sum_gamma.get() + size_t(t) * channels, sum_beta.get() + size_t(t) * channels);
            }
        }
    }
    team.require();
    const auto transposed = array<float>(wider);
    gather(transposed.get(), sum1.get(), wider, threads);
    transpose((const uint32_t*)transposed.get(), hidden, tokens, hidden, (uint32_t*)dw1, tokens);
    std::memcpy(db1, transposed.get() + table, hidden * sizeof(float));
    gather(dw2, sum2.get(), table, threads);
    gather(db2, sum_b2.get(), tokens, threads);
    gather(dgamma, sum_gamma.get(), channels, threads);
    gather(dbeta, sum_beta.get(), channels, threads);
    return DONE;
}

// x + scale · (gelu(LN(x) · W3 + b3) · W4 + b4) for each of `rows` rows; `scale` is one number for each `tokens` of
// them, or null for 1. Weights are (out, in), as torch keeps them; `h` (rows, hidden) and `norms` (rows, 2) are kept.
int32_t channels_forward(const bf16* x, const float* gamma, const float* beta, const float* w3, const float* b3,
                         const float* w4, const float* b4, const float* scale, int rows, int tokens, int channels,
                         int hidden, int exact, int threads, bf16* y, bf16* h, float* norms) {
    const Norm norm{gamma, beta, channels};
    const auto first = array<bf16>(packed(channels, hidden)), second = array<bf16>(packed(hidden, channels));
    pack_transposed(w3, hidden, channels, first.get(), threads);
    pack_transposed(w4, channels, hidden, second.get(), threads);
    Team team;
#pragma omp parallel num_threads(threads)
    {
        const MatrixUnit unit;
        const auto normed = array_or_none<bf16>(size_t(BLOCK) * TILE * channels);
        const auto active = array_or_none<bf16>(size_t(BLOCK) * TILE * hidden);
        const Pieces mine(team.has(normed, active) ? rows : 0, omp_get_thread_num(), omp_get_num_threads());
        for (int piece = 0; piece < mine.count; piece++) {
            const int begin = mine.begin(piece), count = mine.begin(piece + 1) - begin;
            const bf16* in = x + size_t(begin) * channels;
            bf16 *out = y + size_t(begin) * channels, *kept = h + size_t(begin) * hidden;
            float* seen = norms + size_t(begin) * 2;
            for (int r = 0; r < count; r++) {
                const bf16* row = in + size_t(r) * channels;
                norm.measure(row, seen[2 * r], seen[2 * r + 1]);
                for (int c = 0; c < channels; c += 16)
                    narrow(normed.get() + size_t(r) * channels + c, norm.at(row, c, seen[2 * r], seen[2 * r + 1]));
            }
            product(normed.get(), channels, count, first.get(), channels, hidden, NOTHING,
                    [&](int r, int c, __m512 even, __m512 odd) {
                const size_t here = size_t(r) * hidden + c;
                const __m512 bias = _mm512_loadu_ps(b3 + c);
                even = _mm512_add_ps(even, bias);
                narrow(kept + here, even);
                narrow(active.get() + here, Gelu(even, exact).value);
                if (r + 1 < count) {
                    odd = _mm512_add_ps(odd, bias);
                    narrow(kept + here + hidden, odd);
                    narrow(active.get() + here + hidden, Gelu(odd, exact).value);
                }
            });
            product(active.get(), hidden, count, second.get(), hidden, channels, Ahead{in, channels * 2, 2},
                    [&](int r, int c, __m512 even, __m512 odd) {
                const size_t here = size_t(r) * channels + c;
                const __m512 bias = _mm512_loadu_ps(b4 + c);
                const auto by = [&](int row) { return _mm512_set1_ps(scale ? scale[(begin + row) / tokens] : 1.f); };
                narrow(out + here, _mm512_fmadd_ps(_mm512_add_ps(even, bias), by(r), wide(in + here)));
                if (r + 1 < count)
                    narrow(out + here + channels,
                           _mm512_fmadd_ps(_mm512_add_ps(odd, bias), by(r + 1), wide(in + here + channels)));
            });
        }
    }
    team.require();
    return DONE;
}

// The rows go through in chunks: first the threads share its rows, for all that is along a row; then they share the
// hidden units, for the sums over rows that are the gradients of both maps.
int32_t channels_backward(const bf16* dy, const bf16* x, const bf16* h, const float* norms, const float* gamma,
                          const float* beta, const float* w3, const float*, const float* w4, const float* scale,
                          int rows, int tokens, int channels, int hidden, int exact, int threads, bf16* dx,
                          float* dgamma, float* dbeta, float* dw3, float* db3, float* dw4, float* db4) {
    const Norm norm{gamma, beta, channels};
    const auto first = array<bf16>(packed(hidden, channels)), second = array<bf16>(packed(channels, hidden));
    pack(w3, hidden, channels, first.get(), threads);
    pack(w4, channels, hidden, second.get(), threads);
    const int chunks = std::max(1, (tiles(rows) + CHUNK / 2) / CHUNK), most = ((tiles(rows) - 1) / chunks + 1) * TILE;
    // LN(x) transposed, with a row of ones below: what it makes of dh is the gradient of W3, transposed, and below it that of b3.
    const auto transposed_normed = array<bf16>(size_t(channels + 1) * most);
    const auto transposed_dy = array<bf16>(size_t(channels) * most);
    const auto interleaved_dh = array<bf16>(packed(most, hidden));
    const auto interleaved_active = array<bf16>(packed(most, hidden));
    const auto sum3 = array<float>(size_t(channels + 1) * hidden);
    const auto sum_b4 = zeros<float>(size_t(channels) * threads);
    const auto sum_gamma = zeros<float>(size_t(channels) * threads);
    const auto sum_beta = zeros<float>(size_t(channels) * threads);
    Team team;
#pragma omp parallel num_threads(threads)
    {
        const MatrixUnit unit;
        const int t = omp_get_thread_num(), threads_here = omp_get_num_threads();
        const size_t piece_rows = BLOCK * TILE;
        const auto normed = array_or_none<bf16>(piece_rows * channels);
        const auto given = array_or_none<bf16>(piece_rows * channels);
        const auto dh = array_or_none<bf16>(piece_rows * hidden);
        const auto dnormed = array_or_none<float>(piece_rows * channels);
        float* own_b4 = sum_b4.get() + size_t(t) * channels;
        const bool ready = team.has(normed, given, dh, dnormed);
        for (int part = 0; ready && part < chunks; part++) {
            const Share all(tiles(rows), part, chunks);
            const int start = all.begin * TILE, chunk = std::min(rows, all.end * TILE) - start, depth = up(chunk, 2);
            const Pieces mine(chunk, t, threads_here);
            for (int piece = 0; piece < mine.count; piece++) {
                const int within = mine.begin(piece), count = mine.begin(piece + 1) - within;
                const size_t begin = size_t(start + within);
                const bf16 *in = x + begin * channels, *kept = h + begin * hidden;
                const float* seen = norms + begin * 2;
                for (int r = 0; r < count; r++) {
                    const __m512 by = _mm512_set1_ps(scale ? scale[(begin + r) / tokens] : 1.f);
                    for (int c = 0; c < channels; c += 16) {
                        const size_t here = size_t(r) * channels + c;
                        const __m512 row = _mm512_mul_ps(wide(dy + begin * channels + here), by);
                        add(own_b4 + c, row);
                        narrow(given.get() + here, row);
                        narrow(normed.get() + here, norm.at(in + here - c, c, seen[2 * r], seen[2 * r + 1]));
                    }
                }
                transpose_table(normed.get(), count, channels, transposed_normed.get() + within, depth);
                transpose_table(given.get(), count, channels, transposed_dy.get() + within, depth);
                product(given.get(), channels, count, second.get(), channels, hidden, Ahead{kept, hidden * 2, 2},
                        [&](int r, int c, __m512 even, __m512 odd) {
                    const size_t here = size_t(r) * hidden + c;
                    const Gelu one(wide(kept + here), exact);
                    even = _mm512_mul_ps(even, one.slope);
                    narrow(dh.get() + here, even);
                    __m512 other = _mm512_setzero_ps();
                    if (r + 1 < count) {
                        const Gelu two(wide(kept + here + hidden), exact);
                        odd = _mm512_mul_ps(odd, two.slope);
                        narrow(dh.get() + here + hidden, odd);
                        other = two.value;
                    }
                    _mm512_store_si512(place(interleaved_dh.get(), chunk, within + r, c), interleave(even, odd));
                    _mm512_store_si512(place(interleaved_active.get(), chunk, within + r, c), interleave(one.value, other));
                });
                product(dh.get(), hidden, count, first.get(), hidden, channels, NOTHING,
                        [&](int r, int c, __m512 even, __m512 odd) {
                    _mm512_storeu_ps(dnormed.get() + size_t(r) * channels + c, even);
                    if (r + 1 < count) _mm512_storeu_ps(dnormed.get() + size_t(r + 1) * channels + c, odd);
                });
                for (int r = 0; r < count; r++) {
                    const size_t here = size_t(r) * channels, there = begin * channels + here;
                    norm.backward(in + here, seen[2 * r], seen[2 * r + 1], dnormed.get() + here, dy + there, dx + there,
                                  sum_gamma.get() + size_t(t) * channels, sum_beta.get() + size_t(t) * channels);
                }
            }
#pragma omp single
            std::fill_n(transposed_normed.get() + size_t(channels) * depth, depth, rounded(1.f));
            // (all have finished the rows here)
            const Share panels(up(hidden, PANEL) / PANEL, t, threads_here);
            product(transposed_dy.get(), depth, channels, interleaved_active.get(), chunk, hidden, panels.begin, panels.end,
                    Ahead{dw4, hidden * 4, 4}, [&](int r, int c, __m512 even, __m512 odd) {
                        put(dw4 + size_t(r) * hidden + c, even, start == 0);
                        if (r + 1 < channels) put(dw4 + size_t(r + 1) * hidden + c, odd, start == 0);
                    });
            product(transposed_normed.get(), depth, channels + 1, interleaved_dh.get(), chunk, hidden, panels.begin, panels.end,
                    Ahead{sum3.get(), hidden * 4, 4}, [&](int r, int c, __m512 even, __m512 odd) {
                        put(sum3.get() + size_t(r) * hidden + c, even, start == 0);
                        if (r < channels) put(sum3.get() + size_t(r + 1) * hidden + c, odd, start == 0);
                    });
#pragma omp barrier
        }
        const Share last(ready ? hidden / 16 : 0, t, threads_here);
        transpose((const uint32_t*)sum3.get() + last.begin * 16, hidden, channels, (last.end - last.begin) * 16,
             (uint32_t*)dw3 + size_t(last.begin) * 16 * channels, channels);
    }
    team.require();
    std::memcpy(db3, sum3.get() + size_t(channels) * hidden, hidden * sizeof(float));
    gather(db4, sum_b4.get(), channels, threads);
    gather(dgamma, sum_gamma.get(), channels, threads);
    gather(dbeta, sum_beta.get(), channels, threads);
    return DONE;
}

}  // namespace

extern "C" {

int32_t token_mixing(const bf16* x, const float* gamma, const float* beta, const float* w1, const float* b1,
                     const float* w2, const float* b2, const float* scale, int64_t images, int64_t tokens,
                     int64_t channels, int64_t hidden, int64_t exact, int64_t threads, bf16* y, bf16* h, float* norms) {
    return answered(tokens_forward, x, gamma, beta, w1, b1, w2, b2, scale, images, tokens, channels, hidden, exact,
                    threads, y, h, norms);
}

int32_t token_mixing_backward(const bf16* dy, const bf16* x, const bf16* h, const float* norms, const float* gamma,
                              const float* beta, const float* w1, const float* b1, const float* w2, const float* scale,
                              int64_t images, int64_t tokens, int64_t channels, int64_t hidden, int64_t exact,
                              int64_t threads, bf16* dx, float* dgamma, float* dbeta, float* dw1, float* db1,
                              float* dw2, float* db2) {
    return answered(tokens_backward, dy, x, h, norms, gamma, beta, w1, b1, w2, scale, images, tokens, channels,
                    hidden, exact, threads, dx, dgamma, dbeta, dw1, db1, dw2, db2);
}

int32_t channel_mixing(const bf16* x, const float* gamma, const float* beta, const float* w3, const float* b3,
                       const float* w4, const float* b4, const float* scale, int64_t rows, int64_t tokens,
                       int64_t channels, int64_t hidden, int64_t exact, int64_t threads, bf16* y, bf16* h,
                       float* norms) {
    return answered(channels_forward, x, gamma, beta, w3, b3, w4, b4, scale, rows, tokens, channels, hidden, exact,
                    threads, y, h, norms);
}

int32_t channel_mixing_backward(const bf16* dy, const bf16* x, const bf16* h, const float* norms, const float* gamma,
                                const float* beta, const float* w3, const float* b3, const float* w4,
                                const float* scale, int64_t rows, int64_t tokens, int64_t channels, int64_t hidden,
                                int64_t exact, int64_t threads, bf16* dx, float* dgamma, float* dbeta, float* dw3,
                                float* db3, float* dw4, float* db4) {
    return answered(channels_backward, dy, x, h, norms, gamma, beta, w3, b3, w4, scale, rows, tokens, channels, hidden,
                    exact, threads, dx, dgamma, dbeta, dw3, db3, dw4, db4);
}
}
