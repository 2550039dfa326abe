// An exponential moving average, for the C++ files of this folder.
#pragma once

template <typename T> struct Average {
    const T fresh, kept;
    explicit Average(double decay) // 1 - b of a rounded b would be off by 1e-4 of it
        : fresh(T(1 - decay)), kept(T(decay)) {}
    // decay mean + (1 - decay) value, from the nearer of the two: mean + (value - mean) is not value where value is small.
    T of(T mean, T value) const {
        return fresh < T(0.5) ? mean + fresh * (value - mean) : value - kept * (value - mean);
    }
};
