// The norm-growth limiter on matrices whose columns are scaled, for a CPU: a dozen calls of torch on a row of numbers
// take it longer than the numbers do.
#include <algorithm>
#include <cmath>

namespace {

// For each matrix X = size * G diag(ratio) of a stack, given the sums of squares `power` down the columns of G:
// phi <- eta ||X||, limited <- eta ratio, with eta of limiter.limit_growth. ratio has n or 1 columns.
template <typename T>
void limit_columns(const T *ratio, const T *power, T *phi, T *limited, long batch, long n, long ratios, double gamma,
                   double eps, double size) {
    for (long b = 0; b < batch; ++b, ratio += ratios, power += n, limited += ratios) {
        double square = 0;
        for (long j = 0; j < n; ++j) {
            const double factor = ratio[ratios == 1 ? 0 : j];
            square += factor * factor * power[j];
        }
        const double norm = size * std::sqrt(square);
        const double eta = phi[b] > 0 ? gamma / std::max(norm / (phi[b] + eps), gamma) : 1.0;
        phi[b] = T(eta * norm);
        for (long j = 0; j < ratios; ++j)
            limited[j] = T(eta * ratio[j]);
    }
}

} // namespace

#define FOR_TYPE(T)                                                                                                    \
    extern "C" void limit_columns_##T(const T *ratio, const T *power, T *phi, T *limited, long batch, long n,          \
                                      long ratios, double gamma, double eps, double size) {                            \
        limit_columns<T>(ratio, power, phi, limited, batch, n, ratios, gamma, eps, size);                              \
    }
FOR_TYPE(float)
FOR_TYPE(double)
