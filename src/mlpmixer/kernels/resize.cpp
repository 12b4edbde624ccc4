// Images scaled with antialiasing on CPUs with AVX-512: bytes in, a window of the scaled image out, its colors apart.
//
// The same numbers as PyTorch's `interpolate(antialias=True)` of bytes, bit for bit: weights are computed in float64 and
// rounded to 16 bits, with as many digits as the largest leaves room for; first along rows, then along columns, rounded to
// bytes after each. What is not in the window is not computed, and the window needs no copy to have its colors apart.
//
// Sums are in 32 bits, two products at a time (vpdpwssd). Along a row, 16 sums are 16 neighboring bytes of the result, red,
// green, blue, red, …; which bytes of the row they need is the same in all rows, so it is written down once, as indices
// of a shuffle over the 64 bytes (vpermb) or 128 (vpermi2b) where they all lie.

#include <immintrin.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <vector>

#include "door.h"

namespace {

constexpr int COLORS = 3, LANES = 16, VECTOR = 64;
constexpr size_t KEPT = 1 << 24;  // bytes that a thread holds on to for the next image, at most
constexpr int64_t WEIGHTS = 1 << 24;  // along a side at most, so that they take neither long nor much memory

double triangle(double x) { return std::max(0.0, 1.0 - std::abs(x)); }

double cubic(double x) {
    constexpr double a = -0.5;
    x = std::abs(x);
    if (x < 1) return ((a + 2) * x - (a + 3)) * x * x + 1;
    if (x < 2) return (((x - 5) * x + 8) * x - 4) * a;
    return 0;
}

// How each place of the result, along one side, is a weighted sum of neighbors. Only places of the window are kept, and
// counted from its begin; but the largest weight of all says how they are rounded.
struct Side {
    int from, to, begin;
    double scale, support;
    bool bicubic;
    int taps;         // at most
    int digits = 0;   // after the binary point of the weights
    int widest = 0;   // of the counts
    std::vector<int> first, count;
    std::vector<int16_t> weights;  // taps of each place; zeros where there are fewer

    Side(int from, int to, int begin, int places, bool bicubic)
        : from(from), to(to), begin(begin), scale(double(from) / to), bicubic(bicubic), first(places), count(places) {
        support = (bicubic ? 2 : 1) * std::max(scale, 1.0);
        taps = int(std::ceil(support)) * 2 + 1;
        for (int i = 0; i < places; i++) {
            span(begin + i, first[i], count[i]);
            widest = std::max(widest, count[i]);
        }
    }

    bool absurd() const { return int64_t(to) * taps > WEIGHTS; }

    void span(int place, int& first, int& count) const {
        const double center = scale * (place + 0.5);
        first = std::max(int(center - support + 0.5), 0);
        count = std::clamp(std::min(int(center + support + 0.5), from) - first, 0, taps);
    }

    void weigh() {
        const double shrink = scale >= 1 ? 1 / scale : 1.0;
        std::vector<double> exact(first.size() * taps), other(taps);
        double largest = 0;
        for (int i = 0; i < to; i++) {
            const int place = i - begin;
            double* own = place >= 0 && place < int(first.size()) ? &exact[size_t(place) * taps] : other.data();
            int first, count;
            span(i, first, count);
            const double center = scale * (i + 0.5);
            double total = 0;
            for (int j = 0; j < count; j++) {
                const double x = (j + first - center + 0.5) * shrink;
                total += own[j] = bicubic ? cubic(x) : triangle(x);
            }
            for (int j = 0; j < count && total != 0; j++) largest = std::max(largest, own[j] /= total);
        }
        while (digits < 22 && int(0.5 + largest * (1 << (digits + 1))) < (1 << 15)) digits++;
        weights.resize(exact.size());
        for (size_t i = 0; i < exact.size(); i++) weights[i] = int16_t((exact[i] < 0 ? -0.5 : 0.5) + exact[i] * (1 << digits));
    }

    // Two weights in a word, the second 0 where there is none; `pair` of `place`.
    int32_t both(int place, int pair) const {
        const int16_t* own = &weights[size_t(place) * taps];
        const int j = 2 * pair;
        const int16_t one = j < count[place] ? own[j] : 0, two = j + 1 < count[place] ? own[j + 1] : 0;
        return int32_t(uint16_t(one)) | int32_t(uint32_t(uint16_t(two)) << 16);
    }
};

// 16 neighboring bytes of a scaled row.
struct Group {
    int begin;            // byte of the row where the shuffle's 128 begin
    __mmask64 low, high;  // which of them are still in the row

    __m512i first(const uint8_t* row) const { return _mm512_maskz_loadu_epi8(low, row + begin); }
    __m512i second(const uint8_t* row) const { return _mm512_maskz_loadu_epi8(high, row + begin + VECTOR); }
};

struct Row {
    const Side& side;
    int pairs;
    std::vector<Group> groups;
    std::vector<__m512i> indices, weights;  // a vector for each pair of each group
    int reach = 0;  // bytes that a shuffle must see

    // The first `bytes` of the side's places, of rows that are `width` bytes long.
    Row(const Side& side, int bytes, int width) : side(side), pairs((side.widest + 1) / 2) {
        for (int at = 0; at < bytes; at += LANES) {
            const int last = std::min(at + LANES, bytes) - 1;
            const int base = COLORS * side.first[at / COLORS];
            const int left = width - base;
            groups.push_back({base, mask(left), mask(left - VECTOR)});
            for (int pair = 0; pair < pairs; pair++) {
                alignas(64) std::array<uint8_t, 64> index{};
                alignas(64) std::array<int32_t, LANES> weight{};
                for (int lane = 0; at + lane <= last; lane++) {
                    const int place = (at + lane) / COLORS, color = (at + lane) % COLORS;
                    weight[lane] = side.both(place, pair);
                    for (int two = 0; two < 2; two++) {
                        const int j = 2 * pair + two;
                        if (j >= side.count[place]) continue;  // its weight is 0
                        const int offset = COLORS * (side.first[place] + j) + color - base;
                        reach = std::max(reach, offset + 1);
                        index[4 * lane + 2 * two] = uint8_t(offset);
                    }
                }
                indices.push_back(_mm512_load_si512(index.data()));
                weights.push_back(_mm512_load_si512(weight.data()));
            }
        }
    }

    static __mmask64 mask(int bytes) { return bytes <= 0 ? 0 : bytes >= 64 ? ~0ull : (1ull << bytes) - 1; }

    // A row, and the one after it.
    void operator()(const uint8_t* one, const uint8_t* two, uint8_t* result, uint8_t* next) const {
        reach <= VECTOR ? scale<false>(one, two, result, next) : scale<true>(one, two, result, next);
    }

    template <bool FAR>
    void scale(const uint8_t* one, const uint8_t* two, uint8_t* result, uint8_t* next) const {
        constexpr __mmask64 EVEN = 0x5555555555555555;  // every other byte is zero: bytes become 16 bits
        const __m512i half = _mm512_set1_epi32(1 << (side.digits - 1));
        const __m512i *index = indices.data(), *weight = weights.data();
        for (const Group& group : groups) {
            const __m512i a = group.first(one), b = group.first(two);
            const __m512i a2 = FAR ? group.second(one) : a, b2 = FAR ? group.second(two) : b;
            __m512i sum = half, sum2 = half;
            for (int pair = 0; pair < pairs; pair++, index++, weight++) {
                const __m512i x = FAR ? _mm512_maskz_permutex2var_epi8(EVEN, a, *index, a2) : _mm512_maskz_permutexvar_epi8(EVEN, *index, a);
                const __m512i y = FAR ? _mm512_maskz_permutex2var_epi8(EVEN, b, *index, b2) : _mm512_maskz_permutexvar_epi8(EVEN, *index, b);
                sum = _mm512_dpwssd_epi32(sum, x, *weight), sum2 = _mm512_dpwssd_epi32(sum2, y, *weight);
            }
            _mm_storeu_si128((__m128i*)result, bytes_of(sum)), _mm_storeu_si128((__m128i*)next, bytes_of(sum2));
            result += LANES, next += LANES;
        }
    }

    __m128i bytes_of(__m512i sum) const {
        return _mm512_cvtusepi32_epi8(_mm512_max_epi32(_mm512_srai_epi32(sum, side.digits), _mm512_setzero_si512()));
    }
};

// One row of the result, `bytes` long, from rows of `stride` bytes.
void down(const Side& side, int place, const uint8_t* rows, int stride, int bytes, uint8_t* result) {
    const int pairs = (side.count[place] + 1) / 2;
    const __m512i half = _mm512_set1_epi32(1 << (side.digits - 1));
    thread_local std::vector<int32_t> weights;
    weights.resize(pairs);
    for (int pair = 0; pair < pairs; pair++) weights[pair] = side.both(place, pair);
    const int last = side.count[place] - 1;
    for (int at = 0; at < bytes; at += 64) {
        __m512i sums[4] = {half, half, half, half};
        for (int pair = 0; pair < pairs; pair++) {
            const uint8_t* one = rows + int64_t(2 * pair) * stride + at;
            const uint8_t* two = rows + int64_t(std::min(2 * pair + 1, last)) * stride + at;  // beyond, its weight is 0
            const __m512i a = _mm512_loadu_si512(one), b = _mm512_loadu_si512(two), weight = _mm512_set1_epi32(weights[pair]);
            // Bytes of both rows side by side, then each with a zero behind it.
            const __m512i low = _mm512_unpacklo_epi8(a, b), high = _mm512_unpackhi_epi8(a, b), zero = _mm512_setzero_si512();
            sums[0] = _mm512_dpwssd_epi32(sums[0], _mm512_unpacklo_epi8(low, zero), weight);
            sums[1] = _mm512_dpwssd_epi32(sums[1], _mm512_unpackhi_epi8(low, zero), weight);
            sums[2] = _mm512_dpwssd_epi32(sums[2], _mm512_unpacklo_epi8(high, zero), weight);
            sums[3] = _mm512_dpwssd_epi32(sums[3], _mm512_unpackhi_epi8(high, zero), weight);
        }
        for (__m512i& sum : sums) sum = _mm512_srai_epi32(sum, side.digits);
        // Packing undoes the unpacking, with too little and too much cut off.
        const __m512i low = _mm512_packs_epi32(sums[0], sums[1]), high = _mm512_packs_epi32(sums[2], sums[3]);
        _mm512_storeu_si512(result + at, _mm512_packus_epi16(low, high));
    }
}

// red, green, blue, red, … → three rows of `pixels` bytes, `plane` bytes apart. Reads up to 192 bytes at a time.
void apart(const uint8_t* row, int pixels, uint8_t* result, int64_t plane) {
    struct Indices {
        __m512i early[COLORS], late[COLORS];
        __mmask64 from_late[COLORS];
        Indices() {
            for (int color = 0; color < COLORS; color++) {
                alignas(64) std::array<uint8_t, 64> first{}, second{};
                from_late[color] = 0;
                for (int i = 0; i < 64; i++) {
                    const int at = COLORS * i + color;
                    if (at < 128) first[i] = uint8_t(at);
                    else second[i] = uint8_t(at - 128), from_late[color] |= 1ull << i;
                }
                early[color] = _mm512_load_si512(first.data()), late[color] = _mm512_load_si512(second.data());
            }
        }
    };
    static const Indices indices;
    for (int at = 0; at < pixels; at += 64, row += 64 * COLORS) {
        const __m512i a = _mm512_loadu_si512(row), b = _mm512_loadu_si512(row + 64), c = _mm512_loadu_si512(row + 128);
        for (int color = 0; color < COLORS; color++) {
            const __m512i early = _mm512_permutex2var_epi8(a, indices.early[color], b);
            const __m512i all = _mm512_mask_permutexvar_epi8(early, indices.from_late[color], indices.late[color], c);
            _mm512_mask_storeu_epi8(result + color * plane + at, Row::mask(pixels - at), all);
        }
    }
}

// `image`: `height` rows of `width` pixels, `stride` bytes apart. Of the image scaled to `tall` × `wide`, `result` gets
// the window of `rows` × `columns` at (`top`, `left`), color by color. It may be shrunk too much for this.
int32_t resized(const uint8_t* image, int64_t stride, int height, int width, int tall, int wide, int bicubic, int top, int left,
                int rows, int columns, uint8_t* result) {
    Side across(width, wide, left, columns, bicubic), along(height, tall, top, rows, bicubic);
    const int bytes = COLORS * columns, room = (bytes + 191) / 192 * 192;
    const bool sideways = width != wide, upright = height != tall;
    if (sideways && (across.absurd() || COLORS * int64_t(across.widest) > 2 * VECTOR)) return NOT_BY_THESE;
    if (upright && along.absurd()) return NOT_BY_THESE;
    if (sideways) across.weigh();
    if (upright) along.weigh();
    const Row row(across, sideways ? bytes : 0, COLORS * width);
    if (row.reach > 2 * VECTOR) return NOT_BY_THESE;
    const int begin = upright ? along.first[0] : top, end = upright ? along.first[rows - 1] + along.count[rows - 1] : top + rows;
    thread_local std::vector<uint8_t> narrow, line;
    narrow.resize(size_t(end - begin) * room), line.resize(room);
    for (int y = begin; y < end; y += 2) {
        const int next = std::min(y + 1, end - 1);
        const uint8_t *one = image + y * stride, *two = image + next * stride;
        uint8_t *to = &narrow[size_t(y - begin) * room], *to2 = &narrow[size_t(next - begin) * room];
        if (sideways) row(one, two, to, to2);
        else std::copy_n(one + COLORS * left, bytes, to), std::copy_n(two + COLORS * left, bytes, to2);
    }
    for (int y = 0; y < rows; y++) {
        const uint8_t* done = &narrow[size_t(y) * room];
        if (upright) {
            down(along, y, &narrow[size_t(along.first[y] - begin) * room], room, bytes, line.data());
            done = line.data();
        }
        apart(done, columns, result + int64_t(y) * columns, int64_t(rows) * columns);
    }
    if (narrow.size() > KEPT) std::vector<uint8_t>().swap(narrow);
    return DONE;
}

}  // namespace

extern "C" int32_t resize(const uint8_t* image, int64_t stride, int64_t height, int64_t width, int64_t tall, int64_t wide,
                          int64_t bicubic, int64_t top, int64_t left, int64_t rows, int64_t columns, uint8_t* result) {
    return answered(resized, image, stride, height, width, tall, wide, bicubic, top, left, rows, columns, result);
}
