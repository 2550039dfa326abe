// For a CPU: block-wise quantisation (functional/quantisation.py) in one pass each way. torch makes eight.
#include <algorithm>
#include <cmath>

namespace {

constexpr long BLOCK = 256;

// codes[i]: how many of the 255 ascending limits are below x[i], or, with `reached`, at most x[i]; NaN is above all, as
// torch has it. Each halving is made for the whole block, because it is then done for several numbers at once.
template <bool reached, typename T> void bisect(const T *x, const T *limits, unsigned char *codes, long count) {
    int below[BLOCK] = {};
    for (int half = 128; half; half /= 2)
        for (long i = 0; i < count; ++i) {
            const T limit = limits[below[i] + half - 1];
            below[i] += (reached ? limit > x[i] : limit >= x[i]) ? 0 : half;
        }
    for (long i = 0; i < count; ++i)
        codes[i] = static_cast<unsigned char>(below[i]);
}

// codes[i]: one of the two values around x[i], by the noise.
template <typename T>
void round_by_noise(const T *x, const T *noise, const T *values, bool is_signed, unsigned char *codes, long count) {
    bisect<true>(x, values + 1, codes, count);
    for (long i = 0; i < count; ++i) {
        const int lower = std::min<int>(codes[i], 254);
        const bool rises = noise[i] * (values[lower + 1] - values[lower]) < x[i] - values[lower];
        codes[i] = static_cast<unsigned char>(std::max<int>(lower + rises, !is_signed && x[i] > 0));
    }
}

// For blocks in [start, end) of rows of `length` numbers, counted through all rows. Without noise: to nearest.
template <typename T>
void quantise(const T *numbers, const T *noise, const T *values, const T *boundaries, unsigned char *codes, T *maxima,
              bool is_signed, long length, long start, long end) {
    const long blocks = (length + BLOCK - 1) / BLOCK;
    for (long block = start; block < end; ++block) {
        const long first = block / blocks * length + block % blocks * BLOCK;
        const long count = std::min(BLOCK, length - block % blocks * BLOCK);
        T largest = 0, least = 0;
        bool known = true;
        for (long i = first; i < first + count; ++i) {
            largest = std::max(largest, std::abs(numbers[i]));
            least = std::min(least, numbers[i]);
            known &= numbers[i] == numbers[i];
        }
        if (noise && is_signed)
            largest = std::max(largest, least / values[0]);
        maxima[block] = known ? largest : T(NAN);
        const T scale = maxima[block] == 0 ? T(1) : maxima[block];
        T scaled[BLOCK];
        for (long i = 0; i < count; ++i)
            scaled[i] = numbers[first + i] / scale;
        if (noise)
            round_by_noise(scaled, noise + first, values, is_signed, codes + first, count);
        else
            bisect<false>(scaled, boundaries, codes + first, count);
    }
}

template <typename T>
void dequantise(const unsigned char *codes, const T *maxima, const T *values, T *numbers, long length, long start,
                long end) {
    const long blocks = (length + BLOCK - 1) / BLOCK;
    for (long block = start; block < end; ++block) {
        const long first = block / blocks * length + block % blocks * BLOCK;
        const long count = std::min(BLOCK, length - block % blocks * BLOCK);
        for (long i = first; i < first + count; ++i)
            numbers[i] = values[codes[i]] * maxima[block];
    }
}

} // namespace

extern "C" void quantise_float(const float *numbers, const float *noise, const float *values, const float *boundaries,
                               unsigned char *codes, float *maxima, long is_signed, long length, long start, long end) {
    quantise<float>(numbers, noise, values, boundaries, codes, maxima, is_signed, length, start, end);
}
extern "C" void dequantise_float(const unsigned char *codes, const float *maxima, const float *values, float *numbers,
                                 long length, long start, long end) {
    dequantise<float>(codes, maxima, values, numbers, length, start, end);
}
