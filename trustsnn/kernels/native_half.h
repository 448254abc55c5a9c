// Convolution in bfloat16, for gradients of the input. Part of native_body.h.

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
    for_images(s, [&](const Shape &part, int64_t from, int64_t to) {
        const uint16_t *pixels = padded_half(part, in + from * s.inputs);
        for (int64_t k = 0; k < chunks; k++) {
            float *here = out + to * s.outputs + k * s.chunk;
            const int64_t room = s.outputs - k * s.chunk < s.chunk ? s.outputs - k * s.chunk : s.chunk;
            switch (s.chunk) {
                case 16: convolve_dense_bf16<1>(part, pixels, weight + k * packed, here, room); break;
                case 32: convolve_dense_bf16<2>(part, pixels, weight + k * packed, here, room); break;
                case 64: convolve_dense_bf16<4>(part, pixels, weight + k * packed, here, room); break;
            }
        }
    });
}
#endif
