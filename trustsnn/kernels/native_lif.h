// Neurons over all time steps, forward and backward, and the normalisation before them. Part of native_body.h.

// Spans of neurons of one sample, so that sums over a sample never depend on the batch.
static inline int64_t span(const Neuron &n) {
    if (!(n.flags & RECOMPUTE)) return SPAN;
    const int64_t fits = RECOMPUTED / n.steps / 16 * 16;  // the membranes of all steps stay in the L2 cache
    return fits < 64 ? 64 : fits < SPAN ? fits : SPAN;
}

static inline int64_t spans(const Neuron &n) { return divided(n.size, span(n)); }

// The membranes of a span before its first step.
static inline void begin_with(const Neuron &n, float *state, int64_t begin, int64_t count) {
    if (n.start)
        std::memcpy(state, n.start + begin, count * sizeof(float));
    else
        for (int64_t i = 0; i < count; i++) state[i] = n.initial;
}

enum Keep { NOTHING, FULL, SHORT };

// Where the same neurons' values of the next step begin, `apart` further on; at the last step, here. Steps lie so far apart that
// no hardware prefetcher sees them coming.
static inline int64_t next_step(const Neuron &n, int64_t t, int64_t apart) { return t + 1 < n.steps && !(n.flags & CONSTANT) ? apart : 0; }

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

// The numbers of a layer's step, and whether results are written past the cache.
struct Step {
    float leak, threshold, gain, limit;
    I kept;  // of the membrane after a spike: all bits with a soft reset, none with a hard one
    bool past;
    Step(const Neuron &n, bool past)
        : leak(n.leak), threshold(n.threshold), gain(n.gain),
          limit(n.flags & STRICT ? std::nextafterf(n.threshold, INFINITY) : n.threshold), kept(n.flags & HARD ? I{} : ~I{}), past(past) {}
};

// One step of `count` neurons, the first of which is neuron `begin`: `state` moves, spikes `s` and the membrane `u` or `h` are
// written. `ahead` is how far on the current of the next step begins.
template <int KEEP, bool NORM>
static inline void lif_forward_step(const Step &n, const Norm *norm, const float *x, float *state, float *s, float *u, uint16_t *h,
                                    int64_t ahead, int64_t begin, int64_t count) {
    const int64_t whole = count / LANES * LANES;
    const I one = (I)all(1.0f);
    Cycle scale(NORM ? norm->scale : nullptr, NORM ? norm->channels : 1, begin);
    Cycle shift(NORM ? norm->shift : nullptr, NORM ? norm->channels : 1, begin);
    int64_t i = 0;
    for (; i < whole; i += LANES) {
        V input = load(x + i);
        __builtin_prefetch(x + i + ahead);
        if (NORM) input = input * scale.next() + shift.next();
        V before = load(state + i) * n.leak + input * n.gain;
        I fired = before >= all(n.limit);
        V spike = (V)(fired & one);
        store(state + i, choose(fired, (V)((I)(before - n.threshold) & n.kept), before));
        if (n.past) {
            stream(s + i, spike);
            if (KEEP == FULL) stream(u + i, before);
        } else {
            store(s + i, spike);
            if (KEEP == FULL) store(u + i, before);
        }
        if (KEEP == SHORT) *reinterpret_cast<AnyH *>(h + i) = to_half(before - n.threshold);
    }
    for (; i < count; i++) {
        float before = state[i] * n.leak + x[i] * n.gain;
        bool fired = before >= n.limit;
        state[i] = fired ? (n.kept[0] ? before - n.threshold : 0.0f) : before;
        s[i] = fired ? 1.0f : 0.0f;
        if (KEEP == FULL) u[i] = before;
        if (KEEP == SHORT) h[i] = to_half(all(before - n.threshold))[0];
    }
}

template <int KEEP, bool NORM>
static void lif_forward_span(const Neuron &n, const Norm *norm, const float *current, float *spikes, void *membrane, int64_t begin, int64_t count,
                             bool past) {
    alignas(64) float state[SPAN];
    const int64_t total = n.batch * n.size;
    const Step step(n, past);
    begin_with(n, state, begin, count);
    for (int64_t t = 0; t < n.steps; t++) {
        const int64_t here = t * total + begin;
        const float *x = current + (n.flags & CONSTANT ? begin : here);
        lif_forward_step<KEEP, NORM>(step, norm, x, state, spikes + here, static_cast<float *>(membrane) + here,
                                     static_cast<uint16_t *>(membrane) + here, next_step(n, t, total), begin, count);
    }
    if (n.end) std::memcpy(n.end + begin, state, count * sizeof(float));
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
    begin_with(n, state, begin, count);
    for (int64_t t = 0; t < n.steps; t++) {
        const float *x = current + (n.flags & CONSTANT ? 0 : t * total) + begin;
        float *u = membrane + t * count;
        const int64_t ahead = next_step(n, t, total);
        Cycle scale(norm ? norm->scale : nullptr, norm ? norm->channels : 1, begin);
        Cycle shift(norm ? norm->shift : nullptr, norm ? norm->channels : 1, begin);
        int64_t i = 0;
        for (; i + LANES <= count; i += LANES) {
            __builtin_prefetch(x + i + ahead);
            V input = load(x + i);
            if (norm) input = input * scale.next() + shift.next();
            const V before = load(state + i) * leak + input * gain, rest = hard ? V{} : before - threshold;
            store(u + i, before);
            store(state + i, choose(before >= all(limit), rest, before));
        }
        for (; i < count; i++) {
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
        const float *start = SUMS && t == 0 && n.start ? n.start + begin : nullptr;
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
        auto step = [&](V kept_value, V kept_earlier, V to_spike, V c, V input, V first) {
            const Read r = read(kept_value);
            V through = surrogate<KIND>(r.distance, width) * (to_spike - c * (r.before * by_membrane + by_threshold));
            V m = through + c - (V)(r.fired & ~kept & (I)c);
            if (SUMS) {
                thresholds -= through + (V)(r.fired & kept & (I)c);
                leaks += m * (t == 0 ? first : read(kept_earlier).after);
                if (t == 0 && !n.start) thresholds += m * (leak * n.initial / threshold);
                if (n.flags & LEAKY) leaks -= m * input;
            }
            return m;
        };
        // With a normalisation: the channels' sums of the gradient and of its product with x.
        float *first = NORM ? channel_sums_of : nullptr, *second = NORM ? channel_sums_of + norm->channels : nullptr;
        const float *raw = current + (constant ? begin : here);
        int64_t channel = NORM ? begin % norm->channels : 0;
        const int64_t back = t > 0 ? total : 0, membrane_back = t > 0 ? apart : 0;
        int64_t i = 0;
        for (; i + LANES <= count; i += LANES) {
            __builtin_prefetch(g + i - back);
            if (half)
                __builtin_prefetch(h + i - membrane_back);
            else
                __builtin_prefetch(u + i - membrane_back);
            V now = half ? from_half(*reinterpret_cast<const AnyH *>(h + i)) : load(u + i), earlier = V{};
            if (SUMS && t > 0) earlier = half ? from_half(*reinterpret_cast<const AnyH *>(h + i - apart)) : load(u + i - apart);
            V m = step(now, earlier, load(g + i), load(carried + i), x ? load(x + i) : V{}, start ? load(start + i) : all(n.initial));
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
            V m = step(now, earlier, all(g[i]), all(carried[i]), x ? all(x[i]) : V{}, all(start ? start[i] : n.initial));
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
static void lif_backward_all(const Neuron &n, const Norm *norm, double *norm_sums, const float *current, const void *membrane, const float *to_spikes,
                             float *out, double *to_leak, double *to_threshold) {
    const bool past = n.size % LANES == 0 && reinterpret_cast<uintptr_t>(out) % 64 == 0 &&
                      n.steps * n.batch * n.size * 4 >= STREAM_BYTES;
    parallel(n.batch * spans(n), n.threads, [&](int64_t item) {
        int64_t sample = item / spans(n), from = item % spans(n) * span(n);
        int64_t count = n.size - from < span(n) ? n.size - from : span(n), begin = sample * n.size + from;
#define SPAN_OF(KIND)                                                                                                   \
    case KIND:                                                                                                          \
        lif_backward_span<KIND, SUMS, NORM>(n, norm, NORM ? norm_sums + item * 2 * norm->channels : nullptr, current,   \
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

// With a normalisation its gradient and that gradient times x are added up into `norm_sums` [span][2][channels].
static void lif_backward(const Neuron &n, const Norm *norm, double *norm_sums, const float *current, const void *membrane, const float *to_spikes,
                         float *out, double *to_leak, double *to_threshold) {
    if (norm && to_leak)
        lif_backward_all<true, true>(n, norm, norm_sums, current, membrane, to_spikes, out, to_leak, to_threshold);
    else if (norm)
        lif_backward_all<false, true>(joined(n), norm, norm_sums, current, membrane, to_spikes, out, to_leak, to_threshold);
    else if (to_leak)
        lif_backward_all<true, false>(n, norm, norm_sums, current, membrane, to_spikes, out, to_leak, to_threshold);
    else
        lif_backward_all<false, false>(joined(n), norm, norm_sums, current, membrane, to_spikes, out, to_leak, to_threshold);
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
