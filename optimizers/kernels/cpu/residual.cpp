// What scales the columns of a gradient's residual outside a subspace, under the limiter, for a CPU: two dozen calls of
// torch on a row of numbers take it longer than the numbers do.
#include <algorithm>
#include <cmath>
#include <limits>

#include "average.h"

namespace {

// residual.column_scales for a stack of `batch` matrices of n columns each: phi and, where it is given, the average are
// advanced, `scales` is written. Comparisons are put so that what is not finite goes through.
template <typename T>
void column_scales(const T *total, const T *inside, const T *power, T *average, T *phi, T *scales, long batch, long n,
                   double rounding, double share, double decay, double eps, double gamma, double size,
                   double strength) {
    const T within = T((2 - share) * share);
    const Average<T> averages(decay);
    for (long b = 0; b < batch; ++b, total += n, inside += n, power += n, scales += n) {
        double square = 0;
        for (long j = 0; j < n; ++j) {
            T residual = total[j] - within * inside[j], scale = 0;
            if (residual < T(rounding) * total[j])
                residual = 0;
            if (average) {
                const T mean = *average = averages.of(*average, residual);
                scale = mean >= std::numeric_limits<T>::min() ? 1 / std::sqrt(mean) : 0;
                ++average;
            } else {
                const T length = std::sqrt(inside[j]) + T(eps);
                scale = length == 0 ? 0 : std::sqrt(power[j]) / length;
            }
            scales[j] = residual == 0 ? 0 : scale;
            square += double(scale) * scale * residual;
        }
        const double norm = size * std::sqrt(square), last = phi[b];
        const double eta = last > 0 ? gamma / std::max(norm / (last + eps), gamma) : 1.0;
        phi[b] = T(eta * norm);
        for (long j = 0; j < n; ++j)
            scales[j] *= T(strength * eta);
    }
}

} // namespace

#define FOR_TYPE(T)                                                                                                    \
    extern "C" void column_scales_##T(const T *total, const T *inside, const T *power, T *average, T *phi, T *scales,  \
                                      long batch, long n, double rounding, double share, double decay, double eps,     \
                                      double gamma, double size, double strength) {                                    \
        column_scales<T>(total, inside, power, average, phi, scales, batch, n, rounding, share, decay, eps, gamma,     \
                         size, strength);                                                                              \
    }
FOR_TYPE(float)
FOR_TYPE(double)
