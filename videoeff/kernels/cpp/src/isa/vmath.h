// Elementary functions of vectors. float: polynomials, within a few units in the last place; double: the standard
// library lane by lane. NaN and infinities come out as in the standard library.
#ifndef VIDEOEFF_VMATH_H
#define VIDEOEFF_VMATH_H

#include <cmath>

#include "vector.h"

namespace vf {
namespace VF_SPACE {

// ---- square root -----------------------------------------------------------------------------------------------

VF_INLINE vfloat vsqrt(vfloat x) {
#if VF_ISA == VF_ISA_AVX512
  return (vfloat)_mm512_maskz_sqrt_ps(0xffff, (__m512)x);
#elif VF_ISA == VF_ISA_AVX2
  return (vfloat)_mm256_sqrt_ps((__m256)x);
#else
  for (int i = 0; i < lanes<float>; i++) x[i] = std::sqrt(x[i]);
  return x;
#endif
}
VF_INLINE vdouble vsqrt(vdouble x) {
#if VF_ISA == VF_ISA_AVX512
  return (vdouble)_mm512_maskz_sqrt_pd(0xff, (__m512d)x);
#elif VF_ISA == VF_ISA_AVX2
  return (vdouble)_mm256_sqrt_pd((__m256d)x);
#else
  for (int i = 0; i < lanes<double>; i++) x[i] = std::sqrt(x[i]);
  return x;
#endif
}

// ---- float -----------------------------------------------------------------------------------------------------

// x = n ln 2 + r with |r| <= ln 2 / 2; returns exp(r) - 1. |x| must be below 2^20; NaN gives NaN and any n.
VF_INLINE vfloat reduced_expm1(vfloat x, vbits &n) {
  const vfloat magic = broadcast(12582912.0f);  // 1.5 2^23: adding it rounds to an integer
  vfloat t = x * 1.44269504f + magic;
  n = (vbits)t - 0x4b400000u;
  vfloat k = t - magic;
  vfloat r = x - k * 0.693359375f;
  r = r - k * -2.12194440e-4f;
  vfloat q = r * 1.388239324e-03f + 8.367181000e-03f;
  q = q * r + 4.166722131e-02f;
  q = q * r + 1.666653868e-01f;
  q = q * r + 4.999999804e-01f;
  return r * r * q + r;
}

// x 2^n for n in -252 .. 254: in two steps, so that neither factor leaves the range of normal numbers.
VF_INLINE vfloat scale_by_power(vfloat x, vbits n) {
#if VF_ISA == VF_ISA_AVX512
  return (vfloat)_mm512_maskz_scalef_ps(0xffff, (__m512)x, _mm512_maskz_cvtepi32_ps(0xffff, (__m512i)n));
#endif
  vbits half = (vbits)((vint)n >> 1);
  x = x * (vfloat)((half + 127u) << 23);
  return x * (vfloat)((n - half + 127u) << 23);
}

// x / (1 + e) for e >= 0, which may be infinite or NaN: by an estimate of the reciprocal and a step of Newton's method, within
// two units in the last place. A division takes as long as an exponential.
VF_INLINE vfloat over_one_plus(vfloat x, vfloat e) {
#if VF_ISA == VF_ISA_AVX512
  const __m512 y = _mm512_add_ps((__m512)e, _mm512_set1_ps(1.0f)), r = _mm512_maskz_rcp14_ps(0xffff, y);
  const __mmask16 some = _mm512_cmp_ps_mask(y, _mm512_set1_ps(1e30f), _CMP_NGT_UQ);  // of more it is nothing
  return x * (vfloat)_mm512_maskz_mul_ps(some, r, _mm512_fnmadd_ps(y, r, _mm512_set1_ps(2.0f)));
#else
  return x / (1 + e);
#endif
}
VF_INLINE vdouble over_one_plus(vdouble x, vdouble e) { return x / (1 + e); }

VF_INLINE vfloat clamped(vfloat x, float low, float high) {
  x = x > high ? broadcast(high) : x;
  return x < low ? broadcast(low) : x;
}

VF_INLINE vfloat vexp(vfloat x) {
  vbits n;
  vfloat p = reduced_expm1(clamped(x, -104.0f, 89.0f), n);
  return scale_by_power(p + 1.0f, n);
}

VF_INLINE vfloat vexpm1(vfloat x) {
  vbits n;
  vfloat p = reduced_expm1(clamped(x, -104.0f, 89.0f), n);
  vfloat small = scale_by_power(p, n) + (scale_by_power(broadcast(1.0f), n) - 1.0f);
  return x > 40.0f ? scale_by_power(p + 1.0f, n) : small;
}

VF_INLINE vfloat vlog(vfloat x) {
  auto tiny = x < 1.17549435e-38f;  // also zero and negative
  vfloat scaled = tiny ? x * 33554432.0f : x;
  vbits bits = (vbits)scaled;
  vbits shift = (bits - 0x3f3504f3u) & 0xff800000u;  // exponent such that the rest is in sqrt(1/2) .. sqrt(2)
  vfloat f = (vfloat)(bits - shift) - 1.0f;
  vint exponent = (vint)shift >> 23;
  vfloat k = __builtin_convertvector(exponent, vfloat);
  k = tiny ? k - 25.0f : k;
  vfloat p = f * 6.746601325e-02f - 1.167564130e-01f;
  p = p * f + 1.188817460e-01f;
  p = p * f - 1.240559142e-01f;
  p = p * f + 1.421955091e-01f;
  p = p * f - 1.666799567e-01f;
  p = p * f + 2.000211873e-01f;
  p = p * f - 2.500000960e-01f;
  p = p * f + 3.333331260e-01f;
  vfloat square = f * f;
  vfloat y = p * f * square + k * -2.12194440e-4f;
  y = y - 0.5f * square;
  y = (f + y) + k * 0.693359375f;
  y = x < INFINITY ? y : x;  // infinity and NaN
  y = x > 0.0f ? y : (x < 0.0f ? broadcast(float(NAN)) : (x == 0.0f ? broadcast(-INFINITY) : x));
  return y;
}

VF_INLINE vfloat vlog1p(vfloat u) {
  vfloat w = u + 1.0f;
  vfloat lost = (u - (w - 1.0f)) / w;
  lost = w < 1e10f ? lost : broadcast(0.0f);
  return vlog(w) + lost;
}

VF_INLINE vfloat vtanh(vfloat x) {
  vfloat t = vexpm1(clamped(x, -10.0f, 10.0f) * 2.0f);
  return t / (t + 2.0f);
}

VF_INLINE vfloat verf(vfloat x) {
  vfloat t = absolute<float>(x);
  t = t > 4.0f ? broadcast(4.0f) : t;
  vfloat s = t * t;
  vfloat small = s * 7.853857684e-05f - 8.010192514e-04f;
  small = small * s + 5.188327559e-03f;
  small = small * s - 2.685381187e-02f;
  small = small * s + 1.128358515e-01f;
  small = small * s - 3.761262582e-01f;
  small = small * s + 1.283791657e-01f;
  small = small * x + x;
  vfloat large = t * -1.334555701e-05f + 3.442266822e-04f;
  large = large * t - 3.730730997e-03f;
  large = large * t + 2.395146723e-02f;
  large = large * t - 1.064602096e-01f;
  large = large * t - 6.350140095e-01f;
  large = large * t - 1.128682907e+00f;
  large = 1.0f - vexp(large * t);
  large = x < 0.0f ? -large : large;
  return t < 1.0f ? small : large;
}

// ---- double ----------------------------------------------------------------------------------------------------

#define VF_BY_LANE(name, function)                                       \
  inline vdouble name(vdouble x) {                                       \
    for (int i = 0; i < lanes<double>; i++) x[i] = std::function(x[i]);  \
    return x;                                                            \
  }
VF_BY_LANE(vexp, exp)
VF_BY_LANE(vexpm1, expm1)
VF_BY_LANE(vlog, log)
VF_BY_LANE(vlog1p, log1p)
VF_BY_LANE(vtanh, tanh)
VF_BY_LANE(verf, erf)
#undef VF_BY_LANE

// ---- either ----------------------------------------------------------------------------------------------------

template <class V> VF_INLINE V vsigmoid(V x) { return over_one_plus(V{} + 1, vexp(-x)); }

template <class T> VF_INLINE vec<T> vpow(vec<T> x, T p) {
  for (int i = 0; i < lanes<T>; i++) x[i] = std::pow(x[i], p);
  return x;
}

// a > b ? a : b
VF_INLINE vfloat above(vfloat a, vfloat b) {
#if VF_ISA == VF_ISA_AVX512
  return (vfloat)_mm512_maskz_max_ps(0xffff, (__m512)a, (__m512)b);
#elif VF_ISA == VF_ISA_AVX2
  return (vfloat)_mm256_max_ps((__m256)a, (__m256)b);
#else
  return a > b ? a : b;
#endif
}
VF_INLINE vdouble above(vdouble a, vdouble b) { return a > b ? a : b; }

// The larger or smaller of two, NaN if either is.
template <class V> VF_INLINE V vmaximum(V a, V b) { return a != a ? a : above(a, b); }
template <class V> VF_INLINE V vminimum(V a, V b) {
  V m = a < b ? a : b;
  return a != a ? a : m;
}

// ---- over lanes ------------------------------------------------------------------------------------------------

template <class T> VF_INLINE T highest(vec<T> v) {
  T m = v[0];
  for (int i = 1; i < lanes<T>; i++) m = v[i] > m ? v[i] : m;
  return m;
}

VF_INLINE float total(vfloat v) {
#if VF_ISA == VF_ISA_PORTABLE
  return (v[0] + v[2]) + (v[1] + v[3]);
#else
#if VF_ISA == VF_ISA_AVX512
  __m256 w = _mm256_add_ps(_mm512_maskz_extractf32x8_ps(0xff, (__m512)v, 0),
                           _mm512_maskz_extractf32x8_ps(0xff, (__m512)v, 1));
#else
  __m256 w = (__m256)v;
#endif
  __m128 x = _mm_add_ps(_mm256_castps256_ps128(w), _mm256_extractf128_ps(w, 1));
  x = _mm_add_ps(x, _mm_movehl_ps(x, x));
  return _mm_cvtss_f32(_mm_add_ss(x, _mm_movehdup_ps(x)));
#endif
}
VF_INLINE double total(vdouble v) { return sum<double>(v); }

// Lanes from n on become `fill`.
template <class T> VF_INLINE vec<T> first_lanes(vec<T> v, int n, T fill) {
  using M = typename Vec<T>::mask;
  M index;
  for (int i = 0; i < lanes<T>; i++) index[i] = i;
  return index < n ? v : broadcast(fill);
}

}  // namespace VF_SPACE
}  // namespace vf
#endif
