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
VF_INLINE void maximum(const S *in, const vf_op &d, const int *range, typename Compute<S>::type *out, int n) {
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
  unrolled<V>([&](auto i) { store<T>(out + i * N, top[i]); });
}

template <class S> void maxpool(const Op &op, const Block &block, Scratch &scratch) {
  using T = typename Compute<S>::type;
  constexpr int N = lanes<T>;
  const vf_op &d = op.d;
  const vf_view &in = d.in;
  T *out = static_cast<T *>(scratch.reg[0]);
  for (int i = 0; i < block.count; i++) {
    const Run &run = block.runs[i];
    const int top = run.y * d.sy - d.py;
    int range[4];
    inside(top, d.dy, d.kh, in.h, range[0], range[1]);
    for (int j = 0; j < run.n; j++, out += op.ld) {
      const int left = (run.x + j) * d.sx - d.px;
      inside(left, d.dx, d.kw, in.w, range[2], range[3]);
      const S *from = static_cast<const S *>(in.data) + (run.r * in.sr + top * in.sh + left * in.sw);
      int c = 0;
      if (in.sc == 1) {
        for (; c + 4 * N <= in.c; c += 4 * N) maximum<4>(from + c, d, range, out + c, 4 * N);
        for (; c + 2 * N <= in.c; c += 2 * N) maximum<2>(from + c, d, range, out + c, 2 * N);
        for (; c + N <= in.c; c += N) maximum<1>(from + c, d, range, out + c, N);
      }
      for (; c < in.c; c += N) maximum<1>(from + c * in.sc, d, range, out + c, std::min(in.c - c, N));
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
VF_INLINE void add_taps(const Tap<S> *taps, int count, bool fresh, int64_t offset, int64_t stride,
                        typename Compute<S>::type *out, int n) {
  using T = typename Compute<S>::type;
  constexpr int N = lanes<T>;
  vec<T> acc[V];
  unrolled<V>([&](auto i) { acc[i] = fresh ? vec<T>{} : load(out + i * N); });
  for (int t = 0; t < count; t++) {
    const S *at = taps[t].at + offset;
    if (n == V * N && stride == 1)
      unrolled<V>([&](auto i) { acc[i] += taps[t].weight * load(at + i * N); });
    else
      acc[0] += taps[t].weight * load_any(at, stride, n);
  }
  unrolled<V>([&](auto i) { store<T>(out + i * N, acc[i]); });
}

template <class S>
VF_INLINE void flush_taps(const Tap<S> *taps, int count, bool fresh, const vf_view &in,
                          typename Compute<S>::type *out) {
  constexpr int N = lanes<typename Compute<S>::type>;
  int c = 0;
  if (in.sc == 1) {
    for (; c + 4 * N <= in.c; c += 4 * N) add_taps<4>(taps, count, fresh, c, 1, out + c, 4 * N);
    for (; c + 2 * N <= in.c; c += 2 * N) add_taps<2>(taps, count, fresh, c, 1, out + c, 2 * N);
    for (; c + N <= in.c; c += N) add_taps<1>(taps, count, fresh, c, 1, out + c, N);
  }
  for (; c < in.c; c += N) add_taps<1>(taps, count, fresh, c * in.sc, in.sc, out + c, std::min(in.c - c, N));
}

template <class S> void separable(const Op &op, const Block &block, Scratch &scratch) {
  using T = typename Compute<S>::type;
  constexpr int kTaps = 64;  // at a time
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
