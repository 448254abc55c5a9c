// The bodies of the kernels, for vectors of LANES floats. Included by native.cpp once for each instruction set.

typedef float V __attribute__((vector_size(LANES * 4)));
typedef int32_t I __attribute__((vector_size(LANES * 4)));
typedef uint32_t U __attribute__((vector_size(LANES * 4)));
typedef uint16_t H __attribute__((vector_size(LANES * 2)));
typedef V AnyV __attribute__((aligned(4), may_alias));
typedef H AnyH __attribute__((aligned(2), may_alias));

static inline V all(float value) { return V{} + value; }
static inline V load(const float *from) { return *reinterpret_cast<const AnyV *>(from); }
static inline void store(float *to, V value) { *reinterpret_cast<AnyV *>(to) = value; }
static inline V choose(I mask, V yes, V no) { return (V)((mask & (I)yes) | (~mask & (I)no)); }
static inline V absolute(V value) { return (V)((I)value & 0x7fffffff); }

static inline V multiply_add(V a, V b, V c) {
#if LANES == 16
    return (V)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif LANES == 8
    return (V)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#else
    return a * b + c;
#endif
}

// Stores past the cache: `to` is aligned to the vector.
static inline void stream(float *to, V value) {
#if LANES == 16
    _mm512_stream_ps(to, (__m512)value);
#elif LANES == 8
    _mm256_stream_ps(to, (__m256)value);
#else
    store(to, value);
#endif
}

static inline void fence() {
#if LANES >= 8
    _mm_sfence();
#endif
}

// Rounded to the nearest bfloat16, ties to even.
static inline H to_half(V value) {
    U bits = (U)value;
    return __builtin_convertvector((bits + 0x7fff + ((bits >> 16) & 1)) >> 16, H);
}

static inline V from_half(H value) { return (V)(__builtin_convertvector(value, U) << 16); }

// exp(x) for x <= 0, to 2 units in the last place (Cephes' expf).
static inline V exponential(V x) {
    x = choose(x < all(-87.0f), all(-87.0f), x);
    V scaled = x * 1.44269504f - 0.5f;
    I n = __builtin_convertvector(scaled, I);
    V whole = __builtin_convertvector(n, V);
    V r = x - whole * 0.693359375f - whole * -2.12194440e-4f;
    V p = all(1.9875691500e-4f);
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    return p * (V)((n + 127) << 23);
}

// The surrogate derivative at distance d, see trustsnn.neurons.surrogates.
template <int KIND>
static inline V surrogate(V d, float width) {
    V zero = V{};
    switch (KIND) {
        case TRIANGULAR: {
            V height = width - absolute(d);
            return choose(height > zero, height, zero) * (1 / (width * width));
        }
        case RECTANGULAR: return choose(absolute(d) < all(width), all(1 / (2 * width)), zero);
        case ATAN: {
            V z = d * (1.57079632679f / width);
            return all(1.0f) / (z * z + 1.0f) * (1 / (2 * width));
        }
        case SIGMOID: {
            V e = exponential(-absolute(d) / width);
            V rate = all(1.0f) / (e + 1.0f);
            return e * rate * rate / width;
        }
        case EXPONENTIAL: return exponential(-absolute(d) / width) / width;
        default: return all(1.0f);
    }
}

// Spans of neurons of one sample, so that sums over a sample never depend on the batch.
static inline int64_t span(const Neuron &n) {
    if (!(n.flags & RECOMPUTE)) return SPAN;
    const int64_t fits = RECOMPUTED / n.steps / 16 * 16;  // the membranes of all steps stay in the L2 cache
    return fits < 64 ? 64 : fits < SPAN ? fits : SPAN;
}

static inline int64_t spans(const Neuron &n) { return divided(n.size, span(n)); }

enum Keep { NOTHING, FULL, SHORT };

// The vector of `channels` values that belongs to place i of a sequence whose channels are side by side.
struct Cycle {
    const float *values;
    int64_t channels, at;
    Cycle(const float *values, int64_t channels, int64_t begin) : values(values), channels(channels), at(begin % channels) {}
    V next() {
        const V value = load(values + at);
        if ((at += LANES) == channels) at = 0;
        return value;
    }
};

template <int KEEP, bool NORM>
static void lif_forward_span(const Neuron &n, const Norm *norm, const float *current, float *spikes, void *membrane, int64_t begin, int64_t count,
                             bool past) {
    alignas(64) float state[SPAN];
    const int64_t total = n.batch * n.size, whole = count / LANES * LANES;
    const bool hard = n.flags & HARD;
    const float limit = n.flags & STRICT ? std::nextafterf(n.threshold, INFINITY) : n.threshold;
    const float leak = n.leak, threshold = n.threshold, gain = n.gain;
    const I kept = hard ? I{} : ~I{};
    const I one = (I)all(1.0f);
    for (int64_t i = 0; i < count; i++) state[i] = n.initial;
    for (int64_t t = 0; t < n.steps; t++) {
        const float *x = current + (n.flags & CONSTANT ? 0 : t * total) + begin;
        float *s = spikes + t * total + begin;
        float *u = static_cast<float *>(membrane) + t * total + begin;
        uint16_t *h = static_cast<uint16_t *>(membrane) + t * total + begin;
        Cycle scale(NORM ? norm->scale : nullptr, NORM ? norm->channels : 1, begin);
        Cycle shift(NORM ? norm->shift : nullptr, NORM ? norm->channels : 1, begin);
        int64_t i = 0;
        for (; i < whole; i += LANES) {
            V input = load(x + i);
            if (NORM) input = input * scale.next() + shift.next();
            V before = load(state + i) * leak + input * gain;
            I fired = before >= all(limit);
            V spike = (V)(fired & one);
            store(state + i, choose(fired, (V)((I)(before - threshold) & kept), before));
            if (past) {
                stream(s + i, spike);
                if (KEEP == FULL) stream(u + i, before);
            } else {
                store(s + i, spike);
                if (KEEP == FULL) store(u + i, before);
            }
            if (KEEP == SHORT) *reinterpret_cast<AnyH *>(h + i) = to_half(before - threshold);
        }
        for (; i < count; i++) {
            float before = state[i] * leak + x[i] * gain;
            bool fired = before >= limit;
            state[i] = fired ? (hard ? 0.0f : before - threshold) : before;
            s[i] = fired ? 1.0f : 0.0f;
            if (KEEP == FULL) u[i] = before;
            if (KEEP == SHORT) h[i] = to_half(all(before - threshold))[0];
        }
    }
}

// The same neurons without the border between samples, which only sums over a sample need.
static inline Neuron joined(Neuron n) {
    n.size *= n.batch;
    n.batch = 1;
    return n;
}

static void lif_forward(const Neuron &given, const Norm *norm, const float *current, float *spikes, void *membrane) {
    const Neuron n = joined(given);
    const uintptr_t address = reinterpret_cast<uintptr_t>(spikes) | reinterpret_cast<uintptr_t>(membrane);
    const bool past = n.size % LANES == 0 && address % 64 == 0 && n.steps * n.batch * n.size * 4 >= STREAM_BYTES;
    parallel(n.batch * spans(n), n.threads, [&](int64_t item) {
        int64_t sample = item / spans(n), from = item % spans(n) * span(n);
        int64_t count = n.size - from < span(n) ? n.size - from : span(n), begin = sample * n.size + from;
        if (norm)
            lif_forward_span<NOTHING, true>(n, norm, current, spikes, membrane, begin, count, past);
        else if (!membrane)
            lif_forward_span<NOTHING, false>(n, norm, current, spikes, membrane, begin, count, past);
        else if (n.flags & HALF)
            lif_forward_span<SHORT, false>(n, norm, current, spikes, membrane, begin, count, past);
        else
            lif_forward_span<FULL, false>(n, norm, current, spikes, membrane, begin, count, past);
        if (past) fence();
    });
}

// The membrane before each spike, [steps][count], of a span.
static void lif_membrane_span(const Neuron &n, const Norm *norm, const float *current, float *membrane, int64_t begin, int64_t count) {
    alignas(64) float state[SPAN];
    const int64_t total = n.batch * n.size;
    const float limit = n.flags & STRICT ? std::nextafterf(n.threshold, INFINITY) : n.threshold;
    const float leak = n.leak, threshold = n.threshold, gain = n.gain;
    const bool hard = n.flags & HARD;
    for (int64_t i = 0; i < count; i++) state[i] = n.initial;
    for (int64_t t = 0; t < n.steps; t++) {
        const float *x = current + (n.flags & CONSTANT ? 0 : t * total) + begin;
        float *u = membrane + t * count;
        if (norm) {
            Cycle scale(norm->scale, norm->channels, begin), shift(norm->shift, norm->channels, begin);
            for (int64_t i = 0; i < count; i += LANES) {
                const V input = load(x + i) * scale.next() + shift.next();
                const V before = load(state + i) * leak + input * gain, rest = hard ? V{} : before - threshold;
                store(u + i, before);
                store(state + i, choose(before >= all(limit), rest, before));
            }
            continue;
        }
        for (int64_t i = 0; i < count; i++) {
            const float before = state[i] * leak + x[i] * gain, rest = hard ? 0.0f : before - threshold;
            u[i] = before;
            state[i] = before >= limit ? rest : before;
        }
    }
}

// Per neuron and step, from the last to the first: see trustsnn.neurons.estimator.STBP. `carried` is dLoss/dv_t.
template <int KIND, bool SUMS, bool NORM>
static void lif_backward_span(const Neuron &n, const Norm *norm, double *norm_sums, const float *current, const void *membrane, const float *to_spikes, float *out,
                              double *to_leak, double *to_threshold, int64_t begin, int64_t count, bool past) {
    alignas(64) float carried[SPAN], sum[SPAN];
    const bool hard = n.flags & HARD, half = n.flags & HALF, constant = n.flags & CONSTANT, again = n.flags & RECOMPUTE;
    const int64_t total = n.batch * n.size, apart = again ? count : total;  // between the membranes of two steps
    const float leak = n.leak, threshold = n.threshold, gain = n.gain, width = n.width;
    const float limit = n.flags & STRICT ? std::nextafterf(threshold, INFINITY) : threshold;
    const float above = n.flags & STRICT ? 1.17549435e-38f : 0.0f;
    const float by_membrane = !(n.flags & DETACH) && hard ? 1.0f : 0.0f;
    const float by_threshold = !(n.flags & DETACH) && !hard ? threshold : 0.0f;
    const I kept = hard ? I{} : ~I{};
    if (again) {
        float *made = static_cast<float *>(scratch(0, n.steps * count * sizeof(float)));
        lif_membrane_span(n, norm, current, made, begin, count);
        membrane = made;
    } else {
        membrane = static_cast<const char *>(membrane) + begin * (half ? sizeof(uint16_t) : sizeof(float));
    }
    double leak_sum = 0, threshold_sum = 0;
    float *channel_sums_of = nullptr;
    if (NORM) {
        channel_sums_of = static_cast<float *>(scratch(1, 2 * norm->channels * sizeof(float)));
        std::memset(channel_sums_of, 0, 2 * norm->channels * sizeof(float));
    }
    for (int64_t i = 0; i < count; i++) carried[i] = sum[i] = 0;
    for (int64_t t = n.steps - 1; t >= 0; t--) {
        const int64_t here = t * total + begin;
        const float *u = static_cast<const float *>(membrane) + t * apart, *g = to_spikes + here;
        const uint16_t *h = static_cast<const uint16_t *>(membrane) + t * apart;
        const float *x = SUMS && n.flags & LEAKY ? current + (constant ? begin : here) : nullptr;
        float *result = constant ? sum : out + here;
        V leaks = V{}, thresholds = V{};
        // Distance to the threshold, membrane before and after the spike, and whether it fired.
        struct Read {
            V distance, before, after;
            I fired;
        };
        auto read = [&](V kept_value) {
            Read r;
            r.distance = half ? kept_value : kept_value - threshold;
            r.before = half ? kept_value + threshold : kept_value;
            r.fired = half ? r.distance >= all(above) : r.before >= all(limit);
            r.after = choose(r.fired, (V)((I)(r.before - threshold) & kept), r.before);
            return r;
        };
        auto step = [&](V kept_value, V kept_earlier, V to_spike, V c, V input) {
            const Read r = read(kept_value);
            V through = surrogate<KIND>(r.distance, width) * (to_spike - c * (r.before * by_membrane + by_threshold));
            V m = through + c - (V)(r.fired & ~kept & (I)c);
            if (SUMS) {
                thresholds -= through + (V)(r.fired & kept & (I)c);
                leaks += m * (t == 0 ? all(n.initial) : read(kept_earlier).after);
                if (t == 0) thresholds += m * (leak * n.initial / threshold);
                if (n.flags & LEAKY) leaks -= m * input;
            }
            return m;
        };
        // With a normalisation: the channels' sums of the gradient and of its product with x.
        float *first = NORM ? channel_sums_of : nullptr, *second = NORM ? channel_sums_of + norm->channels : nullptr;
        const float *raw = current + (constant ? begin : here);
        int64_t channel = NORM ? begin % norm->channels : 0;
        int64_t i = 0;
        for (; i + LANES <= count; i += LANES) {
            V now = half ? from_half(*reinterpret_cast<const AnyH *>(h + i)) : load(u + i), earlier = V{};
            if (SUMS && t > 0) earlier = half ? from_half(*reinterpret_cast<const AnyH *>(h + i - apart)) : load(u + i - apart);
            V m = step(now, earlier, load(g + i), load(carried + i), x ? load(x + i) : V{});
            store(carried + i, m * leak);
            if (NORM) {
                store(first + channel, load(first + channel) + m * gain);
                store(second + channel, load(second + channel) + m * gain * load(raw + i));
                if ((channel += LANES) == norm->channels) channel = 0;
            }
            if (constant)
                store(sum + i, load(sum + i) + m * gain);
            else if (past)
                stream(result + i, m * gain);
            else
                store(result + i, m * gain);
        }
        for (; i < count; i++) {
            V now = half ? from_half(H{} + h[i]) : all(u[i]), earlier = V{};
            if (SUMS && t > 0) earlier = half ? from_half(H{} + h[i - apart]) : all(u[i - apart]);
            const V leaks_before = leaks, thresholds_before = thresholds;
            V m = step(now, earlier, all(g[i]), all(carried[i]), x ? all(x[i]) : V{});
            if (SUMS) {  // one neuron fills all lanes here
                leak_sum += (leaks - leaks_before)[0], threshold_sum += (thresholds - thresholds_before)[0];
                leaks = leaks_before, thresholds = thresholds_before;
            }
            carried[i] = m[0] * leak;
            if (constant)
                sum[i] += m[0] * gain;
            else
                result[i] = m[0] * gain;
        }
        if (SUMS)
            for (int lane = 0; lane < LANES; lane++) leak_sum += leaks[lane], threshold_sum += thresholds[lane];
    }
    if (constant) std::memcpy(out + begin, sum, count * sizeof(float));
    if (SUMS) *to_leak = leak_sum, *to_threshold = threshold_sum;
    if (NORM)
        for (int64_t i = 0; i < 2 * norm->channels; i++) norm_sums[i] = channel_sums_of[i];
}

template <bool SUMS, bool NORM>
static void lif_backward_all(const Neuron &n, const Norm *norm, const float *current, const void *membrane, const float *to_spikes, float *out,
                             double *to_leak, double *to_threshold) {
    const bool past = n.size % LANES == 0 && reinterpret_cast<uintptr_t>(out) % 64 == 0 &&
                      n.steps * n.batch * n.size * 4 >= STREAM_BYTES;
    parallel(n.batch * spans(n), n.threads, [&](int64_t item) {
        int64_t sample = item / spans(n), from = item % spans(n) * span(n);
        int64_t count = n.size - from < span(n) ? n.size - from : span(n), begin = sample * n.size + from;
#define SPAN_OF(KIND)                                                                                                   \
    case KIND:                                                                                                          \
        lif_backward_span<KIND, SUMS, NORM>(n, norm, NORM ? norm->sums + item * 2 * norm->channels : nullptr, current,  \
                                            membrane, to_spikes, out, to_leak + item, to_threshold + item, begin,       \
                                            count, past);                                                               \
        break;
        switch (n.surrogate) {
            SPAN_OF(TRIANGULAR)
            SPAN_OF(RECTANGULAR)
            SPAN_OF(ATAN)
            SPAN_OF(SIGMOID)
            SPAN_OF(EXPONENTIAL)
            SPAN_OF(STE)
        }
#undef SPAN_OF
        if (past) fence();
    });
}

static void lif_backward(const Neuron &n, const Norm *norm, const float *current, const void *membrane, const float *to_spikes,
                         float *out, double *to_leak, double *to_threshold) {
    if (norm && to_leak)
        lif_backward_all<true, true>(n, norm, current, membrane, to_spikes, out, to_leak, to_threshold);
    else if (norm)
        lif_backward_all<false, true>(joined(n), norm, current, membrane, to_spikes, out, to_leak, to_threshold);
    else if (to_leak)
        lif_backward_all<true, false>(n, norm, current, membrane, to_spikes, out, to_leak, to_threshold);
    else
        lif_backward_all<false, false>(joined(n), norm, current, membrane, to_spikes, out, to_leak, to_threshold);
}

static void channel_sums(const float *from, int64_t pixels, int64_t channels, int64_t threads, double *sums) {
    parallel(divided(pixels, 1024), threads, [&](int64_t item) {
        float *first = static_cast<float *>(scratch(0, 2 * channels * sizeof(float))), *second = first + channels;
        std::memset(first, 0, 2 * channels * sizeof(float));
        const int64_t end = (item + 1) * 1024 < pixels ? (item + 1) * 1024 : pixels;
        for (int64_t pixel = item * 1024; pixel < end; pixel++)
            for (int64_t i = 0; i < channels; i += LANES) {
                const V value = load(from + pixel * channels + i) - load(from + i);
                store(first + i, load(first + i) + value);
                store(second + i, load(second + i) + value * value);
            }
        for (int64_t i = 0; i < 2 * channels; i++) sums[item * 2 * channels + i] = first[i];
    });
}

static void channel_combine(float *to, const float *from, const float *by, int64_t pixels, int64_t channels, int64_t threads) {
    parallel(divided(pixels, 1024), threads, [&](int64_t item) {
        const int64_t end = (item + 1) * 1024 < pixels ? (item + 1) * 1024 : pixels;
        for (int64_t pixel = item * 1024; pixel < end; pixel++)
            for (int64_t i = 0; i < channels; i += LANES) {
                const int64_t at = pixel * channels + i;
                store(to + at, load(to + at) * load(by + i) + (load(from + at) * load(by + channels + i) + load(by + 2 * channels + i)));
            }
    });
}

// Bits of the entries of `from` that are not zero.
static inline uint32_t active_mask(const float *from) {
#if LANES == 16
    return _mm512_cmp_ps_mask(_mm512_loadu_ps(from), _mm512_setzero_ps(), _CMP_NEQ_UQ);
#elif LANES == 8
    return _mm256_movemask_ps(_mm256_cmp_ps(_mm256_loadu_ps(from), _mm256_setzero_ps(), _CMP_NEQ_UQ));
#else
    uint32_t mask = 0;
    for (int lane = 0; lane < LANES; lane++) mask |= static_cast<uint32_t>(from[lane] != 0) << lane;
    return mask;
#endif
}

// Calls `found(i, value)` for every entry that is not zero, in order.
template <class Found>
static inline void for_active(const float *from, int64_t count, const Found &found) {
    int64_t i = 0;
    for (; i + LANES <= count; i += LANES)
        for (uint32_t mask = active_mask(from + i); mask; mask &= mask - 1) {
            int64_t at = i + __builtin_ctz(mask);
            found(at, from[at]);
        }
    for (; i < count; i++)
        if (from[i] != 0) found(i, from[i]);
}

static void count_active(const float *from, int64_t count, int64_t *active) {
    int64_t found = 0, i = 0;
    for (; i + LANES <= count; i += LANES) found += __builtin_popcount(active_mask(from + i));
    for (; i < count; i++) found += from[i] != 0;
    *active = found;
}

// What a convolution reads of one image: the padded image, or the active inputs of each block of each row.
struct Image {
    int32_t *start;  // [height][blocks][width + 1] positions in `place`
    int32_t *place;  // (column * block + input within the block) * chunk, ascending within a row of a block
    float *value;
    int64_t active;
    bool ones;  // every active value is 1
};

static inline int64_t padded_height(const Shape &s) { return (s.rows - 1) * s.stride_h + s.dilation_h * (s.kernel_h - 1) + 1; }
static inline int64_t padded_width(const Shape &s) { return (s.columns - 1) * s.stride_w + s.dilation_w * (s.kernel_w - 1) + 1; }

// Lists of the active inputs of `in`, one image, with its padding, unless there are more than `most`: then `start` is null.
// A block never spans two groups.
static Image listed(const Shape &s, const float *in, int64_t most) {
    const int64_t height = padded_height(s), width = padded_width(s), inputs = s.inputs / s.groups;
    const int64_t each = divided(inputs, s.block), blocks = s.groups * each;
    Image image{};
    image.start = static_cast<int32_t *>(scratch(0, height * blocks * (width + 1) * sizeof(int32_t)));
    image.place = static_cast<int32_t *>(scratch(1, (most + 2 * width * s.inputs) * sizeof(int32_t)));
    image.value = static_cast<float *>(scratch(2, (most + 2 * width * s.inputs) * sizeof(float)));
    int32_t count = 0;
    bool ones = true;
    for (int64_t row = 0; row < height; row++) {
        const int64_t y = row - s.top;
        const bool inside = y >= 0 && y % s.up_h == 0 && y / s.up_h < s.height;
        for (int64_t block = 0; block < blocks; block++) {
            int32_t *start = image.start + (row * blocks + block) * (width + 1);
            const int64_t within = block % each * s.block, first = block / each * inputs + within;
            const int64_t size = inputs - within < s.block ? inputs - within : s.block;
            for (int64_t column = 0; column < width; column++) {
                start[column] = count;
                const int64_t x = column - s.left;
                if (!inside || x < 0 || x % s.up_w || x / s.up_w >= s.width) continue;
                const float *from = in + (y / s.up_h * s.width + x / s.up_w) * s.inputs + first;
                const int64_t base = column * s.block;
                for_active(from, size, [&](int64_t i, float value) {
                    image.place[count] = static_cast<int32_t>((base + i) * s.chunk);
                    image.value[count++] = value;
                    ones &= value == 1.0f;
                });
            }
            start[width] = count;
        }
        if (count > most) return Image{};
    }
    image.ones = ones;
    image.active = count;
    return image;
}

// The padded image itself, [height][width][inputs].
static float *padded(const Shape &s, const float *in) {
    const int64_t height = padded_height(s), width = padded_width(s);
    float *pixels = static_cast<float *>(scratch(0, height * width * s.inputs * sizeof(float)));
    std::memset(pixels, 0, height * width * s.inputs * sizeof(float));
    for (int64_t y = 0; y < s.height; y++) {
        const int64_t row = y * s.up_h + s.top;
        if (row < 0 || row >= height) continue;
        for (int64_t x = 0; x < s.width; x++) {
            const int64_t column = x * s.up_w + s.left;
            if (column >= 0 && column < width)
                std::memcpy(pixels + (row * width + column) * s.inputs, in + (y * s.width + x) * s.inputs, s.inputs * 4);
        }
    }
    return pixels;
}

template <int VECTORS>
static inline void put(const V *sums, float *out, int64_t room) {
    if (room >= VECTORS * LANES) {
        for (int v = 0; v < VECTORS; v++) store(out + v * LANES, sums[v]);
        return;
    }
    float buffer[VECTORS * LANES];
    for (int v = 0; v < VECTORS; v++) store(buffer + v * LANES, sums[v]);
    std::memcpy(out, buffer, room * sizeof(float));
}

// One chunk of outputs of one group at every pixel, adding the weight rows of active inputs. Some pixels are taken through
// all blocks at a time, and a block's weights serve all of them from the L1 cache. The order of a pixel's sum is that of
// the packed weight: kernel row, block, kernel column, input.
template <int VECTORS, bool ONES>
static void convolve_listed(const Shape &s, const Image &image, const float *weight, const float *bias, float *out, int64_t group,
                            int64_t room, bool past) {
    const int64_t width = padded_width(s), each = divided(s.inputs / s.groups, s.block), blocks = s.groups * each;
    const int64_t pixels = s.rows * s.columns, TOGETHER = 64, chunk = VECTORS * LANES;
    // Neighbouring columns of the kernel are neighbours in the list too, unless dilation parts them.
    const int64_t runs = s.dilation_w == 1 ? 1 : s.kernel_w, columns = s.dilation_w == 1 ? s.kernel_w : 1;
    alignas(64) float sums[TOGETHER * chunk], initial[chunk], zeros[chunk] = {};
    for (int64_t i = 0; i < chunk; i++) initial[i] = bias && i < room ? bias[i] : 0.0f;
    for (int64_t from = 0; from < pixels; from += TOGETHER) {
        const int64_t to = from + TOGETHER < pixels ? from + TOGETHER : pixels;
        for (int64_t p = from; p < to; p++) std::memcpy(sums + (p - from) * chunk, initial, chunk * sizeof(float));
        for (int64_t ky = 0; ky < s.kernel_h; ky++)
            for (int64_t block = 0; block < each; block++) {
                const float *rows = weight + (ky * each + block) * s.kernel_w * s.block * chunk;
                int64_t row = from / s.columns, column = from % s.columns;
                float *here = sums;
                for (int64_t p = from; p < to; row++, column = 0) {
                    const int32_t *start = image.start + ((row * s.stride_h + ky * s.dilation_h) * blocks + group * each + block) *
                                                             (width + 1) + column * s.stride_w;
                    const float *base = rows - column * s.stride_w * s.block * chunk;
                    // Two pixels at a time keep the adders busy; the shorter list goes on with rows of zeros.
                    for (; runs == 1 && VECTORS <= 4 && column + 1 < s.columns && p + 1 < to; p += 2, column += 2, here += 2 * chunk) {
                        const int32_t *left = image.place + start[0], *right = image.place + start[s.stride_w];
                        const int64_t lefts = start[columns] - start[0], rights = start[s.stride_w + columns] - start[s.stride_w];
                        const float *left_value = image.value + start[0], *right_value = image.value + start[s.stride_w];
                        const float *next = base - s.stride_w * s.block * chunk;
                        V one[VECTORS], two[VECTORS];
                        for (int v = 0; v < VECTORS; v++) one[v] = load(here + v * LANES), two[v] = load(here + chunk + v * LANES);
                        const int64_t longer = lefts > rights ? lefts : rights;
                        for (int64_t i = 0; i < longer; i++) {
                            const float *a = i < lefts ? base + left[i] : zeros, *b = i < rights ? next + right[i] : zeros;
                            const V times_a = ONES ? V{} : all(i < lefts ? left_value[i] : 0.0f), times_b = ONES ? V{} : all(i < rights ? right_value[i] : 0.0f);
                            for (int v = 0; v < VECTORS; v++) {
                                one[v] = ONES ? one[v] + load(a + v * LANES) : multiply_add(times_a, load(a + v * LANES), one[v]);
                                two[v] = ONES ? two[v] + load(b + v * LANES) : multiply_add(times_b, load(b + v * LANES), two[v]);
                            }
                        }
                        for (int v = 0; v < VECTORS; v++) store(here + v * LANES, one[v]), store(here + chunk + v * LANES, two[v]);
                        start += 2 * s.stride_w;
                        base -= 2 * s.stride_w * s.block * chunk;
                    }
                    for (; column < s.columns && p < to; p++, column++, here += chunk) {
                        V mine[VECTORS];
                        for (int v = 0; v < VECTORS; v++) mine[v] = load(here + v * LANES);
                        for (int64_t run = 0; run < runs; run++) {
                            const int64_t first = run * s.dilation_w;
                            const float *w = base + (run - first) * s.block * chunk;
                            const float *value = image.value + start[first];
                            const int32_t *end = image.place + start[first + columns];
                            for (const int32_t *place = image.place + start[first]; place < end; place++) {
                                const V times = ONES ? V{} : all(*value++);
                                for (int v = 0; v < VECTORS; v++) {
                                    const V row = load(w + *place + v * LANES);
                                    mine[v] = ONES ? mine[v] + row : multiply_add(times, row, mine[v]);
                                }
                            }
                        }
                        for (int v = 0; v < VECTORS; v++) store(here + v * LANES, mine[v]);
                        start += s.stride_w;
                        base -= s.stride_w * s.block * chunk;
                    }
                }
            }
        for (int64_t p = from; p < to; p++) {
            const float *here = sums + (p - from) * chunk;
            if (past && room >= chunk)
                for (int v = 0; v < VECTORS; v++) stream(out + p * s.outputs + v * LANES, load(here + v * LANES));
            else
                std::memcpy(out + p * s.outputs, here, (room < chunk ? room : chunk) * sizeof(float));
        }
    }
}

// Some vectors of a chunk at PIXELS pixels, multiplying every input, in the order of `convolve_listed`.
template <int VECTORS, int PIXELS>
static inline void convolve_tile(const Shape &s, const float *pixels, const float *weight, const float *bias, float *out,
                                 int64_t first, int64_t room) {
    const int64_t width = padded_width(s), inputs = s.inputs / s.groups, each = divided(inputs, s.block);
    const float *at[PIXELS];
    for (int p = 0; p < PIXELS; p++) {
        const int64_t row = (first + p) / s.columns, column = (first + p) % s.columns;
        at[p] = pixels + (row * s.stride_h * width + column * s.stride_w) * s.inputs;
    }
    V sums[PIXELS][VECTORS];
    for (int v = 0; v < VECTORS; v++) {
        V initial = V{};
        if (bias)
            for (int lane = 0; lane < LANES; lane++)
                if (v * LANES + lane < room) initial[lane] = bias[v * LANES + lane];
        for (int p = 0; p < PIXELS; p++) sums[p][v] = initial;
    }
    for (int64_t ky = 0; ky < s.kernel_h; ky++)
        for (int64_t block = 0; block < each; block++)
            for (int64_t kx = 0; kx < s.kernel_w; kx++) {
                const int64_t size = inputs - block * s.block < s.block ? inputs - block * s.block : s.block;
                const int64_t offset = (ky * s.dilation_h * width + kx * s.dilation_w) * s.inputs + block * s.block;
                const float *w = weight + ((ky * each + block) * s.kernel_w + kx) * s.block * s.chunk;
                for (int64_t i = 0; i < size; i++, w += s.chunk) {
                    V rows[VECTORS];
                    for (int v = 0; v < VECTORS; v++) rows[v] = load(w + v * LANES);
                    for (int p = 0; p < PIXELS; p++) {
                        const V value = all(at[p][offset + i]);
                        for (int v = 0; v < VECTORS; v++) sums[p][v] = multiply_add(value, rows[v], sums[p][v]);
                    }
                }
            }
    for (int p = 0; p < PIXELS; p++) put<VECTORS>(sums[p], out + (first + p) * s.outputs, room);
}

template <int VECTORS>
static void convolve_dense(const Shape &s, const float *pixels, const float *weight, const float *bias, float *out, int64_t room) {
    const int PIXELS = LANES == 4 ? 4 : 6;
    const int64_t count = s.rows * s.columns;
    int64_t p = 0;
    for (; p + PIXELS <= count; p += PIXELS) convolve_tile<VECTORS, PIXELS>(s, pixels, weight, bias, out, p, room);
    for (; p + 2 <= count; p += 2) convolve_tile<VECTORS, 2>(s, pixels, weight, bias, out, p, room);
    for (; p < count; p++) convolve_tile<VECTORS, 1>(s, pixels, weight, bias, out, p, room);
}

// One image; returns the number of its active inputs, all of them where they were multiplied out.
static int64_t convolve_image(const Shape &s, const float *in, const float *weight, const float *bias, float *out, bool past) {
    const int64_t inputs = s.inputs / s.groups, outputs = s.outputs / s.groups, chunks = divided(outputs, s.chunk);
    const int64_t packed = s.kernel_h * s.kernel_w * divided(inputs, s.block) * s.block * s.chunk;
    const int64_t size = s.height * s.width * s.inputs, most = static_cast<int64_t>(s.dense_above * size);
    const Image image = most < 0 ? Image{} : listed(s, in, most < size ? most : size);
    const bool dense = !image.start;
    const float *pixels = dense ? padded(s, in) : nullptr;
    for (int64_t group = 0; group < s.groups; group++)
        for (int64_t k = 0; k < chunks; k++) {
            const float *w = weight + (group * chunks + k) * packed;
            const int64_t first = group * outputs + k * s.chunk;
            const int64_t room = outputs - k * s.chunk < s.chunk ? outputs - k * s.chunk : s.chunk;
            const float *b = bias ? bias + first : nullptr;
            if (dense) {
                const int64_t vectors = LANES == 16 ? s.chunk / LANES : 2;  // whose sums stay in registers
                for (int64_t at = 0; at < room; at += vectors * LANES) {
                    const float *x = pixels + group * inputs, *some = b ? b + at : nullptr;
                    switch (vectors) {
                        case 1: convolve_dense<1>(s, x, w + at, some, out + first + at, room - at); break;
                        case 2: convolve_dense<2>(s, x, w + at, some, out + first + at, room - at); break;
                        case 4: convolve_dense<4>(s, x, w + at, some, out + first + at, room - at); break;
                    }
                }
            } else {
#define LISTED(CHUNK)                                                                                       \
    case CHUNK:                                                                                             \
        if (image.ones)                                                                                     \
            convolve_listed<CHUNK / LANES, true>(s, image, w, b, out + first, group, room, past);           \
        else                                                                                                \
            convolve_listed<CHUNK / LANES, false>(s, image, w, b, out + first, group, room, past);          \
        break;
                switch (s.chunk) {
                    LISTED(16)
                    LISTED(32)
                    LISTED(64)
                }
#undef LISTED
            }
        }
    if (past) fence();
    return dense ? size : image.active;
}

static void convolve(const Shape &s, const float *in, const float *weight, const float *bias, float *out, int64_t *active) {
    std::atomic<int64_t> found{0};
    const bool past = s.outputs % s.groups == 0 && s.outputs / s.groups % 16 == 0 && reinterpret_cast<uintptr_t>(out) % 64 == 0 &&
                      s.images * s.rows * s.columns * s.outputs * 4 >= STREAM_BYTES;
    if (s.kernel_h * s.kernel_w * s.stride_h * s.stride_w * s.up_h * s.up_w == 1 && !s.top && !s.left) {
        // Every pixel is for itself (a linear layer): cut all of them, whatever their image, into rows that share weights.
        const int64_t pixels = s.images * s.height * s.width, share = divided(pixels, 4 * s.threads);
        const int64_t size = share < 16 ? 16 : share > 64 ? 64 : share;
        parallel(divided(pixels, size), s.threads, [&](int64_t item) {
            Shape row = s;
            row.images = row.height = row.rows = 1;
            row.width = row.columns = pixels - item * size < size ? pixels - item * size : size;
            found += convolve_image(row, in + item * size * s.inputs, weight, bias, out + item * size * s.outputs, past);
        });
    } else {
        parallel(s.images, s.threads, [&](int64_t item) {
            found += convolve_image(s, in + item * s.height * s.width * s.inputs, weight, bias,
                                    out + item * s.rows * s.columns * s.outputs, past);
        });
    }
    *active = found;
}

// Winograd's F(4x4, 3x3) (Lavin 2016, arXiv 1509.09308): a tile of 4x4 results from 36 products instead of 144.
// One dimension of the transform of 6 inputs, in place, `apart` values apart.
static inline void winograd_in(V *d, int apart) {
    const V a = d[4 * apart] - d[2 * apart] * 4.0f, b = d[3 * apart] - d[1 * apart] * 4.0f;
    const V c = d[4 * apart] - d[2 * apart], e = (d[3 * apart] - d[1 * apart]) * 2.0f;
    const V first = d[0] * 4.0f - d[2 * apart] * 5.0f + d[4 * apart];
    const V last = d[1 * apart] * 4.0f - d[3 * apart] * 5.0f + d[5 * apart];
    d[0] = first, d[apart] = a + b, d[2 * apart] = a - b, d[3 * apart] = c + e, d[4 * apart] = c - e, d[5 * apart] = last;
}

// One dimension of the transform of 6 products into 4 results.
static inline void winograd_out(const V *m, int apart, V *y, int between) {
    const V a = m[1 * apart] + m[2 * apart], b = m[1 * apart] - m[2 * apart];
    const V c = m[3 * apart] + m[4 * apart], d = m[3 * apart] - m[4 * apart];
    y[0] = m[0] + a + c;
    y[between] = b + d * 2.0f;
    y[2 * between] = a + c * 4.0f;
    y[3 * between] = b + d * 8.0f + m[5 * apart];
}

// Some tiles, counted over all images. Weights are transformed and packed [36][chunks][inputs][chunk]; the number of inputs
// is a multiple of LANES.
static void winograd_tiles(const Shape &s, int64_t first, int64_t tiles, const float *in, const float *weight, const float *bias,
                           float *out) {
    const int64_t down = divided(s.rows, 4), across = divided(s.columns, 4);
    const int64_t chunks = divided(s.outputs, s.chunk), outputs = chunks * s.chunk;
    // A line more between the 36 parts: a multiple of the page size would put all of them into one set of the L1 cache.
    const int64_t apart_in = tiles * s.inputs + 16, apart_out = tiles * outputs + 16;
    float *spread = static_cast<float *>(scratch(0, 36 * apart_in * sizeof(float)));
    float *products = static_cast<float *>(scratch(1, 36 * apart_out * sizeof(float)));
    const int64_t longest = s.inputs > outputs ? s.inputs : outputs;
    float *zeros = static_cast<float *>(scratch(2, (2 * longest + outputs) * sizeof(float))), *sink = zeros + longest;
    float *shift = sink + longest;
    std::memset(zeros, 0, (2 * longest + outputs) * sizeof(float));
    if (bias) std::memcpy(shift, bias, s.outputs * sizeof(float));
    for (int64_t tile = 0; tile < tiles; tile++) {
        const int64_t t = first + tile, y0 = t / across % down * 4 - s.top, x0 = t % across * 4 - s.left;
        const float *image = in + t / (down * across) * s.height * s.width * s.inputs;
        const float *at[36];
        for (int k = 0; k < 36; k++) {
            const int64_t y = y0 + k / 6, x = x0 + k % 6;
            at[k] = y >= 0 && y < s.height && x >= 0 && x < s.width ? image + (y * s.width + x) * s.inputs : zeros;
        }
        float *to = spread + tile * s.inputs;
        for (int64_t i = 0; i < s.inputs; i += LANES, to += LANES) {
            V d[36];
            for (int x = 0; x < 6; x++) {
                for (int y = 0; y < 6; y++) d[y * 6 + x] = load(at[y * 6 + x] + i);
                winograd_in(d + x, 6);
            }
            for (int y = 0; y < 6; y++) {
                winograd_in(d + 6 * y, 1);
                for (int x = 0; x < 6; x++) store(to + (y * 6 + x) * apart_in, d[y * 6 + x]);
            }
        }
    }
    Shape row = s;  // each of the 36 products is a linear layer over the tiles
    row.images = row.height = row.rows = row.kernel_h = row.kernel_w = row.stride_h = row.stride_w = row.up_h = row.up_w = 1;
    row.width = row.columns = tiles;
    row.top = row.left = 0;
    row.block = s.inputs;
    row.outputs = outputs;
    for (int64_t k = 0; k < 36; k++)
        for (int64_t chunk = 0; chunk < chunks; chunk++) {
            const float *x = spread + k * apart_in, *w = weight + (k * chunks + chunk) * s.inputs * s.chunk;
            float *to = products + k * apart_out + chunk * s.chunk;
            const int64_t vectors = LANES == 16 ? s.chunk / LANES : 2;
            for (int64_t at = 0; at < s.chunk; at += vectors * LANES) switch (vectors) {
                    case 1: convolve_dense<1>(row, x, w + at, nullptr, to + at, s.chunk); break;
                    case 2: convolve_dense<2>(row, x, w + at, nullptr, to + at, s.chunk); break;
                    case 4: convolve_dense<4>(row, x, w + at, nullptr, to + at, s.chunk); break;
                }
        }
    const bool past = s.outputs % LANES == 0 && reinterpret_cast<uintptr_t>(out) % 64 == 0 &&
                      s.images * s.rows * s.columns * s.outputs * 4 >= STREAM_BYTES;
    for (int64_t tile = 0; tile < tiles; tile++) {
        const int64_t t = first + tile, y0 = t / across % down * 4, x0 = t % across * 4;
        float *image = out + t / (down * across) * s.rows * s.columns * s.outputs;
        float *at[16];
        for (int k = 0; k < 16; k++) {
            const int64_t y = y0 + k / 4, x = x0 + k % 4;
            at[k] = y < s.rows && x < s.columns ? image + (y * s.columns + x) * s.outputs : sink;
        }
        const float *from = products + tile * outputs;
        for (int64_t i = 0; i < s.outputs; i += LANES, from += LANES) {
            V m[36], half[24], y[4];
            for (int x = 0; x < 6; x++) {
                for (int k = 0; k < 6; k++) m[k * 6 + x] = load(from + (k * 6 + x) * apart_out);
                winograd_out(m + x, 6, half + x, 6);
            }
            for (int k = 0; k < 4; k++) {
                winograd_out(half + 6 * k, 1, y, 1);
                for (int x = 0; x < 4; x++) {
                    y[x] += load(shift + i);
                    past ? stream(at[4 * k + x] + i, y[x]) : put<1>(y + x, at[4 * k + x] + i, s.outputs - i);
                }
            }
        }
    }
    if (past) fence();
}

// Where in weights [outputs][inputs][taps], or transposed and turned around, that of one output, input and tap is.
struct Weights {
    const float *first;
    int64_t output, input, tap;  // places apart
    Weights(const Shape &s, const float *weight, int64_t transposed, int64_t group) {
        const int64_t outputs = s.outputs / s.groups, inputs = s.inputs / s.groups, taps = s.kernel_h * s.kernel_w;
        first = weight + group * outputs * inputs * taps + (transposed ? taps - 1 : 0);
        output = transposed ? taps : inputs * taps;
        input = transposed ? outputs * taps : taps;
        tap = transposed ? -1 : 1;
    }
};

// In the order that `convolve` reads.
static void pack(const Shape &s, const float *weight, int64_t transposed, float *to) {
    const int64_t outputs = s.outputs / s.groups, inputs = s.inputs / s.groups;
    const int64_t chunks = divided(outputs, s.chunk), blocks = divided(inputs, s.block);
    parallel(s.groups * chunks * s.kernel_h * blocks, s.threads, [&](int64_t item) {
        const int64_t block = item % blocks, ky = item / blocks % s.kernel_h, chunk = item / blocks / s.kernel_h % chunks;
        const Weights from(s, weight, transposed, item / blocks / s.kernel_h / chunks);
        const int64_t room = outputs - chunk * s.chunk < s.chunk ? outputs - chunk * s.chunk : s.chunk;
        float *at = to + item * s.kernel_w * s.block * s.chunk;
        for (int64_t kx = 0; kx < s.kernel_w; kx++)
            for (int64_t i = block * s.block; i < (block + 1) * s.block; i++, at += s.chunk) {
                const float *w = from.first + chunk * s.chunk * from.output + i * from.input + (ky * s.kernel_w + kx) * from.tap;
                const int64_t count = i < inputs ? room : 0;
                for (int64_t o = 0; o < count; o++) at[o] = w[o * from.output];
                for (int64_t o = count; o < s.chunk; o++) at[o] = 0;
            }
    });
}

// The transform of 3x3 weights for `winograd`, [36][chunks][inputs][chunk].
static void pack_tiles(const Shape &s, const float *weight, int64_t transposed, float *to) {
    const int64_t chunks = divided(s.outputs, s.chunk);
    const Weights from(s, weight, transposed, 0);
    auto six = [](const V *w, int apart, V *out, int between) {
        const V a = w[0], b = w[apart], c = w[2 * apart], sum = (a + c) * (1 / 6.0f), sides = a * (1 / 24.0f) + c * (1 / 6.0f);
        out[0] = a * 0.25f;
        out[between] = b * (-1 / 6.0f) - sum, out[2 * between] = b * (1 / 6.0f) - sum;
        out[3 * between] = sides + b * (1 / 12.0f), out[4 * between] = sides - b * (1 / 12.0f);
        out[5 * between] = c;
    };
    parallel(chunks * s.inputs, s.threads, [&](int64_t item) {
        const int64_t i = item % s.inputs, chunk = item / s.inputs;
        for (int64_t o = chunk * s.chunk; o < (chunk + 1) * s.chunk; o += LANES) {
            V w[9], half[18], row[6];
            for (int k = 0; k < 9; k++) {
                alignas(64) float lanes_of[LANES];
                for (int lane = 0; lane < LANES; lane++)
                    lanes_of[lane] = o + lane < s.outputs ? from.first[(o + lane) * from.output + i * from.input + k * from.tap] : 0;
                w[k] = load(lanes_of);
            }
            for (int k = 0; k < 3; k++) six(w + k, 3, half + k, 3);
            for (int k = 0; k < 6; k++) {
                six(half + 3 * k, 1, row, 1);
                for (int x = 0; x < 6; x++)
                    store(to + (((k * 6 + x) * chunks + chunk) * s.inputs + i) * s.chunk + o % s.chunk, row[x]);
            }
        }
    });
}

// A convolution to no more than FEW outputs from a multiple of LANES inputs, which then fill the vectors: dot products with
// weights [kernel_h][kernel_w][outputs][inputs].
static void convolve_few(const Shape &s, const float *in, const float *weight, const float *bias, float *out) {
    parallel(s.images * s.rows, s.threads, [&](int64_t item) {
        const int64_t row = item % s.rows;
        const float *image = in + item / s.rows * s.height * s.width * s.inputs;
        for (int64_t column = 0; column < s.columns; column++) {
            V sums[FEW] = {};
            for (int64_t ky = 0; ky < s.kernel_h; ky++)
                for (int64_t kx = 0; kx < s.kernel_w; kx++) {
                    const int64_t up = row * s.stride_h + ky * s.dilation_h - s.top, y = up / s.up_h;
                    const int64_t over = column * s.stride_w + kx * s.dilation_w - s.left, x = over / s.up_w;
                    if (up < 0 || over < 0 || up % s.up_h || over % s.up_w || y >= s.height || x >= s.width) continue;
                    const float *from = image + (y * s.width + x) * s.inputs;
                    const float *w = weight + (ky * s.kernel_w + kx) * s.outputs * s.inputs;
                    for (int64_t i = 0; i < s.inputs; i += LANES) {
                        const V value = load(from + i);
                        for (int64_t o = 0; o < s.outputs; o++)
                            sums[o] = multiply_add(value, load(w + o * s.inputs + i), sums[o]);
                    }
                }
            float *to = out + (item * s.columns + column) * s.outputs;
            for (int64_t o = 0; o < s.outputs; o++) {
                float total = bias ? bias[o] : 0.0f;
                for (int lane = 0; lane < LANES; lane++) total += sums[o][lane];
                to[o] = total;
            }
        }
    });
}

static void winograd(const Shape &s, const float *in, const float *weight, const float *bias, float *out) {
    const int64_t tiles = s.images * divided(s.rows, 4) * divided(s.columns, 4), size = TILES;
    parallel(divided(tiles, size), s.threads, [&](int64_t item) {
        winograd_tiles(s, item * size, tiles - item * size < size ? tiles - item * size : size, in, weight, bias, out);
    });
}

#if LANES == 16
// The inputs of a pixel are taken in pairs.
static inline int64_t paired(const Shape &s) { return (s.inputs + 1) / 2 * 2; }

// The padded image in bfloat16, [height][width][inputs, paired].
static uint16_t *padded_half(const Shape &s, const float *in) {
    const int64_t height = padded_height(s), width = padded_width(s);
    uint16_t *pixels = static_cast<uint16_t *>(scratch(0, height * width * paired(s) * sizeof(uint16_t)));
    std::memset(pixels, 0, height * width * paired(s) * sizeof(uint16_t));
    for (int64_t y = 0; y < s.height; y++) {
        const int64_t row = y * s.up_h + s.top;
        if (row < 0 || row >= height) continue;
        for (int64_t x = 0; x < s.width; x++) {
            const int64_t column = x * s.up_w + s.left;
            if (column < 0 || column >= width) continue;
            uint16_t *to = pixels + (row * width + column) * paired(s);
            const float *from = in + (y * s.width + x) * s.inputs;
            int64_t i = 0;
            for (; i + LANES <= s.inputs; i += LANES) *reinterpret_cast<AnyH *>(to + i) = to_half(load(from + i));
            for (; i < s.inputs; i++) to[i] = to_half(all(from[i]))[0];
        }
    }
    return pixels;
}

template <int VECTORS, int PIXELS>
__attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512bf16"))) static inline void convolve_tile_bf16(
    const Shape &s, const uint16_t *pixels, const uint16_t *weight, float *out, int64_t row, int64_t column, int64_t room) {
    const int64_t width = padded_width(s), inputs = paired(s), apart = s.stride_w * inputs;
    __m512 sums[PIXELS][VECTORS];
    for (int p = 0; p < PIXELS; p++)
        for (int v = 0; v < VECTORS; v++) sums[p][v] = _mm512_setzero_ps();
    for (int64_t ky = 0; ky < s.kernel_h; ky++)
        for (int64_t kx = 0; kx < s.kernel_w; kx++) {
            const uint16_t *x = pixels + ((row * s.stride_h + ky * s.dilation_h) * width + column * s.stride_w +
                                          kx * s.dilation_w) * inputs;
            const uint16_t *w = weight + (ky * s.kernel_w + kx) * inputs * s.chunk;
            for (int64_t i = 0; i < inputs; i += 2, w += 2 * s.chunk) {
                __m512bh rows[VECTORS];
                for (int v = 0; v < VECTORS; v++) rows[v] = (__m512bh)_mm512_loadu_si512(w + v * 32);
                for (int p = 0; p < PIXELS; p++) {
                    int32_t pair;
                    std::memcpy(&pair, x + p * apart + i, 4);
                    __m512bh value = (__m512bh)_mm512_set1_epi32(pair);
                    for (int v = 0; v < VECTORS; v++) sums[p][v] = _mm512_dpbf16_ps(sums[p][v], value, rows[v]);
                }
            }
        }
    for (int p = 0; p < PIXELS; p++)
        put<VECTORS>(reinterpret_cast<V *>(sums[p]), out + (row * s.columns + column + p) * s.outputs, room);
}

// Products of bfloat16 values summed in float32, for one group. Weights are packed [chunks][kernel_h][kernel_w][paired inputs / 2][chunk][2].
template <int VECTORS>
static void convolve_dense_bf16(const Shape &s, const uint16_t *pixels, const uint16_t *weight, float *out, int64_t room) {
    for (int64_t row = 0; row < s.rows; row++) {
        int64_t column = 0;
        for (; column + 6 <= s.columns; column += 6)
            convolve_tile_bf16<VECTORS, 6>(s, pixels, weight, out, row, column, room);
        for (; column + 2 <= s.columns; column += 2)
            convolve_tile_bf16<VECTORS, 2>(s, pixels, weight, out, row, column, room);
        for (; column < s.columns; column++) convolve_tile_bf16<VECTORS, 1>(s, pixels, weight, out, row, column, room);
    }
}

static void convolve_bf16(const Shape &s, const float *in, const uint16_t *weight, float *out) {
    const int64_t chunks = divided(s.outputs, s.chunk), packed = s.kernel_h * s.kernel_w * paired(s) * s.chunk;
    parallel(s.images, s.threads, [&](int64_t item) {
        const uint16_t *pixels = padded_half(s, in + item * s.height * s.width * s.inputs);
        for (int64_t k = 0; k < chunks; k++) {
            float *to = out + item * s.rows * s.columns * s.outputs + k * s.chunk;
            const int64_t room = s.outputs - k * s.chunk < s.chunk ? s.outputs - k * s.chunk : s.chunk;
            switch (s.chunk) {
                case 16: convolve_dense_bf16<1>(s, pixels, weight + k * packed, to, room); break;
                case 32: convolve_dense_bf16<2>(s, pixels, weight + k * packed, to, room); break;
                case 64: convolve_dense_bf16<4>(s, pixels, weight + k * packed, to, room); break;
            }
        }
    });
}
#endif

// The active inputs of some images by input channel, as offsets into the padded gradient of the same images.
struct Channels {
    int32_t *start;  // [inputs + 1]
    int32_t *place;
    float *value;
    bool ones;
};

// dLoss/dweight of TAPS places of the kernel for one input and one chunk of outputs, over some images.
template <int TAPS, bool ONES>
static inline void add_taps(const Channels &list, int64_t input, const float *gradient, const int64_t *offsets, float *to,
                            int64_t apart) {
    const int VECTORS = WEIGHT_CHUNK / LANES;
    V sums[TAPS][VECTORS];
    for (int tap = 0; tap < TAPS; tap++)
        for (int v = 0; v < VECTORS; v++) sums[tap][v] = load(to + tap * apart + v * LANES);
    for (int32_t i = list.start[input]; i < list.start[input + 1]; i++) {
        const float *from = gradient + list.place[i];
        V value = ONES ? V{} : all(list.value[i]);
        for (int tap = 0; tap < TAPS; tap++)
            for (int v = 0; v < VECTORS; v++) {
                V row = load(from + offsets[tap] + v * LANES);
                sums[tap][v] = ONES ? sums[tap][v] + row : multiply_add(value, row, sums[tap][v]);
            }
    }
    for (int tap = 0; tap < TAPS; tap++)
        for (int v = 0; v < VECTORS; v++) store(to + tap * apart + v * LANES, sums[tap][v]);
}

static void weight_gradient(const Shape &s, const float *in, const float *to_out, float *gradient) {
    const int64_t inputs = s.inputs / s.groups, outputs = s.outputs / s.groups, chunks = divided(outputs, WEIGHT_CHUNK);
    const int64_t taps = s.kernel_h * s.kernel_w, packed = taps * inputs * WEIGHT_CHUNK;
    const int64_t border_h = s.dilation_h * (s.kernel_h - 1), border_w = s.dilation_w * (s.kernel_w - 1);
    const int64_t height = s.height + border_h, width = s.width + border_w, pixels_in = s.height * s.width;
    // Images taken together: enough places to fill the lists, few enough for their gradient to stay in the L2 cache.
    int64_t together = 2048 / (height * width);
    if (together < 1) together = 1;
    const int64_t batches = divided(s.images, together);
    Channels *lists = static_cast<Channels *>(std::calloc(batches + 1, sizeof(Channels)));
    parallel(batches, s.threads, [&](int64_t batch) {
        const int64_t first = batch * together, last = first + together < s.images ? first + together : s.images;
        const float *from = in + first * pixels_in * s.inputs;
        const int64_t pixels = (last - first) * pixels_in;
        Channels &list = lists[batch];
        list.start = static_cast<int32_t *>(std::calloc(s.inputs + 2, sizeof(int32_t)));
        int32_t *begin = list.start + 1;  // of each channel; filling moves it to the channel's end, which is the next one's start
        for (int64_t pixel = 0; pixel < pixels; pixel++)
            for_active(from + pixel * s.inputs, s.inputs, [&](int64_t i, float) { begin[i + 1]++; });
        for (int64_t i = 0; i < s.inputs; i++) begin[i + 1] += begin[i];
        const int64_t total = begin[s.inputs];
        list.place = static_cast<int32_t *>(std::malloc((total + 1) * sizeof(int32_t)));
        list.value = static_cast<float *>(std::malloc((total + 1) * sizeof(float)));
        bool ones = true;
        for (int64_t image = 0; image < last - first; image++)
            for (int64_t y = 0; y < s.height; y++)
                for (int64_t x = 0; x < s.width; x++) {
                    const int32_t place = static_cast<int32_t>(((image * height + y) * width + x) * WEIGHT_CHUNK);
                    for_active(from + ((image * s.height + y) * s.width + x) * s.inputs, s.inputs, [&](int64_t i, float value) {
                        const int32_t at = begin[i]++;
                        list.place[at] = place;
                        list.value[at] = value;
                        ones &= value == 1.0f;
                    });
                }
        list.ones = ones;
    });
    std::memset(gradient, 0, s.groups * chunks * packed * sizeof(float));
    int64_t *offsets = static_cast<int64_t *>(std::malloc(taps * sizeof(int64_t)));
    for (int64_t ky = 0; ky < s.kernel_h; ky++)
        for (int64_t kx = 0; kx < s.kernel_w; kx++)
            offsets[ky * s.kernel_w + kx] =
                ((s.kernel_h - 1 - ky) * s.dilation_h * width + (s.kernel_w - 1 - kx) * s.dilation_w) * WEIGHT_CHUNK;
    const int64_t shares = divided(2 * s.threads, s.groups * chunks) < inputs ? divided(2 * s.threads, s.groups * chunks) : inputs;
    parallel(s.groups * chunks * shares, s.threads, [&](int64_t item) {
        const int64_t share = item % shares, chunk = item / shares % chunks, group = item / shares / chunks;
        const int64_t low = share * inputs / shares, high = (share + 1) * inputs / shares;
        const int64_t room = outputs - chunk * WEIGHT_CHUNK < WEIGHT_CHUNK ? outputs - chunk * WEIGHT_CHUNK : WEIGHT_CHUNK;
        float *mine = gradient + (group * chunks + chunk) * packed;
        float *spread = static_cast<float *>(scratch(3, together * height * width * WEIGHT_CHUNK * sizeof(float)));
        for (int64_t batch = 0; batch < batches; batch++) {
            const int64_t first = batch * together, last = first + together < s.images ? first + together : s.images;
            std::memset(spread, 0, (last - first) * height * width * WEIGHT_CHUNK * sizeof(float));
            for (int64_t image = first; image < last; image++)
                for (int64_t row = 0; row < s.rows; row++) {
                    const int64_t y = row * s.stride_h + border_h - s.top;
                    if (y < 0 || y >= height) continue;
                    for (int64_t column = 0; column < s.columns; column++) {
                        const int64_t x = column * s.stride_w + border_w - s.left;
                        if (x < 0 || x >= width) continue;
                        std::memcpy(spread + (((image - first) * height + y) * width + x) * WEIGHT_CHUNK,
                                    to_out + ((image * s.rows + row) * s.columns + column) * s.outputs + group * outputs +
                                        chunk * WEIGHT_CHUNK,
                                    room * sizeof(float));
                    }
                }
            const Channels &list = lists[batch];
            const int TAPS = LANES == 16 ? 9 : 3;
            for (int64_t i = low; i < high; i++) {
                const int64_t input = group * inputs + i;
                if (list.start[input] == list.start[input + 1]) continue;
                float *to = mine + i * WEIGHT_CHUNK;
                const int64_t apart = inputs * WEIGHT_CHUNK;
                int64_t tap = 0;
                for (; tap + TAPS <= taps; tap += TAPS)
                    list.ones ? add_taps<TAPS, true>(list, input, spread, &offsets[tap], to + tap * apart, apart)
                              : add_taps<TAPS, false>(list, input, spread, &offsets[tap], to + tap * apart, apart);
                for (; tap < taps; tap++)
                    list.ones ? add_taps<1, true>(list, input, spread, &offsets[tap], to + tap * apart, apart)
                              : add_taps<1, false>(list, input, spread, &offsets[tap], to + tap * apart, apart);
            }
        }
    });
    for (int64_t i = 0; i < batches; i++) std::free(lists[i].start), std::free(lists[i].place), std::free(lists[i].value);
    std::free(lists);
    std::free(offsets);
}

// The mean of 2x2 pixels, channels last, [images][height][width][inputs] to [rows][columns] of half the size.
static void pool(const Shape &s, const float *in, float *out) {
    parallel(s.images * s.rows, s.threads, [&](int64_t item) {
        const float *from = in + (item / s.rows * s.height + item % s.rows * 2) * s.width * s.inputs;
        float *to = out + item * s.columns * s.inputs;
        const int64_t below = s.width * s.inputs;
        for (int64_t column = 0; column < s.columns; column++, from += 2 * s.inputs, to += s.inputs) {
            int64_t i = 0;
            for (; i + LANES <= s.inputs; i += LANES)
                store(to + i, (load(from + i) + load(from + s.inputs + i) + load(from + below + i) +
                               load(from + below + s.inputs + i)) * 0.25f);
            for (; i < s.inputs; i++)
                to[i] = (from[i] + from[s.inputs + i] + from[below + i] + from[below + s.inputs + i]) * 0.25f;
        }
    });
}

// Its gradient: a quarter to each of the 2x2 pixels, nothing to a last odd row or column.
static void pool_gradient(const Shape &s, const float *to_out, float *to_in) {
    const bool past = s.inputs % LANES == 0 && reinterpret_cast<uintptr_t>(to_in) % 64 == 0 &&
                      s.images * s.height * s.width * s.inputs * 4 >= STREAM_BYTES;
    parallel(s.images * s.height, s.threads, [&](int64_t item) {
        const int64_t image = item / s.height, row = item % s.height / 2;
        float *to = to_in + item * s.width * s.inputs;
        if (row >= s.rows) {
            std::memset(to, 0, s.width * s.inputs * sizeof(float));
            return;
        }
        const float *from = to_out + (image * s.rows + row) * s.columns * s.inputs;
        for (int64_t column = 0; column < s.columns; column++, from += s.inputs)
            for (int side = 0; side < 2; side++, to += s.inputs) {
                int64_t i = 0;
                for (; i + LANES <= s.inputs; i += LANES)
                    past ? stream(to + i, load(from + i) * 0.25f) : store(to + i, load(from + i) * 0.25f);
                for (; i < s.inputs; i++) to[i] = from[i] * 0.25f;
            }
        if (s.width > 2 * s.columns) std::memset(to, 0, s.inputs * sizeof(float));
        if (past) fence();
    });
}
