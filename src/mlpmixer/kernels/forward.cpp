// A plain Mixer's forward pass on CPUs with AVX-512: bytes of images in, logits out, in float32, bfloat16, int8 or a mixture.
//
// All products are one routine, `product`: A (rows, depth) times B (depth, columns). The depth is cut into words of 32
// bits: one float, two bfloat16 or four bytes. A word of A goes to all lanes and is multiplied with a vector of 16 words
// of B, one a column; the instructions add up what is inside a word. So one routine serves the three kinds of numbers. A
// lies row by row. B is packed in panels: for each word of depth, the words of PANEL columns. A tile of sums stays in
// registers while all of depth passes; then a function of the caller's, `finish`, gets it, vector by vector. Processors
// with AMX multiply 16 rows with 16 columns, 16 words deep, in one instruction; they read the same tables.
//
// The table of tokens is float32 throughout. Each half of each layer has its own kind of numbers, in which it is
// normalized and multiplied; a half's hidden table never leaves the cache. Sums are in float32, those of bytes are exact.
// Threads take whole shares that do not depend on each other, so equal input gives equal output, bit for bit.

#include <immintrin.h>
#include <omp.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <new>
#include <utility>

#include "door.h"
#include "gelu.h"
#include "tables.h"

namespace {

// Kinds of numbers. ROWS × VECTORS sums are in registers at a time; about BLOCK rows of a table and CHUNK of its hidden
// columns go through channel mixing at once, as much as a core's own cache holds beside the weights.
struct F32 {
    using Number = float;
    using Sum = __m512;
    static constexpr int NUMBERS = 1, ROWS = 6, VECTORS = 4, BLOCK = 48, CHUNK = 1024;
    static Sum none() { return _mm512_setzero_ps(); }
    static Sum add(Sum sum, __m512i a, __m512i b) { return _mm512_fmadd_ps((__m512)a, (__m512)b, sum); }
    static __m512 real(Sum sum) { return sum; }
};

struct Bf16 : F32 {
    using Number = bf16;
    static constexpr int NUMBERS = 2, BLOCK = AMX ? 192 : 96, CHUNK = 1024;
    static Sum add(Sum sum, __m512i a, __m512i b) { return _mm512_dpbf16_ps(sum, (__m512bh)a, (__m512bh)b); }
    ADD_SQUARE(_tile_dpbf16ps)
};

// Bytes: A is unsigned, B signed.
struct I8 {
    using Number = uint8_t;
    using Sum = __m512i;
    static constexpr int NUMBERS = 4, ROWS = 12, VECTORS = 2, BLOCK = 192, CHUNK = 4096;
    static Sum none() { return _mm512_setzero_si512(); }
    static Sum add(Sum sum, __m512i a, __m512i b) {
        asm("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(a), "v"(b));  // GCC 12 spills the sums of the intrinsic
        return sum;
    }
    ADD_SQUARE(_tile_dpbusd)
    static __m512 real(Sum sum) { return _mm512_cvtepi32_ps(sum); }
};

// A signed, B unsigned: in token mixing the weights are on the left.
struct I8Left : I8 {
    static Sum add(Sum sum, __m512i a, __m512i b) {
        asm("vpdpbusd %1, %2, %0" : "+v"(sum) : "v"(a), "v"(b));
        return sum;
    }
    ADD_SQUARE(_tile_dpbsud)
};

template <class N>
constexpr int PANEL = 16 * N::VECTORS;
template <class N>
constexpr int UNIT = AMX && N::NUMBERS > 1 ? 32 : N::ROWS;  // rows that are best multiplied at once
template <class N>
int words(int depth) { return parts(depth, N::NUMBERS); }
template <class N>
int panels(int columns) { return parts(columns, PANEL<N>); }
template <class N>
size_t packed(int depth, int columns) { return size_t(words<N>(depth)) * up(columns, PANEL<N>); }

// ROWS rows of A times one panel. `soon`: what is multiplied next, of which `lines` cache lines are asked for every 4 words.
template <class N, int ROWS, class Finish>
void tile(const Word* a, int64_t stride, const Word* b, int depth, const Word* soon, int lines, int row, int column, int columns,
          const Finish& finish) {
    typename N::Sum sum[ROWS][N::VECTORS];
    for (int i = 0; i < ROWS; i++)
        for (int j = 0; j < N::VECTORS; j++) sum[i][j] = N::none();
    for (int k = 0; k < depth; k++) {
        if (k % 4 == 0)
            for (int line = 0; line < lines; line++, soon += 16) _mm_prefetch((const char*)soon, _MM_HINT_T1);
        __m512i right[N::VECTORS];
        for (int j = 0; j < N::VECTORS; j++) right[j] = _mm512_load_si512(b + int64_t(k) * PANEL<N> + 16 * j);
#pragma GCC unroll 12
        for (int i = 0; i < ROWS; i++) {
            const __m512i left = _mm512_set1_epi32(a[i * stride + k]);
#pragma GCC unroll 4
            for (int j = 0; j < N::VECTORS; j++) sum[i][j] = N::add(sum[i][j], left, right[j]);
        }
    }
#pragma GCC unroll 4
    for (int j = 0; j < N::VECTORS; j++) {
        if (column + 16 * j >= columns) return;
        __m512 real[ROWS];
#pragma GCC unroll 12
        for (int i = 0; i < ROWS; i++) real[i] = N::real(sum[i][j]);
        finish(row, column + 16 * j, real, ROWS);
    }
}

template <class N, class Finish, size_t... HEIGHT>
constexpr auto tiles_of(std::index_sequence<HEIGHT...>) {
    return std::array{&tile<N, HEIGHT + 1, Finish>...};
}

// A, whose rows are `stride` words apart, times panels [first, last) of B, which are `apart` words apart and `depth` deep.
// finish(row, column, sums, count): `count` rows of 16 sums each. Tiles begin at multiples of `unit` rows.
template <class N, class Finish>
void product(const Word* a, int64_t stride, int rows, const Word* b, int64_t apart, int depth, int columns, int first, int last,
             int unit, const Finish& finish) {
    static constexpr auto tiles = tiles_of<N, Finish>(std::make_index_sequence<N::ROWS>());
    if (rows == 0) return;
#ifdef __AMX_TILE__
    if constexpr (N::NUMBERS > 1)
        if (matrix_unit() && depth >= SIDE) try {  // (below that, what comes of the sums takes longer than they do)
                return product_by_squares<N>(a, stride, rows, b, apart, depth, columns, first, last, 0, [](int, int) {}, finish);
            } catch (const std::bad_alloc&) {  // nothing was finished yet
            }
#endif
    const int count = parts(rows, N::ROWS / unit * unit);
    const int lines = parts(4 * N::VECTORS, count);
    for (int panel = first; panel < last; panel++) {
        const Word* at = b + panel * apart;
        const Word* next = panel + 1 < last ? at + apart : b + first * apart;
        for (int t = 0; t < count; t++) {
            const Share part(rows, t, count, unit);
            const int64_t there = std::min<int64_t>(int64_t(t) * parts(depth, 4) * lines * 16, int64_t(depth) * PANEL<N>);
            tiles[part.size() - 1](a + part.begin * stride, stride, at, depth, next + there, lines, part.begin, panel * PANEL<N>,
                                   columns, finish);
        }
    }
}

__m512 load(const float* from) { return _mm512_loadu_ps(from); }
__m512 all(float value) { return _mm512_set1_ps(value); }

// coefficients of a polynomial, the highest power's first
template <class... C>
__m512 polynomial(__m512 x, float first, C... rest) {
    __m512 sum = all(first);
    for (float c : {rest...}) sum = _mm512_fmadd_ps(sum, x, all(c));
    return sum;
}

__m512 inverse(__m512 x) {
    const __m512 near = _mm512_rcp14_ps(x);
    return _mm512_mul_ps(near, _mm512_fnmadd_ps(x, near, all(2.f)));
}

// 2^x to float32's last digits, for x up to 126.
__m512 power_of_two(__m512 x) {
    const __m512 rest = _mm512_reduce_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC), whole = _mm512_sub_ps(x, rest);
    const __m512 p = polynomial(rest, 1.535336188e-4f, 1.339887440e-3f, 9.618437357e-3f, 5.550332471e-2f, 2.402264791e-1f,
                                6.931472028e-1f, 1.f);
    return _mm512_scalef_ps(p, whole);
}

// x · Φ(x), or, where not `exact`, x · (1 + tanh u) / 2 = x / (1 + exp(−2u)), 2u = 1.59577·x + 0.0713548·x³.
__m512 fine_gelu(__m512 x, bool exact) {
    const __m512 one = all(1.f), x2 = _mm512_mul_ps(x, x);
    if (!exact) {
        const __m512 u = _mm512_mul_ps(x, polynomial(x2, -0.10294324f, -2.30220820f));
        return _mm512_mul_ps(x, inverse(_mm512_add_ps(one, power_of_two(_mm512_min_ps(u, all(126.f))))));
    }
    // Φ by Abramowitz and Stegun's 7.1.26, whose error is below 1.5e-7.
    const __m512 bell = power_of_two(_mm512_mul_ps(x2, all(-0.72134752f)));  // exp(−x²/2)
    const __m512 t = inverse(_mm512_fmadd_ps(_mm512_abs_ps(x), all(0.3275911f * 0.70710678f), one));
    const __m512 p = polynomial(t, 1.061405429f, -1.453152027f, 1.421413741f, -0.284496736f, 0.254829592f);
    const __m512 tail = _mm512_mul_ps(_mm512_mul_ps(p, t), _mm512_mul_ps(bell, all(0.5f)));
    const __mmask16 right = _mm512_cmp_ps_mask(x, _mm512_setzero_ps(), _CMP_GT_OQ);
    return _mm512_mul_ps(x, _mm512_mask_sub_ps(tail, right, one, tail));
}

template <class N>
__m512 gelu(__m512 x, bool exact) {
    return N::NUMBERS == 1 ? fine_gelu(x, exact) : Gelu(x, exact).value;
}

// Activations as numbers of a kind. As bytes: round(value · rate + zero), from 0 to 255.
struct Bytes {
    float rate, zero;
    __m512i of(__m512 value) const {
        return _mm512_max_epi32(_mm512_cvtps_epi32(_mm512_fmadd_ps(value, all(rate), all(zero))), _mm512_setzero_si512());
    }
};

// Sixteen numbers of a row of A.
template <class N>
void store(typename N::Number* to, __m512 value, const Bytes& bytes) {
    if constexpr (N::NUMBERS == 1) _mm512_storeu_ps(to, value);
    if constexpr (N::NUMBERS == 2) _mm256_storeu_si256((__m256i*)to, (__m256i)_mm512_cvtneps_pbh(value));
    if constexpr (N::NUMBERS == 4) _mm_storeu_si128((__m128i*)to, _mm512_cvtusepi32_epi8(bytes.of(value)));
}

// NUMBERS rows, number by number, as a packed B has them: 16 words.
template <class N>
__m512i interleave(const __m512* rows, const Bytes& bytes) {
    if constexpr (N::NUMBERS == 1) return (__m512i)rows[0];
    if constexpr (N::NUMBERS == 2) return interleave(rows[0], rows[1]);
    if constexpr (N::NUMBERS == 4) {
        const __m512i most = _mm512_set1_epi32(255);
        __m512i word = _mm512_min_epi32(bytes.of(rows[0]), most);
        for (int i = 1; i < 4; i++) word = _mm512_or_si512(word, _mm512_slli_epi32(_mm512_min_epi32(bytes.of(rows[i]), most), 8 * i));
        return word;
    }
}

template <class N>
Word* place(Word* b, int depth, int row, int column) {
    return b + (size_t(column / PANEL<N>) * words<N>(depth) + row / N::NUMBERS) * PANEL<N> + column % PANEL<N>;
}

// A row's mean and 1 / its standard deviation.
struct Norm {
    __m512 mean, rate;
    Norm(const float* x, int channels) {
        __m512 sum = _mm512_setzero_ps(), squares = _mm512_setzero_ps();
        for (int c = 0; c < channels; c += 16) sum = _mm512_add_ps(sum, load(x + c));
        mean = all(_mm512_reduce_add_ps(sum) / channels);
        for (int c = 0; c < channels; c += 16) {
            const __m512 away = _mm512_sub_ps(load(x + c), mean);
            squares = _mm512_fmadd_ps(away, away, squares);
        }
        rate = all(1.f / std::sqrt(_mm512_reduce_add_ps(squares) / channels + EPS));
    }
    __m512 of(const float* x) const { return _mm512_mul_ps(_mm512_sub_ps(load(x), mean), rate); }
};

}  // namespace

extern "C" {

// Two maps with a GELU between them, and LayerNorm before. A map's sums are multiplied by `scale` (what bytes stand for;
// otherwise 1) and its `bias` is added. gamma and beta go with LayerNorm.
struct Half {
    int32_t kind;  // NUMBERS: 1, 2, 4
    int32_t hidden;
    const float *gamma, *beta;
    const Word* w1;  // token mixing: (hidden, tokens) row by row; channel mixing: (channels, hidden), packed
    const float *scale1, *bias1;
    const Word* w2;  // (tokens, hidden) row by row; (hidden, channels), packed
    const float *scale2, *bias2;
    Bytes normed, active;
};

struct Model {
    int32_t kind;  // of the stem's numbers; the head's are the same, or bfloat16 where these are bytes
    int32_t rows, columns, patch, in_channels, tokens, channels, layers, classes, exact;
    const Word* stem;  // (in_channels · patch², channels), packed
    const float *stem_scale, *stem_bias;
    const Half* halves;  // token mixing, channel mixing, token mixing, …
    const float *gamma, *beta;
    const Word* head;  // (channels, classes), packed; null without classes
    const float* head_bias;
};
}

namespace {

// What all threads share while a batch passes.
struct Tables {
    int threads;         // shares are cut for so many, however many there are in the end
    Array<float> x;      // (images · tokens, channels)
    Array<Word> normed;  // of token mixing: packed, image by image; of channel mixing apart: row by row
    Array<Word> active;  // of channel mixing apart
};

// What a thread needs for itself: the two operands of products whose rows it takes alone.
struct ThreadScratch {
    Array<Word> normed, active;
};

void copy(const uint8_t* from, int count, uint8_t* to) { std::copy(from, from + count, to); }
void copy(const uint8_t* from, int count, float* to) { std::copy(from, from + count, to); }
void copy(const uint8_t* from, int count, bf16* to) {
    for (int i = 0; i < count; i++) {
        const float value = from[i];  // at most 255: exact
        uint32_t bits;
        std::memcpy(&bits, &value, sizeof bits);
        to[i] = bits >> 16;
    }
}

template <class N>
void stem(const Model& m, const uint8_t* pixels, int images, Tables& tables, ThreadScratch& scratch) {
    float* x = tables.x.get();
    const int side = m.patch, across = m.columns / side, depth = m.in_channels * side * side, in = words<N>(depth);
    const int count = up(parts(images * m.tokens, N::BLOCK), tables.threads);
#pragma omp for schedule(static)
    for (int i = 0; i < count; i++) {
        const Share part(images * m.tokens, i, count);
        for (int r = part.begin; r < part.end; r++) {
            const uint8_t* image = pixels + size_t(r / m.tokens) * m.in_channels * m.rows * m.columns;
            const int token = r % m.tokens, top = token / across * side, left = token % across * side;
            auto* to = (typename N::Number*)(scratch.normed.get() + size_t(r - part.begin) * in);
            for (int c = 0; c < m.in_channels; c++)
                for (int y = 0; y < side; y++, to += side)
                    copy(image + (size_t(c) * m.rows + top + y) * m.columns + left, side, to);
            std::fill(to, to + in * N::NUMBERS - depth, 0);
        }
        product<N>(scratch.normed.get(), in, part.size(), m.stem, int64_t(in) * PANEL<N>, in, m.channels, 0,
                   panels<N>(m.channels), 1, [&](int r, int c, const __m512* sums, int rows) {
                       const __m512 scale = load(m.stem_scale + c), bias = load(m.stem_bias + c);
                       for (int i = 0; i < rows; i++)
                           _mm512_storeu_ps(x + size_t(part.begin + r + i) * m.channels + c, _mm512_fmadd_ps(sums[i], scale, bias));
                   });
    }
}

// x + W2 · gelu(W1 · LN(x)), a panel of an image's channels at a time.
template <class N, class Left>
void token_mixing(const Model& m, const Half& h, int images, Tables& tables, ThreadScratch& scratch) {
    constexpr int K = N::NUMBERS;
    const int in = words<N>(m.tokens), between = words<N>(h.hidden), across = panels<N>(m.channels);
    const size_t table = packed<N>(m.tokens, m.channels);
#pragma omp for schedule(static)
    for (int i = 0; i < images * in; i++) {
        const int s = i % in * K, there = std::min(K, m.tokens - s);
        const float* x = tables.x.get() + (size_t(i / in) * m.tokens + s) * m.channels;
        Word* normed = tables.normed.get() + i / in * table;
        __m512 mean[K], rate[K], rows[K];
        for (int j = 0; j < there; j++) {
            const Norm norm(x + size_t(j) * m.channels, m.channels);
            mean[j] = norm.mean, rate[j] = norm.rate;
        }
        for (int c = 0; c < m.channels; c += 16) {
            const __m512 gamma = load(h.gamma + c), beta = load(h.beta + c);
            for (int j = 0; j < K; j++) {
                rows[j] = _mm512_setzero_ps();
                if (j >= there) continue;
                const __m512 even = _mm512_mul_ps(_mm512_sub_ps(load(x + size_t(j) * m.channels + c), mean[j]), rate[j]);
                rows[j] = _mm512_fmadd_ps(even, gamma, beta);
            }
            _mm512_store_si512(place<N>(normed, m.tokens, s, c), interleave<N>(rows, h.normed));
        }
    }
    Word* active = scratch.active.get();
#pragma omp for schedule(static)
    for (int i = 0; i < images * across; i++) {
        const int panel = i % across;
        float* x = tables.x.get() + size_t(i / across) * m.tokens * m.channels;
        const Word* normed = tables.normed.get() + i / across * table;
        product<Left>(h.w1, in, h.hidden, normed, int64_t(in) * PANEL<N>, in, m.channels, panel, panel + 1, K,
                      [&](int r, int c, __m512* sums, int rows) {
                          for (int i = 0; i < rows; i++)
                              sums[i] = gelu<N>(_mm512_fmadd_ps(sums[i], all(h.scale1[r + i]), all(h.bias1[r + i])), m.exact);
                          for (int i = 0; i < rows; i += K)
                              _mm512_store_si512(place<N>(active, h.hidden, r + i, c % PANEL<N>), interleave<N>(sums + i, h.active));
                      });
        product<Left>(h.w2, between, m.tokens, active, 0, between, m.channels - panel * PANEL<N>, 0, 1, 1,
                      [&](int r, int c, const __m512* sums, int rows) {
                          for (int i = 0; i < rows; i++) {
                              float* at = x + size_t(r + i) * m.channels + panel * PANEL<N> + c;
                              const __m512 mixed = _mm512_fmadd_ps(sums[i], all(h.scale2[r + i]), all(h.bias2[r + i]));
                              _mm512_storeu_ps(at, _mm512_add_ps(load(at), mixed));
                          }
                      });
    }
}

template <class N>
void normalize(const float* x, int rows, const Model& m, const Half& h, typename N::Number* normed) {
    for (int r = 0; r < rows; r++) {
        const float* row = x + size_t(r) * m.channels;
        const Norm norm(row, m.channels);
        for (int c = 0; c < m.channels; c += 16)
            store<N>(normed + size_t(r) * m.channels + c, _mm512_fmadd_ps(norm.of(row + c), load(h.gamma + c), load(h.beta + c)), h.normed);
    }
}

// x + gelu(LN(x) · W1) · W2, a block of rows at a time.
template <class N>
void channel_mixing(const Model& m, const Half& h, int images, Tables& tables, ThreadScratch& scratch) {
    using Number = typename N::Number;
    const int all_rows = images * m.tokens, count = up(parts(all_rows, N::BLOCK), tables.threads);
    const int in = words<N>(m.channels), between = words<N>(h.hidden), chunk = std::min(N::CHUNK, up(h.hidden, PANEL<N>));
    auto *normed = (Number*)scratch.normed.get(), *active = (Number*)scratch.active.get();
#pragma omp for schedule(static)
    for (int i = 0; i < count; i++) {
        const Share part(all_rows, i, count, UNIT<N>);
        const int rows = part.size();
        if (rows == 0) continue;
        float* x = tables.x.get() + size_t(part.begin) * m.channels;
        normalize<N>(x, rows, m, h, normed);
        for (int begin = 0; begin < h.hidden; begin += chunk) {
            const int wide = std::min(chunk, h.hidden - begin), first = begin / PANEL<N>;
            product<N>((const Word*)normed, in, rows, h.w1, int64_t(in) * PANEL<N>, in, h.hidden, first,
                       first + panels<N>(wide), 1, [&](int r, int c, const __m512* sums, int rows) {
                           const __m512 scale = load(h.scale1 + c), bias = load(h.bias1 + c);
                           for (int i = 0; i < rows; i++)
                               store<N>(active + size_t(r + i) * wide + c - begin,
                                        gelu<N>(_mm512_fmadd_ps(sums[i], scale, bias), m.exact), h.active);
                       });
            product<N>((const Word*)active, words<N>(wide), rows, h.w2 + int64_t(begin / N::NUMBERS) * PANEL<N>,
                       int64_t(between) * PANEL<N>, words<N>(wide), m.channels, 0, panels<N>(m.channels), 1,
                       [&](int r, int c, const __m512* sums, int rows) {
                           const __m512 scale = load(h.scale2 + c), bias = begin ? _mm512_setzero_ps() : load(h.bias2 + c);
                           for (int i = 0; i < rows; i++) {
                               float* at = x + size_t(r + i) * m.channels + c;
                               _mm512_storeu_ps(at, _mm512_add_ps(load(at), _mm512_fmadd_ps(sums[i], scale, bias)));
                           }
                       });
        }
    }
}

// The same for few rows: threads share the columns instead, so that each reads its part of the weights only.
template <class N>
void channel_mixing_apart(const Model& m, const Half& h, int images, Tables& tables) {
    const int rows = images * m.tokens, threads = tables.threads;
    const int in = words<N>(m.channels), between = words<N>(h.hidden), chunk = std::min(N::CHUNK, up(h.hidden, PANEL<N>));
    auto* normed = (typename N::Number*)tables.normed.get();
    auto* active = (typename N::Number*)tables.active.get();
#pragma omp for schedule(static)
    for (int t = 0; t < threads; t++) {
        const Share part(rows, t, threads);
        normalize<N>(tables.x.get() + size_t(part.begin) * m.channels, part.size(), m, h, normed + size_t(part.begin) * m.channels);
    }
#pragma omp for schedule(static)
    for (int t = 0; t < threads; t++) {
        const Share part(panels<N>(h.hidden), t, threads);
        product<N>((const Word*)normed, in, rows, h.w1, int64_t(in) * PANEL<N>, in, h.hidden, part.begin, part.end, 1,
                   [&](int r, int c, const __m512* sums, int rows) {
                       const __m512 scale = load(h.scale1 + c), bias = load(h.bias1 + c);
                       for (int i = 0; i < rows; i++)
                           store<N>(active + size_t(r + i) * h.hidden + c, gelu<N>(_mm512_fmadd_ps(sums[i], scale, bias), m.exact), h.active);
                   });
    }
#pragma omp for schedule(static)
    for (int t = 0; t < threads; t++) {
        const Share part(panels<N>(m.channels), t, threads);
        for (int begin = 0; begin < h.hidden; begin += chunk) {  // as above, so that the sums are the same, bit for bit
            const int wide = std::min(chunk, h.hidden - begin);
            product<N>((const Word*)(active + begin), between, rows, h.w2 + int64_t(begin / N::NUMBERS) * PANEL<N>,
                       int64_t(between) * PANEL<N>, words<N>(wide), m.channels, part.begin, part.end, 1,
                       [&](int r, int c, const __m512* sums, int rows) {
                           const __m512 scale = load(h.scale2 + c), bias = begin ? _mm512_setzero_ps() : load(h.bias2 + c);
                           for (int i = 0; i < rows; i++) {
                               float* at = tables.x.get() + size_t(r + i) * m.channels + c;
                               _mm512_storeu_ps(at, _mm512_add_ps(load(at), _mm512_fmadd_ps(sums[i], scale, bias)));
                           }
                       });
        }
    }
}

int rows_at_once(int kind) { return kind == 1 ? F32::BLOCK : kind == 2 ? Bf16::BLOCK : I8::BLOCK; }
// Below that, weights that are read once for all rows are worth more than tables that stay in a core's cache.
bool few_rows(int kind, int rows, int threads) { return rows < threads * std::max(128, rows_at_once(kind)); }

// The most rows of a thread's share, which ends at a whole tile.
int block(int kind, int rows, int threads) { return parts(rows, up(parts(rows, rows_at_once(kind)), threads)) + 2 * UNIT<I8>; }

template <class N, class Left = N>
void layer_half(const Model& m, int half, int images, Tables& tables, ThreadScratch& scratch) {
    const Half& h = m.halves[half];
    if (half % 2 == 0)
        token_mixing<N, Left>(m, h, images, tables, scratch);
    else if (few_rows(N::NUMBERS, images * m.tokens, tables.threads))
        channel_mixing_apart<N>(m, h, images, tables);
    else
        channel_mixing<N>(m, h, images, tables, scratch);
}

// The mean over places of LN(x); its scale and shift are applied to the mean.
void pool(const Model& m, int images, const float* x, float* features) {
#pragma omp for schedule(static)
    for (int p = 0; p < images; p++) {
        float* mean = features + size_t(p) * m.channels;
        std::fill(mean, mean + m.channels, 0.f);
        for (int s = 0; s < m.tokens; s++) {
            const float* row = x + (size_t(p) * m.tokens + s) * m.channels;
            const Norm norm(row, m.channels);
            for (int c = 0; c < m.channels; c += 16) _mm512_storeu_ps(mean + c, _mm512_add_ps(load(mean + c), norm.of(row + c)));
        }
        for (int c = 0; c < m.channels; c += 16) {
            const __m512 even = _mm512_mul_ps(load(mean + c), all(1.f / m.tokens));
            _mm512_storeu_ps(mean + c, _mm512_fmadd_ps(even, load(m.gamma + c), load(m.beta + c)));
        }
    }
}

template <class N>
void head(const Model& m, int images, const float* features, float* logits, int threads, ThreadScratch& scratch) {
    const int in = words<N>(m.channels), wide = up(m.classes, PANEL<N>);
    auto* rows = (typename N::Number*)scratch.normed.get();  // each thread its own: a small table
    for (int i = 0; i < images * m.channels; i += 16) store<N>(rows + i, load(features + i), {});
#pragma omp for schedule(static)
    for (int t = 0; t < threads; t++) {
        const Share part(panels<N>(m.classes), t, threads);
        product<N>((const Word*)rows, in, images, m.head, int64_t(in) * PANEL<N>, in, wide, part.begin, part.end, 1,
                   [&](int r, int c, const __m512* sums, int count) {
                       const __m512 bias = load(m.head_bias + c);  // padded as the panels are
                       const __mmask16 there = c + 16 <= m.classes ? 0xffff : c >= m.classes ? 0 : (1 << (m.classes - c)) - 1;
                       for (int i = 0; i < count; i++)
                           _mm512_mask_storeu_ps(logits + size_t(r + i) * m.classes + c, there, _mm512_add_ps(sums[i], bias));
                   });
    }
}

// How many words each of the tables takes at most.
struct Room {
    size_t normed = 1, active = 1, scratch_normed = 1, scratch_active = 1;

    Room(const Model& m, int images, int threads) {
        for (int kind : {m.kind, m.kind == 4 ? 2 : m.kind}) {
            const int rows = block(kind, images * m.tokens, threads);
            grow(scratch_normed, rows, parts(m.in_channels * m.patch * m.patch, kind));
            grow(scratch_normed, images, parts(m.channels, kind));  // the head's
        }
        for (int i = 0; i < 2 * m.layers; i++) {
            const Half& h = m.halves[i];
            const int rows = images * m.tokens;
            if (i % 2 == 0) {
                grow(normed, images, size_t(parts(m.tokens, h.kind)) * up(m.channels, 64));
                grow(scratch_active, parts(h.hidden, h.kind), 64);
            } else if (few_rows(h.kind, rows, threads)) {
                grow(normed, rows, parts(m.channels, h.kind));
                grow(active, rows, parts(h.hidden, h.kind));
            } else {
                grow(scratch_normed, block(h.kind, rows, threads), parts(m.channels, h.kind));
                grow(scratch_active, block(h.kind, rows, threads), parts(std::min(h.hidden, I8::CHUNK), h.kind));
            }
        }
    }

    static void grow(size_t& room, size_t rows, size_t words) { room = std::max(room, rows * words); }
};

// pixels (images, in_channels, rows, columns) → features (images, channels) and logits (images, classes).
int32_t answers(const Model* model, const uint8_t* pixels, int images, int threads, float* features, float* logits) {
    const Model& m = *model;
    for (const int64_t each : {m.tokens, m.channels}) size(images * each);  // rows, and numbers, that are counted
    const Room room(m, images, threads);
    Tables tables{threads, array<float>(size_t(images) * m.tokens * m.channels), array<Word>(room.normed), array<Word>(room.active)};
    Team team;
#pragma omp parallel num_threads(threads)
    {
        ThreadScratch scratch{array_or_none<Word>(room.scratch_normed), array_or_none<Word>(room.scratch_active)};
        const MatrixUnit unit;
        if (team.has(scratch.normed, scratch.active)) {
            if (m.kind == 1) stem<F32>(m, pixels, images, tables, scratch);
            if (m.kind == 2) stem<Bf16>(m, pixels, images, tables, scratch);
            if (m.kind == 4) stem<I8>(m, pixels, images, tables, scratch);
            for (int i = 0; i < 2 * m.layers; i++) {
                const int kind = m.halves[i].kind;
                if (kind == 1) layer_half<F32>(m, i, images, tables, scratch);
                if (kind == 2) layer_half<Bf16>(m, i, images, tables, scratch);
                if (kind == 4) layer_half<I8, I8Left>(m, i, images, tables, scratch);
            }
            pool(m, images, tables.x.get(), features);
            if (m.classes && m.kind == 1) head<F32>(m, images, features, logits, threads, scratch);
            if (m.classes && m.kind != 1) head<Bf16>(m, images, features, logits, threads, scratch);
        }
    }
    team.require();
    return DONE;
}

template <class N>
void multiply(const Word* a, const Word* b, float* out, int rows, int in, int columns, int times) {
    for (int i = 0; i < times; i++)
        product<N>(a, in, rows, b, int64_t(in) * PANEL<N>, in, columns, 0, panels<N>(columns), 1,
                   [&](int r, int c, const __m512* sums, int count) {
                       for (int j = 0; j < count; j++) _mm512_storeu_ps(out + size_t(r + j) * columns + c, sums[j]);
                   });
}

template <class N>
int32_t multiply(int rows, int depth, int columns, int times, int threads) {
    const int in = words<N>(depth);
    const size_t left = size_t(rows) * in, right = packed<N>(depth, columns);
    Team team;
#pragma omp parallel num_threads(threads)
    {
        const MatrixUnit unit;
        const auto a = array_or_none<Word>(left), b = array_or_none<Word>(right);
        const auto out = array_or_none<float>(size_t(rows) * up(columns, PANEL<N>));
        if (team.has(a, b, out)) {
            const Word one = 0x3f803f80;  // or about so, in float32, twice in bfloat16
            std::fill_n(a.get(), left, one), std::fill_n(b.get(), right, one);
            multiply<N>(a.get(), b.get(), out.get(), rows, in, columns, times);
        }
    }
    team.require();
    return DONE;
}

int32_t multiply_in(int kind, int rows, int depth, int columns, int times, int threads) {
    if (kind == 1) return multiply<F32>(rows, depth, columns, times, threads);
    if (kind == 2) return multiply<Bf16>(rows, depth, columns, times, threads);
    return multiply<I8>(rows, depth, columns, times, threads);
}

}  // namespace

extern "C" {

int32_t forward(const Model* model, const uint8_t* pixels, int64_t images, int64_t threads, float* features, float* logits) {
    return answered(answers, model, pixels, images, threads, features, logits);
}

// The product by itself, on tables that stay in the cache, `times` over on each thread: as fast as these cores multiply.
int32_t multiply(int64_t kind, int64_t rows, int64_t depth, int64_t columns, int64_t times, int64_t threads) {
    return answered(multiply_in, kind, rows, depth, columns, times, threads);
}
}
