// Numbers of a grid from values, 64 at a time, where there are vectors for it; and stores of single bytes.
#ifndef VIDEOEFF_ENCODER_H
#define VIDEOEFF_ENCODER_H

#include <cstdint>
#include <cstring>

#include "vector.h"

namespace vf {
namespace VF_SPACE {

#if VF_ISA == VF_ISA_AVX512
// The first n bytes, no others: a masked store of a whole vector would hold up the load of what follows them.
VF_INLINE void store_bytes(u8 *to, __m512i x, int32_t n) {
  if (n >= 64) return _mm512_storeu_si512(to, x);
  __m256i half = _mm512_castsi512_si256(x);
  if (n & 32) _mm256_storeu_si256(reinterpret_cast<__m256i *>(to), half), half = _mm512_extracti64x4_epi64(x, 1), to += 32;
  __m128i part = _mm256_castsi256_si128(half);
  if (n & 16) _mm_storeu_si128(reinterpret_cast<__m128i *>(to), part), part = _mm256_extracti128_si256(half, 1), to += 16;
  if (n & 8) _mm_storel_epi64(reinterpret_cast<__m128i *>(to), part), part = _mm_srli_si128(part, 8), to += 8;
  uint64_t rest = uint64_t(_mm_cvtsi128_si64(part));
  if (n & 4) std::memcpy(to, &rest, 4), rest >>= 32, to += 4;
  if (n & 2) std::memcpy(to, &rest, 2), rest >>= 16, to += 2;
  if (n & 1) std::memcpy(to, &rest, 1);
}
VF_INLINE __mmask64 first_bytes(int32_t n) { return n >= 64 ? ~__mmask64(0) : (__mmask64(1) << n) - 1; }
#endif

// Numbers of a grid with one scale, 64 of them at a time, where there are vectors for it.
#if VF_ISA != VF_ISA_AVX512
struct Encoder {
  explicit Encoder(const Grid<u8> &) {}
};
#else
struct Encoder {
  __m512 inverse, low, high, scale;
  __m512i zero, order;
  explicit Encoder(const Grid<u8> &grid) {
    inverse = _mm512_set1_ps(grid.row(VF_GRID_INVERSE)[0]);
    low = _mm512_set1_ps(grid.row(VF_GRID_LOW)[0]), high = _mm512_set1_ps(grid.row(VF_GRID_HIGH)[0]);
    scale = _mm512_set1_ps(grid.row(VF_GRID_SCALE)[0]);
    zero = _mm512_set1_epi32(int32_t(grid.row(VF_GRID_ZERO)[0]));
    order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
  }
  // Of 4 pixels in a vector each, or 2 in two: their first c channels, a multiple of 4, one pixel behind the other.
  void put_together(int32_t c, int32_t vectors) {
    alignas(64) int32_t from[16] = {};
    for (int32_t i = 0; i < 4 / vectors; i++)
      for (int32_t k = 0; k < c / 4; k++) from[i * c / 4 + k] = k % 4 * 4 + i * vectors + k / 4;
    order = _mm512_load_si512(from);
  }
  VF_INLINE __m512i whole(vfloat x) const {  // as Grid::encode_bytes
    __m512 y = _mm512_mul_ps((__m512)x, inverse);
    y = _mm512_maskz_max_ps(0xffff, y, low);
    y = _mm512_maskz_min_ps(0xffff, y, high);
    return _mm512_add_epi32(_mm512_maskz_cvtps_epi32(0xffff, y), zero);
  }
  // How far a value lies from the number kept beyond what rounding alone may have done, as `change` has it.
  VF_INLINE vfloat apart(vfloat x, vfloat old) const {
    __m512 y = _mm512_mul_ps((__m512)x, inverse);
    y = _mm512_maskz_max_ps(0xffff, y, low);
    y = _mm512_add_ps(_mm512_maskz_min_ps(0xffff, y, high), _mm512_cvtepi32_ps(zero));
    const __m512 far = _mm512_sub_ps(_mm512_abs_ps(_mm512_sub_ps(y, (__m512)old)), _mm512_set1_ps(0.5f));
    return (vfloat)_mm512_mul_ps(_mm512_maskz_max_ps(0xffff, far, _mm512_setzero_ps()), scale);
  }
  VF_INLINE __m512i bytes(__m512i a, __m512i b, __m512i c, __m512i d) const {
    const __m512i lanes = _mm512_packus_epi16(_mm512_packus_epi32(a, b), _mm512_packus_epi32(c, d));
    return _mm512_maskz_permutexvar_epi32(0xffff, order, lanes);
  }
};
#endif

}  // namespace VF_SPACE
}  // namespace vf
#endif
