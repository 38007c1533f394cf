// Depthwise convolutions: every channel by itself, vectors along the channels, a few neighbouring pixels at once.
#ifndef VIDEOEFF_DEPTHWISE_H
#define VIDEOEFF_DEPTHWISE_H

#include <algorithm>
#include <type_traits>
#include <utility>

#include "vector.h"

namespace vf {
namespace VF_SPACE {

// Packs d.weight (C, 1, kh, kw) as (kh, kw, C padded to 16) and d.bias as (C padded); behind that, where the input is of
// numbers, the zeros of its grid and what a product of 1 stands for.
template <class S> void pack_depthwise(Op &op) {
  using T = typename Compute<S>::type;
  const vf_op &d = op.d;
  const int64_t c = d.in.c, padded = (c + 15) / 16 * 16, taps = int64_t(d.kh) * d.kw;
  op.depthwise = true;
  op.weight.reserve(size_t(taps * padded) * sizeof(T));
  op.bias.reserve(size_t(padded) * 4 * sizeof(T));
  T *weight = static_cast<T *>(op.weight.data), *bias = static_cast<T *>(op.bias.data);
  using W = std::conditional_t<std::is_same_v<S, u8>, float, S>;
  const W *from = static_cast<const W *>(d.weight), *from_bias = static_cast<const W *>(d.bias);
  if constexpr (std::is_same_v<S, u8>) {
    const Grid<u8> grid(d.in);
    for (int64_t i = 0; i < padded; i++) {
      bias[padded + i] = i < c ? grid.row(VF_GRID_ZERO)[i] : 0.0f;
      bias[2 * padded + i] = i < c ? grid.row(VF_GRID_SCALE)[i] * (d.factors ? d.factors[i] : 1.0f) : 0.0f;
    }
  }
  // a sum over the whole window less the zeros: begun with, they need not be taken from each number
  if constexpr (std::is_same_v<S, u8>)
    for (int64_t i = 0; i < c; i++) {
      T all = 0;
      for (int64_t t = 0; t < taps; t++) all += from[i * taps + t];
      bias[3 * padded + i] = -bias[padded + i] * all;
    }
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

// What one group of output pixels needs. `in` is the first tap of the first pixel: it may lie outside the input, of
// which only the taps inside are read.
template <class S> struct Window {
  using T = typename Compute<S>::type;
  const S *origin, *in;
  int64_t row, column;  // input elements between taps below and beside one another
  int64_t step;         // input elements between output pixels
  const T *weight, *bias;
  int64_t padded;       // elements of a tap's weights
  int first_y, last_y;  // rows of the window inside the input
  int first_x, last_x;  // columns inside: of the window, or of all that a group reads
  int kw, kh;
  T *out;
  int64_t ld;
  const S *old = nullptr;  // the value kept of a group's first pixel, which the test will want
  int64_t old_step;
  bool asks_old;

  Window(const Op &op, const Scratch &scratch) {
    const vf_op &d = op.d;
    row = d.in.sh * d.dy, column = d.in.sw * d.dx, step = d.in.sw * d.sx;
    weight = static_cast<const T *>(op.weight.data), bias = static_cast<const T *>(op.bias.data);
    padded = (d.in.c + 15) / 16 * 16;
    kw = d.kw, kh = d.kh, ld = op.ld;
    asks_old = d.out.sc == 1 && !op.stage && d.out.dtype == d.in.dtype, old_step = d.out.sw;
    origin = static_cast<const S *>(op.reads == Op::kLineBuffer ? scratch.line_buffer : d.in.data);
    out = static_cast<T *>(writes_in_place(op) ? scratch.rows : scratch.reg[0]);
  }
  static constexpr bool Numbers = std::is_same_v<S, u8>;
  // A vector of the input, of numbers less the one that stands for zero; what sums begin with; and what they stand for.
  template <bool Inside = false> VF_INLINE vec<T> centred(vec<T> v, int64_t c) const {
    if constexpr (Numbers && !Inside) return v - load(bias + padded + c);
    else return v;
  }
  template <bool Inside = false> VF_INLINE vec<T> begin(int64_t c) const {
    if constexpr (Numbers) return Inside ? load(bias + 3 * padded + c) : vec<T>{};
    else return load(bias + c);
  }
  VF_INLINE vec<T> end(vec<T> sum, int64_t c) const {
    if constexpr (Numbers) return sum * load(bias + 2 * padded + c) + load(bias + c);
    else return sum;
  }
  // Go to output pixel (r, y, x), whose group reads `columns` columns.
  VF_INLINE void place(const vf_op &d, int r, int y, int x, int columns) {
    const int top = y * d.sy - d.py, left = x * d.sx - d.px;
    inside(top, d.dy, d.kh, d.in.h, first_y, last_y);
    inside(left, d.dx, columns, d.in.w, first_x, last_x);
    in = origin + (r * d.in.sr + top * d.in.sh + left * d.in.sw);
    if (asks_old) old = static_cast<const S *>(d.out.data) + (r * d.out.sr + y * d.out.sh + x * d.out.sw);
  }
};

// G pixels of a run, KW taps a row, neighbouring taps `column` apart, pixels SX columns apart. An input vector is
// loaded once for all the pixels it reaches.
template <int KW, int SX, int G, bool Edge, bool Whole, bool Inside, class S>
VF_INLINE void shared_vector(const Window<S> &w, int64_t c, int n) {
  using T = typename Compute<S>::type;
  vec<T> acc[G];
  unrolled<G>([&](auto g) { acc[g] = w.template begin<Inside>(c); });
  for (int ky = w.first_y; ky < w.last_y; ky++) {
    const S *in = w.in + ky * w.row + c;
    const T *weight = w.weight + ky * KW * w.padded + c;
    vec<T> k[KW];
    unrolled<KW>([&](auto i) { k[i] = load(weight + i * w.padded); });
    unrolled<(G - 1) * SX + KW>([&](auto j) {
      if (Edge && (j < w.first_x || j >= w.last_x)) return;
      const vec<T> v = w.template centred<Inside>(Whole ? load(in + j * w.column) : load_part(in + j * w.column, n), c);
      unrolled<G>([&](auto g) {
        constexpr int tap = j - g * SX;
        if constexpr (tap >= 0 && tap < KW) acc[g] += v * k[tap];
      });
    });
  }
  if (w.old) unrolled<G>([&](auto g) { __builtin_prefetch(w.old + g * w.old_step + c, 0, 2); });
  unrolled<G>([&](auto g) { store<T>(w.out + g * w.ld + c, w.end(acc[g], c)); });
}

template <int KW, int SX, int G, class S> void shared_group(const Window<S> &w, int64_t channels) {
  constexpr int N = lanes<typename Compute<S>::type>;
  int64_t c = 0;
  if (w.first_x == 0 && w.last_x == (G - 1) * SX + KW) {
    if (Window<S>::Numbers && w.first_y == 0 && w.last_y == w.kh)
      for (; c + N <= channels; c += N) shared_vector<KW, SX, G, false, true, true>(w, c, N);
    else
      for (; c + N <= channels; c += N) shared_vector<KW, SX, G, false, true, false>(w, c, N);
  } else {
    for (; c + N <= channels; c += N) shared_vector<KW, SX, G, true, true, false>(w, c, N);
  }
  if (c < channels) shared_vector<KW, SX, G, true, false, false>(w, c, int(channels - c));
}

// A few pixels more than a run has may be computed: their rows are those of the next run, or spare.
template <int KW, int SX, int G, class S> void shared_runs(const Op &op, const Block &block, Scratch &scratch) {
  const vf_op &d = op.d;
  Window<S> w(op, scratch);
  auto group = [&](const Run &run, int j, auto size) {
    constexpr int Size = size;
    w.place(d, run.r, run.y, run.x + j, (Size - 1) * SX + KW);
    shared_group<KW, SX, Size>(w, d.in.c);
    const int done = std::min(Size, run.n - j);
    w.out += done * w.ld;
    return done;
  };
  for (int i = 0; i < block.count; i++) {
    const Run &run = block.runs[i];
    for (int j = 0; j < run.n;) {
      const int left = run.n - j;
      if (left > 4 || (G == 4 && left > 1)) j += group(run, j, std::integral_constant<int, G>{});
      else if (left > 1) j += group(run, j, std::integral_constant<int, 4>{});
      else j += group(run, j, std::integral_constant<int, 1>{});
    }
  }
}

// G pixels with all their taps in the same columns of the window, any kernel.
template <int G, bool Whole, class S> VF_INLINE void any_vector(const Window<S> &w, int64_t c, int n) {
  using T = typename Compute<S>::type;
  vec<T> acc[G];
  unrolled<G>([&](auto g) { acc[g] = w.begin(c); });
  for (int ky = w.first_y; ky < w.last_y; ky++)
    for (int kx = w.first_x; kx < w.last_x; kx++) {
      const vec<T> k = load(w.weight + (int64_t(ky) * w.kw + kx) * w.padded + c);
      const S *in = w.in + ky * w.row + kx * w.column + c;
      unrolled<G>([&](auto g) { acc[g] += k * w.centred(Whole ? load(in + g * w.step) : load_part(in + g * w.step, n), c); });
    }
  unrolled<G>([&](auto g) { store<T>(w.out + g * w.ld + c, w.end(acc[g], c)); });
}

template <int G, class S> void any_group(const Window<S> &w, int64_t channels) {
  constexpr int N = lanes<typename Compute<S>::type>;
  int64_t c = 0;
  for (; c + N <= channels; c += N) any_vector<G, true>(w, c, N);
  if (c < channels) any_vector<G, false>(w, c, int(channels - c));
}

// One pixel, channels not next to one another.
template <class S> void scattered_pixel(const Window<S> &w, int64_t stride, int64_t channels) {
  using T = typename Compute<S>::type;
  for (int64_t c = 0; c < channels; c += lanes<T>) {
    const int n = int(std::min<int64_t>(channels - c, lanes<T>));
    vec<T> acc = w.begin(c);
    for (int ky = w.first_y; ky < w.last_y; ky++)
      for (int kx = w.first_x; kx < w.last_x; kx++)
        acc += load(w.weight + (int64_t(ky) * w.kw + kx) * w.padded + c) *
               w.centred(load_strided(w.in + ky * w.row + kx * w.column + c * stride, stride, n), c);
    store<T>(w.out + c, w.end(acc, c));
  }
}

template <class S> void any_runs(const Op &op, const Block &block, Scratch &scratch) {
  constexpr int G = kDepthwisePixels;
  const vf_op &d = op.d;
  Window<S> w(op, scratch);
  for (int i = 0; i < block.count; i++) {
    const Run &run = block.runs[i];
    for (int j = 0; j < run.n;) {
      w.place(d, run.r, run.y, run.x + j, d.kw);
      const int last = (run.x + j + G - 1) * d.sx - d.px + (d.kw - 1) * d.dx;
      int done = 1;
      if (d.in.sc != 1)
        scattered_pixel(w, d.in.sc, d.in.c);
      else if (w.first_x == 0 && last < d.in.w && run.n - j >= G)
        any_group<G>(w, d.in.c), done = G;
      else
        any_group<1>(w, d.in.c);
      j += done;
      w.out += done * w.ld;
    }
  }
}

template <class S> void depthwise(const Op &op, const Block &block, Scratch &scratch) {
  constexpr int G = VF_ISA == VF_ISA_AVX512 ? kDepthwisePixelsOf32 : kDepthwisePixelsOf16;
  const vf_op &d = op.d;
  if (d.dx == 1 && d.in.sc == 1 && d.sx == 1) {
    if (d.kw == 3) return shared_runs<3, 1, G, S>(op, block, scratch);
    if (d.kw == 5) return shared_runs<5, 1, G, S>(op, block, scratch);
    if (d.kw == 7) return shared_runs<7, 1, G, S>(op, block, scratch);
  }
  if (d.dx == 1 && d.in.sc == 1 && d.sx == 2) {
    if (d.kw == 3) return shared_runs<3, 2, 4, S>(op, block, scratch);
    if (d.kw == 5) return shared_runs<5, 2, 4, S>(op, block, scratch);
  }
  any_runs<S>(op, block, scratch);
}

}  // namespace VF_SPACE
}  // namespace vf
#endif
