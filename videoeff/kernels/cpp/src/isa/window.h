// Windows without weights of their own: maximum pooling, and separable sums (resampling, average pooling).
#ifndef VIDEOEFF_WINDOW_H
#define VIDEOEFF_WINDOW_H

#include <algorithm>

#include "depthwise.h"
#include "vmath.h"

namespace vf {
namespace VF_SPACE {

// The maximum of a pixel, V vectors of channels from `in` (the first tap) on.
template <int V, class S>
VF_INLINE void maximum(const S *in, const vf_op &d, const int *range, typename Compute<S>::type *out, int64_t c, int n) {
  using T = typename Compute<S>::type;
  constexpr int N = lanes<T>;
  vec<T> top[V];
  unrolled<V>([&](auto i) { top[i] = broadcast(T(-INFINITY)); });
  for (int ky = range[0]; ky < range[1]; ky++)
    for (int kx = range[2]; kx < range[3]; kx++) {
      const S *tap = in + int64_t(ky) * d.dy * d.in.sh + int64_t(kx) * d.dx * d.in.sw;
      if (n == V * N && d.in.sc == 1)
        unrolled<V>([&](auto i) { top[i] = vmaximum(load(tap + i * N), top[i]); });
      else
        top[0] = vmaximum(load_any(tap, d.in.sc, n), top[0]);
    }
  const Grid<S> grid(d.in);  // scales are above 0: the largest number stands for the largest value
  unrolled<V>([&](auto i) { store<T>(out + i * N, grid.decode(top[i], c + i * N)); });
}

template <class S> void maxpool(const Op &op, const Block &block, Scratch &scratch) {
  using T = typename Compute<S>::type;
  constexpr int N = lanes<T>;
  const vf_op &d = op.d;
  const vf_view &in = d.in;
  T *out = static_cast<T *>(scratch.reg[0]);
  const S *origin = static_cast<const S *>(op.reads == Op::kLineBuffer ? scratch.line_buffer : in.data);
  for (int i = 0; i < block.count; i++) {
    const Run &run = block.runs[i];
    const int top = run.y * d.sy - d.py;
    int range[4];
    inside(top, d.dy, d.kh, in.h, range[0], range[1]);
    for (int j = 0; j < run.n; j++, out += op.ld) {
      const int left = (run.x + j) * d.sx - d.px;
      inside(left, d.dx, d.kw, in.w, range[2], range[3]);
      const S *from = origin + (run.r * in.sr + top * in.sh + left * in.sw);
      int c = 0;
      if (in.sc == 1) {
        for (; c + 4 * N <= in.c; c += 4 * N) maximum<4>(from + c, d, range, out + c, c, 4 * N);
        for (; c + 2 * N <= in.c; c += 2 * N) maximum<2>(from + c, d, range, out + c, c, 2 * N);
        for (; c + N <= in.c; c += N) maximum<1>(from + c, d, range, out + c, c, N);
      }
      for (; c < in.c; c += N) maximum<1>(from + c * in.sc, d, range, out + c, c, std::min(in.c - c, N));
    }
  }
}

// A tap of a pixel: where, and its weight.
template <class S> struct Tap {
  const S *at;
  typename Compute<S>::type weight;
};

// The sum of a few taps, added to what `out` holds unless `fresh`; V vectors of channels from c on.
template <int V, class S>
VF_INLINE void add_taps(const Grid<S> &grid, const Tap<S> *taps, int count, bool fresh, int64_t c, int64_t stride,
                        typename Compute<S>::type *out, int n) {
  using T = typename Compute<S>::type;
  constexpr int N = lanes<T>;
  vec<T> acc[V];
  unrolled<V>([&](auto i) { acc[i] = fresh ? vec<T>{} : load(out + i * N); });
  for (int t = 0; t < count; t++) {
    const S *at = taps[t].at + c * stride;
    if (n == V * N && stride == 1)
      unrolled<V>([&](auto i) { acc[i] += taps[t].weight * grid.decode(load(at + i * N), c + i * N); });
    else
      acc[0] += taps[t].weight * grid.decode(load_any(at, stride, n), c);
  }
  unrolled<V>([&](auto i) { store<T>(out + i * N, acc[i]); });
}

template <class S>
VF_INLINE void flush_taps(const Tap<S> *taps, int count, bool fresh, const vf_view &in,
                          typename Compute<S>::type *out) {
  constexpr int N = lanes<typename Compute<S>::type>;
  const Grid<S> grid(in);
  int c = 0;
  if (in.sc == 1) {
    for (; c + 4 * N <= in.c; c += 4 * N) add_taps<4>(grid, taps, count, fresh, c, 1, out + c, 4 * N);
    for (; c + 2 * N <= in.c; c += 2 * N) add_taps<2>(grid, taps, count, fresh, c, 1, out + c, 2 * N);
    for (; c + N <= in.c; c += N) add_taps<1>(grid, taps, count, fresh, c, 1, out + c, N);
  }
  for (; c < in.c; c += N) add_taps<1>(grid, taps, count, fresh, c, in.sc, out + c, std::min(in.c - c, N));
}

// Columns that any kStretch pixels of a row read, where it pays to sum over rows first: with several taps both ways, and
// hardly more columns than pixels, as in enlarging. Else 0.
inline int32_t find_span(const Op &op) {
  const vf_op &d = op.d;
  if (d.kind != VF_SEPARABLE || d.in.sc != 1 || d.ty < 2 || d.tx < 2) return 0;
  int32_t most = 0;
  for (int32_t x = 0; x < d.out.w; x++) {
    const auto range = std::minmax_element(op.ix.data() + int64_t(x) * d.tx,
                                           op.ix.data() + int64_t(std::min(x + kStretch, d.out.w)) * d.tx);
    most = std::max(most, *range.second - *range.first + 1);
  }
  return most <= kStretch + 2 * d.tx ? most : 0;
}

// Up to kStretch pixels of a run: the columns they read are summed over the rows, then each pixel over its columns.
template <class S>
void stretch(const Op &op, const Run &run, typename Compute<S>::type *sums, typename Compute<S>::type *out) {
  using T = typename Compute<S>::type;
  constexpr int N = lanes<T>;
  const vf_op &d = op.d;
  const int64_t ld = round_up(d.in.c, N);
  const int32_t *iy = op.iy.data() + int64_t(run.y) * d.ty, *ix = op.ix.data() + int64_t(run.x) * d.tx;
  const double *wy = op.wy.data() + int64_t(run.y) * d.ty, *wx = op.wx.data() + int64_t(run.x) * d.tx;
  const auto range = std::minmax_element(ix, ix + int64_t(run.n) * d.tx);
  const int32_t low = *range.first, columns = *range.second - low + 1;
  const S *data = static_cast<const S *>(d.in.data) + run.r * d.in.sr + low * d.in.sw;
  const Grid<S> grid(d.in);
  bool fresh = true;
  for (int a = 0; a < d.ty; a++) {
    if (wy[a] == 0 && !(fresh && a + 1 == d.ty)) continue;
    const T weight = T(wy[a]);
    const S *from = data + iy[a] * d.in.sh;
    T *to = sums;
    for (int32_t x = 0; x < columns; x++, from += d.in.sw, to += ld) {
      int32_t c = 0;
      for (; c + N <= d.in.c; c += N)
        store<T>(to + c, weight * grid.decode(load(from + c), c) + (fresh ? vec<T>{} : load(to + c)));
      if (c < d.in.c)
        store<T>(to + c, weight * grid.decode(load_part(from + c, d.in.c - c), c) + (fresh ? vec<T>{} : load(to + c)));
    }
    fresh = false;
  }
  for (int32_t i = 0; i < run.n; i++, ix += d.tx, wx += d.tx, out += op.ld)
    for (int64_t c = 0; c < ld; c += N) {
      vec<T> acc = {};
      for (int b = 0; b < d.tx; b++) acc += T(wx[b]) * load(sums + (ix[b] - low) * ld + c);
      store<T>(out + c, acc);
    }
}

template <class S> void separable(const Op &op, const Block &block, Scratch &scratch) {
  using T = typename Compute<S>::type;
  if (op.span) {
    T *out = static_cast<T *>(scratch.reg[0]);
    for (int i = 0; i < block.count; i++) {
      const Run &run = block.runs[i];
      for (int32_t at = 0, n; at < run.n; at += n, out += int64_t(n) * op.ld) {
        n = std::min(run.n - at, kStretch);
        stretch<S>(op, {run.r, run.y, run.x + at, n}, static_cast<T *>(scratch.temp), out);
      }
    }
    return;
  }
  const vf_op &d = op.d;
  const vf_view &in = d.in;
  T *out = static_cast<T *>(scratch.reg[0]);
  Tap<S> taps[kTaps];
  for (int i = 0; i < block.count; i++) {
    const Run &run = block.runs[i];
    const int32_t *iy = op.iy.data() + int64_t(run.y) * d.ty;
    const double *wy = op.wy.data() + int64_t(run.y) * d.ty;
    for (int j = 0; j < run.n; j++, out += op.ld) {
      const int32_t *ix = op.ix.data() + int64_t(run.x + j) * d.tx;
      const double *wx = op.wx.data() + int64_t(run.x + j) * d.tx;
      const S *from = static_cast<const S *>(in.data) + run.r * in.sr;
      int count = 0;
      bool fresh = true;
      for (int a = 0; a < d.ty; a++)
        for (int b = 0; b < d.tx; b++) {
          const T weight = T(wy[a] * wx[b]);
          if (weight == 0) continue;
          if (count == kTaps) {
            flush_taps(taps, count, fresh, in, out);
            count = 0, fresh = false;
          }
          taps[count++] = {from + iy[a] * in.sh + ix[b] * in.sw, weight};
        }
      flush_taps(taps, count, fresh, in, out);
    }
  }
}

}  // namespace VF_SPACE
}  // namespace vf
#endif
