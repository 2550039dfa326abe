// For a CPU: block-wise quantisation (functional/quantisation.py) in one pass each way. torch makes eight.
#include <algorithm>
#include <cmath>

namespace {

constexpr long BLOCK = 256;

// The number of the 255 ascending boundaries that are below x. NaN is above all, as torch has it.
template <typename T> unsigned char code(T x, const T *boundaries) {
    if (x != x)
        return 255;
    long below = 0;
    for (long half = 128; half; half /= 2)
        below += boundaries[below + half - 1] < x ? half : 0;
    return static_cast<unsigned char>(below);
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
        const T scale = largest == 0 ? T(1) : largest;
        maxima[block] = known ? largest : T(NAN);
        for (long i = first; i < first + count; ++i)
            codes[i] = code(known ? numbers[i] / scale : T(NAN), boundaries);
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
