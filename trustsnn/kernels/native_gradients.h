// The gradient of the input in bfloat16, that of the weights from active inputs, and pooling. Part of native_body.h.

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
