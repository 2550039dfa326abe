// The passes of RACS (Alg. 1 of arXiv 2502.07752) over a gradient G, for a CPU. With q_i = P_i s and s += q_i P_i done
// row by row, while the row is in the first cache, an iteration of the fixed point is one pass over G where two
// products would be two, and P = G^2 is never stored.
//
// Matrices are R x C by rows. Where their rows are the m rows of the paper, a = q and b = s; where the matrix is the
// transpose, a = s and b = q.
#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "average.h"

// GCC halves its vectors by default; whole ones make these passes a seventh faster (docs/performance.md).
#if defined(__AVX512F__) && !defined(__clang__)
#pragma GCC target("prefer-vector-width=512")
#endif

namespace {

// So many sums at once keep the adders busy; a single one waits for itself at every addition.
constexpr long LANES = 64;

// sum_j g_j^2 b_j
template <typename T> T dot_of_squares(const T *g, const T *b, long count) {
    T lanes[LANES] = {}, sum = 0;
    long j = 0;
    for (; j + LANES <= count; j += LANES)
        for (long lane = 0; lane < LANES; ++lane)
            lanes[lane] += g[j + lane] * g[j + lane] * b[j + lane];
    for (; j < count; ++j)
        sum += g[j] * g[j] * b[j];
    for (const T lane : lanes)
        sum += lane;
    return sum;
}

// sums_j += factor g_j^2
template <typename T> void add_squares(const T *g, T factor, T *sums, long count) {
    for (long j = 0; j < count; ++j)
        sums[j] += factor * (g[j] * g[j]);
}

template <typename T> T sum(const std::vector<T> &x) {
    T total = 0;
    for (const T value : x)
        total += value;
    return total;
}

template <typename T> T square_norm(const T *x, long count) {
    T sum = 0;
    for (long i = 0; i < count; ++i)
        sum += x[i] * x[i];
    return sum;
}

// 1 / x where x is a positive normal number, else 0, as functional/numerics.py has it.
template <typename T> T reciprocal(T x) { return x >= std::numeric_limits<T>::min() ? 1 / x : 0; }

// a [R], b [C] <- Eq. 16 for P = G^2; returns mean(P). It iterates on P / mean, so that nothing under- or overflows. A
// mean below the smallest normal number is returned as 0, and nothing is written.
template <typename T>
T fixed_point(const T *g, T *a, T *b, std::vector<T> &sums, long R, long C, bool rows_are_q, long iterations) {
    std::fill(sums.begin(), sums.end(), T(0));
    for (long i = 0; i < R; ++i)
        add_squares(g + i * C, T(1), sums.data(), C);
    const T mean = sum(sums) / (T(R) * T(C));
    if (mean < std::numeric_limits<T>::min()) // not true of NaN, which has to be seen in the weights
        return 0;
    for (long j = 0; j < C; ++j) // the first s = P^T 1 / m is at hand; otherwise b is the first q
        b[j] = rows_are_q ? sums[j] / (T(R) * mean) : T(1);
    for (long k = 0; k < iterations; ++k) {
        const bool ends_with_a = rows_are_q && k == iterations - 1;
        const T to_a = 1 / (square_norm(b, C) * mean);
        std::fill(sums.begin(), sums.end(), T(0));
        for (long i = 0; i < R; ++i) {
            a[i] = dot_of_squares(g + i * C, b, C) * to_a;
            if (!ends_with_a)
                add_squares(g + i * C, a[i], sums.data(), C);
        }
        if (ends_with_a)
            break;
        const T to_b = 1 / (square_norm(a, R) * mean);
        for (long j = 0; j < C; ++j)
            b[j] = sums[j] * to_b;
    }
    T *s = rows_are_q ? b : a;
    for (long i = 0; i < (rows_are_q ? C : R); ++i) // s has the scale of P
        s[i] *= mean;
    return mean;
}

// now <- 1 / average of now over time. `mean_of` is the average so far; null: no averaging.
template <typename T> void average_and_invert(T *now, T *mean_of, long count, Average<T> averages) {
    for (long i = 0; i < count; ++i) {
        if (mean_of)
            now[i] = mean_of[i] = averages.of(mean_of[i], now[i]);
        now[i] = reciprocal(now[i]);
    }
}

// scaling.racs_scales for one matrix: a [R], b [C] <- the factors of rows and columns, eta in a; averages and phi advanced.
template <typename T>
void racs_scales(const T *g, T *a, T *b, T *a_scale, T *b_scale, T *phi, std::vector<T> &sums, long R, long C,
                 bool rows_are_q, long iterations, double beta, T gamma) {
    if (fixed_point(g, a, b, sums, R, C, rows_are_q, iterations) == 0) {
        std::fill(a, a + R, T(0));
        std::fill(b, b + C, T(0));
        return;
    }
    average_and_invert(a, a_scale, R, Average<T>(beta));
    average_and_invert(b, b_scale, C, Average<T>(beta));
    T square = 0; // ||X||^2 = (1/Q)^T P (1/S)
    for (long i = 0; i < R; ++i)
        square += a[i] * dot_of_squares(g + i * C, b, C);
    const T norm = std::sqrt(square);
    const T eta = *phi > 0 ? gamma / std::max(norm / *phi, gamma) : T(1);
    *phi = eta * norm;
    for (long i = 0; i < R; ++i)
        a[i] = eta * std::sqrt(a[i]);
    for (long j = 0; j < C; ++j)
        b[j] = std::sqrt(b[j]);
}

// w <- w - step diag(a) G diag(b)
template <typename T> void subtract_scaled(T *w, const T *g, const T *a, const T *b, T step, long R, long C) {
    for (long i = 0; i < R; ++i) {
        const T row = step * a[i];
        for (long j = 0; j < C; ++j)
            w[i * C + j] -= row * b[j] * g[i * C + j];
    }
}

} // namespace

#define FOR_TYPE(T)                                                                                                    \
    extern "C" void racs_scales_##T(const T *g, T *a, T *b, T *a_scale, T *b_scale, T *phi, long batch, long R,        \
                                    long C, long rows_are_q, long iterations, double beta, double gamma) {             \
        std::vector<T> sums(C);                                                                                        \
        for (long k = 0; k < batch; ++k)                                                                               \
            racs_scales<T>(g + k * R * C, a + k * R, b + k * C, a_scale ? a_scale + k * R : nullptr,                   \
                           b_scale ? b_scale + k * C : nullptr, phi + k, sums, R, C, rows_are_q, iterations, beta,     \
                           T(gamma));                                                                                  \
    }                                                                                                                  \
    extern "C" void subtract_scaled_##T(T *w, const T *g, const T *a, const T *b, double step, long R, long C) {       \
        subtract_scaled<T>(w, g, a, b, T(step), R, C);                                                                 \
    }
FOR_TYPE(float)
FOR_TYPE(double)
