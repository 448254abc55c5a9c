// The kernels of trustsnn.kernels in C++: plain C functions over pointers, called through ctypes; no Python or torch header.
//
// native_body.h is compiled once for each instruction set, and the best one that the processor has is picked at run time.
// Every sum runs in one fixed order for one sample, and no multiplication is contracted with an addition by the compiler
// (-ffp-contract=off), so a result depends neither on the number of threads nor on the other samples of a batch.

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <numeric>
#include <thread>
#include <type_traits>
#include <vector>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

// OpenMP's pool, where torch has already loaded one: the kernels then share torch's threads instead of adding their own.
extern "C" void GOMP_parallel(void (*)(void *), void *, unsigned, unsigned) __attribute__((weak));

extern "C" {

// A layer of neurons over [steps, batch, size] (see trustsnn.neurons.Dynamics). The backward pass reads the membrane that the
// forward kept, as float32 or (HALF) its distance to the threshold as bfloat16, whose sign is the spike's; or (RECOMPUTE) it
// makes it again from the current. Where the steps go on from earlier ones, `start` [batch, size] is the membrane that those
// left and takes the place of `initial`; where later ones go on from these, `end` [batch, size] is filled with what these leave.
struct Neuron {
    int64_t steps, batch, size, threads, flags, surrogate;
    float leak, threshold, gain, initial, width;
    const float *start;
    float *end;
};

// Normalisation of each channel, x * scale + shift, applied to the current as it is read. Channels are side by side in memory,
// those of a sample a multiple of 16.
struct Norm {
    int64_t channels;
    const float *scale, *shift;
};

// A convolution of images [images, height, width, inputs] to [images, rows, columns, outputs], channels last. `top` and
// `left` pad before the first row and column; `up` inserts zeros between the pixels of the input (a transposed
// convolution). Weights are packed [groups][chunks][kernel_h][blocks][kernel_w][block][chunk] of inputs and outputs, with
// zeros where a group does not fill its last block (of at most 64 inputs) or chunk. An image with a larger share of active inputs than
// `dense_above` is multiplied out; the result is the same bits either way.
struct Shape {
    int64_t images, height, width, inputs, rows, columns, outputs, kernel_h, kernel_w, stride_h, stride_w, up_h, up_w, top,
        left, dilation_h, dilation_w, groups, block, chunk, threads;
    double dense_above;
};
}

namespace {

enum Surrogate { TRIANGULAR, RECTANGULAR, ATAN, SIGMOID, EXPONENTIAL, STE };
enum Flag { HARD = 1, STRICT = 2, DETACH = 4, HALF = 8, CONSTANT = 16, LEAKY = 32, RECOMPUTE = 64 };
const int64_t SPAN = 16384;  // neurons that a thread takes through all steps at a time: their state stays in the L2 cache
const int64_t RECOMPUTED = 1 << 16;  // membranes of a span that the backward pass makes again
const int64_t WEIGHT_CHUNK = 32;  // outputs that the weight gradient takes at a time
const int64_t BAND_BYTES = 40 << 10;  // of the gradient of a band of rows, for the weight gradient
const int64_t FEW = 4;  // outputs that `convolve_few` has at most
const int64_t TILES = 24;  // of 4x4 results that Winograd's convolution takes at a time
const int64_t STREAM_BYTES = 8 << 20;  // results larger than this are written past the cache

// Calls `work(item)` for every item below `count` on `threads` threads.
template <class Work>
void parallel(int64_t count, int64_t threads, const Work &work) {
    if (threads > count) threads = count;
    if (threads <= 1) {
        for (int64_t item = 0; item < count; item++) work(item);
        return;
    }
    struct Shared {
        const Work &work;
        std::atomic<int64_t> next;
        int64_t count;
    } shared{work, {0}, count};
    auto drain = +[](void *data) {
        Shared &mine = *static_cast<Shared *>(data);
        for (int64_t item; (item = mine.next.fetch_add(1, std::memory_order_relaxed)) < mine.count;) mine.work(item);
    };
    if (GOMP_parallel) {
        GOMP_parallel(drain, &shared, static_cast<unsigned>(threads), 0);
        return;
    }
    std::vector<std::thread> team;
    for (int64_t i = 1; i < threads; i++) team.emplace_back(drain, &shared);
    drain(&shared);
    for (auto &member : team) member.join();
}

// Scratch memory of a thread, kept between calls and aligned to a cache line. A slot serves one purpose.
void *scratch(int slot, size_t bytes) {
    struct Blocks {
        void *data[4] = {};
        size_t bytes[4] = {};
        ~Blocks() {
            for (void *each : data) std::free(each);
        }
    };
    static thread_local Blocks blocks;
    if (bytes > blocks.bytes[slot]) {
        std::free(blocks.data[slot]);
        blocks.bytes[slot] = (bytes + 127) / 64 * 64;
        blocks.data[slot] = std::aligned_alloc(64, blocks.bytes[slot]);
        if (!blocks.data[slot]) std::abort();
    }
    return blocks.data[slot];
}

int64_t divided(int64_t count, int64_t by) { return (count + by - 1) / by; }

// The sums of `parts` [parts][size].
void totals(const std::vector<double> &parts, int64_t size, double *sums) {
    std::fill(sums, sums + size, 0.0);
    for (size_t at = 0; at < parts.size(); at += size)
        for (int64_t i = 0; i < size; i++) sums[i] += parts[at + i];
}

// The channels of as many neighbouring pixels as fill whole vectors: what the kernels take for one pixel's. A sample has a multiple of 16
// values, and so whole ones of these.
int64_t filled(int64_t channels) { return std::lcm(channels, int64_t{16}); }

// A normalisation for those, or null for none.
struct Filled {
    std::vector<float> values;
    Norm norm{};
    const Norm *given;
    explicit Filled(const Norm *from) : given(from) {
        if (!given || given->channels % 16 == 0) return;
        norm.channels = filled(from->channels);
        for (const float *each : {from->scale, from->shift})
            for (int64_t i = 0; i < norm.channels; i++) values.push_back(each[i % from->channels]);
        norm.scale = values.data(), norm.shift = values.data() + norm.channels;
        given = &norm;
    }
    Filled(const Filled &) = delete;
};

}  // namespace

#if defined(__x86_64__)

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx2,fma"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512vl,avx512dq,avx2,fma,prefer-vector-width=512")
#endif
#define LANES 16
namespace avx512 {
#include "native_body.h"
}
#undef LANES
#if defined(__clang__)
#pragma clang attribute pop
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#else
#pragma GCC pop_options
#pragma GCC push_options
#pragma GCC target("avx2,fma")
#endif
#define LANES 8
namespace avx2 {
#include "native_body.h"
}
#undef LANES
#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif

#define LANES 4
namespace plain {
#include "native_body.h"
}
#undef LANES

namespace {

int best() {
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
        __builtin_cpu_supports("avx512dq"))
        return 16;
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return 8;
#endif
    return 4;
}

int lanes = best();

}  // namespace

#if defined(__x86_64__)
#define PICK(CALL)                            \
    switch (lanes) {                          \
        case 16: avx512::CALL; break;         \
        case 8: avx2::CALL; break;            \
        default: plain::CALL; break;          \
    }
#else
#define PICK(CALL) plain::CALL;
#endif

extern "C" {

// Lanes of the instruction set in use: 16 (AVX-512), 8 (AVX2) or 4; `want` of 8 or 4 lowers it, 0 asks only.
int trustsnn_lanes(int want) {
    if (want > 0) lanes = want < best() ? want : best();
    return lanes;
}

int trustsnn_has_bf16() {
#if defined(__x86_64__)
    return lanes == 16 && __builtin_cpu_supports("avx512bf16");
#else
    return 0;
#endif
}

// Neurons of a sample that one sum of `trustsnn_lif_backward` is over: it fills [batch][size / span, rounded up] of them.
int64_t trustsnn_span(const Neuron *neuron) { return plain::span(*neuron); }

// `norm` may be null; with it no membrane is written.
void trustsnn_lif_forward(const Neuron *neuron, const Norm *norm, const float *current, float *spikes, void *membrane) {
    const Filled with(norm);
    PICK(lif_forward(*neuron, with.given, current, spikes, membrane))
}

void trustsnn_lif_backward(const Neuron *neuron, const float *current, const void *membrane, const float *to_spikes, float *out,
                           double *to_leak, double *to_threshold) {
    PICK(lif_backward(*neuron, nullptr, nullptr, current, membrane, to_spikes, out, to_leak, to_threshold))
}

// Sums of x - x_0 and of its square for each channel, [2][channels], x_0 being the first pixel's.
void trustsnn_channel_sums(const float *from, int64_t pixels, int64_t channels, int64_t threads, double *sums) {
    const int64_t wide = filled(channels), groups = pixels * channels / wide;
    std::vector<double> parts(divided(groups, 1024) * 2 * wide), found(2 * wide);
    PICK(channel_sums(from, groups, wide, threads, parts.data()))
    totals(parts, 2 * wide, found.data());
    for (int64_t i = 0; i < wide; i++) {
        const double first = found[i], apart = static_cast<double>(from[i]) - from[i % channels];  // of the pixel that was taken off
        double *sum = sums + i % channels;
        if (i < channels) sum[0] = sum[channels] = 0;
        sum[0] += first + groups * apart;
        sum[channels] += found[wide + i] + 2 * apart * first + groups * apart * apart;
    }
}

// Batch normalisation from a batch's own statistics: `exact` becomes the mean and standard deviation, `rounded` the scale and shift that
// normalise by them. The running mean and (unbiased) variance move towards the batch's by the share `momentum`.
void trustsnn_channel_statistics(const float *from, const float *gamma, const float *beta, int64_t pixels, int64_t channels, int64_t threads,
                                 double eps, double momentum, double *exact, float *rounded, float *running_mean, float *running_variance) {
    const double unbiased = static_cast<double>(pixels) / static_cast<double>(pixels - 1);
    const auto move = [&](float *to, double value) { *to = std::fma(static_cast<float>(momentum), static_cast<float>(value) - *to, *to); };
    trustsnn_channel_sums(from, pixels, channels, threads, exact);
    for (int64_t i = 0; i < channels; i++) {
        const double first = exact[i] / pixels, biased = exact[channels + i] / pixels - first * first;
        const double mean = first + from[i], variance = biased < 0 ? 0 : biased, spread = std::sqrt(variance + eps);
        const double scale = gamma[i] / spread;
        exact[i] = mean, exact[channels + i] = spread;
        rounded[i] = static_cast<float>(scale), rounded[channels + i] = static_cast<float>(beta[i] - mean * scale);
        move(running_mean + i, mean), move(running_variance + i, variance * unbiased);
    }
}

// From `to`, the gradient g of the normalised x, and the [2][channels] sums of g and of g times x: `gradients` becomes dLoss/dgamma and
// dLoss/dbeta, and `to` dLoss/dx = scale (g - mean(g) - xhat mean(g xhat)), xhat = (x - mean) / spread.
void trustsnn_channel_slopes(float *to, const float *from, const double *sums, const double *exact, const float *gamma, int64_t pixels,
                             int64_t channels, int64_t threads, float *gradients) {
    const int64_t wide = filled(channels);
    std::vector<float> by(3 * wide);
    for (int64_t i = 0; i < channels; i++) {
        const double mean = exact[i], spread = exact[channels + i];
        const double to_beta = sums[i], to_gamma = (sums[channels + i] - to_beta * mean) / spread;
        const double slope = -static_cast<double>(gamma[i]) * to_gamma / (spread * spread * pixels);
        const float scale = static_cast<float>(gamma[i] / spread);
        const float rest = static_cast<float>(-static_cast<double>(scale) * to_beta / pixels - slope * mean);
        for (int64_t k = i; k < wide; k += channels)
            by[k] = scale, by[wide + k] = static_cast<float>(slope), by[2 * wide + k] = rest;
        gradients[i] = static_cast<float>(to_gamma), gradients[channels + i] = static_cast<float>(to_beta);
    }
    PICK(channel_combine(to, from, by.data(), pixels * channels / wide, wide, threads))
}

// `trustsnn_lif_backward` and `trustsnn_channel_slopes` in one, for neurons whose current is `from`, normalised: `gradients` [2 * channels + 2]
// also ends in dLoss/dleak and dLoss/dthreshold, added up over the samples, if `learn`.
void trustsnn_normalised_backward(const Neuron *neuron, const Norm *norm, const float *from, const float *to_spikes, const double *exact,
                                  const float *gamma, int64_t learn, float *to, float *gradients) {
    const int64_t channels = norm->channels, wide = filled(channels), given = neuron->flags & CONSTANT ? 1 : neuron->steps;
    const int64_t spans = neuron->batch * divided(neuron->size, trustsnn_span(neuron));
    std::vector<double> parts(spans * 2 * wide), found(2 * wide), sums(2 * channels), scalars(learn ? 2 * spans : 0);
    const Filled with(norm);
    double *to_leak = learn ? scalars.data() : nullptr, *to_threshold = learn ? to_leak + spans : nullptr;
    PICK(lif_backward(*neuron, with.given, parts.data(), from, nullptr, to_spikes, to, to_leak, to_threshold))
    totals(parts, 2 * wide, found.data());
    for (int64_t i = 0; i < wide; i++) sums[i % channels] += found[i], sums[channels + i % channels] += found[wide + i];
    for (int64_t k = 0; k < 2 && learn; k++)
        gradients[2 * channels + k] = static_cast<float>(std::accumulate(scalars.begin() + k * spans, scalars.begin() + (k + 1) * spans, 0.0));
    trustsnn_channel_slopes(to, from, sums.data(), exact, gamma, given * neuron->batch * neuron->size / channels, channels, neuron->threads,
                            gradients);
}

// Entries that are not zero.
int64_t trustsnn_count(const float *from, int64_t count, int64_t threads) {
    const int64_t each = 1 << 16;
    std::atomic<int64_t> found{0};
    parallel(divided(count, each), threads, [&](int64_t item) {
        int64_t here = 0, begin = item * each, end = begin + each < count ? begin + each : count;
        PICK(count_active(from + begin, end - begin, &here))
        found.fetch_add(here, std::memory_order_relaxed);
    });
    return found;
}

// Returns the number of active inputs, counting every input of an image that was multiplied out.
int64_t trustsnn_convolve(const Shape *shape, const float *in, const float *weight, const float *bias, float *out) {
    int64_t active = 0;
    PICK(convolve(*shape, in, weight, bias, out, &active))
    return active;
}

// `trustsnn_convolve` and `trustsnn_lif_forward` in one: a sample's current never leaves the cache.
void trustsnn_convolve_fire(const Shape *shape, const Neuron *neuron, const float *in, const float *weight, const float *bias,
                            float *spikes, void *membrane) {
    PICK(convolve_fire(*shape, *neuron, in, weight, bias, spikes, membrane))
}

void trustsnn_convolve_bf16(const Shape *shape, const float *in, const uint16_t *weight, float *out) {
#if defined(__x86_64__)
    avx512::convolve_bf16(*shape, in, weight, out);
#endif
}

// A 3x3 convolution with stride 1, in another rounding than `trustsnn_convolve`; see winograd_tiles for the weights.
void trustsnn_winograd(const Shape *shape, const float *in, const float *weight, const float *bias, float *out) {
    PICK(winograd(*shape, in, weight, bias, out))
}

// The same with its products in bfloat16.
void trustsnn_winograd_bf16(const Shape *shape, const float *in, const uint16_t *weight, const float *bias, float *out) {
#if defined(__x86_64__)
    avx512::winograd(*shape, in, weight, bias, out);
#endif
}

// To at most 4 outputs in one group with stride 1; weights [kernel_h][kernel_w][inputs][outputs].
void trustsnn_convolve_few(const Shape *shape, const float *in, const float *weight, const float *bias, float *out) {
    PICK(convolve_few(*shape, in, weight, bias, out))
}

// `gradient` is [outputs][inputs / groups][kernel_h][kernel_w], all of it written.
void trustsnn_weight_gradient(const Shape *shape, const float *in, const float *to_out, float *gradient) {
    PICK(weight_gradient(*shape, in, to_out, gradient))
}

void trustsnn_pool(const Shape *shape, const float *in, float *out) { PICK(pool(*shape, in, out)) }

void trustsnn_pool_gradient(const Shape *shape, const float *to_out, float *to_in) { PICK(pool_gradient(*shape, to_out, to_in)) }

// Weights for `trustsnn_convolve`; `transposed` for the gradient of the input, whose shape it then is.
void trustsnn_pack(const Shape *shape, const float *weight, int64_t transposed, void *to) {
    PICK(pack(*shape, weight, transposed, static_cast<float *>(to)))
}

// The same for `trustsnn_winograd`.
void trustsnn_pack_tiles(const Shape *shape, const float *weight, int64_t transposed, void *to) {
    PICK(pack_tiles(*shape, weight, transposed, static_cast<float *>(to)))
}

// The same for `trustsnn_winograd_bf16`.
void trustsnn_pack_half_tiles(const Shape *shape, const float *weight, int64_t transposed, void *to) {
    PICK(pack_half_tiles(*shape, weight, transposed, static_cast<uint16_t *>(to)))
}
}
