// Depthwise convolutions: every channel by itself, vectors along the channels, a few neighbouring pixels at once.
#ifndef VIDEOEFF_DEPTHWISE_H
#define VIDEOEFF_DEPTHWISE_H

#include <algorithm>
#include <utility>

#include "vector.h"

namespace vf {
namespace VF_SPACE {

// Packs d.weight (C, 1, kh, kw) as (kh, kw, C padded to 16) and d.bias as (C padded).
template <class S> void pack_depthwise(Op &op) {
  using T = typename Compute<S>::type;
  const vf_op &d = op.d;
  const int64_t c = d.in.c, padded = (c + 15) / 16 * 16, taps = int64_t(d.kh) * d.kw;
  op.depthwise = true;
  op.weight.reserve(size_t(taps * padded) * sizeof(T));
  op.bias.reserve(size_t(padded) * sizeof(T));
  T *weight = static_cast<T *>(op.weight.data), *bias = static_cast<T *>(op.bias.data);
  const S *from = static_cast<const S *>(d.weight), *from_bias = static_cast<const S *>(d.bias);
  for (int64_t t = 0; t < taps; t++)
    for (int64_t i = 0; i < padded; i++) weight[t * padded + i] = i < c ? T(widen(from[i * taps + t])) : T(0);
  for (int64_t i = 0; i < padded; i++) bias[i] = i < c && from_bias ? T(widen(from_bias[i])) : T(0);
}

// f(0), f(1), .. f(count - 1) with constants as arguments, so that arrays indexed by them stay in registers.
template <class F, int... I> VF_INLINE void unrolled(std::integer_sequence<int, I...>, F f) {
  (f(std::integral_constant<int, I>{}), ...);
}
template <int Count, class F> VF_INLINE void unrolled(F f) { unrolled(std::make_integer_sequence<int, Count>{}, f); }

// The part of a window that lies inside the input: taps first .. last - 1 of `taps` at start + k dilation.
VF_INLINE void inside(int start, int dilation, int taps, int extent, int &first, int &last) {
  first = start < 0 ? std::min((-start + dilation - 1) / dilation, taps) : 0;
  const int room = extent - start;
  last = room <= 0 ? 0 : std::min((room + dilation - 1) / dilation, taps);
  last = std::max(last, first);
}

// What one group of output pixels needs. `in` is the first tap of the first pixel.
template <class S> struct Window {
  using T = typename Compute<S>::type;
  const S *in;
  int64_t row, column;  // input elements between taps below and beside one another
  int64_t step;         // input elements between output pixels
  const T *weight, *bias;
  int64_t padded;       // elements of a tap's weights
  int first_y, last_y, first_x, last_x, kw;
  T *out;
  int64_t ld;
};

// G pixels whose columns are all inside, KW taps a row, neighbouring taps `column` apart, pixels SX columns apart.
// An input vector is loaded once for all the pixels it reaches.
template <int KW, int SX, int G, bool Whole, class S>
VF_INLINE void shared_group(const Window<S> &w, int64_t c, int n) {
  using T = typename Compute<S>::type;
  vec<T> acc[G];
  const vec<T> bias = load(w.bias + c);
  unrolled<G>([&](auto g) { acc[g] = bias; });
  for (int ky = w.first_y; ky < w.last_y; ky++) {
    const S *in = w.in + ky * w.row + c;
    const T *weight = w.weight + ky * KW * w.padded + c;
    vec<T> k[KW];
    unrolled<KW>([&](auto i) { k[i] = load(weight + i * w.padded); });
    unrolled<(G - 1) * SX + KW>([&](auto j) {
      const vec<T> v = Whole ? load(in + j * w.column) : load_part(in + j * w.column, n);
      unrolled<G>([&](auto g) {
        constexpr int tap = j - g * SX;
        if constexpr (tap >= 0 && tap < KW) acc[g] += v * k[tap];
      });
    });
  }
  unrolled<G>([&](auto g) { store<T>(w.out + g * w.ld + c, acc[g]); });
}

// G pixels with the same taps inside, any kernel.
template <int G, bool Whole, class S> VF_INLINE void any_group(const Window<S> &w, int64_t c, int n) {
  using T = typename Compute<S>::type;
  vec<T> acc[G];
  const vec<T> bias = load(w.bias + c);
  unrolled<G>([&](auto g) { acc[g] = bias; });
  for (int ky = w.first_y; ky < w.last_y; ky++)
    for (int kx = w.first_x; kx < w.last_x; kx++) {
      const vec<T> k = load(w.weight + (int64_t(ky) * w.kw + kx) * w.padded + c);
      const S *in = w.in + ky * w.row + kx * w.column + c;
      unrolled<G>([&](auto g) {
        acc[g] += k * (Whole ? load(in + g * w.step) : load_part(in + g * w.step, n));
      });
    }
  unrolled<G>([&](auto g) { store<T>(w.out + g * w.ld + c, acc[g]); });
}

template <int KW, int SX, int G, class S> void channels(const Window<S> &w, int64_t count) {
  using T = typename Compute<S>::type;
  int64_t c = 0;
  if constexpr (KW > 0) {
    for (; c + lanes<T> <= count; c += lanes<T>) shared_group<KW, SX, G, true>(w, c, 0);
    if (c < count) shared_group<KW, SX, G, false>(w, c, int(count - c));
  } else {
    for (; c + lanes<T> <= count; c += lanes<T>) any_group<G, true>(w, c, 0);
    if (c < count) any_group<G, false>(w, c, int(count - c));
  }
}

// One pixel, channels not next to one another.
template <class S> void scattered(const Window<S> &w, int64_t stride, int64_t count) {
  using T = typename Compute<S>::type;
  for (int64_t c = 0; c < count; c += lanes<T>) {
    const int n = int(std::min<int64_t>(count - c, lanes<T>));
    vec<T> acc = load(w.bias + c);
    for (int ky = w.first_y; ky < w.last_y; ky++)
      for (int kx = w.first_x; kx < w.last_x; kx++)
        acc += load(w.weight + (int64_t(ky) * w.kw + kx) * w.padded + c) *
               load_strided(w.in + ky * w.row + kx * w.column + c * stride, stride, n);
    store<T>(w.out + c, acc);
  }
}

template <int KW, int SX, int G, class S> void depthwise_runs(const Op &op, const Block &block, Scratch &scratch) {
  using T = typename Compute<S>::type;
  const vf_op &d = op.d;
  const vf_view &in = d.in;
  Window<S> w;
  w.row = in.sh * d.dy, w.column = in.sw * d.dx, w.step = in.sw * d.sx;
  w.weight = static_cast<const T *>(op.weight.data), w.bias = static_cast<const T *>(op.bias.data);
  w.padded = (in.c + 15) / 16 * 16;
  w.kw = d.kw, w.ld = op.ld;
  w.out = static_cast<T *>(scratch.reg[0]);
  const int reach = (d.kw - 1) * d.dx;
  for (int i = 0; i < block.count; i++) {
    const Run &run = block.runs[i];
    const int top = run.y * d.sy - d.py;
    inside(top, d.dy, d.kh, in.h, w.first_y, w.last_y);
    const int64_t line = run.r * in.sr + top * in.sh;  // may lie above the input: only rows inside are read
    for (int j = 0; j < run.n;) {
      const int left = (run.x + j) * d.sx - d.px;
      w.in = static_cast<const S *>(in.data) + (line + left * in.sw);
      const int last = left + (G - 1) * d.sx + reach;
      int done = 1;
      if (in.sc == 1 && run.n - j >= G && left >= 0 && last < in.w) {
        w.first_x = 0, w.last_x = d.kw;
        channels<KW, SX, G>(w, in.c);
        done = G;
      } else {
        inside(left, d.dx, d.kw, in.w, w.first_x, w.last_x);
        if (in.sc == 1) channels<0, 0, 1>(w, in.c);
        else scattered(w, in.sc, in.c);
      }
      j += done;
      w.out += done * w.ld;
    }
  }
}

template <class S> void depthwise(const Op &op, const Block &block, Scratch &scratch) {
  constexpr int G = VF_ISA == 2 ? 8 : 4;
  const vf_op &d = op.d;
  const bool near = d.dx == 1;
  if (near && d.kw == 3 && d.sx == 1) return depthwise_runs<3, 1, G, S>(op, block, scratch);
  if (near && d.kw == 3 && d.sx == 2) return depthwise_runs<3, 2, 4, S>(op, block, scratch);
  if (near && d.kw == 5 && d.sx == 1) return depthwise_runs<5, 1, G, S>(op, block, scratch);
  if (near && d.kw == 5 && d.sx == 2) return depthwise_runs<5, 2, 4, S>(op, block, scratch);
  if (near && d.kw == 7 && d.sx == 1) return depthwise_runs<7, 1, G, S>(op, block, scratch);
  depthwise_runs<0, 0, G, S>(op, block, scratch);
}

}  // namespace VF_SPACE
}  // namespace vf
#endif
