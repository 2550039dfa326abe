// Adam's moments of one projected gradient, and the sums of squares that Alice, Fira and APOLLO take with them, each in
// one pass on a CPU: torch makes a pass over memory of every square, average, root and sum.
//
// Squares are summed in double whatever T is: a residual is the difference of two of them (subspace.residual_power).
#include <algorithm>
#include <cmath>
#include <limits>

namespace {

constexpr long BLOCK = 512; // columns at a time: their two rows of sums stay in the first cache

// For columns [start, end) of matrices r x n by rows:
// m1, v <- ema(sigma, b1), ema(sigma^2, b2); normalized = m1 / (sqrt(max(v, smallest normal number)) + eps);
// inside[j] and power[j], where they are wanted, the sums of sigma^2 and of normalized^2 down column j.
template <typename T>
void moments(const T *sigma, T *m1, T *v, T *normalized, T *inside, T *power, long r, long n, long start, long end,
             double b1, double b2, double eps) {
    const T new1 = T(1 - b1), new2 = T(1 - b2), added = T(eps); // 1 - b of a rounded b would be off by 1e-4 of it
    double squares[BLOCK], lengths[BLOCK];
    for (; start < end; start += BLOCK) {
        const long count = std::min(BLOCK, end - start);
        std::fill_n(squares, count, 0.0);
        std::fill_n(lengths, count, 0.0);
        for (long i = 0; i < r; ++i) {
            const long at = i * n + start;
            for (long j = 0; j < count; ++j) {
                const T value = sigma[at + j];
                const T first = m1[at + j] += new1 * (value - m1[at + j]);
                const T second = v[at + j] += new2 * (value * value - v[at + j]);
                const T x = first / (std::sqrt(std::max(second, std::numeric_limits<T>::min())) + added);
                normalized[at + j] = x;
                squares[j] += double(value) * value;
                lengths[j] += double(x) * x;
            }
        }
        for (long j = 0; j < count && inside; ++j)
            inside[start + j] = T(squares[j]);
        for (long j = 0; j < count && power; ++j)
            power[start + j] = T(lengths[j]);
    }
}

// sums[j] for j in [start, end) = sum over i of g[i, j]^2, g rows x columns by rows
template <typename T> void squares_down(const T *g, T *sums, long rows, long columns, long start, long end) {
    double block[BLOCK];
    for (; start < end; start += BLOCK) {
        const long count = std::min(BLOCK, end - start);
        std::fill_n(block, count, 0.0);
        for (long i = 0; i < rows; ++i)
            for (long j = 0; j < count; ++j) {
                const double value = g[i * columns + start + j];
                block[j] += value * value;
            }
        for (long j = 0; j < count; ++j)
            sums[start + j] = T(block[j]);
    }
}

// sums[i] for i in [start, end) = sum over j of g[i, j]^2
template <typename T> void squares_along(const T *g, T *sums, long, long columns, long start, long end) {
    for (long i = start; i < end; ++i) {
        double sum = 0;
        for (long j = 0; j < columns; ++j) {
            const double value = g[i * columns + j];
            sum += value * value;
        }
        sums[i] = T(sum);
    }
}

} // namespace

#define FOR_TYPE(T)                                                                                                    \
    extern "C" void moments_##T(const T *sigma, T *m1, T *v, T *normalized, T *inside, T *power, long r, long n,       \
                                long start, long end, double b1, double b2, double eps) {                              \
        moments<T>(sigma, m1, v, normalized, inside, power, r, n, start, end, b1, b2, eps);                            \
    }                                                                                                                  \
    extern "C" void squares_down_##T(const T *g, T *sums, long rows, long columns, long start, long end) {             \
        squares_down<T>(g, sums, rows, columns, start, end);                                                           \
    }                                                                                                                  \
    extern "C" void squares_along_##T(const T *g, T *sums, long rows, long columns, long start, long end) {            \
        squares_along<T>(g, sums, rows, columns, start, end);                                                          \
    }
FOR_TYPE(float)
FOR_TYPE(double)
