/* The vector type of one SIMD level and what plain operators cannot say. Included once per level, without a guard.
 * The includer defines LANES (4, 8 or 16) and NAME(x), which appends the level's suffix. */

#define INLINE static inline __attribute__((always_inline))

typedef float NAME(vf) __attribute__((vector_size(LANES * 4)));
typedef int32_t NAME(vi) __attribute__((vector_size(LANES * 4)));
#define vf NAME(vf)
#define vi NAME(vi)

#if LANES == 16
typedef __mmask16 NAME(mask);
#define mask NAME(mask)
INLINE mask NAME(less)(vf a, vf b) { return _mm512_cmp_ps_mask((__m512)a, (__m512)b, _CMP_LT_OQ); }
INLINE mask NAME(at_most)(vf a, vf b) { return _mm512_cmp_ps_mask((__m512)a, (__m512)b, _CMP_LE_OQ); }
INLINE mask NAME(at_least_int)(vi a, vi b) { return _mm512_cmp_epi32_mask((__m512i)a, (__m512i)b, _MM_CMPINT_NLT); }
INLINE vf NAME(select)(mask m, vf a, vf b) { return (vf)_mm512_mask_blend_ps(m, (__m512)b, (__m512)a); }
INLINE vi NAME(select_int)(mask m, vi a, vi b) { return (vi)_mm512_mask_blend_epi32(m, (__m512i)b, (__m512i)a); }
INLINE int NAME(any)(mask m) { return m != 0; }
INLINE vf NAME(smaller)(vf a, vf b) { return (vf)_mm512_min_ps((__m512)a, (__m512)b); }
INLINE float NAME(total)(vf a) { return _mm512_reduce_add_ps((__m512)a); }
#elif LANES == 8
typedef vi NAME(mask);
#define mask NAME(mask)
INLINE mask NAME(less)(vf a, vf b) { return (vi)_mm256_cmp_ps((__m256)a, (__m256)b, _CMP_LT_OQ); }
INLINE mask NAME(at_most)(vf a, vf b) { return (vi)_mm256_cmp_ps((__m256)a, (__m256)b, _CMP_LE_OQ); }
INLINE mask NAME(at_least_int)(vi a, vi b) { return a >= b; }
INLINE vf NAME(select)(mask m, vf a, vf b) { return (vf)_mm256_blendv_ps((__m256)b, (__m256)a, (__m256)m); }
INLINE vi NAME(select_int)(mask m, vi a, vi b) { return (vi)NAME(select)(m, (vf)a, (vf)b); }
INLINE int NAME(any)(mask m) { return _mm256_movemask_ps((__m256)m) != 0; }
INLINE vf NAME(smaller)(vf a, vf b) { return (vf)_mm256_min_ps((__m256)a, (__m256)b); }
INLINE float NAME(total)(vf a) {
    __m128 x = _mm_add_ps(_mm256_castps256_ps128((__m256)a), _mm256_extractf128_ps((__m256)a, 1));
    x = _mm_add_ps(x, _mm_movehl_ps(x, x));
    return _mm_cvtss_f32(_mm_add_ss(x, _mm_movehdup_ps(x)));
}
#else
typedef vi NAME(mask);
#define mask NAME(mask)
INLINE mask NAME(less)(vf a, vf b) { return a < b; }
INLINE mask NAME(at_most)(vf a, vf b) { return a <= b; }
INLINE mask NAME(at_least_int)(vi a, vi b) { return a >= b; }
INLINE vi NAME(select_int)(mask m, vi a, vi b) { return (m & a) | (~m & b); }
INLINE vf NAME(select)(mask m, vf a, vf b) { return (vf)NAME(select_int)(m, (vi)a, (vi)b); }
INLINE int NAME(any)(mask m) { return (m[0] | m[1] | m[2] | m[3]) != 0; }
INLINE vf NAME(smaller)(vf a, vf b) { return NAME(select)(a < b, a, b); }
INLINE float NAME(total)(vf a) { return (a[0] + a[1]) + (a[2] + a[3]); }
#endif

INLINE vf NAME(splat)(float x) { return (vf){0} + x; }
INLINE vi NAME(splat_int)(int32_t x) { return (vi){0} + x; }

/* exp(-x) for 0 <= x < 80, relative error 2e-7: 2^n by the exponent's bits, the rest by a minimax polynomial. */
INLINE vf NAME(exp_minus)(vf x) {
    const float shifter = 12582912.0f; /* 1.5 * 2^23: adding it rounds to an integer, held in the low bits */
    vf t = x * -1.44269504f;
    vf rounded = t + shifter;
    vf f = t - (rounded - shifter);
    vf p = f * 1.5403530e-4f + 1.3333558e-3f;
    p = p * f + 9.6181291e-3f;
    p = p * f + 5.5504109e-2f;
    p = p * f + 2.4022651e-1f;
    p = p * f + 6.9314718e-1f;
    p = p * f + 1.0f;
    return (vf)((vi)p + ((vi)rounded << 23));
}
