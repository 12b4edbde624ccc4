// Products by the matrix unit of Intel's servers (AMX), which multiplies 16 rows with 16 columns, 16 words of 32 bits
// deep, in one instruction. A word is two bfloat16 or four bytes. A lies row by row, its rows `stride` words apart; B is
// packed in panels, as the AVX-512 products have it.
//
// A kind of numbers N has VECTORS of 16 columns in a panel; Sum and real, for what the sums are; and add_square<i>, the
// instruction itself.

#pragma once

#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <memory>
#include <vector>

namespace {

using Word = int32_t;

int parts(int value, int size) { return (value + size - 1) / size; }

// Of the unit's eight registers, the first four hold sums: of 4 and 5 (rows of A) times 6 and 7 (columns of B).
#ifdef __AMX_TILE__
constexpr bool AMX = true;  // if the system lets us
#define ADD_SQUARE(instruction)                        \
    template <int SUMS>                                \
    static void add_square() {                         \
        if constexpr (SUMS == 0) instruction(0, 4, 6); \
        if constexpr (SUMS == 1) instruction(1, 4, 7); \
        if constexpr (SUMS == 2) instruction(2, 5, 6); \
        if constexpr (SUMS == 3) instruction(3, 5, 7); \
    }

// What the registers hold: 16 rows of 64 bytes each.
struct alignas(64) Shape {
    uint8_t palette = 1, start = 0, reserved[14] = {};
    uint16_t bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
    uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};

// Whether the system lets us use it; each process has to ask.
bool matrix_unit() {
    constexpr int REQUEST = 0x1023, TILES = 18;  // ARCH_REQ_XCOMP_PERM of asm/prctl.h, and the kernel's name for them
    static const bool granted = syscall(SYS_arch_prctl, REQUEST, TILES) == 0;
    return granted;
}

// A thread has it while this lives.
struct MatrixUnit {
    MatrixUnit() {
        static const Shape shape;
        if (matrix_unit()) _tile_loadconfig(&shape);
    }
    ~MatrixUnit() {
        if (matrix_unit()) _tile_release();
    }
};

constexpr int SIDE = 16;  // rows and columns of a register's sums, and words of depth at a time

// Where depth is no multiple of 16 words: the last columns of A and the last rows of a panel of B, and zeros after them.
struct alignas(64) Line {
    Word words[SIDE];
};

template <class N>
struct Rest {
    const int words, whole;
    std::unique_ptr<Line[]> a, b;

    Rest(const Word* from, int64_t stride, int rows, int depth) : words(depth % SIDE), whole(depth - words) {
        if (words == 0) return;
        a.reset(new Line[rows]), b.reset(new Line[SIDE * N::VECTORS]());
        const __mmask16 there = __mmask16((1 << words) - 1);
        for (int i = 0; i < rows; i++)
            _mm512_store_si512(a[i].words, _mm512_maskz_loadu_epi32(there, from + i * stride + whole));
    }
    void take(const Word* panel) {
        if (words) std::memcpy(b.get(), panel + int64_t(whole) * SIDE * N::VECTORS, sizeof(Line) * words * N::VECTORS);
    }
    const Word* rows(int row) const { return words ? a[row].words : nullptr; }
    const Word* columns(int vector) const { return words ? b[vector].words : nullptr; }
};

// Sums of up to 32 × 32. `finish` gets them, 4 rows and 16 columns at a time, while the matrix unit is busy with the
// next. Those are the rows from `skip` on, up to `end`: the first were finished before.
template <class N, class Finish>
struct Done {
    alignas(64) Word sums[4][SIDE][SIDE];
    int row, skip, end, column;
    unsigned units = 0, next = 0;

    void settle(unsigned most, int columns, const Finish& finish) {
        for (const unsigned stop = std::min(next + most, units); next < stop; next++) {
            const int half = next / 4 % 2, high = next % 4 * 4, first = next / 8 * SIDE + high, from = std::max(first, skip);
            const int count = std::min(first + 4, end) - from;
            if (column + SIDE * half >= columns || count <= 0) continue;
            __m512 real[4];
            for (int i = 0; i < 4; i++) real[i] = N::real((typename N::Sum)_mm512_load_si512(sums[next / 4][high + i]));
            if (count == 4)  // nearly always, so that the compiler sees how many
                finish(row + first, column + SIDE * half, real, 4);
            else
                finish(row + from, column + SIDE * half, real + (from - first), count);
        }
    }
};

// 16 more words of depth: 16 or 32 rows times 32 columns.
template <class N, int HIGH>
void add_squares(const Word* a, int64_t stride, const Word* b) {
    constexpr int APART = 4 * SIDE * N::VECTORS;
    _tile_loadd(6, b, APART);
    _tile_loadd(4, a, 4 * stride);
    N::template add_square<0>();
    _tile_loadd(7, b + SIDE, APART);
    N::template add_square<1>();
    if constexpr (HIGH == 2) {
        _tile_loadd(5, a + SIDE * stride, 4 * stride);
        N::template add_square<2>();
        N::template add_square<3>();
    }
}

// What is asked of memory while the matrix unit works: a line of the next panel of B at a time, and what `finish` will
// read of a row of it. Evenly, since a core waits for few lines at once.
template <class Prepare>
struct Soon {
    const Prepare& prepare;
    const Word* lines;
    int panel, rows, lines_a_step, rows_a_step, row = 0;

    void ask() {
        for (int i = 0; i < lines_a_step; i++) _mm_prefetch((const char*)(lines + 16 * i), _MM_HINT_T1);
        lines += 16 * lines_a_step;
        if (row == rows) return;
        for (const int end = std::min(row + rows_a_step, rows); row < end; row++) prepare(row, panel);
    }
};

// 16 or 32 rows times 32 columns, into `now`; meanwhile `before` is settled.
template <class N, int HIGH, class Finish, class Prepare>
void square(const Word* a, int64_t stride, const Word* b, int steps, const Word* a_rest, const Word* b_rest, int columns,
            Soon<Prepare>& soon, Done<N, Finish>& now, Done<N, Finish>& before, const Finish& finish) {
    const int share = parts(before.units, steps + (a_rest ? 1 : 0));
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    for (int step = 0; step < steps; step++, a += SIDE, b += int64_t(SIDE) * SIDE * N::VECTORS) {
        add_squares<N, HIGH>(a, stride, b);
        soon.ask();
        before.settle(share, columns, finish);
    }
    if (a_rest) {
        add_squares<N, HIGH>(a_rest, SIDE, b_rest);
        before.settle(share, columns, finish);
    }
    _tile_stored(0, now.sums[0], 64);
    _tile_stored(1, now.sums[1], 64);
    if constexpr (HIGH == 2) {
        _tile_stored(2, now.sums[2], 64);
        _tile_stored(3, now.sums[3], 64);
    }
}

// `prepare(row, panel)` is called for the first `prepared` rows, about a panel before `finish` gets their sums. Sums of a
// row are the same, bit for bit, whatever else is multiplied with it. Throws std::bad_alloc, if at all, before `finish` is called.
template <class N, class Prepare, class Finish>
void product_by_squares(const Word* a, int64_t stride, int rows, const Word* b, int64_t apart, int depth, int columns, int first,
                        int last, int prepared, const Prepare& prepare, const Finish& finish, int end = 1 << 30) {
    constexpr int PANEL = SIDE * N::VECTORS;
    if (rows < SIDE) {  // a table of 16 rows, of which the last do not count
        std::vector<Word> padded(size_t(SIDE) * depth);
        for (int i = 0; i < rows; i++) std::copy_n(a + i * stride, depth, padded.data() + size_t(i) * depth);
        return product_by_squares<N>(padded.data(), depth, SIDE, b, apart, depth, columns, first, last, prepared, prepare, finish, rows);
    }
    Rest<N> rest(a, stride, rows, depth);
    Done<N, Finish> done[2];
    int current = 0;
    const int steps = depth / SIDE, asking = std::max(1, steps * parts(rows, 2 * SIDE) * (N::VECTORS / 2));  // steps in a panel
    for (int row = 0; row < prepared; row++) prepare(row, first);
    for (int panel = first; panel < last; panel++) {
        const int following = panel + 1 < last ? panel + 1 : first, wanted = panel + 1 < last ? prepared : 0;
        Soon<Prepare> soon{prepare, b + following * apart, following, wanted, parts(depth * N::VECTORS, asking), parts(wanted, asking)};
        rest.take(b + panel * apart);
        asm volatile("" ::: "memory");  // what was stored must be seen by the matrix unit
        for (int pair = 0; pair < N::VECTORS && panel * PANEL + SIDE * pair < columns; pair += 2) {
            for (int ready = 0; ready < rows;) {
                const int left = rows - ready, high = left > SIDE && rows >= 2 * SIDE ? 2 : 1;
                const int row = std::min(ready, rows - high * SIDE);  // in the end some rows once more, to make a square
                auto &now = done[current], &before = done[current ^= 1];
                (high == 2 ? square<N, 2, Finish, Prepare> : square<N, 1, Finish, Prepare>)(
                    a + row * stride, stride, b + panel * apart + SIDE * pair, steps, rest.rows(row), rest.columns(pair), columns,
                    soon, now, before, finish);
                now.row = row, now.skip = ready - row, now.end = end - row;
                now.column = panel * PANEL + SIDE * pair, now.units = 8 * high, now.next = 0;
                ready = row + high * SIDE;
            }
        }
    }
    done[current ^ 1].settle(16, columns, finish);
}

#else
constexpr bool AMX = false;
#define ADD_SQUARE(instruction)

struct MatrixUnit {
    MatrixUnit() {}
};
#endif

}  // namespace
