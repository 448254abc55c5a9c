// Convolution from active inputs, or multiplied out in the same order. Part of native_body.h.

// Bits of the lanes where a and b differ.
static inline uint32_t where_not(V a, V b) {
#if LANES == 16
    return _mm512_cmp_ps_mask((__m512)a, (__m512)b, _CMP_NEQ_UQ);
#elif LANES == 8
    return _mm256_movemask_ps(_mm256_cmp_ps((__m256)a, (__m256)b, _CMP_NEQ_UQ));
#else
    uint32_t mask = 0;
    for (int lane = 0; lane < LANES; lane++) mask |= static_cast<uint32_t>(a[lane] != b[lane]) << lane;
    return mask;
#endif
}

static void count_active(const float *from, int64_t count, int64_t *active) {
    int64_t found = 0, i = 0;
    for (; i + LANES <= count; i += LANES) found += __builtin_popcount(where_not(load(from + i), V{}));
    for (; i < count; i++) found += from[i] != 0;
    *active = found;
}

// What a convolution reads of one image: which inputs are active.
struct Image {
    uint64_t *active;  // [padded height][blocks][padded width], bits of the inputs of a block at a pixel; null: too many of them
    const float *pixels;  // the image, or the padded image where zeros stand between its pixels
    int64_t width, top, left;  // of `pixels`: its width, and its place in the padded image
    int64_t count;
    bool ones;  // every active value is 1
};

static inline int64_t padded_height(const Shape &s) { return (s.rows - 1) * s.stride_h + s.dilation_h * (s.kernel_h - 1) + 1; }
static inline int64_t padded_width(const Shape &s) { return (s.columns - 1) * s.stride_w + s.dilation_w * (s.kernel_w - 1) + 1; }

// Bits of the first `count` entries of `from` that are not zero, at most 64.
static inline uint64_t active_bits(const float *from, int64_t count, bool *ones) {
    uint64_t bits = 0, others = 0;
    int64_t i = 0;
    for (; i + LANES <= count; i += LANES) {
        const V values = load(from + i);
        bits |= static_cast<uint64_t>(where_not(values, V{})) << i;
        others |= static_cast<uint64_t>(where_not(values, all(1.0f))) << i;
    }
    for (; i < count; i++) {
        bits |= static_cast<uint64_t>(from[i] != 0) << i;
        others |= static_cast<uint64_t>(from[i] != 1) << i;
    }
    *ones &= !(bits & others);
    return bits;
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

// The active inputs of `in`, one image, unless there are more than `most`. A block never spans two groups.
static Image observed(const Shape &s, const float *in, int64_t most) {
    const int64_t height = padded_height(s), width = padded_width(s), inputs = s.inputs / s.groups;
    const int64_t each = divided(inputs, s.block), blocks = s.groups * each;
    uint64_t *active = static_cast<uint64_t *>(scratch(2, height * blocks * width * sizeof(uint64_t)));
    Image image{active, in, s.width, s.top, s.left, 0, true};
    std::memset(image.active, 0, height * blocks * width * sizeof(uint64_t));
    const bool apart = s.up_h * s.up_w > 1;
    if (apart) image.pixels = padded(s, in), image.width = width, image.top = image.left = 0;
    for (int64_t y = 0; y < (apart ? height : s.height); y++) {
        const int64_t row = y + image.top;
        if (row < 0 || row >= height) continue;
        for (int64_t x = 0; x < image.width; x++) {
            const int64_t column = x + image.left;
            if (column < 0 || column >= width) continue;
            const float *from = image.pixels + (y * image.width + x) * s.inputs;
            uint64_t *to = image.active + row * blocks * width + column;
            for (int64_t group = 0; group < s.groups; group++)
                for (int64_t first = 0; first < inputs; first += s.block, to += width) {
                    const int64_t size = inputs - first < s.block ? inputs - first : s.block;
                    *to = active_bits(from + group * inputs + first, size, &image.ones);
                    image.count += __builtin_popcountll(*to);
                }
        }
        if (image.count > most) return Image{};
    }
    return image;
}

// Walks `columns` pixels of a row of inputs, `step` apart, and adds to the row of sums what the active ones make of WIDE columns
// of the kernel, `tap` apart: a pixel adds to WIDE neighbouring sums, the last tap to the first, which stay in registers.
template <int VECTORS, int WIDE, bool ONES>
static inline void add_row(const Shape &s, const uint64_t *active, const float *values, int64_t step, const float *weight,
                           float *sums, int64_t columns) {
    const int64_t size = VECTORS * LANES, tap = s.block * s.chunk;
    V mine[WIDE][VECTORS];
    for (int k = 1; k < WIDE; k++)
        for (int v = 0; v < VECTORS; v++) mine[k - 1][v] = load(sums + (k - 1) * size + v * LANES);
    const auto column = [&](auto turned) {
        constexpr int TURN = decltype(turned)::value;
        // The k-th of the sums is in place (k + TURN) % WIDE.
        for (int v = 0; v < VECTORS; v++) mine[(WIDE - 1 + TURN) % WIDE][v] = load(sums + (WIDE - 1) * size + v * LANES);
        for (uint64_t left = *active; left; left &= left - 1) {
            const int64_t input = __builtin_ctzll(left);
            const float *row = weight + input * s.chunk;
            const V times = ONES ? V{} : all(values[input]);
            for (int k = 0; k < WIDE; k++)
                for (int v = 0; v < VECTORS; v++) {
                    const V w = load(row + (WIDE - 1 - k) * tap + v * LANES);
                    V &sum = mine[(k + TURN) % WIDE][v];
                    sum = ONES ? sum + w : multiply_add(times, w, sum);
                }
        }
        for (int v = 0; v < VECTORS; v++) store(sums + v * LANES, mine[TURN][v]);
        active += step, values += step * s.inputs, sums += size;
    };
    int64_t x = 0;
    if (WIDE == 3)
        for (; x + 3 <= columns; x += 3) {
            column(std::integral_constant<int, 0>());
            column(std::integral_constant<int, 1 % WIDE>());
            column(std::integral_constant<int, 2 % WIDE>());
        }
    else
        for (; x < columns; x++) column(std::integral_constant<int, 0>());
    if (x < columns) column(std::integral_constant<int, 0>());
    if (x + 1 < columns) column(std::integral_constant<int, 1 % WIDE>());
}

// Some vectors of a chunk of outputs of one group at every pixel, adding the weight rows of active inputs. Some rows of pixels
// are taken through all blocks at a time, and a block's weights serve all of them from the L1 cache. The order of a pixel's
// sum is that of the packed weight: kernel row, block, kernel column, input.
template <int VECTORS, bool ONES>
static void convolve_active(const Shape &s, const Image &image, const float *weight, const float *bias, float *out, int64_t group,
                            int64_t room, bool past) {
    const int64_t width = padded_width(s), inputs = s.inputs / s.groups, each = divided(inputs, s.block);
    const int64_t size = VECTORS * LANES, tap = s.block * s.chunk, together = s.columns < 64 ? 64 / s.columns : 1;
    const bool fused = s.kernel_w == 3 && s.stride_w == 1 && s.dilation_w == 1;
    const int64_t ahead = fused ? 2 : 0, slots = s.columns + 2 * ahead;  // pixel x has its sum in slot x + ahead
    float *sums = static_cast<float *>(scratch(1, together * slots * size * sizeof(float)));
    alignas(64) float initial[size];
    for (int64_t i = 0; i < size; i++) initial[i] = bias && i < room ? bias[i] : 0.0f;
    for (int64_t from = 0; from < s.rows; from += together) {
        const int64_t rows = s.rows - from < together ? s.rows - from : together;
        for (int64_t slot = 0; slot < rows * slots; slot++) std::memcpy(sums + slot * size, initial, size * sizeof(float));
        for (int64_t ky = 0; ky < s.kernel_h; ky++)
            for (int64_t block = 0; block < each; block++) {
                const float *taps = weight + (ky * each + block) * s.kernel_w * tap;
                for (int64_t row = 0; row < rows; row++) {
                    const int64_t y = (from + row) * s.stride_h + ky * s.dilation_h;
                    const uint64_t *active = image.active + ((y * s.groups + group) * each + block) * width;
                    const float *values = image.pixels + ((y - image.top) * image.width - image.left) * s.inputs +
                                          group * inputs + block * s.block;
                    float *here = sums + row * slots * size;
                    if (fused)
                        add_row<VECTORS, 3, ONES>(s, active, values, 1, taps, here, width);
                    else
                        for (int64_t kx = 0, x = 0; kx < s.kernel_w; kx++, x += s.dilation_w)
                            add_row<VECTORS, 1, ONES>(s, active + x, values + x * s.inputs, s.stride_w, taps + kx * tap, here,
                                                      s.columns);
                }
            }
        for (int64_t row = 0; row < rows; row++)
            for (int64_t x = 0; x < s.columns; x++) {
                const float *here = sums + (row * slots + x + ahead) * size;
                float *to = out + ((from + row) * s.columns + x) * s.outputs;
                if (past && room >= size)
                    for (int v = 0; v < VECTORS; v++) stream(to + v * LANES, load(here + v * LANES));
                else
                    std::memcpy(to, here, (room < size ? room : size) * sizeof(float));
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
    const Image image = most < 0 ? Image{} : observed(s, in, most);
    const bool dense = !image.active;
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
                const int64_t vectors = s.chunk / LANES < 4 ? s.chunk / LANES : 4;
                for (int64_t at = 0; at < room; at += vectors * LANES) {
                    const float *some = b ? b + at : nullptr;
#define ACTIVE(VECTORS)                                                                                          \
    case VECTORS:                                                                                                \
        if (image.ones)                                                                                          \
            convolve_active<VECTORS, true>(s, image, w + at, some, out + first + at, group, room - at, past);    \
        else                                                                                                     \
            convolve_active<VECTORS, false>(s, image, w + at, some, out + first + at, group, room - at, past);   \
        break;
                    switch (vectors) {
                        ACTIVE(1)
                        ACTIVE(2)
                        ACTIVE(4)
                    }
#undef ACTIVE
                }
            }
        }
    if (past) fence();
    return dense ? size : image.count;
}

// Calls `work(shape, first pixel of the input, first pixel of the result)` for each image. Where every pixel is for itself (a
// linear layer) all of them, whatever their image, are cut into rows that share weights instead. Each row reads the whole
// weight, maybe from memory, so they are long.
template <class Work>
static void for_images(const Shape &s, const Work &work) {
    const int64_t pixels = s.images * s.height * s.width, share = divided(pixels, s.threads);
    if (s.kernel_h * s.kernel_w * s.stride_h * s.stride_w * s.up_h * s.up_w != 1 || s.top || s.left) {
        parallel(s.images, s.threads, [&](int64_t image) { work(s, image * s.height * s.width, image * s.rows * s.columns); });
        return;
    }
    const int64_t size = share < 16 ? 16 : share > 128 ? 128 : share;
    parallel(divided(pixels, size), s.threads, [&](int64_t item) {
        Shape row = s;
        row.images = row.height = row.rows = 1;
        row.width = row.columns = pixels - item * size < size ? pixels - item * size : size;
        work(row, item * size, item * size);
    });
}

static void convolve(const Shape &s, const float *in, const float *weight, const float *bias, float *out, int64_t *active) {
    std::atomic<int64_t> found{0};
    const bool past = s.outputs % s.groups == 0 && s.outputs / s.groups % 16 == 0 && reinterpret_cast<uintptr_t>(out) % 64 == 0 &&
                      s.images * s.rows * s.columns * s.outputs * 4 >= STREAM_BYTES;
    for_images(s, [&](const Shape &part, int64_t from, int64_t to) {
        found += convolve_image(part, in + from * s.inputs, weight, bias, out + to * s.outputs, past);
    });
    *active = found;
}

// A convolution and the neurons behind it, one sample after the other: its current never leaves the cache. `in` holds the images of all
// steps, or of one where the current is constant.
template <int KEEP>
static int64_t convolve_sample(const Shape &s, const Neuron &n, const float *in, const float *weight, const float *bias, float *spikes,
                               void *membrane, int64_t sample, bool past) {
    float *current = static_cast<float *>(scratch(3, 2 * n.size * sizeof(float))), *state = current + n.size;
    const Step step(n, past);
    int64_t active = 0;
    for (int64_t i = 0; i < n.size; i++) state[i] = n.initial;
    for (int64_t t = 0; t < n.steps; t++) {
        const int64_t image = t * n.batch + sample, here = image * n.size;
        if (t == 0 || !(n.flags & CONSTANT))
            active += convolve_image(s, in + image * s.height * s.width * s.inputs, weight, bias, current, false);
        lif_forward_step<KEEP, false>(step, nullptr, current, state, spikes + here, static_cast<float *>(membrane) + here,
                                      static_cast<uint16_t *>(membrane) + here, 0, 0, n.size);
    }
    if (past) fence();
    return active;
}

static void convolve_fire(const Shape &s, const Neuron &n, const float *in, const float *weight, const float *bias, float *spikes,
                          void *membrane) {
    const uintptr_t address = reinterpret_cast<uintptr_t>(spikes) | reinterpret_cast<uintptr_t>(membrane);
    const bool past = n.size % LANES == 0 && address % 64 == 0 && n.steps * n.batch * n.size * 4 >= STREAM_BYTES;
    parallel(n.batch, n.threads, [&](int64_t sample) {
        if (!membrane)
            convolve_sample<NOTHING>(s, n, in, weight, bias, spikes, membrane, sample, past);
        else if (n.flags & HALF)
            convolve_sample<SHORT>(s, n, in, weight, bias, spikes, membrane, sample, past);
        else
            convolve_sample<FULL>(s, n, in, weight, bias, spikes, membrane, sample, past);
    });
}
