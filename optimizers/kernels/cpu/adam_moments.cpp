// For a CPU, each in one pass: Adam's moments of a projected gradient with the sums of squares that Alice, Fira and
// APOLLO need, and a projection of rank 1 with its sums. torch makes a pass over memory for every square, average, root
// and sum.
//
// Squares are summed in double whatever T is: a residual is the difference of two sums (functional/residual.py).
#include <algorithm>
#include <cmath>
#include <limits>

#include "average.h"

namespace {

constexpr long BLOCK = 512; // columns at a time: their two rows of sums stay in the first cache

// The next columns for one block of sums. Columns are counted through all matrices of a stack, n for each. A block
// begins at `column`, and ends with its matrix or before `end`.
struct Block {
    long matrix, first, count;
    Block(long column, long n, long end)
        : matrix(column / n), first(column % n), count(std::min({BLOCK, n - first, end - column})) {}
};

template <typename T> void store(const double *sums, long count, T *out) {
    for (long j = 0; j < count; ++j)
        out[j] = T(sums[j]);
}

// Adam's moments of one number: m <- ema(value, b1), v <- ema(value^2, b2). Returns m / (sqrt(v) + eps), where v is
// raised to the smallest normal number.
template <typename T> struct Adam {
    const Average<T> first, second;
    const T eps;
    Adam(double b1, double b2, double eps) : first(b1), second(b2), eps(T(eps)) {}
    T advance(T value, T &exp_avg, T &exp_avg_sq) const {
        exp_avg = first.of(exp_avg, value);
        exp_avg_sq = second.of(exp_avg_sq, value * value);
        return exp_avg / (std::sqrt(std::max(exp_avg_sq, std::numeric_limits<T>::min())) + eps);
    }
};

// For columns j in [start, end) of a stack of matrices r x n by rows: advances the moments of sigma. `normalized` gets
// their ratios, sigma_sumsq[j] and normalized_sumsq[j] the sums of squares of column j; each of the three may be null.
template <typename T>
void moments_down(const T *sigma, T *exp_avg, T *exp_avg_sq, T *normalized, T *sigma_sumsq, T *normalized_sumsq, long r,
                  long n, double b1, double b2, double eps, long start, long end) {
    const Adam<T> adam(b1, b2, eps);
    while (start < end) {
        const Block block(start, n, end);
        double squares[BLOCK] = {}, lengths[BLOCK] = {};
        for (long i = 0; i < r; ++i) {
            const long at = (block.matrix * r + i) * n + block.first;
            for (long j = 0; j < block.count; ++j) {
                const T value = sigma[at + j], x = adam.advance(value, exp_avg[at + j], exp_avg_sq[at + j]);
                if (normalized)
                    normalized[at + j] = x;
                if (sigma_sumsq)
                    squares[j] += double(value) * value;
                if (normalized_sumsq)
                    lengths[j] += double(x) * x;
            }
        }
        if (sigma_sumsq)
            store(squares, block.count, sigma_sumsq + start);
        if (normalized_sumsq)
            store(lengths, block.count, normalized_sumsq + start);
        start += block.count;
    }
}

// The same for matrices that are stored by columns, r numbers each.
template <typename T>
void moments_along(const T *sigma, T *exp_avg, T *exp_avg_sq, T *normalized, T *sigma_sumsq, T *normalized_sumsq,
                   long r, long, double b1, double b2, double eps, long start, long end) {
    const Adam<T> adam(b1, b2, eps);
    for (long j = start; j < end; ++j) {
        double square = 0, length = 0;
        for (long at = j * r; at < (j + 1) * r; ++at) {
            const T value = sigma[at], x = adam.advance(value, exp_avg[at], exp_avg_sq[at]);
            if (normalized)
                normalized[at] = x;
            square += double(value) * value;
            length += double(x) * x;
        }
        if (sigma_sumsq)
            sigma_sumsq[j] = T(square);
        if (normalized_sumsq)
            normalized_sumsq[j] = T(length);
    }
}

// For columns j in [start, end) of a stack of matrices m x n by rows: squares[j] = sum over i of g[i, j]^2 and, where
// vectors u of m numbers are given, products[j] = sum over i of u[i] g[i, j].
template <typename T>
void sums_down(const T *g, const T *u, T *squares, T *products, long m, long n, long start, long end) {
    while (start < end) {
        const Block block(start, n, end);
        double square[BLOCK] = {}, product[BLOCK] = {};
        for (long i = 0; i < m; ++i) {
            const long row = block.matrix * m + i;
            const double factor = u ? u[row] : 0;
            for (long j = 0; j < block.count; ++j) {
                const double value = g[row * n + block.first + j];
                square[j] += value * value;
                if (u)
                    product[j] += factor * value;
            }
        }
        store(square, block.count, squares + start);
        if (u)
            store(product, block.count, products + start);
        start += block.count;
    }
}

// The same along rows i in [start, end) of a stack of matrices m x n: of squares g[i, j]^2 and of u[j] g[i, j] over j.
template <typename T>
void sums_along(const T *g, const T *u, T *squares, T *products, long m, long n, long start, long end) {
    for (long i = start; i < end; ++i) {
        double square = 0, product = 0;
        const T *row = g + i * n, *factors = u ? u + i / m * n : nullptr;
        for (long j = 0; j < n; ++j) {
            const double value = row[j];
            square += value * value;
            if (u)
                product += factors[j] * value;
        }
        squares[i] = T(square);
        if (u)
            products[i] = T(product);
    }
}

} // namespace

#define FOR_TYPE(T)                                                                                                    \
    extern "C" void moments_down_##T(const T *sigma, T *exp_avg, T *exp_avg_sq, T *normalized, T *sigma_sumsq,         \
                                     T *normalized_sumsq, long r, long n, double b1, double b2, double eps,            \
                                     long start, long end) {                                                           \
        moments_down<T>(sigma, exp_avg, exp_avg_sq, normalized, sigma_sumsq, normalized_sumsq, r, n, b1, b2, eps,      \
                        start, end);                                                                                   \
    }                                                                                                                  \
    extern "C" void moments_along_##T(const T *sigma, T *exp_avg, T *exp_avg_sq, T *normalized, T *sigma_sumsq,        \
                                      T *normalized_sumsq, long r, long n, double b1, double b2, double eps,           \
                                      long start, long end) {                                                          \
        moments_along<T>(sigma, exp_avg, exp_avg_sq, normalized, sigma_sumsq, normalized_sumsq, r, n, b1, b2, eps,     \
                         start, end);                                                                                  \
    }                                                                                                                  \
    extern "C" void sums_down_##T(const T *g, const T *u, T *squares, T *products, long m, long n, long start,         \
                                  long end) {                                                                          \
        sums_down<T>(g, u, squares, products, m, n, start, end);                                                       \
    }                                                                                                                  \
    extern "C" void sums_along_##T(const T *g, const T *u, T *squares, T *products, long m, long n, long start,        \
                                   long end) {                                                                         \
        sums_along<T>(g, u, squares, products, m, n, start, end);                                                      \
    }
FOR_TYPE(float)
FOR_TYPE(double)
