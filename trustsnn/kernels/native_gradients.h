// The gradient of the weights from active inputs, and pooling. Part of native_body.h.

// Inputs below one another: all images as one, each with `high` - s.height further rows and `wide` - s.width further columns after
// it, cut into bands of rows whose gradient fits the L1 cache. A place is a pixel of a band.
struct Bands {
    int64_t high, wide, rows, count, words;  // rows of a band, bands, words of 64 places in a band
    const float **pixel;  // [count][words * 64] the inputs at a place, or zeros where there is no pixel
    uint64_t *active;     // [count][inputs][words] bits of the places where an input is active
    bool *ones;           // [count] every active value is 1
    int64_t *first;       // [count][inputs] where the values of the active places of an input begin in `value`
    float *value;         // unless they are all ones
};

// The bits of 32 places for the LANES inputs from `first` on, to every second half word of `to`.
static inline void active_places(const float *const *pixel, int64_t first, uint32_t *to, int64_t apart, bool *ones) {
    U bits = {}, others = {};
    for (int place = 0; place < 32; place++) {
        const V values = load(pixel[place] + first);
        const U active = (U)(values != V{});
        bits |= active & (1u << place);
        others |= active & (U)(values != all(1.0f));
    }
    for (int lane = 0; lane < LANES; lane++) to[lane * apart] = bits[lane], *ones &= !others[lane];
}

static void observe_bands(const Shape &s, const Bands &bands, const float *in, const float *zeros) {
    parallel(bands.count, s.threads, [&](int64_t band) {
        const float **pixel = bands.pixel + band * bands.words * 64;
        for (int64_t place = 0; place < bands.words * 64; place++) pixel[place] = zeros;
        for (int64_t line = 0; line < bands.rows; line++) {
            const int64_t image = (band * bands.rows + line) / bands.high, y = (band * bands.rows + line) % bands.high;
            if (image >= s.images || y >= s.height) continue;
            for (int64_t x = 0; x < s.width; x++)
                pixel[line * bands.wide + x] = in + ((image * s.height + y) * s.width + x) * s.inputs;
        }
        uint64_t *active = bands.active + band * s.inputs * bands.words;
        bands.ones[band] = true;
        for (int64_t half = 0; half < 2 * bands.words; half++) {
            int64_t i = 0;
            for (; i + LANES <= s.inputs; i += LANES)
                active_places(pixel + half * 32, i, reinterpret_cast<uint32_t *>(active + i * bands.words) + half, 2 * bands.words,
                              &bands.ones[band]);
            for (; i < s.inputs; i++) {
                uint32_t bits = 0;
                for (int place = 0; place < 32; place++) {
                    const float value = pixel[half * 32 + place][i];
                    bits |= static_cast<uint32_t>(value != 0) << place;
                    bands.ones[band] &= value == 0 || value == 1;
                }
                reinterpret_cast<uint32_t *>(active + i * bands.words)[half] = bits;
            }
        }
    });
}

// The values of the active inputs, in the order of the bits.
static void gather_values(const Shape &s, const Bands &bands) {
    parallel(bands.count, s.threads, [&](int64_t band) {
        for (int64_t input = 0; input < s.inputs; input++) {
            float *value = bands.value + bands.first[band * s.inputs + input];
            for (int64_t word = 0; word < bands.words; word++)
                for (uint64_t left = bands.active[(band * s.inputs + input) * bands.words + word]; left; left &= left - 1)
                    *value++ = bands.pixel[(band * bands.words + word) * 64 + __builtin_ctzll(left)][input];
        }
    });
}

// Adds dLoss/dweight of a band for one input and one chunk of outputs to `to`, [HIGH x WIDE][chunk], which are neighbours in the
// kernel; their rows in the gradient are `line` values apart, from the last to the first.
template <int HIGH, int WIDE, bool ONES>
static inline void add_taps(const uint64_t *active, const float *values, int64_t words, const float *gradient, int64_t line, float *to) {
    const int VECTORS = WEIGHT_CHUNK / LANES, TAPS = HIGH * WIDE;
    V sums[TAPS][VECTORS];
    for (int tap = 0; tap < TAPS; tap++)
        for (int v = 0; v < VECTORS; v++) sums[tap][v] = load(to + tap * WEIGHT_CHUNK + v * LANES);
    for (int64_t word = 0; word < words; word++, gradient += 64 * WEIGHT_CHUNK)
        for (uint64_t left = active[word]; left; left &= left - 1) {
            const float *from = gradient + __builtin_ctzll(left) * WEIGHT_CHUNK;
            const V value = ONES ? V{} : all(*values++);
            for (int y = 0; y < HIGH; y++)
                for (int x = 0; x < WIDE; x++)
                    for (int v = 0; v < VECTORS; v++) {
                        const V row = load(from + (HIGH - 1 - y) * line + (WIDE - 1 - x) * WEIGHT_CHUNK + v * LANES);
                        V &sum = sums[y * WIDE + x][v];
                        sum = ONES ? sum + row : multiply_add(value, row, sum);
                    }
        }
    for (int tap = 0; tap < TAPS; tap++)
        for (int v = 0; v < VECTORS; v++) store(to + tap * WEIGHT_CHUNK + v * LANES, sums[tap][v]);
}

// A chunk of the gradient of the rows of a band and of `border` rows after it, with zeros where there is none.
static void spread_gradient(const Shape &s, const Bands &bands, int64_t band, const float *to_out, int64_t room, float *spread) {
    const int64_t border_h = bands.high - s.height, border_w = bands.wide - s.width;
    const int64_t last = bands.rows + border_h;
    std::memset(spread, 0, last * bands.wide * WEIGHT_CHUNK * sizeof(float));
    for (int64_t line = 0; line < last; line++) {
        const int64_t image = (band * bands.rows + line) / bands.high, y = (band * bands.rows + line) % bands.high;
        const int64_t moved = y - border_h + s.top, row = moved / s.stride_h;
        if (image >= s.images || moved < 0 || moved % s.stride_h || row >= s.rows) continue;
        for (int64_t column = 0; column < s.columns; column++) {
            const int64_t x = column * s.stride_w + border_w - s.left;
            if (x < 0 || x >= bands.wide) continue;
            float *to = spread + (line * bands.wide + x) * WEIGHT_CHUNK;
            const float *from = to_out + ((image * s.rows + row) * s.columns + column) * s.outputs;
            if (room == WEIGHT_CHUNK)
                for (int64_t i = 0; i < WEIGHT_CHUNK; i += LANES) store(to + i, load(from + i));
            else
                std::memcpy(to, from, room * sizeof(float));
        }
    }
}

static void weight_gradient(const Shape &s, const float *in, const float *to_out, float *gradient) {
    const int64_t inputs = s.inputs / s.groups, outputs = s.outputs / s.groups, chunks = divided(outputs, WEIGHT_CHUNK);
    const int64_t taps = s.kernel_h * s.kernel_w;
    Bands bands{};
    bands.high = s.height + s.dilation_h * (s.kernel_h - 1), bands.wide = s.width + s.dilation_w * (s.kernel_w - 1);
    const int64_t border = bands.high - s.height, fit = BAND_BYTES / (bands.wide * WEIGHT_CHUNK * 4) - border;
    bands.rows = fit < 1 ? 1 : fit > s.images * bands.high ? s.images * bands.high : fit;
    bands.count = divided(s.images * bands.high, bands.rows);
    bands.words = divided(bands.rows * bands.wide, 64);
    std::vector<const float *> pixel(bands.count * bands.words * 64);
    std::vector<uint64_t> active(bands.count * bands.words * s.inputs);
    std::vector<float> zeros(s.inputs);
    const std::unique_ptr<bool[]> ones(new bool[bands.count]);
    bands.pixel = pixel.data(), bands.active = active.data(), bands.ones = ones.get();
    observe_bands(s, bands, in, zeros.data());
    std::vector<int64_t> first;
    std::vector<float> value;
    if (!std::all_of(bands.ones, bands.ones + bands.count, [](bool each) { return each; })) {
        int64_t total = 0;
        for (int64_t list = 0; list < bands.count * s.inputs; list++) {
            first.push_back(total);
            for (int64_t word = 0; word < bands.words; word++) total += __builtin_popcountll(active[list * bands.words + word]);
        }
        value.resize(total);
        bands.first = first.data(), bands.value = value.data();
        gather_values(s, bands);
    }
    // Where in a band's gradient a place of the kernel looks, from that of the last place on.
    const int64_t line = s.dilation_h * bands.wide * WEIGHT_CHUNK, step = s.dilation_w * WEIGHT_CHUNK;
    const bool beside = s.dilation_w == 1 && s.kernel_w == 3, square = beside && s.kernel_h == 3 && LANES == 16;
    const int64_t wanted = divided(s.threads, s.groups * chunks), shares = wanted < inputs ? wanted : inputs;
    parallel(s.groups * chunks * shares, s.threads, [&](int64_t item) {
        const int64_t share = item % shares, chunk = item / shares % chunks, group = item / shares / chunks;
        const int64_t room = outputs - chunk * WEIGHT_CHUNK < WEIGHT_CHUNK ? outputs - chunk * WEIGHT_CHUNK : WEIGHT_CHUNK;
        const int64_t begin = share * inputs / shares, count = (share + 1) * inputs / shares - begin;
        float *mine = static_cast<float *>(scratch(0, count * taps * WEIGHT_CHUNK * sizeof(float)));
        std::memset(mine, 0, count * taps * WEIGHT_CHUNK * sizeof(float));
        float *spread = static_cast<float *>(scratch(3, (bands.rows + border) * bands.wide * WEIGHT_CHUNK * sizeof(float)));
        for (int64_t band = 0; band < bands.count; band++) {
            spread_gradient(s, bands, band, to_out + group * outputs + chunk * WEIGHT_CHUNK, room, spread);
            for (int64_t i = 0; i < count; i++) {
                const int64_t list = band * s.inputs + group * inputs + begin + i;
                const uint64_t *here = bands.active + list * bands.words;
                if (std::all_of(here, here + bands.words, [](uint64_t word) { return !word; })) continue;
                // HIGH x WIDE places of the kernel from row ky and column kx on
                const auto add = [&](auto high, auto wide, int64_t ky, int64_t kx) {
                    constexpr int HIGH = decltype(high)::value, WIDE = decltype(wide)::value;
                    float *to = mine + (i * taps + ky * s.kernel_w + kx) * WEIGHT_CHUNK;
                    const float *from = spread + (s.kernel_h - ky - HIGH) * line + (s.kernel_w - kx - WIDE) * step;
                    bands.value ? add_taps<HIGH, WIDE, false>(here, bands.value + bands.first[list], bands.words, from, line, to)
                                : add_taps<HIGH, WIDE, true>(here, nullptr, bands.words, from, line, to);
                };
                const std::integral_constant<int, 1> one;
                const std::integral_constant<int, 3> three;
                if (square) {
                    add(three, three, 0, 0);
                } else {
                    for (int64_t ky = 0; ky < s.kernel_h; ky++)
                        if (beside)
                            add(one, three, ky, 0);
                        else
                            for (int64_t kx = 0; kx < s.kernel_w; kx++) add(one, one, ky, kx);
                }
            }
        }
        const int64_t together = 16;  // inputs whose values stay in the L1 cache while they are turned
        for (int64_t i = 0; i < count; i += together)
            for (int64_t output = 0; output < room; output++) {
                const int64_t values = (count - i < together ? count - i : together) * taps;
                const float *from = mine + i * taps * WEIGHT_CHUNK + output;
                float *to = gradient + ((group * outputs + chunk * WEIGHT_CHUNK + output) * inputs + begin + i) * taps;
                for (int64_t value = 0; value < values; value++) to[value] = from[value * WEIGHT_CHUNK];
            }
    });
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
