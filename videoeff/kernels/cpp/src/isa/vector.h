// Vectors of the instruction set this file is compiled for: VF_ISA, one of Isa.
#ifndef VIDEOEFF_VECTOR_H
#define VIDEOEFF_VECTOR_H

#include <cstring>
#include <utility>

#include "internal.h"

#if VF_ISA == VF_ISA_AVX512
#define VF_BYTES 64
#define VF_SPACE isa_avx512
#elif VF_ISA == VF_ISA_AVX2
#define VF_BYTES 32
#define VF_SPACE isa_avx2
#else
#define VF_BYTES 16
#define VF_SPACE isa_portable
#endif
#if VF_ISA > VF_ISA_PORTABLE
#include <immintrin.h>
#endif

#define VF_INLINE inline __attribute__((always_inline))

namespace vf {
namespace VF_SPACE {

typedef float vfloat __attribute__((vector_size(VF_BYTES)));
typedef double vdouble __attribute__((vector_size(VF_BYTES)));
typedef int32_t vint __attribute__((vector_size(VF_BYTES)));
typedef int64_t vlong __attribute__((vector_size(VF_BYTES)));

template <class T> struct Vec;
template <> struct Vec<float> {
  using type = vfloat;
  using mask = vint;  // lanes all ones or zero, the result of a comparison
  static constexpr int N = VF_BYTES / 4;
};
template <> struct Vec<double> {
  using type = vdouble;
  using mask = vlong;
  static constexpr int N = VF_BYTES / 8;
};

template <class S> using compute = typename Compute<S>::type;
template <class T> using vec = typename Vec<T>::type;
template <class T> constexpr int lanes = Vec<T>::N;

inline int64_t round_up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

template <class T> VF_INLINE vec<T> broadcast(T x) {
  return x - vec<T>{};  // folds to a broadcast: x - 0 is x, for -0 and NaN as well
}
VF_INLINE float widen(bf16 x) {
  uint32_t bits = uint32_t(x.bits) << 16;
  float f;
  std::memcpy(&f, &bits, 4);
  return f;
}
VF_INLINE float widen(u8 x) { return float(x.code); }
VF_INLINE void narrow(float x, u8 *to) { to->code = uint8_t(int32_t(x)); }  // of a number within 0 .. 255
VF_INLINE float widen(float x) { return x; }
VF_INLINE double widen(double x) { return x; }
VF_INLINE void narrow(float x, float *to) { *to = x; }
VF_INLINE void narrow(double x, double *to) { *to = x; }
VF_INLINE void narrow(float x, bf16 *to) {  // round to nearest even; NaN stays
  uint32_t bits;
  std::memcpy(&bits, &x, 4);
  if ((bits & 0x7fffffffu) > 0x7f800000u)
    to->bits = uint16_t((bits >> 16) | 0x40);
  else
    to->bits = uint16_t((bits + 0x7fffu + ((bits >> 16) & 1)) >> 16);
}

// Full vectors.
template <class T> VF_INLINE vec<T> load(const T *p) {
  vec<T> v;
  std::memcpy(&v, p, VF_BYTES);
  return v;
}
template <class T> VF_INLINE void store(T *p, vec<T> v) { std::memcpy(p, &v, VF_BYTES); }
typedef uint32_t vbits __attribute__((vector_size(VF_BYTES)));
typedef uint16_t vhalves __attribute__((vector_size(VF_BYTES / 2)));
VF_INLINE vfloat load(const bf16 *p) {
  vhalves v;
  std::memcpy(&v, p, VF_BYTES / 2);
  return (vfloat)(__builtin_convertvector(v, vbits) << 16);
}
VF_INLINE void store(bf16 *p, vfloat x) {  // as `narrow`
  vbits bits = (vbits)x;
  vbits rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  vhalves v = __builtin_convertvector(x != x ? (bits >> 16) | 0x40u : rounded, vhalves);
  std::memcpy(p, &v, VF_BYTES / 2);
}

typedef uint8_t vbytes __attribute__((vector_size(VF_BYTES / 4)));
#if VF_ISA == VF_ISA_AVX2
VF_INLINE vbytes pack(__m256i whole) {  // of numbers within 0 .. 255
  const __m128i halves = _mm_packus_epi32(_mm256_castsi256_si128(whole), _mm256_extracti128_si256(whole, 1));
  const int64_t bits = _mm_cvtsi128_si64(_mm_packus_epi16(halves, halves));
  vbytes v;
  std::memcpy(&v, &bits, sizeof v);
  return v;
}
#endif
// Compilers take the conversions of vectors of other sizes apart, lane by lane.
VF_INLINE vfloat from_bytes(vbytes v) {
#if VF_ISA == VF_ISA_AVX512
  return (vfloat)_mm512_maskz_cvtepi32_ps(0xffff, _mm512_maskz_cvtepu8_epi32(0xffff, (__m128i)v));
#elif VF_ISA == VF_ISA_AVX2
  int64_t bits;
  std::memcpy(&bits, &v, sizeof bits);
  return (vfloat)_mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_cvtsi64_si128(bits)));
#else
  vfloat x;
  for (int i = 0; i < lanes<float>; i++) x[i] = float(v[i]);
  return x;
#endif
}
VF_INLINE vbytes to_bytes(vfloat x) {
#if VF_ISA == VF_ISA_AVX512
  return (vbytes)_mm512_maskz_cvtepi32_epi8(0xffff, _mm512_maskz_cvttps_epi32(0xffff, (__m512)x));
#elif VF_ISA == VF_ISA_AVX2
  const __m256i whole = _mm256_cvttps_epi32((__m256)x);
  return pack(whole);
#else
  vbytes v;
  for (int i = 0; i < lanes<float>; i++) v[i] = uint8_t(int32_t(x[i]));
  return v;
#endif
}
VF_INLINE vfloat load(const u8 *p) {
  vbytes v;
  std::memcpy(&v, p, sizeof v);
  return from_bytes(v);
}
VF_INLINE void store(u8 *p, vfloat x) {
  const vbytes v = to_bytes(x);
  std::memcpy(p, &v, sizeof v);
}

// The first n lanes (0 < n < lanes); the others are zero, and not touched in memory.
template <class T> VF_INLINE vec<T> load_part(const T *p, int n) {
#if VF_ISA == VF_ISA_AVX512
  if constexpr (sizeof(T) == 4)
    return (vec<T>)_mm512_maskz_loadu_ps(__mmask16((1u << n) - 1), p);
  else
    return (vec<T>)_mm512_maskz_loadu_pd(__mmask8((1u << n) - 1), p);
#else
  vec<T> v = {};
  for (int i = 0; i < n; i++) v[i] = p[i];
  return v;
#endif
}
template <class T> VF_INLINE void store_part(T *p, vec<T> v, int n) {
#if VF_ISA == VF_ISA_AVX512
  if constexpr (sizeof(T) == 4)
    _mm512_mask_storeu_ps(p, __mmask16((1u << n) - 1), (__m512)v);
  else
    _mm512_mask_storeu_pd(p, __mmask8((1u << n) - 1), (__m512d)v);
#else
  for (int i = 0; i < n; i++) p[i] = v[i];
#endif
}
VF_INLINE vfloat load_part(const bf16 *p, int n) {
#if VF_ISA == VF_ISA_AVX512
  const __m256i halves = _mm256_maskz_loadu_epi16(__mmask16((1u << n) - 1), p);
  return (vfloat)_mm512_maskz_slli_epi32(0xffff, _mm512_maskz_cvtepu16_epi32(0xffff, halves), 16);
#endif
  vfloat v = {};
  for (int i = 0; i < n; i++) v[i] = widen(p[i]);
  return v;
}
VF_INLINE void store_part(bf16 *p, vfloat v, int n) {
  for (int i = 0; i < n; i++) narrow(v[i], p + i);
}

VF_INLINE vfloat load_part(const u8 *p, int n) {
#if VF_ISA == VF_ISA_AVX512
  return from_bytes((vbytes)_mm_maskz_loadu_epi8(__mmask16((1u << n) - 1), p));
#else
  vbytes v = {};
  for (int i = 0; i < n; i++) v[i] = p[i].code;
  return from_bytes(v);
#endif
}
VF_INLINE void store_part(u8 *p, vfloat x, int n) {
  const vbytes v = to_bytes(x);
#if VF_ISA == VF_ISA_AVX512
  _mm_mask_storeu_epi8(p, __mmask16((1u << n) - 1), (__m128i)v);
#else
  for (int i = 0; i < n; i++) p[i].code = v[i];
#endif
}

// p[0], p[2], ..: a whole vector; nothing behind the last of them is touched.
template <class T, int... I> VF_INLINE vec<T> load_evens(const T *p, std::integer_sequence<int, I...>) {
  constexpr int L = int(sizeof...(I));
  return __builtin_shufflevector(load(p), load(p + L - 1), (2 * I < L ? 2 * I : 2 * I + 1)...);
}

// n elements `stride` apart, side by side.
template <class S, class T> VF_INLINE void copy_strided(const S *from, int64_t stride, int n, T *to) {
  constexpr int L = lanes<T>;
  int i = 0;
  if constexpr (sizeof(S) == sizeof(T)) {
    constexpr auto all = std::make_integer_sequence<int, L>{};
    if (stride == 2 && n >= L) {
      for (; i + L <= n; i += L) store<T>(to + i, load_evens<T>(from + 2 * i, all));
      if (i < n) store<T>(to + n - L, load_evens<T>(from + 2 * (n - L), all));
      return;
    }
  }
  for (; i < n; i++) to[i] = widen(from[i * stride]);
}

// n lanes with a stride between the elements in memory.
template <class S> VF_INLINE vec<typename Compute<S>::type> load_strided(const S *p, int64_t stride, int n) {
  vec<typename Compute<S>::type> v = {};
  for (int i = 0; i < n; i++) v[i] = widen(p[i * stride]);
  return v;
}
template <class S>
VF_INLINE void store_strided(S *p, int64_t stride, vec<typename Compute<S>::type> v, int n) {
  for (int i = 0; i < n; i++) narrow(v[i], p + i * stride);
}

// Bytes a vector of numbers has in memory; whether any differs from those there, which it replaces.
VF_INLINE bool exchange_bytes(vbytes now, u8 *to) {
  vbytes old;
  std::memcpy(&old, to, sizeof old);
  std::memcpy(to, &now, sizeof now);
#if VF_ISA == VF_ISA_AVX512
  return _mm_cmpneq_epi8_mask((__m128i)now, (__m128i)old) != 0;
#else
  return std::memcmp(&now, &old, sizeof now) != 0;
#endif
}
VF_INLINE bool exchange_bytes_part(vbytes now, u8 *to, int n) {
  bool differs = false;
#if VF_ISA == VF_ISA_AVX512
  const __mmask16 part = __mmask16((1u << n) - 1);
  differs = _mm_mask_cmpneq_epi8_mask(part, (__m128i)now, _mm_maskz_loadu_epi8(part, to)) != 0;
  _mm_mask_storeu_epi8(to, part, (__m128i)now);
#else
  for (int i = 0; i < n; i++) differs |= now[i] != to[i].code, to[i].code = now[i];
#endif
  return differs;
}

// n <= lanes elements at a channel stride of 0 (broadcast), 1 or more.
template <class S> VF_INLINE vec<typename Compute<S>::type> load_any(const S *p, int64_t stride, int n) {
  using T = typename Compute<S>::type;
  if (stride == 1) return n == lanes<T> ? load(p) : load_part(p, n);
  if (stride == 0) return broadcast<T>(widen(*p));
  return load_strided(p, stride, n);
}

template <class T> VF_INLINE vec<T> select(typename Vec<T>::mask m, vec<T> a, vec<T> b) { return m ? a : b; }
template <class T> VF_INLINE T sum(vec<T> v) {
  T s = 0;
  for (int i = 0; i < lanes<T>; i++) s += v[i];
  return s;
}
template <class T> VF_INLINE vec<T> absolute(vec<T> v) { return v < 0 ? -v : v; }
template <class M> VF_INLINE bool any(M m) {
#if VF_ISA == VF_ISA_AVX512
  if constexpr (sizeof(m[0]) == 4) return _mm512_movepi32_mask((__m512i)m) != 0;
  return _mm512_movepi64_mask((__m512i)m) != 0;
#elif VF_ISA == VF_ISA_AVX2
  return !_mm256_testz_si256((__m256i)m, (__m256i)m);
#else
  bool r = false;
  for (unsigned i = 0; i < sizeof(m) / sizeof(m[0]); i++) r |= m[i] != 0;
  return r;
#endif
}

// Whether any lanes of pairs of vectors differ; NaN differs from everything.
template <class T> struct Difference {
#if VF_ISA == VF_ISA_AVX512
  uint32_t lanes = 0;
  VF_INLINE void add(vec<T> a, vec<T> b) {
    if constexpr (sizeof(T) == 4) lanes |= _mm512_cmp_ps_mask((__m512)a, (__m512)b, _CMP_NEQ_UQ);
    else lanes |= _mm512_cmp_pd_mask((__m512d)a, (__m512d)b, _CMP_NEQ_UQ);
  }
  VF_INLINE bool found() const { return lanes != 0; }
#else
  typename Vec<T>::mask lanes = {};
  VF_INLINE void add(vec<T> a, vec<T> b) { lanes |= a != b; }
  VF_INLINE bool found() const { return any(lanes); }
#endif
};

// Bit k: lane k of a comparison of floats.
VF_INLINE uint32_t bits_of(vint m) {
#if VF_ISA == VF_ISA_AVX512
  return uint32_t(_mm512_movepi32_mask((__m512i)m));
#elif VF_ISA == VF_ISA_AVX2
  return uint32_t(_mm256_movemask_ps((__m256)m));
#else
  uint32_t bits = 0;
  for (int i = 0; i < lanes<float>; i++) bits |= uint32_t(m[i] & 1) << i;
  return bits;
#endif
}

// A product that is rounded before anything is added to it. Of a sum of two products the compiler may fuse either one, in
// each function another, and a step of a grid depends on that.
VF_INLINE vfloat product(vfloat x) {
#if VF_ISA == VF_ISA_AVX512
  __asm__("" : "+v"(x));
#elif VF_ISA == VF_ISA_AVX2
  __asm__("" : "+x"(x));
#elif !defined(__x86_64__) || defined(__FMA__)
  __asm__("" : "+m"(x));
#endif
  return x;
}

// What numbers stand for, and back; values of other types stand for themselves.
template <class S> struct Grid {
  using T = compute<S>;
  explicit Grid(const vf_view &) {}
  VF_INLINE vec<T> decode(vec<T> x, int64_t) const { return x; }
  VF_INLINE vec<T> encode(vec<T> x, int64_t) const { return x; }
  VF_INLINE vec<T> span(vec<T> x, int64_t) const { return x; }  // of a difference of two
  VF_INLINE vec<T> rounded(vec<T> x, int64_t) const { return x; }
  VF_INLINE vec<T> steps(vec<T> x, int64_t) const { return x; }
  VF_INLINE T span_one(T x, int64_t) const { return x; }
};
template <> struct Grid<u8> {
  const float *rows;
  int64_t pitch;
  explicit Grid(const vf_view &v) : rows(v.grid), pitch(grid_row(v.c)) {}
  VF_INLINE const float *row(int which) const { return rows + which * pitch; }
  VF_INLINE vfloat decode(vfloat x, int64_t c) const {
    return (x - load(row(VF_GRID_ZERO) + c)) * load(row(VF_GRID_SCALE) + c);
  }
  // Halves go to the even number, NaN to the smallest.
  VF_INLINE vfloat encode(vfloat x, int64_t c) const {
    const vfloat magic = broadcast(12582912.0f);  // 1.5 2^23: adding it rounds to an integer
    const vfloat low = load(row(VF_GRID_LOW) + c), high = load(row(VF_GRID_HIGH) + c);
    x = x * load(row(VF_GRID_INVERSE) + c);
    x = x >= low ? x : low;
    x = x <= high ? x : high;
    x = x + magic;
    return (x - magic) + load(row(VF_GRID_ZERO) + c);
  }
  // A value as a number before it is rounded.
  VF_INLINE vfloat steps(vfloat x, int64_t c) const {
    const vfloat low = load(row(VF_GRID_LOW) + c), high = load(row(VF_GRID_HIGH) + c);
    x = x * load(row(VF_GRID_INVERSE) + c);
    x = x >= low ? x : low;
    x = x <= high ? x : high;
    return x + load(row(VF_GRID_ZERO) + c);
  }
  // The same as bytes, ready to be stored.
  VF_INLINE vbytes encode_bytes(vfloat x, int64_t c) const {
#if VF_ISA == VF_ISA_AVX512
    // the second operand where the first is NaN; the conversion rounds halves to the even number
    __m512 y = _mm512_mul_ps((__m512)x, (__m512)load(row(VF_GRID_INVERSE) + c));
    y = _mm512_maskz_max_ps(0xffff, y, (__m512)load(row(VF_GRID_LOW) + c));
    y = _mm512_maskz_min_ps(0xffff, y, (__m512)load(row(VF_GRID_HIGH) + c));
    const __m512i zero = _mm512_maskz_cvttps_epi32(0xffff, (__m512)load(row(VF_GRID_ZERO) + c));
    return (vbytes)_mm512_maskz_cvtepi32_epi8(0xffff, _mm512_add_epi32(_mm512_maskz_cvtps_epi32(0xffff, y), zero));
#elif VF_ISA == VF_ISA_AVX2
    __m256 y = _mm256_mul_ps((__m256)x, (__m256)load(row(VF_GRID_INVERSE) + c));
    y = _mm256_max_ps(y, (__m256)load(row(VF_GRID_LOW) + c));
    y = _mm256_min_ps(y, (__m256)load(row(VF_GRID_HIGH) + c));
    const __m256i zero = _mm256_cvttps_epi32((__m256)load(row(VF_GRID_ZERO) + c));
    const __m256i whole = _mm256_add_epi32(_mm256_cvtps_epi32(y), zero);
    return pack(whole);
#else
    return to_bytes(encode(x, c));
#endif
  }
  VF_INLINE vfloat span(vfloat x, int64_t c) const { return x * load(row(VF_GRID_SCALE) + c); }
  VF_INLINE vfloat rounded(vfloat x, int64_t c) const { return decode(encode(x, c), c); }
  VF_INLINE float span_one(float x, int64_t c) const { return x * row(VF_GRID_SCALE)[c]; }
};

}  // namespace VF_SPACE
}  // namespace vf
#endif
