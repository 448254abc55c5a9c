// Winograd's convolution, the packing of weights, and convolution to few outputs. Part of native_body.h.

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

static inline void put_vector(float *to, V value) { store(to, value); }
static inline void put_vector(uint16_t *to, V value) { *reinterpret_cast<AnyH *>(to) = to_half(value); }

// One of the 36 products, a linear layer over the tiles, for one chunk of outputs.
static void multiply_tiles(const Shape &row, const float *x, const float *w, float *to) {
    const int64_t vectors = LANES == 16 ? row.chunk / LANES : 2;
    for (int64_t at = 0; at < row.chunk; at += vectors * LANES) switch (vectors) {
            case 1: convolve_dense<1>(row, x, w + at, nullptr, to + at, row.chunk); break;
            case 2: convolve_dense<2>(row, x, w + at, nullptr, to + at, row.chunk); break;
            case 4: convolve_dense<4>(row, x, w + at, nullptr, to + at, row.chunk); break;
        }
}

#if LANES == 16
static void multiply_tiles(const Shape &row, const uint16_t *x, const uint16_t *w, float *to) {
    switch (row.chunk) {
        case 16: convolve_dense_bf16<1>(row, x, w, to, row.chunk); break;
        case 32: convolve_dense_bf16<2>(row, x, w, to, row.chunk); break;
        case 64: convolve_dense_bf16<4>(row, x, w, to, row.chunk); break;
    }
}
#endif

// Some tiles, counted over all images. Weights are transformed and packed [36][chunks][inputs][chunk], or as bfloat16
// [36][chunks][inputs / 2][chunk][2]; the number of inputs is a multiple of LANES.
template <class Number>
static void winograd_tiles(const Shape &s, int64_t first, int64_t tiles, const float *in, const Number *weight, const float *bias,
                           float *out) {
    const int64_t down = divided(s.rows, 4), across = divided(s.columns, 4);
    const int64_t chunks = divided(s.outputs, s.chunk), outputs = chunks * s.chunk;
    // A line more between the 36 parts: a multiple of the page size would put all of them into one set of the L1 cache.
    const int64_t apart_in = tiles * s.inputs + 64 / sizeof(Number), apart_out = tiles * outputs + 16;
    Number *spread = static_cast<Number *>(scratch(0, 36 * apart_in * sizeof(Number)));
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
        Number *to = spread + tile * s.inputs;
        for (int64_t i = 0; i < s.inputs; i += LANES, to += LANES) {
            V d[36];
            for (int x = 0; x < 6; x++) {
                for (int y = 0; y < 6; y++) d[y * 6 + x] = load(at[y * 6 + x] + i);
                winograd_in(d + x, 6);
            }
            for (int y = 0; y < 6; y++) {
                winograd_in(d + 6 * y, 1);
                for (int x = 0; x < 6; x++) put_vector(to + (y * 6 + x) * apart_in, d[y * 6 + x]);
            }
        }
    }
    Shape row = s;
    row.images = row.height = row.rows = row.kernel_h = row.kernel_w = row.stride_h = row.stride_w = row.up_h = row.up_w = 1;
    row.width = row.columns = tiles;
    row.top = row.left = 0;
    row.block = s.inputs;
    row.outputs = outputs;
    for (int64_t k = 0; k < 36; k++)
        for (int64_t chunk = 0; chunk < chunks; chunk++)
            multiply_tiles(row, spread + k * apart_in, weight + (k * chunks + chunk) * s.inputs * s.chunk,
                           products + k * apart_out + chunk * s.chunk);
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
        const int64_t first = block * s.block, count = inputs - first < s.block ? inputs - first : s.block;
        if (room < s.chunk || count < s.block) std::memset(at, 0, s.kernel_w * s.block * s.chunk * sizeof(float));
        for (int64_t kx = 0; kx < s.kernel_w; kx++, at += s.block * s.chunk) {
            const float *w = from.first + chunk * s.chunk * from.output + first * from.input + (ky * s.kernel_w + kx) * from.tap;
            if (from.output < from.input)
                for (int64_t i = 0; i < count; i++)
                    for (int64_t o = 0; o < room; o++) at[i * s.chunk + o] = w[i * from.input + o * from.output];
            else
                for (int64_t o = 0; o < room; o++)
                    for (int64_t i = 0; i < count; i++) at[i * s.chunk + o] = w[i * from.input + o * from.output];
        }
    });
}

// The transform of 3x3 weights from one input to LANES outputs.
static inline void transform_weights(const Shape &s, const Weights &from, int64_t i, int64_t o, V *to) {
    const auto six = [](const V *w, int apart, V *out, int between) {
        const V a = w[0], b = w[apart], c = w[2 * apart], sum = (a + c) * (1 / 6.0f), sides = a * (1 / 24.0f) + c * (1 / 6.0f);
        out[0] = a * 0.25f;
        out[between] = b * (-1 / 6.0f) - sum, out[2 * between] = b * (1 / 6.0f) - sum;
        out[3 * between] = sides + b * (1 / 12.0f), out[4 * between] = sides - b * (1 / 12.0f);
        out[5 * between] = c;
    };
    V w[9], half[18];
    for (int k = 0; k < 9; k++) {
        alignas(64) float lanes_of[LANES];
        for (int lane = 0; lane < LANES; lane++)
            lanes_of[lane] = o + lane < s.outputs ? from.first[(o + lane) * from.output + i * from.input + k * from.tap] : 0;
        w[k] = load(lanes_of);
    }
    for (int k = 0; k < 3; k++) six(w + k, 3, half + k, 3);
    for (int k = 0; k < 6; k++) six(half + 3 * k, 1, to + 6 * k, 1);
}

// Calls `put(k, chunk, place of the output in its chunk, value)` for the 36 transformed weights of each input and LANES outputs.
template <class Put>
static void pack_tiles_with(const Shape &s, const float *weight, int64_t transposed, int64_t step, const Put &put) {
    const int64_t chunks = divided(s.outputs, s.chunk), lists = s.inputs / step;
    const Weights from(s, weight, transposed, 0);
    parallel(chunks * lists, s.threads, [&](int64_t item) {
        const int64_t i = item % lists * step, chunk = item / lists;
        for (int64_t o = 0; o < s.chunk; o += LANES) {
            V to[2][36];
            for (int64_t more = 0; more < step; more++)
                transform_weights(s, from, i + more, chunk * s.chunk + o, to[more]);
            for (int k = 0; k < 36; k++) put((k * chunks + chunk) * s.inputs * s.chunk, i, o, to[0][k], to[step - 1][k]);
        }
    });
}

// The transform of 3x3 weights for `winograd`, [36][chunks][inputs][chunk].
static void pack_tiles(const Shape &s, const float *weight, int64_t transposed, float *to) {
    pack_tiles_with(s, weight, transposed, 1, [&](int64_t first, int64_t i, int64_t o, V value, V) {
        store(to + first + i * s.chunk + o, value);
    });
}

// The same in bfloat16, two inputs side by side: [36][chunks][inputs / 2][chunk][2].
static void pack_half_tiles(const Shape &s, const float *weight, int64_t transposed, uint16_t *to) {
    pack_tiles_with(s, weight, transposed, 2, [&](int64_t first, int64_t i, int64_t o, V even, V odd) {
        const H low = to_half(even), high = to_half(odd);
        uint16_t *pairs = to + first + i * s.chunk + 2 * o;
        for (int lane = 0; lane < LANES; lane++) pairs[2 * lane] = low[lane], pairs[2 * lane + 1] = high[lane];
    });
}

// The place in the input of one in the input with zeros between, `up` apart; -1 for a zero or one outside.
static inline int64_t source(int64_t place, int64_t up, int64_t size) {
    if (place < 0) return -1;
    if (up != 1) {
        if (place % up) return -1;
        place /= up;
    }
    return place < size ? place : -1;
}

// A row [width][inputs] as `inputs` rows of pixels, `pitch` apart, from pixel `left` on and `up` apart: `to` is that of the first input.
static void lay_out(const Shape &s, const float *row, int64_t pitch, float *to) {
    const int64_t inputs = s.inputs, up = s.up_w;
    const int64_t first = s.left < 0 ? divided(-s.left, up) : 0;
    const int64_t last = std::min<int64_t>(s.width, (pitch - 1 - s.left) / up + 1);
    int64_t x = first;
#if LANES >= 8
    for (; up == 1 && x + 8 <= last && inputs >= 8; x += 8)
        for (int64_t i = 0; i < inputs; i += 8) {
            const int64_t input = std::min<int64_t>(i, inputs - 8);
            const float *from = row + x * inputs + input;
            __m256 pairs[8], fours[8];  // two pixels side by side, then four
            for (int k = 0; k < 8; k += 2) {
                const __m256 a = _mm256_loadu_ps(from + k * inputs), b = _mm256_loadu_ps(from + (k + 1) * inputs);
                pairs[k] = _mm256_unpacklo_ps(a, b), pairs[k + 1] = _mm256_unpackhi_ps(a, b);
            }
            for (int k = 0; k < 8; k += 4)
                for (int half = 0; half < 2; half++) {
                    fours[k + 2 * half] = _mm256_shuffle_ps(pairs[k + half], pairs[k + 2 + half], 0x44);
                    fours[k + 2 * half + 1] = _mm256_shuffle_ps(pairs[k + half], pairs[k + 2 + half], 0xEE);
                }
            float *at = to + input * pitch + s.left + x;
            for (int k = 0; k < 4; k++) {
                _mm256_storeu_ps(at + k * pitch, _mm256_permute2f128_ps(fours[k], fours[4 + k], 0x20));
                _mm256_storeu_ps(at + (4 + k) * pitch, _mm256_permute2f128_ps(fours[k], fours[4 + k], 0x31));
            }
        }
#endif
    for (; x < last; x++)
        for (int64_t i = 0; i < inputs; i++) to[i * pitch + s.left + x * up] = row[x * inputs + i];
}

// SPAN vectors of neighbouring pixels of a row of results from `column` on. `lines` has the first input's pixels of each kernel row,
// null where that is outside of the image.
template <int OUTPUTS, int SPAN>
static inline void convolve_few_pixels(const Shape &s, int64_t column, int64_t pitch, const float *const *lines, const float *weight,
                                       const float *bias, float *out) {
    const int SETS = SPAN * OUTPUTS > 4 ? 1 : SPAN * OUTPUTS > 2 ? 2 : 4;  // of sums, so that no addition waits for the last one
    V sums[SETS][SPAN][OUTPUTS] = {};
    for (int64_t ky = 0; ky < s.kernel_h; ky++) {
        if (!lines[ky]) continue;
        for (int64_t kx = 0; kx < s.kernel_w; kx++) {
            const float *from = lines[ky] + column + kx * s.dilation_w;
            const float *w = weight + (ky * s.kernel_w + kx) * s.inputs * OUTPUTS;
            const auto add = [&](V (&to)[SPAN][OUTPUTS]) {
                for (int p = 0; p < SPAN; p++) {
                    const V pixels = load(from + p * LANES);
                    for (int o = 0; o < OUTPUTS; o++) to[p][o] = multiply_add(pixels, all(w[o]), to[p][o]);
                }
                from += pitch, w += OUTPUTS;
            };
            int64_t i = 0;
            for (; i + SETS <= s.inputs; i += SETS)
                for (int set = 0; set < SETS; set++) add(sums[set]);
            for (; i < s.inputs; i++) add(sums[0]);
        }
    }
    V total[SPAN][OUTPUTS];
    for (int p = 0; p < SPAN; p++)
        for (int o = 0; o < OUTPUTS; o++) {
            total[p][o] = all(bias ? bias[o] : 0.0f);
            for (int set = 0; set < SETS; set++) total[p][o] += sums[set][p][o];
        }
    const int64_t count = std::min<int64_t>(SPAN * LANES, s.columns - column);
    for (int64_t k = 0; k < count; k++)
        for (int o = 0; o < OUTPUTS; o++) out[(column + k) * OUTPUTS + o] = total[k / LANES][o][k % LANES];
}

// Rows `begin` to `end` of an image's results. The rows of the input that they read are kept, laid out by pixels, in a ring.
template <int OUTPUTS>
static void convolve_few_rows(const Shape &s, const float *image, int64_t begin, int64_t end, const float *weight, const float *bias,
                              float *out) {
    const int64_t ring = (s.kernel_h - 1) * s.dilation_h + 1, wide = divided(s.columns, LANES) * LANES;
    const int64_t pitch = wide + (s.kernel_w - 1) * s.dilation_w, size = s.inputs * pitch;
    float *planes = static_cast<float *>(scratch(2, ring * size * sizeof(float)));
    const float **lines = static_cast<const float **>(scratch(3, s.kernel_h * sizeof(float *)));
    std::memset(planes, 0, ring * size * sizeof(float));
    int64_t known = begin > s.top ? divided(begin - s.top, s.up_h) : 0;  // the next row of the input that is not laid out
    for (int64_t row = begin; row < end; row++) {
        for (int64_t ky = 0; ky < s.kernel_h; ky++) {
            const int64_t y = source(row + ky * s.dilation_h - s.top, s.up_h, s.height);
            lines[ky] = y < 0 ? nullptr : planes + y % ring * size;
            for (; known <= y; known++) lay_out(s, image + known * s.width * s.inputs, pitch, planes + known % ring * size);
        }
        for (int64_t column = 0; column < wide;) {
            const int64_t left = (wide - column) / LANES;
            if (left >= 4) convolve_few_pixels<OUTPUTS, 4>(s, column, pitch, lines, weight, bias, out), column += 4 * LANES;
            else if (left >= 2) convolve_few_pixels<OUTPUTS, 2>(s, column, pitch, lines, weight, bias, out), column += 2 * LANES;
            else convolve_few_pixels<OUTPUTS, 1>(s, column, pitch, lines, weight, bias, out), column += LANES;
        }
        out += s.columns * OUTPUTS;
    }
}

// A convolution with stride 1 to no more than FEW outputs, whose neighbouring pixels fill the vectors; weights
// [kernel_h][kernel_w][inputs][outputs].
static void convolve_few(const Shape &s, const float *in, const float *weight, const float *bias, float *out) {
    static_assert(FEW == 4, "one case for each number of outputs");
    const auto rows = s.outputs == 1 ? convolve_few_rows<1> : s.outputs == 2 ? convolve_few_rows<2>
                    : s.outputs == 3 ? convolve_few_rows<3> : convolve_few_rows<4>;
    const int64_t parts = s.images < 4 * s.threads ? std::min<int64_t>(s.threads, s.rows) : 1, band = divided(s.rows, parts);
    parallel(s.images * parts, s.threads, [&](int64_t item) {
        const int64_t image = item / parts, begin = item % parts * band, end = std::min(begin + band, s.rows);
        if (begin < end)
            rows(s, in + image * s.height * s.width * s.inputs, begin, end, weight, bias,
                 out + (image * s.rows + begin) * s.columns * s.outputs);
    });
}

template <class Number>
static void winograd(const Shape &s, const float *in, const Number *weight, const float *bias, float *out) {
    const int64_t tiles = s.images * divided(s.rows, 4) * divided(s.columns, 4), size = TILES;
    parallel(divided(tiles, size), s.threads, [&](int64_t item) {
        winograd_tiles(s, item * size, tiles - item * size < size ? tiles - item * size : size, in, weight, bias, out);
    });
}
