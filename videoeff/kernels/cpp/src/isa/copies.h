// Ops that copy pixels as they are, or turn values into numbers or another floating type, and do nothing else: without
// registers between, since of a few channels all else costs more than the pixel.
#ifndef VIDEOEFF_COPIES_H
#define VIDEOEFF_COPIES_H

#include <algorithm>
#include <cstring>

#include "fused.h"

namespace vf {
namespace VF_SPACE {

inline bool same_grid(const vf_view &a, const vf_view &b) {
  return a.c == b.c && std::memcmp(a.grid, b.grid, size_t(grid_row(a.c)) * VF_GRID_ROWS * sizeof(float)) == 0;
}

// Whether a sum picks one pixel for each, as a slice of the rows and columns does.
inline bool picks(const Op &op) {
  const auto one = [](double w) { return w == 1; };
  return op.d.ty == 1 && op.d.tx == 1 && std::all_of(op.wy.begin(), op.wy.end(), one) &&
         std::all_of(op.wx.begin(), op.wx.end(), one);
}

// How an op copies: kPicks: single pixels of its input as they are; kCopies: those of its argument; kEncodes: values, which
// lie side by side over several pixels as the numbers do; kCasts: values between float32 and bfloat16.
inline int32_t find_copy(const Op &op) {
  const vf_op &d = op.d;
  if (d.kind == VF_SEPARABLE && d.nepi == 0 && d.threshold == 0 && !d.magnitude && d.in.sc == 1 && d.out.sc == 1 && picks(op) &&
      d.in.dtype == d.dtype && d.dtype != VF_F64 && (d.dtype != VF_U8 || same_grid(d.in, d.out)))
    return Op::kPicks;
  if (d.kind != VF_POINTWISE || d.nepi != 1 || d.epi[0].op != VF_COPY || d.epi[0].a != VF_ARG || d.epi[0].dst != 0) return 0;
  const vf_view &from = d.args[0];
  if (d.threshold != 0 || d.magnitude || from.c != d.out.c || d.dtype == VF_F64) return 0;
  const bool apart = d.out.sc != 1 || (from.sc != 1 && from.c != 1);  // as channels lie that are shuffled
  if (apart) return from.dtype == d.dtype && d.dtype == VF_U8 && same_grid(from, d.out) ? Op::kCopies : 0;
  if (from.dtype == d.dtype && (d.dtype != VF_U8 || same_grid(from, d.out))) return Op::kCopies;
  if ((from.dtype == VF_F32 && d.dtype == VF_BF16) || (from.dtype == VF_BF16 && d.dtype == VF_F32)) return Op::kCasts;
  const bool rows = d.out.sw == d.out.c && from.sw == from.c;
  return from.dtype == VF_F32 && d.dtype == VF_U8 && rows && one_scale(d.out) ? Op::kEncodes : 0;
}

// Bytes from `a` to `b`; whether any was another.
VF_INLINE bool exchange_bytes(const char *from, char *to, int64_t n) {
  bool differs = false;
  int64_t i = 0;
#if VF_ISA == VF_ISA_AVX512
  for (; i < n; i += 64) {
    const __mmask64 part = first_bytes(int32_t(std::min<int64_t>(n - i, 64)));
    const __m512i x = _mm512_maskz_loadu_epi8(part, from + i), y = _mm512_maskz_loadu_epi8(part, to + i);
    differs |= _mm512_cmpneq_epi8_mask(x, y) != 0;
    _mm512_mask_storeu_epi8(to + i, part, x);
  }
#else
  for (; i + 4 <= n; i += 4) {
    uint32_t x, y;
    std::memcpy(&x, from + i, 4), std::memcpy(&y, to + i, 4);
    differs |= x != y;
    std::memcpy(to + i, &x, 4);
  }
  for (; i < n; i++) differs |= from[i] != to[i], to[i] = from[i];
#endif
  return differs;
}

// The same of numbers that lie apart.
VF_INLINE bool exchange_apart(const u8 *from, int64_t from_step, u8 *to, int64_t to_step, int32_t c) {
  uint8_t differs = 0;
  for (int32_t k = 0; k < c; k++, from += from_step, to += to_step) differs |= from->code ^ to->code, *to = *from;
  return differs != 0;
}

// Of values that are not numbers -0 equals 0, and NaN nothing.
template <class S> VF_INLINE bool exchange_pixel(const S *from, S *to, int32_t c) {
  if constexpr (std::is_same_v<S, u8>) {
    return exchange_bytes(reinterpret_cast<const char *>(from), reinterpret_cast<char *>(to), c);
  } else {
    using T = compute<S>;
    constexpr int L = lanes<T>;
    Difference<T> moved;
    int32_t k = 0;
    for (; k + L <= c; k += L) {
      const vec<T> x = load(from + k);
      moved.add(x, load(to + k));
      store(to + k, x);
    }
    if (k < c) {
      const vec<T> x = load_part(from + k, c - k);
      moved.add(x, load_part(to + k, c - k));
      store_part(to + k, x, c - k);
    }
    return moved.found();
  }
}

template <class S> void copy_block(const Op &op, const Block &block, bool force, uint64_t *changed) {
  const vf_op &d = op.d;
  const bool picked = op.copies == Op::kPicks;
  const vf_view &v = picked ? d.in : d.args[0];
  [[maybe_unused]] const bool apart = d.out.c > 1 && (d.out.sc != 1 || v.sc != 1);
  std::memset(changed, 0, sizeof(uint64_t) * size_t((block.pixels + 63) / 64));
  int32_t p = 0;
  for (int32_t k = 0; k < block.count; k++) {
    const Run &run = block.runs[k];
    const S *row = static_cast<const S *>(v.data) + run.r * v.sr + (picked ? op.iy[size_t(run.y)] : run.y) * v.sh;
    S *to = static_cast<S *>(d.out.data) + run.r * d.out.sr + run.y * d.out.sh + run.x * d.out.sw;
    for (int32_t i = 0; i < run.n; i++, p++, to += d.out.sw) {
      const S *from = row + (picked ? op.ix[size_t(run.x + i)] : run.x + i) * v.sw;
      bool moved;
      if constexpr (std::is_same_v<S, u8>)
        moved = apart ? exchange_apart(from, v.sc, to, d.out.sc, d.out.c) : exchange_pixel<S>(from, to, d.out.c);
      else
        moved = exchange_pixel<S>(from, to, d.out.c);
      changed[p >> 6] |= uint64_t(moved | force) << (p & 63);
    }
  }
}

constexpr int32_t kFewChannels = 16;  // bits of a pixel that a word holds, wherever in a byte they begin

// A bit for each number of `a` that differs from that of `b`.
VF_INLINE void find_differences(const u8 *a, const u8 *b, int32_t n, uint8_t *bits) {
#if VF_ISA == VF_ISA_AVX512
  for (int32_t i = 0; i < n; i += 64) {
    const __mmask64 part = first_bytes(n - i);
    const uint64_t found =
        _mm512_mask_cmpneq_epi8_mask(part, _mm512_maskz_loadu_epi8(part, a + i), _mm512_maskz_loadu_epi8(part, b + i));
    std::memcpy(bits + i / 8, &found, sizeof found);
  }
#else
  for (int32_t i = 0; i < n; i += 8) {
    uint8_t found = 0;
    for (int32_t k = 0; k < 8 && i + k < n; k++) found |= uint8_t(uint8_t(a[i + k].code != b[i + k].code) << k);
    bits[i / 8] = found;
  }
  bits[(n + 7) / 8] = bits[(n + 7) / 8 + 1] = bits[(n + 7) / 8 + 2] = 0;
#endif
}

inline void encode_block(const Op &op, const Block &block, Scratch &scratch, bool force, uint64_t *changed) {
  constexpr int L = lanes<float>;
  const vf_op &d = op.d;
  const vf_view &v = d.args[0];
  const Grid<u8> grid(d.out);
  const int32_t c = d.out.c;
  u8 *row = static_cast<u8 *>(scratch.reg[0]);
  std::memset(changed, 0, sizeof(uint64_t) * size_t((block.pixels + 63) / 64));
  int32_t p = 0;
  for (int32_t k = 0; k < block.count; k++) {
    const Run &run = block.runs[k];
    const float *from = static_cast<const float *>(v.data) + run.r * v.sr + run.y * v.sh + run.x * v.sw;
    u8 *to = static_cast<u8 *>(d.out.data) + run.r * d.out.sr + run.y * d.out.sh + run.x * d.out.sw;
    const int32_t values = run.n * c;
    for (int32_t i = 0; i < values; i += L) {
      const vfloat x = i + L <= values ? load(from + i) : load_part(from + i, values - i);
      const vbytes now = grid.encode_bytes(x, 0);
      std::memcpy(row + i, &now, sizeof now);
    }
    if (c > kFewChannels) {
      for (int32_t at = 0; at < run.n; at++, p++)
        changed[p >> 6] |= uint64_t(exchange_pixel<u8>(row + at * c, to + at * c, c) | force) << (p & 63);
      continue;
    }
    uint8_t differs[kMaxPlainBlock * kFewChannels / 8 + 16];  // a bit for each number
    find_differences(row, to, values, differs);
    std::memcpy(to, row, size_t(values));
    for (int32_t at = 0, bit = 0; at < run.n; at++, p++, bit += c) {
      uint32_t word;
      std::memcpy(&word, differs + (bit >> 3), sizeof word);
      changed[p >> 6] |= uint64_t(((word >> (bit & 7)) & ((1u << c) - 1)) != 0 || force) << (p & 63);
    }
  }
}

// A row of values in another floating type; whether any is another than before.
template <class From, class To> VF_INLINE bool cast_pixel(const From *from, To *to, int32_t c) {
  constexpr int L = lanes<float>;
  Difference<float> moved;
  int32_t k = 0;
  for (; k + L <= c; k += L) {
    const vfloat x = load(from + k);
    moved.add(rounded<To>(x), load(to + k));
    store(to + k, x);
  }
  if (k < c) {
    const vfloat x = load_part(from + k, c - k);
    moved.add(rounded<To>(x), load_part(to + k, c - k));
    store_part(to + k, x, c - k);
  }
  return moved.found();
}

// The same of many values; a bit for each that differs, and four bytes of zeros behind.
template <class From, class To> VF_INLINE void cast_values(const From *from, To *to, int32_t n, uint8_t *bits) {
  constexpr int L = lanes<float>;
  for (int32_t i = 0; i < n; i += 16) {
    uint32_t found = 0;
    for (int32_t k = i; k < n && k < i + 16; k += L) {
      const int32_t m = std::min(L, n - k);
      const vfloat x = m == L ? load(from + k) : load_part(from + k, m), old = m == L ? load(to + k) : load_part(to + k, m);
      found |= bits_of(vint(rounded<To>(x) != old)) << (k - i);
      if (m == L) store(to + k, x);
      else store_part(to + k, x, m);
    }
    const uint16_t word = uint16_t(found);
    std::memcpy(bits + i / 8, &word, sizeof word);
  }
  std::memset(bits + (n + 15) / 16 * 2, 0, 4);
}

template <class From, class To> void cast_block(const Op &op, const Block &block, bool force, uint64_t *changed) {
  const vf_op &d = op.d;
  const vf_view &v = d.args[0];
  const int32_t c = d.out.c;
  const bool rows = d.out.sw == c && v.sw == c && c <= kFewChannels;
  std::memset(changed, 0, sizeof(uint64_t) * size_t((block.pixels + 63) / 64));
  int32_t p = 0;
  for (int32_t k = 0; k < block.count; k++) {
    const Run &run = block.runs[k];
    const From *from = static_cast<const From *>(v.data) + run.r * v.sr + run.y * v.sh + run.x * v.sw;
    To *to = static_cast<To *>(d.out.data) + run.r * d.out.sr + run.y * d.out.sh + run.x * d.out.sw;
    if (!rows) {
      for (int32_t at = 0; at < run.n; at++, p++, from += v.sw, to += d.out.sw)
        changed[p >> 6] |= uint64_t(cast_pixel<From, To>(from, to, c) | force) << (p & 63);
      continue;
    }
    uint8_t differs[kMaxPlainBlock * kFewChannels / 8 + 16];  // a bit for each value
    cast_values<From, To>(from, to, run.n * c, differs);
    for (int32_t at = 0, bit = 0; at < run.n; at++, p++, bit += c) {
      uint32_t word;
      std::memcpy(&word, differs + (bit >> 3), sizeof word);
      changed[p >> 6] |= uint64_t(((word >> (bit & 7)) & ((1u << c) - 1)) != 0 || force) << (p & 63);
    }
  }
}

}  // namespace VF_SPACE
}  // namespace vf
#endif
