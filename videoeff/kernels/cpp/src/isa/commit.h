// The change test of a block whose values lie in register 0: store what moved, say which pixels those are.
#ifndef VIDEOEFF_COMMIT_H
#define VIDEOEFF_COMMIT_H

#include <algorithm>
#include <cmath>
#include <type_traits>

#include "vector.h"

namespace vf {
namespace VF_SPACE {

// A value as it will be read back from memory.
template <class S> VF_INLINE vec<compute<S>> rounded(vec<compute<S>> v) {
  if constexpr (sizeof(S) == 2) {  // as `narrow`
    const vbits bits = (vbits)v, up = bits + 0x7fffu + ((bits >> 16) & 1u);
    return (vfloat)((v != v ? bits | 0x400000u : up) & 0xffff0000u);
  }
  if constexpr (sizeof(S) == 1) {
    const vfloat magic = broadcast(12582912.0f);  // halves go to the even number
    v = v + magic;
    return v - magic;
  }
  return v;
}

// How far a value moved from the one kept, `n` channels from c on. Of a number that was rounded: how far beyond what
// rounding alone may have done, half a step.
template <class S> VF_INLINE vec<compute<S>> change(const Grid<S> &g, vec<compute<S>> v, vec<compute<S>> old, int64_t c) {
  if constexpr (sizeof(S) == 1) {
    const vfloat d = v - old, far = (d < 0 ? -d : d) - 0.5f;
    return g.span(far > 0 ? far : vfloat{}, c);
  } else {
    return g.span(rounded<S>(v) - old, c);
  }
}

// What `store` takes: it rounds other types itself.
template <class S> VF_INLINE vec<compute<S>> stored(vec<compute<S>> v) {
  if constexpr (sizeof(S) == 1) return rounded<S>(v);
  else return v;
}

// Neighbouring channels (out.sc == 1). Rows of numbers lie in registers as they are before they are rounded.
template <class S> VF_INLINE bool differs(const compute<S> *v, const S *o, int32_t c) {
  using T = compute<S>;
  constexpr int L = lanes<T>;
  Difference<T> moved;
  int32_t k = 0;
  for (; k + L <= c; k += L) moved.add(rounded<S>(load(v + k)), load(o + k));
  if (k < c) moved.add(rounded<S>(load_part(v + k, c - k)), load_part(o + k, c - k));
  return moved.found();
}
template <class S> VF_INLINE void copy_row(const compute<S> *v, S *o, int32_t c) {
  using T = compute<S>;
  constexpr int L = lanes<T>;
  int32_t k = 0;
  for (; k + L <= c; k += L) store(o + k, stored<S>(load(v + k)));
  if (k < c) store_part(o + k, stored<S>(load_part(v + k, c - k)), c - k);
}
// Compare and store at once; most pixels that are computed have changed.
template <class S> VF_INLINE bool exchange(const compute<S> *v, S *o, int32_t c) {
  using T = compute<S>;
  constexpr int L = lanes<T>;
  Difference<T> moved;
  int32_t k = 0;
  for (; k + L <= c; k += L) {
    vec<T> x = stored<S>(load(v + k));
    moved.add(rounded<S>(x), load(o + k));
    store(o + k, x);
  }
  if (k < c) {
    vec<T> x = stored<S>(load_part(v + k, c - k));
    moved.add(rounded<S>(x), load_part(o + k, c - k));
    store_part(o + k, x, c - k);
  }
  return moved.found();
}
template <class S> VF_INLINE compute<S> square_sum(const Grid<S> &g, const compute<S> *v, const S *o, int32_t c) {
  using T = compute<S>;
  constexpr int L = lanes<T>;
  vec<T> a = {}, b = {};
  int32_t k = 0;
  for (; k + 2 * L <= c; k += 2 * L) {
    vec<T> d = change<S>(g, load(v + k), load(o + k), k), e = change<S>(g, load(v + k + L), load(o + k + L), k + L);
    a += d * d, b += e * e;
  }
  for (; k < c; k += L) {
    int n = c - k < L ? int(c - k) : L;
    vec<T> d = n == L ? change<S>(g, load(v + k), load(o + k), k) : change<S>(g, load_part(v + k, n), load_part(o + k, n), k);
    a += d * d;
  }
  return sum<T>(a + b);
}
// NaN where a channel is NaN.
template <class S> VF_INLINE compute<S> largest(const Grid<S> &g, const compute<S> *v, const S *o, int32_t c) {
  using T = compute<S>;
  constexpr int L = lanes<T>;
  vec<T> a = {}, bad = {};
  for (int32_t k = 0; k < c; k += L) {
    int n = c - k < L ? int(c - k) : L;
    vec<T> d = n == L ? change<S>(g, load(v + k), load(o + k), k) : change<S>(g, load_part(v + k, n), load_part(o + k, n), k);
    d = absolute<T>(d);
    bad += d - d;  // infinity also counts: it exceeds every limit
    a = d > a ? d : a;
  }
  T most = sum<T>(bad);
  for (int i = 0; i < L; i++) most = a[i] > most ? a[i] : most;
  return most;
}

template <class S> VF_INLINE compute<S> one_stored(compute<S> v) {
  if constexpr (sizeof(S) == 1) return stored<S>(broadcast(v))[0];
  else return v;
}

template <class S>
void commit(const Op &op, const Block &block, Scratch &scratch, bool force, uint64_t *changed, float *squares) {
  using T = compute<S>;
  const vf_op &d = op.d;
  T *value = static_cast<T *>(scratch.reg[0]);
  const int32_t c = d.out.c;
  const Grid<S> grid(d.out);
  const int64_t sw = d.out.sw, sc = d.out.sc;
  const bool exact = d.threshold == 0;
  int32_t p = 0;
  for (int32_t i = 0; i < (block.pixels + 63) / 64; i++) changed[i] = 0;
  for (int32_t k = 0; k < block.count; k++) {
    const Run &run = block.runs[k];
    S *o = static_cast<S *>(d.out.data) + run.r * d.out.sr + run.y * d.out.sh + run.x * sw;
    const T limit = d.relative ? T(float(d.threshold) * d.scale[run.r]) : T(d.threshold);
    for (int32_t i = 0; i < run.n; i++, p++, o += sw, value += op.ld) {
      bool moved;
      if constexpr (std::is_same_v<S, u8>)
        for (int32_t j = 0; j < c; j += lanes<T>) store<T>(value + j, grid.steps(load(value + j), j));
      if (sc == 1 && force) {
        copy_row<S>(value, o, c);
        moved = true;
      } else if (sc == 1 && exact && !squares) {
        moved = exchange<S>(value, o, c);
      } else if (sc == 1) {
        T energy = 0;
        if (exact) {
          moved = differs<S>(value, o, c);
          if (moved) energy = square_sum<S>(grid, value, o, c);
        } else if (d.test == VF_TEST_MAX) {
          moved = !(largest<S>(grid, value, o, c) <= limit);
          if (moved && squares) energy = square_sum<S>(grid, value, o, c);
        } else {
          energy = square_sum<S>(grid, value, o, c);
          moved = !(std::sqrt(d.test == VF_TEST_RMS ? energy / T(c) : energy) <= limit);
        }
        if (squares) squares[p] = float(energy / T(c));
        if (moved) copy_row<S>(value, o, c);
      } else {
        T energy = 0, most = 0, bad = 0;
        bool differ = false;
        for (int32_t j = 0; j < c; j++) {
          S now;
          narrow(one_stored<S>(value[j]), &now);
          T e = widen(now), old = widen(o[j * sc]);
          T x = std::is_same_v<S, u8> ? std::max(std::fabs(value[j] - old) - T(0.5), T(0)) : std::fabs(e - old);
          x = grid.span_one(x, j);
          differ |= e != old;
          energy += x * x, bad += x - x;
          most = x > most ? x : most;
        }
        most += bad;
        moved = force || (exact                       ? differ
                          : d.test == VF_TEST_MAX     ? !(most <= limit)
                          : d.test == VF_TEST_RMS     ? !(std::sqrt(energy / T(c)) <= limit)
                                                      : !(std::sqrt(energy) <= limit));
        if (squares) squares[p] = float(energy / T(c));
        if (moved)
          for (int32_t j = 0; j < c; j++) narrow(one_stored<S>(value[j]), o + j * sc);
      }
      if (squares && force) squares[p] = 0;
      changed[p >> 6] |= uint64_t(moved) << (p & 63);
    }
  }
}

}  // namespace VF_SPACE
}  // namespace vf
#endif
