// One RACS step (Alg. 1) of one matrix, for a CPU. With q_i = P_i s and s += q_i P_i done row by row, while the row is
// in the first cache, an iteration of the fixed point is one pass over the gradient where two products would be two,
// and P = G^2 is never stored.
//
// The matrix lies by rows, R x C. Where R <= C the rows are those of algorithms.md (a = q, b = s); otherwise the matrix
// is its transpose, and the two vectors change places (a = s, b = q).
#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "average.h"

namespace {

// Several sums side by side keep the adders busy; one waits for itself at every addition.
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

template <typename T> T square_norm(const std::vector<T> &x) {
    T sum = 0;
    for (const T value : x)
        sum += value * value;
    return sum;
}

// 1 / x where x is a positive normal number, else 0: scaling.reciprocal.
template <typename T> T reciprocal(T x) { return x >= std::numeric_limits<T>::min() ? 1 / x : 0; }

// a [R], b [C] <- Eq. 16 for P = G^2; returns mean(P). P / mean is what is iterated on, so that nothing under- or
// overflows on the way. A mean that is no positive normal number is returned as 0, and nothing is written.
template <typename T> T fixed_point(const T *g, long R, long C, long iterations, std::vector<T> &a, std::vector<T> &b) {
    std::vector<T> sums(C);
    for (long i = 0; i < R; ++i)
        add_squares(g + i * C, T(1), sums.data(), C);
    const T mean = sum(sums) / (T(R) * T(C));
    if (mean < std::numeric_limits<T>::min()) // not true of NaN, which has to be seen in the weights
        return 0;
    const bool rows_are_q = R <= C;
    for (long j = 0; j < C; ++j) // the first s = P^T 1 / m is at hand; otherwise b is the first q
        b[j] = rows_are_q ? sums[j] / (T(R) * mean) : T(1);
    for (long k = 0; k < iterations; ++k) {
        const bool ends_with_a = rows_are_q && k == iterations - 1;
        const T to_a = 1 / (square_norm(b) * mean);
        std::fill(sums.begin(), sums.end(), T(0));
        for (long i = 0; i < R; ++i) {
            a[i] = dot_of_squares(g + i * C, b.data(), C) * to_a;
            if (!ends_with_a)
                add_squares(g + i * C, a[i], sums.data(), C);
        }
        if (ends_with_a)
            break;
        const T to_b = 1 / (square_norm(a) * mean);
        for (long j = 0; j < C; ++j)
            b[j] = sums[j] * to_b;
    }
    for (T &value : rows_are_q ? b : a) // s has the scale of P
        value *= mean;
    return mean;
}

// `a_scale` and `b_scale` are the averages over rows and columns, null without averaging.
template <typename T>
void step(T *w, const T *g, long R, long C, T *a_scale, T *b_scale, T *phi, double beta, T gamma, long iterations,
          T size) {
    std::vector<T> a(R), b(C);
    if (fixed_point(g, R, C, iterations, a, b) == 0)
        return;
    const auto average = [averages = Average<T>(beta)](std::vector<T> &now, T *mean_of) {
        if (mean_of)
            for (size_t i = 0; i < now.size(); ++i)
                now[i] = mean_of[i] = averages.of(mean_of[i], now[i]);
        for (T &value : now)
            value = reciprocal(value);
    };
    average(a, a_scale);
    average(b, b_scale);
    T square = 0; // ||X||^2 = (1/Q)^T P (1/S)
    for (long i = 0; i < R; ++i)
        square += a[i] * dot_of_squares(g + i * C, b.data(), C);
    const T norm = std::sqrt(square);
    const T eta = *phi > 0 ? gamma / std::max(norm / *phi, gamma) : T(1);
    *phi = eta * norm;
    for (T &value : b)
        value = std::sqrt(value);
    for (long i = 0; i < R; ++i) {
        const T row = size * eta * std::sqrt(a[i]);
        for (long j = 0; j < C; ++j)
            w[i * C + j] -= row * b[j] * g[i * C + j];
    }
}

} // namespace

#define FOR_TYPE(T)                                                                                                    \
    extern "C" void racs_step_##T(T *w, const T *g, long R, long C, T *a_scale, T *b_scale, T *phi, double beta,       \
                                  double gamma, long iterations, double size) {                                         \
        step<T>(w, g, R, C, a_scale, b_scale, phi, beta, T(gamma), iterations, T(size));                        \
    }
FOR_TYPE(float)
FOR_TYPE(double)
