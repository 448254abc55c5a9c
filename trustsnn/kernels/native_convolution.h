// Convolution from active inputs, or multiplied out in the same order. Part of native_body.h.

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
