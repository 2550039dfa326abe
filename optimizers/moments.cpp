// Adam's moments of a projected gradient, the sums of squares that Alice, Fira and APOLLO take with them, and a rank-1
// projection with its sums, each in one pass on a CPU: torch makes a pass over memory of every square, average, root and
// sum.
//
// Squares are summed in double whatever T is: a residual is the difference of two of them (subspace.residual_power).
#include <algorithm>
#include <cmath>
#include <limits>

namespace {

constexpr long BLOCK = 512; // columns at a time: their two rows of sums stay in the first cache

// The next columns that one block of sums holds: those from `column` on of a stack's columns, counted through all its
// matrices of n columns each, that lie in one matrix and before `end`.
struct Block {
    long matrix, first, count;
    Block(long column, long n, long end)
        : matrix(column / n), first(column % n), count(std::min({BLOCK, n - first, end - column})) {}
};

template <typename T> void store(const double *sums, long count, T *out) {
    for (long j = 0; j < count; ++j)
        out[j] = T(sums[j]);
}

// For columns [start, end) of a stack of matrices r x n by rows:
// m1, v <- ema(sigma, b1), ema(sigma^2, b2); normalized = m1 / (sqrt(max(v, smallest normal number)) + eps);
// inside[j] and power[j] the sums of sigma^2 and of normalized^2 down column j. The last three where they are wanted.
template <typename T>
void moments(const T *sigma, T *m1, T *v, T *normalized, T *inside, T *power, long r, long n, double b1, double b2,
             double eps, long start, long end) {
    const T new1 = T(1 - b1), new2 = T(1 - b2), added = T(eps); // 1 - b of a rounded b would be off by 1e-4 of it
    while (start < end) {
        const Block block(start, n, end);
        double squares[BLOCK] = {}, lengths[BLOCK] = {};
        for (long i = 0; i < r; ++i) {
            const long at = (block.matrix * r + i) * n + block.first;
            for (long j = 0; j < block.count; ++j) {
                const T value = sigma[at + j];
                const T first = m1[at + j] += new1 * (value - m1[at + j]);
                const T second = v[at + j] += new2 * (value * value - v[at + j]);
                const T x = first / (std::sqrt(std::max(second, std::numeric_limits<T>::min())) + added);
                if (normalized)
                    normalized[at + j] = x;
                if (inside)
                    squares[j] += double(value) * value;
                if (power)
                    lengths[j] += double(x) * x;
            }
        }
        if (inside)
            store(squares, block.count, inside + start);
        if (power)
            store(lengths, block.count, power + start);
        start += block.count;
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
    extern "C" void moments_##T(const T *sigma, T *m1, T *v, T *normalized, T *inside, T *power, long r, long n,       \
                                double b1, double b2, double eps, long start, long end) {                              \
        moments<T>(sigma, m1, v, normalized, inside, power, r, n, b1, b2, eps, start, end);                            \
    }                                                                                                                  \
    extern "C" void sums_down_##T(const T *g, const T *u, T *squares, T *products, long m, long n, long start,          \
                                  long end) {                                                                          \
        sums_down<T>(g, u, squares, products, m, n, start, end);                                                       \
    }                                                                                                                  \
    extern "C" void sums_along_##T(const T *g, const T *u, T *squares, T *products, long m, long n, long start,         \
                                   long end) {                                                                         \
        sums_along<T>(g, u, squares, products, m, n, start, end);                                                      \
    }
FOR_TYPE(float)
FOR_TYPE(double)
