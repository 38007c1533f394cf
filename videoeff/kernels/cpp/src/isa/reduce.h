// Sums over values, and whether all of them are finite.
#ifndef VIDEOEFF_REDUCE_H
#define VIDEOEFF_REDUCE_H

#include <algorithm>
#include <type_traits>

#include "vector.h"

namespace vf {
namespace VF_SPACE {

// Eight doubles, whatever the instruction set.
typedef double vwide __attribute__((vector_size(64)));
typedef float veight __attribute__((vector_size(32)));

VF_INLINE void load_wide(const float *p, vwide &v) {
  veight x;
  std::memcpy(&x, p, sizeof x);
  v = __builtin_convertvector(x, vwide);
}
VF_INLINE void load_wide(const double *p, vwide &v) { std::memcpy(&v, p, sizeof v); }
VF_INLINE void load_wide(const bf16 *p, vwide &v) {
  for (int i = 0; i < 8; i++) v[i] = widen(p[i]);
}

VF_INLINE void load_wide(const u8 *p, vwide &v) {
  for (int i = 0; i < 8; i++) v[i] = widen(p[i]);
}

// What 8 values, or one, stand for. Exact in double.
template <class S> VF_INLINE vwide decoded(const Grid<S> &grid, vwide x, int64_t c) {
  if constexpr (std::is_same_v<S, u8>)
    for (int i = 0; i < 8; i++)
      x[i] = (x[i] - double(grid.row(VF_GRID_ZERO)[c + i])) * double(grid.row(VF_GRID_SCALE)[c + i]);
  return x;
}
template <class S> VF_INLINE double decoded(const Grid<S> &grid, double x, int64_t c) {
  if constexpr (std::is_same_v<S, u8>)
    return (x - double(grid.row(VF_GRID_ZERO)[c])) * double(grid.row(VF_GRID_SCALE)[c]);
  else return x;
}

// Adds the sum and the sum of squares of a run of the value to sums[0] and sums[1].
template <class S> void moments(const Op &op, const Run &run, double *sums) {
  const vf_view &v = op.d.out;
  const S *from = static_cast<const S *>(v.data) + run.r * v.sr + run.y * v.sh + run.x * v.sw;
  double sum = 0, squares = 0;
  vwide many = {}, many_squares = {};
  const Grid<S> grid(v);
  auto row = [&](const S *p, int64_t n, int64_t stride) {
    int64_t i = 0;
    if (stride == 1)
      for (; i + 8 <= n; i += 8) {
        vwide x;
        load_wide(p + i, x);
        x = decoded(grid, x, i);
        many += x;
        many_squares += x * x;
      }
    for (; i < n; i++) {
      const double x = decoded(grid, double(widen(p[i * stride])), i);
      sum += x;
      squares += x * x;
    }
  };
  if (v.sc == 1 && v.sw == v.c && !std::is_same_v<S, u8>)
    row(from, int64_t(run.n) * v.c, 1);
  else
    for (int64_t p = 0; p < run.n; p++) row(from + p * v.sw, v.c, v.sc);
  for (int i = 0; i < 8; i++) sum += many[i], squares += many_squares[i];
  sums[0] += sum;
  sums[1] += squares;
}

// Adds the pixels of a run of a view to `sums`, one for each channel.
template <class S> void accumulate(const vf_view &v, const Run &run, double *sums) {
  const S *from = static_cast<const S *>(v.data) + run.r * v.sr + run.y * v.sh + run.x * v.sw;
  const Grid<S> grid(v);
  int64_t c = 0;
  if constexpr (std::is_same_v<S, u8>) {
    // Numbers are added first: their sums are exact in float, and what these stand for in double, in any order.
    constexpr int L = lanes<float>;
    const double pixels = run.n;
    for (; v.sc == 1 && run.n <= 1 << 16 && c + L <= v.c; c += L) {
      vfloat total = {};
      for (int64_t p = 0; p < run.n; p++) total += load(from + p * v.sw + c);
      alignas(64) float many[L];
      store(many, total);
      const float *zero = grid.row(VF_GRID_ZERO) + c, *scale = grid.row(VF_GRID_SCALE) + c;
      for (int k = 0; k < L; k++) sums[c + k] += (double(many[k]) - pixels * double(zero[k])) * double(scale[k]);
    }
  }
  if (v.sc == 1)
    for (; c + 8 <= v.c; c += 8) {
      vwide total, x;
      load_wide(sums + c, total);
      for (int64_t p = 0; p < run.n; p++) {
        load_wide(from + p * v.sw + c, x);
        total += decoded(grid, x, c);
      }
      std::memcpy(sums + c, &total, sizeof total);
    }
  for (; c < v.c; c++)
    for (int64_t p = 0; p < run.n; p++) sums[c] += decoded(grid, double(widen(from[p * v.sw + c * v.sc])), c);
}

// x 0 is zero for every finite x, else NaN.
template <class T> bool all_finite(const T *p, int64_t count) {
  constexpr int N = lanes<T>;
  for (int64_t at = 0; at < count; at += kFiniteChunk) {
    const int64_t n = std::min(kFiniteChunk, count - at);
    const T *from = p + at;
    vec<T> a = {}, b = {}, c = {}, d = {};
    int64_t i = 0;
    for (; i + 4 * N <= n; i += 4 * N) {
      a += load(from + i) * T(0);
      b += load(from + i + N) * T(0);
      c += load(from + i + 2 * N) * T(0);
      d += load(from + i + 3 * N) * T(0);
    }
    const vec<T> all = (a + b) + (c + d);
    T one = 0;
    for (int k = 0; k < N; k++) one += all[k];
    for (; i < n; i++) one += from[i] * T(0);
    if (one != 0) return false;
  }
  return true;
}
inline bool all_finite(const bf16 *p, int64_t count) {
  for (int64_t at = 0; at < count; at += kFiniteChunk) {
    const bf16 *from = p + at;
    const int64_t n = std::min(kFiniteChunk, count - at);
    uint16_t bad = 0;
    for (int64_t i = 0; i < n; i++) bad |= uint16_t(-((from[i].bits & 0x7f80) == 0x7f80));
    if (bad) return false;
  }
  return true;
}

}  // namespace VF_SPACE
}  // namespace vf
#endif
