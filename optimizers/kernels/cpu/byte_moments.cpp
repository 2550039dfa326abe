// For a CPU: block-wise quantisation (functional/quantisation.py) in one pass each way. torch makes eight.
#include <algorithm>
#include <cmath>

namespace {

constexpr long BLOCK = 256;

// codes[i]: the number of the 255 ascending boundaries that are below x[i]; NaN is above all, as torch has it. Each
// halving is made for the whole block, because it is then done for several numbers at once.
template <typename T> void bisect(const T *x, const T *boundaries, unsigned char *codes, long count) {
    int below[BLOCK] = {};
    for (int half = 128; half; half /= 2)
        for (long i = 0; i < count; ++i)
            below[i] += boundaries[below[i] + half - 1] >= x[i] ? 0 : half;
    for (long i = 0; i < count; ++i)
        codes[i] = static_cast<unsigned char>(below[i]);
}

// For blocks in [start, end) of rows of `length` numbers, counted through all rows.
template <typename T>
void quantise(const T *numbers, const T *boundaries, unsigned char *codes, T *maxima, long length, long start,
              long end) {
    const long blocks = (length + BLOCK - 1) / BLOCK;
    for (long block = start; block < end; ++block) {
        const long first = block / blocks * length + block % blocks * BLOCK;
        const long count = std::min(BLOCK, length - block % blocks * BLOCK);
        T largest = 0;
        bool known = true;
        for (long i = first; i < first + count; ++i) {
            largest = std::max(largest, std::abs(numbers[i]));
            known &= numbers[i] == numbers[i];
        }
        maxima[block] = known ? largest : T(NAN);
        const T scale = maxima[block] == 0 ? T(1) : maxima[block];
        T scaled[BLOCK];
        for (long i = 0; i < count; ++i)
            scaled[i] = numbers[first + i] / scale;
        bisect(scaled, boundaries, codes + first, count);
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

extern "C" void quantise_float(const float *numbers, const float *boundaries, unsigned char *codes, float *maxima,
                               long length, long start, long end) {
    quantise<float>(numbers, boundaries, codes, maxima, length, start, end);
}
extern "C" void dequantise_float(const unsigned char *codes, const float *maxima, const float *values, float *numbers,
                                 long length, long start, long end) {
    dequantise<float>(codes, maxima, values, numbers, length, start, end);
}
