// Vectors of LANES floats, and the surrogates on them. Part of native_body.h.

typedef float V __attribute__((vector_size(LANES * 4)));
typedef int32_t I __attribute__((vector_size(LANES * 4)));
typedef uint32_t U __attribute__((vector_size(LANES * 4)));
typedef uint16_t H __attribute__((vector_size(LANES * 2)));
typedef V AnyV __attribute__((aligned(4), may_alias));
typedef H AnyH __attribute__((aligned(2), may_alias));

static inline V all(float value) { return value - V{}; }
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
