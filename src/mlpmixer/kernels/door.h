// What Python's calls go through: sizes that `int` can hold, memory that is there, and no C++ exception that gets out.

#pragma once

#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <new>
#include <stdexcept>
#include <type_traits>

namespace {

// What a function answers. Negative: Python raises it (library.py).
enum Answer : int32_t { DONE = 0, NOT_BY_THESE = 1, NO_MEMORY = -1, TOO_LARGE = -2, FAULT = -3 };

constexpr int64_t MOST = 1 << 26;  // of anything that is counted in an `int`: some multiples of it fit as well

int size(int64_t value) {
    if (value < 0 || value > MOST) throw std::length_error("size");
    return int(value);
}

template <class Takes, class Given>
Takes taken(Given given) {
    if constexpr (std::is_same_v<Takes, int>) return size(given);
    else return given;
}

// `function`, whose sizes are in `int`, for a caller who gives them in 64 bits.
template <class... Takes, class... Given>
int32_t answered(int32_t (*function)(Takes...), Given... given) noexcept {
    try {
        return function(taken<Takes>(given)...);
    } catch (const std::bad_alloc&) {
        return NO_MEMORY;
    } catch (const std::length_error&) {
        return TOO_LARGE;
    } catch (...) {
        return FAULT;
    }
}

struct Free {
    void operator()(void* memory) const { std::free(memory); }
};

// Uninitialized memory on its own cache lines, and a line after it.
template <class T>
using Array = std::unique_ptr<T[], Free>;

// Null where there is none: in a team of threads, where exceptions end the process. See `Team`.
template <class T>
Array<T> array_or_none(size_t count) {
    return Array<T>(static_cast<T*>(std::aligned_alloc(64, (count * sizeof(T) + 63) / 64 * 64 + 64)));
}

template <class T>
Array<T> array(size_t count) {
    auto made = array_or_none<T>(count);
    if (!made) throw std::bad_alloc();
    return made;
}

// The threads of a parallel region, each of which takes memory for itself. All work, or none.
class Team {
    std::atomic<bool> lacking{false};

public:
    // Whether all have theirs; all threads ask, once.
    template <class... Arrays>
    bool has(const Arrays&... own) {
        if (!(... && own)) lacking = true;
#pragma omp barrier
        return !lacking;
    }

    // Afterwards.
    void require() const {
        if (lacking) throw std::bad_alloc();
    }
};

}  // namespace
