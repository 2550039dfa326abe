// For a CPU: the scales of the columns of a gradient's residual outside a subspace, under the limiter. Two dozen calls
// of torch on a row of numbers take longer than the numbers.
#include <algorithm>
#include <cmath>
#include <limits>

#include "average.h"

namespace {

// functional/residual.py's residual_scales for `batch` matrices of n columns: advances phi and, if given, the average,
// and writes `scales`. Comparisons are written so that infinity and NaN pass them.
template <typename T>
void residual_scales(const T *total, const T *inside, const T *normalized_sumsq, T *average, T *phi, T *scales,
                     long batch, long n, double rounding, double share, double decay, double eps, double gamma,
                     double size, double strength) {
    const T within = T((2 - share) * share);
    const Average<T> averages(decay);
    for (long b = 0; b < batch; ++b, total += n, inside += n, normalized_sumsq += n, scales += n) {
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
                scale = length == 0 ? 0 : std::sqrt(normalized_sumsq[j]) / length;
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
    extern "C" void residual_scales_##T(const T *total, const T *inside, const T *normalized_sumsq, T *average,        \
                                        T *phi, T *scales, long batch, long n, double rounding, double share,          \
                                        double decay, double eps, double gamma, double size, double strength) {        \
        residual_scales<T>(total, inside, normalized_sumsq, average, phi, scales, batch, n, rounding, share, decay,    \
                           eps, gamma, size, strength);                                                                \
    }
FOR_TYPE(float)
FOR_TYPE(double)
