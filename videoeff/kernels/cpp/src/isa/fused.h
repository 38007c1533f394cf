// The frequent endings of a block in one pass: a residual or a gate, an activation, the change test and the store.
#ifndef VIDEOEFF_FUSED_H
#define VIDEOEFF_FUSED_H

#include <optional>
#include <type_traits>

#include "commit.h"
#include "encoder.h"
#include "epilogue.h"
#include "stages.h"
#include "tiles.h"

namespace vf {
namespace VF_SPACE {

template <class T> struct Same {
  VF_INLINE vec<T> operator()(vec<T> x) const { return x; }
};

// Where a row comes from: the producer; that plus an argument; one argument times the next; the producer, rounded to a grid,
// plus an argument.
enum Source { kProduced = 0, kPlus = 1, kTimes = 2, kRoundedPlus = 3 };

// What `ending_of` found: a source and the instruction that follows it, if any.
inline bool is_row(const vf_view &v, const vf_op &d) { return v.sc == 1 && v.dtype == d.dtype && v.c == d.out.c; }

inline void find_ending(Op &op) {
  const vf_op &d = op.d;
  op.ending = -1, op.operand = 0, op.activation = -1, op.rounding = 0;
  if (d.out.sc != 1 || d.nepi > 3 || d.kind == VF_INPUT || (d.kind != VF_POINTWISE && producer_channels(op) != d.out.c))
    return;
  int at = 0, source = kProduced;
  if (d.kind == VF_POINTWISE) {
    if (d.nepi < 1 || d.epi[0].op != VF_MUL || d.epi[0].a != VF_ARG || d.epi[0].b != VF_ARG + 1) return;
    if (!is_row(d.args[0], d) || !is_row(d.args[1], d)) return;
    source = kTimes, at = 1;
    if (d.nepi != 1) return;
  } else {
    const bool rounds = d.nepi > 1 && d.epi[0].op == VF_ROUND && d.epi[0].a == 0 && d.epi[0].dst == 0 && d.dtype == VF_U8;
    if (rounds) op.rounding = d.epi[0].b - VF_ARG, at = 1;
    if (at < d.nepi && d.epi[at].op == VF_ADD) {
      const vf_epi &e = d.epi[at];
      const int32_t other = e.a == 0 ? e.b : e.b == 0 ? e.a : -1;
      if (other < VF_ARG || e.dst != 0 || !is_row(d.args[other - VF_ARG], d)) return;
      source = rounds ? kRoundedPlus : kPlus, at++, op.operand = other - VF_ARG;
    } else if (rounds) {
      return;
    }
  }
  if (at < d.nepi) {
    const vf_epi &e = d.epi[at];
    if (e.a != 0 || e.dst != 0 || at + 1 < d.nepi) return;
    if (!(e.op == VF_CLAMP || e.op == VF_HARDSWISH || e.op == VF_SILU || (e.op == VF_LEAKY && e.p == 0))) return;
    op.activation = at;
  }
  op.ending = source;
}

// One row: f(source) to the value, or to the scratch row with the squared distance where a test needs it. `Sums`: the
// producer's rows hold sums of integers (Op::sums).
template <class S, int Src, class F, bool Sums> struct FusedRow {
  using T = compute<S>;
  static constexpr int L = lanes<T>;
  F f;
  Grid<S> out, left, right, middle;  // of the value, of the arguments, and of the rounding
  Channels<u8> channels;             // what a sum stands for
  static constexpr bool Numbers = std::is_same_v<S, u8>;

  VF_INLINE vec<T> produced(const T *v, int32_t k) const {
    if constexpr (Sums) {
      vint sum;
      std::memcpy(&sum, v + k, sizeof sum);
      return settled(channels, sum, k);
    } else {
      return load(v + k);
    }
  }
  VF_INLINE vec<T> produced(const T *v, int32_t k, int n) const {
    if constexpr (Sums) return produced(v, k);
    else return load_part(v + k, n);
  }
  VF_INLINE vec<T> rounded_product(vec<T> x) const {
    if constexpr (Numbers) return product(x);
    else return x;
  }
  VF_INLINE vec<T> added(vec<T> x, vec<T> a, int32_t k) const { return x + rounded_product(left.decode(a, k)); }
  VF_INLINE vec<T> rounded_first(vec<T> x, int32_t k) const { return rounded_product(middle.rounded(x, k)); }
  VF_INLINE vec<T> real(const T *v, const S *a, const S *b, int32_t k) const {
    vec<T> x;
    if constexpr (Src == kTimes) x = left.decode(load(a + k), k) * right.decode(load(b + k), k);
    else if constexpr (Src == kPlus) x = added(produced(v, k), load(a + k), k);
    else if constexpr (Src == kRoundedPlus) x = added(rounded_first(produced(v, k), k), load(a + k), k);
    else x = produced(v, k);
    return f(x);
  }
  VF_INLINE vec<T> real(const T *v, const S *a, const S *b, int32_t k, int n) const {
    vec<T> x;
    if constexpr (Src == kTimes) x = left.decode(load_part(a + k, n), k) * right.decode(load_part(b + k, n), k);
    else if constexpr (Src == kPlus) x = added(produced(v, k, n), load_part(a + k, n), k);
    else if constexpr (Src == kRoundedPlus) x = added(rounded_first(produced(v, k, n), k), load_part(a + k, n), k);
    else x = produced(v, k, n);
    return f(x);
  }
#if VF_ISA == VF_ISA_AVX512
  // Channels k .. k + n - 1 of a row, as whole numbers: the lanes behind them are anything. Of arguments no more is read.
  VF_INLINE __m512i whole(const Encoder &encoder, const T *v, const S *a, const S *b, int32_t k, int32_t n) const {
    return encoder.whole(Src == kProduced || n >= L ? real(v, a, b, k) : real(v, a, b, k, n));
  }
  // The same of up to 64 channels, as bytes.
  VF_INLINE __m512i encoded(const Encoder &encoder, const T *v, const S *a, const S *b, int32_t k, int32_t n) const {
    const __m512i none = _mm512_setzero_si512();
    return encoder.bytes(whole(encoder, v, a, b, k, n),
                         n > L ? whole(encoder, v, a, b, k + L, n - L) : none,
                         n > 2 * L ? whole(encoder, v, a, b, k + 2 * L, n - 2 * L) : none,
                         n > 3 * L ? whole(encoder, v, a, b, k + 3 * L, n - 3 * L) : none);
  }
  VF_INLINE bool exchange_many(const Encoder &encoder, const T *v, const S *a, const S *b, S *o, int32_t c) const {
    int32_t k = 0;
    __mmask64 differ = 0;
    for (; k + 4 * L <= c; k += 4 * L) {
      const __m512i now = encoded(encoder, v, a, b, k, 4 * L);
      differ |= _mm512_cmpneq_epi8_mask(now, _mm512_loadu_si512(o + k));
      _mm512_storeu_si512(o + k, now);
    }
    if (k < c) {
      const __m512i now = encoded(encoder, v, a, b, k, c - k);
      const __mmask64 part = first_bytes(c - k);
      differ |= _mm512_mask_cmpneq_epi8_mask(part, now, _mm512_maskz_loadu_epi8(part, o + k));
      store_bytes(o + k, now, c - k);
    }
    return differ != 0;
  }
  // Of up to 4 pixels of 16 channels at most, or 2 of 32, which lie side by side: a bit for each that moved.
  template <int Vectors>
  VF_INLINE uint64_t exchange_pixels(const Encoder &encoder, const T *v, int64_t ld, const S *a, int64_t step_a, const S *b,
                                     int64_t step_b, S *o, int32_t c, int32_t n) const {
    __m512i part[4];
    for (int i = 0; i < 4 / Vectors; i++)
      for (int j = 0; j < Vectors; j++)
        part[i * Vectors + j] = i < n && j * L < c ? whole(encoder, v + i * ld, a + i * step_a, b + i * step_b, j * L, c - j * L)
                                                   : _mm512_setzero_si512();
    const __m512i now = encoder.bytes(part[0], part[1], part[2], part[3]);
    const __mmask64 there = first_bytes(n * c);
    const uint64_t differ = _mm512_mask_cmpneq_epi8_mask(there, now, _mm512_maskz_loadu_epi8(there, o));
    store_bytes(o, now, n * c);
    uint64_t moved = 0;
    for (int i = 0; i < 4 / Vectors && i < n; i++) moved |= uint64_t((differ >> (i * c) & first_bytes(c)) != 0) << i;
    return moved;
  }
  VF_INLINE void overwrite_many(const Encoder &encoder, const T *v, const S *a, const S *b, S *o, int32_t c) const {
    int32_t k = 0;
    for (; k + 4 * L <= c; k += 4 * L) _mm512_storeu_si512(o + k, encoded(encoder, v, a, b, k, 4 * L));
    if (k < c) store_bytes(o + k, encoded(encoder, v, a, b, k, c - k), c - k);
  }
#endif
  // What is stored: a value, or its number.
  VF_INLINE vec<T> value(const T *v, const S *a, const S *b, int32_t k) const { return out.encode(real(v, a, b, k), k); }
  VF_INLINE vec<T> value(const T *v, const S *a, const S *b, int32_t k, int n) const {
    return out.encode(real(v, a, b, k, n), k);
  }
  // `many`: serves if it is given.
  VF_INLINE bool exchange(const std::optional<Encoder> &many, const T *v, const S *a, const S *b, S *o, int32_t c) const {
    (void)many;
    if constexpr (Numbers) {
      bool moved = false;
      int32_t k = 0;
#if VF_ISA == VF_ISA_AVX512
      if (many) return exchange_many(*many, v, a, b, o, c);
#endif
      for (; k + L <= c; k += L) moved |= exchange_bytes(out.encode_bytes(real(v, a, b, k), k), o + k);
      if (k < c) moved |= exchange_bytes_part(out.encode_bytes(real(v, a, b, k, c - k), k), o + k, c - k);
      return moved;
    }
    Difference<T> moved;
    int32_t k = 0;
    for (; k + L <= c; k += L) {
      vec<T> x = value(v, a, b, k);
      moved.add(rounded<S>(x), load(o + k));
      store(o + k, x);
    }
    if (k < c) {
      vec<T> x = value(v, a, b, k, c - k);
      moved.add(rounded<S>(first_lanes(x, c - k, T(0))), load_part(o + k, c - k));
      store_part(o + k, x, c - k);
    }
    return moved.found();
  }
  VF_INLINE void overwrite(const std::optional<Encoder> &many, const T *v, const S *a, const S *b, S *o, int32_t c) const {
    int32_t k = 0;
    (void)many;
#if VF_ISA == VF_ISA_AVX512
    if constexpr (Numbers)
      if (many) return overwrite_many(*many, v, a, b, o, c);
#endif
    for (; k + L <= c; k += L) store(o + k, value(v, a, b, k));
    if (k < c) store_part(o + k, value(v, a, b, k, c - k), c - k);
  }
  // How far a row is from the one kept, squares added; and the most of a channel, of numbers alone, where `most` is given. The
  // row that is stored if it is far enough is left in `v`: values, or bytes of numbers.
  VF_INLINE T measure(const std::optional<Encoder> &many, T *most, T *v, const S *a, const S *b, const S *o, int32_t c) const {
    (void)many, (void)most;
    if constexpr (Numbers) {
#if VF_ISA == VF_ISA_AVX512
      if (many) return measure_many(*many, most, v, a, b, o, c);
#endif
      return measure_numbers(most, v, a, b, o, c);
    }
    vec<T> energy = {}, other = {};
    int32_t k = 0;
    for (; k + 2 * L <= c; k += 2 * L) {
      vec<T> x = real(v, a, b, k), y = real(v, a, b, k + L);
      vec<T> d = change<S>(out, x, load(o + k), k), e = change<S>(out, y, load(o + k + L), k + L);
      store(v + k, x), store(v + k + L, y);
      energy += d * d, other += e * e;
    }
    for (; k < c; k += L) {
      const int n = c - k < L ? int(c - k) : L;
      vec<T> x = first_lanes(n == L ? real(v, a, b, k) : real(v, a, b, k, n), n, T(0));
      vec<T> d = change<S>(out, x, n == L ? load(o + k) : load_part(o + k, n), k);
      store(v + k, x);
      energy += d * d;
    }
    return total(energy + other);
  }
  // Bytes are written where values were read already: a vector of them lies before the next values.
  VF_INLINE T measure_numbers(T *most, T *v, const S *a, const S *b, const S *o, int32_t c) const {
    vec<T> energy = {}, top = {};
    u8 *bytes = reinterpret_cast<u8 *>(v);
    for (int32_t k = 0; k < c; k += L) {
      const int n = c - k < L ? int(c - k) : L;
      const vec<T> x = n == L ? real(v, a, b, k) : real(v, a, b, k, n);
      const vec<T> old = n == L ? load(o + k) : load_part(o + k, n);
      const vec<T> d = first_lanes(change<S>(out, out.steps(x, k), old, k), n, T(0));
      const vbytes now = out.encode_bytes(x, k);
      std::memcpy(bytes + k, &now, sizeof now);
      energy += d * d, top = d > top ? d : top;
    }
    if (most) *most = largest_of(top);
    return total(energy);
  }
  static VF_INLINE T largest_of(vec<T> x) {
    T most = 0;
    for (int i = 0; i < L; i++) most = x[i] > most ? x[i] : most;
    return most;
  }
#if VF_ISA == VF_ISA_AVX512
  // One vector of `measure_many`: its whole numbers; adds its squares.
  VF_INLINE __m512i measured(const Encoder &encoder, const T *v, const S *a, const S *b, const S *o, int32_t k, int32_t n,
                             vec<T> &energy, vec<T> &top) const {
    const vec<T> x = Src == kProduced || n >= L ? real(v, a, b, k) : real(v, a, b, k, n);
    const __mmask16 there = n >= L ? __mmask16(0xffff) : __mmask16((1 << n) - 1);
    const __m512i old = _mm512_cvtepu8_epi32(_mm_maskz_loadu_epi8(there, o + k));
    const vec<T> d = (vec<T>)_mm512_maskz_mov_ps(there, (__m512)encoder.apart(x, (vec<T>)_mm512_cvtepi32_ps(old)));
    energy += d * d, top = (vec<T>)_mm512_maskz_max_ps(0xffff, (__m512)top, (__m512)d);
    return encoder.whole(x);
  }
  VF_INLINE T measure_many(const Encoder &encoder, T *most, T *v, const S *a, const S *b, const S *o, int32_t c) const {
    vec<T> energy[2] = {}, top[2] = {};
    uint8_t *bytes = reinterpret_cast<uint8_t *>(v);
    for (int32_t k = 0; k < c; k += 4 * L) {
      __m512i part[4];
      for (int j = 0; j < 4; j++)
        part[j] = k + j * L < c ? measured(encoder, v, a, b, o, k + j * L, c - k - j * L, energy[j & 1], top[j & 1])
                                : _mm512_setzero_si512();
      _mm512_storeu_si512(bytes + k, encoder.bytes(part[0], part[1], part[2], part[3]));
    }
    if (most) *most = _mm512_reduce_max_ps(_mm512_maskz_max_ps(0xffff, (__m512)top[0], (__m512)top[1]));
    return total(energy[0] + energy[1]);
  }
#endif
  // The row that `measure` left.
  VF_INLINE void keep(const T *v, S *o, int32_t c) const {
    if constexpr (Numbers) {
#if VF_ISA == VF_ISA_AVX512
      const auto *bytes = reinterpret_cast<const uint8_t *>(v);
      for (int32_t k = 0; k < c; k += 64) store_bytes(o + k, _mm512_loadu_si512(bytes + k), std::min(c - k, 64));
#else
      std::memcpy(o, v, size_t(c));
#endif
    } else {
      copy_row<S>(v, o, c);
    }
  }
  VF_INLINE bool is_other(const T *v, const S *o, int32_t c) const {
    if constexpr (Numbers) return std::memcmp(v, o, size_t(c)) != 0;
    else return differs<S>(v, o, c);
  }
};

// What encodes many numbers at a time, where they have one scale.
template <class S> std::optional<Encoder> encoder_of(const Op &op, const Grid<S> &grid) {
  std::optional<Encoder> many;
  if constexpr (std::is_same_v<S, u8>)
    if (op.uniform) many.emplace(grid);
  (void)grid;
  return many;
}

template <class S, int Src, bool Sums, class F>
void finish_fused(const Op &op, const Block &block, Scratch &scratch, bool force, uint64_t *changed, float *squares,
                  F f) {
  using T = compute<S>;
  const vf_op &d = op.d;
  const Grid<S> grid(d.out);
  const FusedRow<S, Src, F, Sums> row{f, grid, Grid<S>(d.args[op.operand]), Grid<S>(d.args[op.operand + (Src == kTimes)]),
                                      Grid<S>(d.args[op.rounding]), Sums ? channels_of<u8>(op, 0) : Channels<u8>{}};
  std::optional<Encoder> many = encoder_of<S>(op, grid);
  T *value = static_cast<T *>(scratch.reg[0]);
  const int32_t c = d.out.c;
  const bool exact = d.threshold == 0;
  // Pixels of few channels, which fill a vector only together.
  [[maybe_unused]] int32_t together = 0;
#if VF_ISA == VF_ISA_AVX512
  if (many && c <= 2 * lanes<T> && c % 4 == 0 && d.out.sw == c && exact && !squares && !force) {
    together = c <= lanes<T> ? 4 : 2;
    many->put_together(c, 4 / together);
  }
#endif
  int32_t p = 0;
  uint64_t word = 0;  // of `changed`, written when it is full
  for (int32_t k = 0; k < block.count; k++) {
    const Run &run = block.runs[k];
    S *o = static_cast<S *>(d.out.data) + run.r * d.out.sr + run.y * d.out.sh + run.x * d.out.sw;
    const S *a = nullptr, *b = nullptr;
    int64_t step_a = 0, step_b = 0;
    if (Src != kProduced) {
      const vf_view &v = d.args[op.operand];
      a = static_cast<const S *>(v.data) + run.r * v.sr + run.y * v.sh + run.x * v.sw, step_a = v.sw;
    }
    if (Src == kTimes) {
      const vf_view &v = d.args[op.operand + 1];
      b = static_cast<const S *>(v.data) + run.r * v.sr + run.y * v.sh + run.x * v.sw, step_b = v.sw;
    }
    const T limit = d.relative ? T(float(d.threshold) * d.scale[run.r]) : T(d.threshold);
#if VF_ISA == VF_ISA_AVX512
    if constexpr (std::is_same_v<S, u8>)
      if (together) {
        for (int32_t i = 0; i < run.n; i += together) {
          const int32_t n = std::min(together, run.n - i), at = p & 63;
          const uint64_t moved =
              together == 4 ? row.template exchange_pixels<1>(*many, value, op.ld, a, step_a, b, step_b, o, c, n)
                            : row.template exchange_pixels<2>(*many, value, op.ld, a, step_a, b, step_b, o, c, n);
          value += n * int64_t(op.ld), o += n * d.out.sw, a += n * step_a, b += n * step_b, p += n;
          word |= moved << at;
          if (at + n >= 64) changed[p / 64 - 1] = word, word = at ? moved >> (64 - at) : 0;
        }
        continue;
      }
#endif
    for (int32_t i = 0; i < run.n; i++, p++, o += d.out.sw, value += op.ld, a += step_a, b += step_b) {
      bool moved = true;
      if (force) {
        row.overwrite(many, value, a, b, o, c);
        if (squares) squares[p] = 0;
      } else if (exact && !squares) {
        moved = row.exchange(many, value, a, b, o, c);
      } else {
        T most = 0;
        const bool largest_moves = !exact && d.test == VF_TEST_MAX;
        const T energy = row.measure(many, row.Numbers && largest_moves ? &most : nullptr, value, a, b, o, c);
        if (exact) moved = row.is_other(value, o, c);
        else if (largest_moves) moved = !((row.Numbers ? most : largest<S>(grid, value, o, c)) <= limit);
        else moved = !(std::sqrt(d.test == VF_TEST_RMS ? energy / T(c) : energy) <= limit);
        if (squares) squares[p] = float(energy / T(c));
        if (moved) row.keep(value, o, c);
      }
      word |= uint64_t(moved) << (p & 63);
      if ((p & 63) == 63) changed[p >> 6] = word, word = 0;
    }
  }
  if (p & 63) changed[p >> 6] = word;
}

// Calls `use` with the activation of a fused ending.
template <class T, class Use> VF_INLINE void with_activation(const Op &op, Use use) {
  if (op.activation < 0) return use(Same<T>{});
  const vf_epi &e = op.d.epi[op.activation];
  const T p = T(e.p), q = T(e.q);
  switch (e.op) {
    case VF_CLAMP: return use(Clamp<T>{p, q});
    case VF_HARDSWISH: return use(Hardswish<T>{p, q});
    case VF_SILU: return use(Silu<T>{p, q});
    default: return use(Relu<T>{p, q});
  }
}

template <class S, int Src, bool Sums>
void finish_activated(const Op &op, const Block &block, Scratch &s, bool force, uint64_t *changed, float *squares) {
  with_activation<compute<S>>(op, [&](auto f) { finish_fused<S, Src, Sums>(op, block, s, force, changed, squares, f); });
}

// Calls `row(from, to)` for the results of a stage that lie in register 0, with where each pixel is read next.
template <class S, class F> VF_INLINE void each_result(const Op &op, const Block &block, Scratch &scratch, F row) {
  const vf_op &d = op.d;
  auto *value = static_cast<compute<S> *>(scratch.reg[0]);
  S *rows = static_cast<S *>(scratch.rows);
  for (int32_t k = 0; k < block.count; k++) {
    const Run &run = block.runs[k];
    S *o = op.depthwise ? rows : static_cast<S *>(scratch.line_buffer) + (run.y * d.out.sh + run.x * d.out.sw);
    for (int32_t i = 0; i < run.n; i++, o += d.out.sw, value += op.ld) row(value, o);
    rows += run.n * d.out.sw;
  }
}

template <class S, bool Sums, class F> void keep_stage(const Op &op, const Block &block, Scratch &scratch, F f) {
  const Grid<S> grid(op.d.out);
  const FusedRow<S, kProduced, F, Sums> row{f, grid, grid, grid, grid, Sums ? channels_of<u8>(op, 0) : Channels<u8>{}};
  const std::optional<Encoder> many = encoder_of<S>(op, grid);
  each_result<S>(op, block, scratch, [&](const auto *v, S *o) { row.overwrite(many, v, nullptr, nullptr, o, op.d.out.c); });
}

// A stage's results as they are stored, each by the rounding of the same op where it is kept: `commit` or a fused ending.
template <class S> void keep_stage(const Op &op, const Block &block, Scratch &scratch) {
  using T = compute<S>;
  if (op.ending < 0) {
    const Grid<S> grid(op.d.out);
    const int32_t c = op.d.out.c;
    return each_result<S>(op, block, scratch, [&](T *v, S *o) {
      activate<T>(op.d, &v, 1, 0, c);
      if constexpr (std::is_same_v<S, u8>)
        for (int32_t j = 0; j < c; j += lanes<T>) store<T>(v + j, grid.steps(load(v + j), j));
      copy_row<S>(v, o, c);
    });
  }
#if VF_TILES
  if constexpr (std::is_same_v<S, u8>)
    if (op.sums) return with_activation<T>(op, [&](auto f) { keep_stage<S, true>(op, block, scratch, f); });
#endif
  with_activation<T>(op, [&](auto f) { keep_stage<S, false>(op, block, scratch, f); });
}

template <class S, int Src>
void finish_fused(const Op &op, const Block &block, Scratch &s, bool force, uint64_t *changed, float *squares) {
#if VF_TILES
  if constexpr (std::is_same_v<S, u8>)
    if (op.sums) return finish_activated<S, Src, true>(op, block, s, force, changed, squares);
#endif
  finish_activated<S, Src, false>(op, block, s, force, changed, squares);
}

}  // namespace VF_SPACE
}  // namespace vf
#endif
