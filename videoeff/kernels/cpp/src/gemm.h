// Convolution as an indirect matrix product: the input is read in place through a pointer for each pixel, the
// weights lie in panels of a few vectors of output channels, and a register block of MR pixels x NV vectors runs over
// the reduction. Wide layers run panel by panel over a block of pixels, so that a panel is read from L2 once a block.
#ifndef VIDEOEFF_GEMM_H
#define VIDEOEFF_GEMM_H

#include <algorithm>

#include "vector.h"

namespace vf {
namespace VF_SPACE {

constexpr int kReduction = 768;  // longest block of the reduction, if it is split at all

#if VF_ISA == 2
constexpr int kMaxVectors = 4;
constexpr int kBlocks[5][4] = {{}, {12, 6, 3, 1}, {12, 6, 3, 1}, {8, 4, 2, 1}, {6, 3, 2, 1}};
#else
constexpr int kMaxVectors = 2;
constexpr int kBlocks[3][4] = {{}, {12, 6, 3, 1}, {6, 3, 2, 1}};
#endif

// rows[i][column + j] (+)= sum over segments of input[i] * panel[j]. Pointers: base[i] + segment offset, or, where `edge` is
// given, edge[segment * MR + i].
template <class S, int MR, int NV>
__attribute__((noinline)) void micro(const S *const *base, const S *const *edge, const Segment *segments, int count,
                                     const compute<S> *panel, const compute<S> *bias, compute<S> *const *rows,
                                     int64_t column) {
  using T = compute<S>;
  constexpr int L = lanes<T>;
  vec<T> acc[MR][NV];
  if (bias) {
#pragma GCC unroll 16
    for (int j = 0; j < NV; j++) {
      vec<T> b = load(bias + j * L);
#pragma GCC unroll 16
      for (int i = 0; i < MR; i++) acc[i][j] = b;
    }
  } else {
#pragma GCC unroll 16
    for (int i = 0; i < MR; i++)
#pragma GCC unroll 16
      for (int j = 0; j < NV; j++) acc[i][j] = load(rows[i] + column + j * L);
  }
  for (int s = 0; s < count; s++) {
    const S *p[MR];
#pragma GCC unroll 16
    for (int i = 0; i < MR; i++) p[i] = edge ? edge[s * MR + i] : base[i] + segments[s].offset;
    const T *w = panel + int64_t(segments[s].k) * (NV * L);
    const int64_t length = segments[s].length;
    for (int64_t k = 0; k < length; k++) {
      vec<T> b[NV];
#pragma GCC unroll 16
      for (int j = 0; j < NV; j++) b[j] = load(w + j * L);
      w += NV * L;
#pragma GCC unroll 16
      for (int i = 0; i < MR; i++) {
        vec<T> a = broadcast<T>(widen(p[i][k]));
#pragma GCC unroll 16
        for (int j = 0; j < NV; j++) acc[i][j] += a * b[j];
      }
    }
  }
#pragma GCC unroll 16
  for (int i = 0; i < MR; i++)
#pragma GCC unroll 16
    for (int j = 0; j < NV; j++) store(rows[i] + column + j * L, acc[i][j]);
}

// The few output channels after the last whole vector: with a vector of zeros to fill, a layer of 18 channels would cost
// as much as one of 32. Each is a product along the reduction instead, a vector of inputs at a time:
// rows[i][column + r] (+)= sum over segments of input[i] * weight[r]. Needs vectors that are loaded in part at no cost.
#if VF_ISA == 2
constexpr int kMaxRest = 8;
#else
constexpr int kMaxRest = 0;
#endif
constexpr int kRestPixels[9] = {1, 12, 12, 8, 6, 4, 4, 3, 3};

template <class S, int MR, int R>
__attribute__((noinline)) void micro_rest(const S *const *base, const S *const *edge, const Segment *segments, int count,
                                          const compute<S> *weight, int64_t reduction, const compute<S> *bias,
                                          compute<S> *const *rows, int64_t column) {
  using T = compute<S>;
  constexpr int L = lanes<T>;
  vec<T> acc[MR][R] = {};
  for (int s = 0; s < count; s++) {
    const S *p[MR];
#pragma GCC unroll 16
    for (int i = 0; i < MR; i++) p[i] = edge ? edge[s * MR + i] : base[i] + segments[s].offset;
    const T *w = weight + segments[s].k;
    const int length = segments[s].length;
    int k = 0;
    for (; k + L <= length; k += L) {
      vec<T> b[R];
#pragma GCC unroll 16
      for (int r = 0; r < R; r++) b[r] = load(w + r * reduction + k);
#pragma GCC unroll 16
      for (int i = 0; i < MR; i++) {
        const vec<T> a = load(p[i] + k);
#pragma GCC unroll 16
        for (int r = 0; r < R; r++) acc[i][r] += a * b[r];
      }
    }
    if (const int n = length - k) {
      vec<T> b[R];
#pragma GCC unroll 16
      for (int r = 0; r < R; r++) b[r] = load_part(w + r * reduction + k, n);
#pragma GCC unroll 16
      for (int i = 0; i < MR; i++) {
        const vec<T> a = load_part(p[i] + k, n);
#pragma GCC unroll 16
        for (int r = 0; r < R; r++) acc[i][r] += a * b[r];
      }
    }
  }
#pragma GCC unroll 16
  for (int i = 0; i < MR; i++)
#pragma GCC unroll 16
    for (int r = 0; r < R; r++) {
      T &to = rows[i][column + r];
      to = (bias ? bias[r] : to) + total(acc[i][r]);
    }
}

template <class S>
using MicroRest = void (*)(const S *const *, const S *const *, const Segment *, int, const compute<S> *, int64_t,
                           const compute<S> *, compute<S> *const *, int64_t);

template <class S> MicroRest<S> micro_of_rest(int rest, bool one) {
  switch (rest) {
#define VF_REST(R) \
  case R: return one ? micro_rest<S, 1, R> : micro_rest<S, kRestPixels[R], R>;
    VF_REST(1) VF_REST(2) VF_REST(3) VF_REST(4) VF_REST(5) VF_REST(6) VF_REST(7) VF_REST(8)
#undef VF_REST
    default: return nullptr;
  }
}

template <class S>
using Micro = void (*)(const S *const *, const S *const *, const Segment *, int, const compute<S> *,
                       const compute<S> *, compute<S> *const *, int64_t);

// Only float has kernels for every remainder: what other types lose is a little time, and the library stays small.
template <class S> constexpr bool kMain = sizeof(S) == 4;
template <class S> VF_INLINE int block_of(int vectors, int which) {
  return kMain<S> || which == 0 || which == 3 ? kBlocks[vectors][which] : 1;
}

template <class S, int NV> Micro<S> micro_of(int which) {
  if constexpr (!kMain<S>) return which == 0 ? micro<S, kBlocks[NV][0], NV> : micro<S, 1, NV>;
  switch (which) {
    case 0: return micro<S, kBlocks[NV][0], NV>;
    case 1: return micro<S, kBlocks[NV][1], NV>;
    case 2: return micro<S, kBlocks[NV][2], NV>;
    default: return micro<S, kBlocks[NV][3], NV>;
  }
}
template <class S> Micro<S> micro_of(int vectors, int which) {
#if VF_ISA == 2
  if (vectors == 4) return micro_of<S, 4>(which);
  if (vectors == 3) return micro_of<S, 3>(which);
#endif
  return vectors == 2 ? micro_of<S, 2>(which) : micro_of<S, 1>(which);
}

// Widths in vectors of the panels of `vectors` vectors of channels.
inline std::vector<int32_t> split_panels(int32_t vectors) {
  std::vector<int32_t> panels;
  if (kMaxVectors == 4) {
    int32_t fours = vectors % 3 == 1 && vectors >= 4 ? 1 : vectors % 3 == 2 && vectors >= 8 ? 2 : 0;
    int32_t threes = (vectors - 4 * fours) / 3, rest = vectors - 4 * fours - 3 * threes;
    panels.assign(threes, 3);
    panels.insert(panels.end(), fours, 4);
    if (rest) panels.push_back(rest);
  } else {
    panels.assign(vectors / 2, 2);
    if (vectors % 2) panels.push_back(1);
  }
  return panels;
}

// Zeros that taps outside the input read.
template <class S> const S *zero_row() {
  static const S zeros[kReduction + 2048] = {};
  return zeros;
}

// How many of the output channels after the last whole vector are better computed along the reduction.
inline int32_t rest_of(const Op &op, int32_t over, int32_t vectors) {
  const vf_op &d = op.d;
  if (over == 0 || over > kMaxRest || vectors == 0 || d.kind != VF_CONV || d.groups != 1) return 0;
  const int64_t reduction = op.reduction, segments = d.dx == 1 ? d.kh : d.kh * d.kw;
  const int64_t along = over * (reduction / 16 + segments + 6);  // products, parts of vectors, sums over lanes
  return along < reduction * 3 / 4 ? over : 0;
}

// Weights (O, I / g, kh, kw), transposed (I, O / g, kh, kw), as panels [group][panel][kh kw I / g][vectors x lanes].
template <class S> void pack_convolution(Op &op) {
  using T = compute<S>;
  constexpr int L = lanes<T>;
  const vf_op &d = op.d;
  const bool transposed = d.kind == VF_TRANSPOSED;
  const int32_t inputs = d.in.c / d.groups, outputs = producer_channels(op) / d.groups;
  const int32_t window = d.kh * d.kw, total = outputs * d.groups;
  op.reduction = window * inputs;
  op.rest = sizeof(S) == 4 ? rest_of(op, outputs % L, outputs / L) : 0;
  op.panels = split_panels(int32_t((outputs - op.rest + L - 1) / L));
  const int64_t padded = round_up(outputs, L);
  op.weight.reserve(size_t(d.groups) * op.reduction * padded * sizeof(T));
  T *to = static_cast<T *>(op.weight.data);
  const S *from = static_cast<const S *>(d.weight);
  for (int32_t g = 0; g < d.groups; g++) {
    int32_t first = 0;
    for (int32_t vectors : op.panels) {
      for (int32_t tap = 0; tap < window; tap++)
        for (int32_t i = 0; i < inputs; i++)
          for (int32_t j = 0; j < vectors * L; j++) {
            int32_t o = first + j;
            T v = 0;
            if (o < outputs) {
              int64_t at = transposed ? (int64_t(g * inputs + i) * outputs + o) * window + tap
                                      : (int64_t(g * outputs + o) * inputs + i) * window + tap;
              v = widen(from[at]);
            }
            *to++ = v;
          }
      first += vectors * L;
    }
    for (int32_t o = outputs - op.rest; o < outputs; o++)
      for (int32_t k = 0; k < op.reduction; k++)
        *to++ = widen(from[(int64_t(o) * inputs + k % inputs) * window + k / inputs]);
  }
  op.bias.reserve(size_t(round_up(total, L) + 4 * L) * sizeof(T));
  T *bias = static_cast<T *>(op.bias.data);
  for (int64_t i = 0; i < round_up(total, L) + 4 * L; i++)
    bias[i] = i < total && d.bias ? T(widen(static_cast<const S *>(d.bias)[i])) : T(0);
  op.ld = int32_t(round_up(total, 16) + 16);
}

// The blocks of the reduction and their segments.
template <class S> void plan_reduction(Op &op) {
  const vf_op &d = op.d;
  const int32_t inputs = d.in.c / d.groups, row = d.kw * inputs, total = op.reduction;
  const bool whole = d.groups == 1 && d.dx == 1 && d.in.sw == d.in.c && d.in.sc == 1 && !op.gather;
  std::vector<int32_t> cuts{0};
  if (d.kind == VF_TRANSPOSED || d.groups > 1 || (total <= kReduction + kReduction / 2)) {
    cuts.push_back(total);
  } else {
    int32_t step;
    if (row <= kReduction) step = kReduction / row * row;
    else if (inputs <= kReduction) step = 0;  // some taps of a row
    else step = -1;                           // part of a tap
    if (step > 0) {
      for (int32_t k = step; k < total; k += step) cuts.push_back(k);
    } else {
      for (int32_t r = 0; r < d.kh; r++)
        for (int32_t c = 0; c < d.kw; c++) {
          int32_t tap = (r * d.kw + c) * inputs, parts = (inputs + kReduction - 1) / kReduction;
          int32_t taps = inputs <= kReduction ? kReduction / inputs : 1;
          if (step == 0 && c % taps) continue;
          for (int32_t p = 0; p < (step == 0 ? 1 : parts); p++) {
            int32_t k = tap + int32_t(round_up((inputs + parts - 1) / parts, 16)) * p;
            if (k > 0 && k < tap + inputs) cuts.push_back(k);
          }
        }
    }
    cuts.push_back(total);
  }
  if (op.gather) {
    for (size_t b = 0; b + 1 < cuts.size(); b++) op.inner.push_back({{cuts[b], cuts[b + 1] - cuts[b], cuts[b], 0, 0}});
    return;
  }
  if (d.kind == VF_TRANSPOSED) {
    for (int32_t phase = 0; phase < d.sy * d.sx; phase++) {
      std::vector<Segment> segments;
      for (int32_t tap = 0; tap < d.kh * d.kw; tap++) {
        int32_t r = tap / d.kw, c = tap % d.kw, y = phase / d.sx, x = phase % d.sx;
        if ((y + d.py - r * d.dy) % d.sy || (x + d.px - c * d.dx) % d.sx) continue;
        for (int32_t at = 0; at < inputs; at += kReduction)
          segments.push_back({0, inputs - at < kReduction ? inputs - at : kReduction, tap * inputs + at, tap, at});
      }
      op.edge.push_back(segments);
    }
    return;
  }
  for (size_t b = 0; b + 1 < cuts.size(); b++) {
    std::vector<Segment> inner, edge;
    for (int32_t k = cuts[b]; k < cuts[b + 1];) {
      int32_t tap = k / inputs, channel = k % inputs, r = tap / d.kw, c = tap % d.kw;
      int32_t stop = whole ? (r + 1) * row : (tap + 1) * inputs;
      stop = stop < cuts[b + 1] ? stop : cuts[b + 1];
      inner.push_back({int64_t(r) * d.dy * d.in.sh + int64_t(c) * d.dx * d.in.sw + channel, stop - k, k, tap, channel});
      k = stop;
    }
    for (int32_t k = cuts[b]; k < cuts[b + 1];) {
      int32_t tap = k / inputs, stop = (tap + 1) * inputs;
      stop = stop < cuts[b + 1] ? stop : cuts[b + 1];
      if (stop - k > kReduction) stop = k + kReduction;
      edge.push_back({0, stop - k, k, tap, k % inputs});
      k = stop;
    }
    op.inner.push_back(inner);
    op.edge.push_back(edge);
  }
}

struct Place {
  int32_t r, y, x;  // first tap in the input (transposed: the output pixel)
};

// The address of one tap of a pixel, or zeros.
template <class S> VF_INLINE const S *tap_of(const Op &op, const Place &p, const Segment &s, int32_t group) {
  const vf_op &d = op.d;
  int64_t y, x;
  if (d.kind == VF_TRANSPOSED) {
    int64_t v = int64_t(p.y) + d.py - int64_t(s.tap / d.kw) * d.dy, u = int64_t(p.x) + d.px - int64_t(s.tap % d.kw) * d.dx;
    if (v < 0 || u < 0) return zero_row<S>();
    y = v / d.sy, x = u / d.sx;
  } else {
    y = p.y + int64_t(s.tap / d.kw) * d.dy, x = p.x + int64_t(s.tap % d.kw) * d.dx;
  }
  if (y < 0 || y >= d.in.h || x < 0 || x >= d.in.w) return zero_row<S>();
  return static_cast<const S *>(d.in.data) + p.r * d.in.sr + y * d.in.sh + x * d.in.sw +
         int64_t(group) * (d.in.c / d.groups) + s.channel;
}

// Run the panels of one group over pixels order[0 .. n), which share a list of segments. `only` >= 0: that panel.
template <class S>
void run_panels(const Op &op, const std::vector<Segment> &segments, bool edges, bool first, int32_t group,
                const Place *places, const S *const *base, const int32_t *order, int32_t n, compute<S> *out,
                int32_t only) {
  using T = compute<S>;
  constexpr int L = lanes<T>;
  if (n == 0) return;
  const int32_t outputs = producer_channels(op) / op.d.groups;
  const int count = int(segments.size());
  const T *panel = static_cast<const T *>(op.weight.data) + int64_t(group) * op.reduction * round_up(outputs, L);
  const T *bias = static_cast<const T *>(op.bias.data) + int64_t(group) * outputs;
  const S *from[kMaxBlock], *table[64 * 12];
  T *rows[kMaxBlock];
  for (int32_t i = 0; i < n; i++) from[i] = base[order[i]], rows[i] = out + int64_t(order[i]) * op.ld;
  int64_t column = int64_t(group) * outputs;
  std::vector<const S *> longer;
  std::vector<Segment> longer_list;
  Segment list[64];  // segments that any pixel of a register block has inside: of wide dilations only a few
  const S **edge = table;
  Segment *live = list;
  if (edges && count > 64) {
    longer.resize(size_t(count) * 12), edge = longer.data();
    longer_list.resize(size_t(count)), live = longer_list.data();
  }
  // The taps of pixels order[at] .. order[at + mr - 1] at an edge. Returns the segments that are left.
  auto find_taps = [&](int32_t at, int mr) {
    int used = 0;
    for (int s = 0; s < count; s++) {
      bool inside = false;
      for (int i = 0; i < mr; i++) {
        const S *tap = tap_of<S>(op, places[order[at + i]], segments[s], group);
        edge[used * mr + i] = tap;
        inside |= tap != zero_row<S>();
      }
      if (inside) live[used++] = segments[s];
    }
    return used;
  };
  for (size_t index = 0; index < op.panels.size(); index++) {
    const int32_t vectors = op.panels[index];
    int32_t at = only < 0 || only == int32_t(index) ? 0 : n;
    for (int which = 0; which < 4 && at < n; which++) {
      const int mr = block_of<S>(vectors, which);
      Micro<S> kernel = micro_of<S>(vectors, which);
      for (; n - at >= mr; at += mr) {
        if (edges) kernel(nullptr, edge, live, find_taps(at, mr), panel, first ? bias : nullptr, rows + at, column);
        else kernel(from + at, nullptr, segments.data(), count, panel, first ? bias : nullptr, rows + at, column);
      }
    }
    panel += int64_t(op.reduction) * vectors * L;
    bias += vectors * L;
    column += vectors * L;
  }
  if constexpr (sizeof(S) == 4 && kMaxRest > 0) {
    if (op.rest == 0 || only > 0) return;  // who has the first panel has these
    const T *last_bias = first ? bias : nullptr;
    for (int32_t at = 0, mr; at < n; at += mr) {
      mr = n - at >= kRestPixels[op.rest] ? kRestPixels[op.rest] : 1;
      MicroRest<S> kernel = micro_of_rest<S>(op.rest, mr == 1);
      if (edges) kernel(nullptr, edge, live, find_taps(at, mr), panel, op.reduction, last_bias, rows + at, column);
      else kernel(from + at, nullptr, segments.data(), count, panel, op.reduction, last_bias, rows + at, column);
    }
  }
}

// The channels of a pixel side by side, times the gate of its row where there is one.
template <class S>
VF_INLINE void copy_channels(const Op &op, const S *from, int32_t r, int32_t first, int32_t count, S *to) {
  const vf_op &d = op.d;
  constexpr int L = lanes<compute<S>>;
  if (!d.gate) {
    for (int32_t c = 0; c < count; c++) to[c] = from[c * d.in.sc];
    return;
  }
  const vf_view &v = d.args[d.gate - 1];
  const S *gate = static_cast<const S *>(v.data) + r * v.sr + first * v.sc;
  int32_t c = 0;
  if (d.in.sc == 1 && v.sc == 1)
    for (; c + L <= count; c += L) store(to + c, load(from + c) * load(gate + c));
  for (; c < count; c++) narrow(widen(from[c * d.in.sc]) * widen(gate[c * v.sc]), to + c);
}

// `only` >= 0: one panel of the output channels, so that several workers can share the weights of a wide layer.
template <class S> void convolution(const Op &op, const Block &block, Scratch &scratch, int32_t only) {
  using T = compute<S>;
  const vf_op &d = op.d;
  const bool transposed = d.kind == VF_TRANSPOSED;
  Place places[kMaxBlock];
  const S *base[kMaxBlock];
  int32_t order[kMaxBlock], inside = 0, outside = kMaxBlock, p = 0;
  const S *data = static_cast<const S *>(d.in.data);
  const int64_t below = int64_t(d.in.h) - int64_t(d.kh - 1) * d.dy, right = int64_t(d.in.w) - int64_t(d.kw - 1) * d.dx;
  for (int32_t k = 0; k < block.count; k++) {
    const Run &run = block.runs[k];
    if (transposed) {
      for (int32_t i = 0; i < run.n; i++, p++) places[p] = {run.r, run.y, run.x + i}, base[p] = nullptr;
      continue;
    }
    const int32_t y = run.y * d.sy - d.py, first = run.x * d.sx - d.px;
    const bool row = y >= 0 && y < below && !op.gather;
    // pixels from .. to - 1 of the run have their window inside
    const int32_t from = row ? std::min(run.n, first < 0 ? (-first + d.sx - 1) / d.sx : 0) : run.n;
    const int64_t room = right - first;
    const int32_t to = row && room > 0 ? int32_t(std::min<int64_t>(run.n, (room + d.sx - 1) / d.sx)) : from;
    const int64_t at = run.r * d.in.sr + y * d.in.sh + first * d.in.sw, step = d.sx * d.in.sw;
    auto border = [&](int32_t i) {
      places[p + i] = {run.r, y, first + i * d.sx}, base[p + i] = nullptr;
      if (op.gather) order[inside++] = p + i;
      else order[--outside] = p + i;
    };
    for (int32_t i = 0; i < from; i++) border(i);
    for (int32_t i = from; i < to; i++) order[inside++] = p + i, base[p + i] = data + (at + i * step);
    for (int32_t i = std::max(from, to); i < run.n; i++) border(i);
    p += run.n;
  }
  T *out = static_cast<T *>(scratch.reg[0]);
  if (op.gather) {
    S *packed = static_cast<S *>(scratch.temp);
    const int32_t inputs = d.in.c / d.groups;
    for (int32_t g = 0; g < d.groups; g++) {
      S *to = packed;
      for (int32_t i = 0; i < p; i++) {
        base[i] = to;
        for (int32_t tap = 0; tap < d.kh * d.kw; tap++) {
          int64_t y = places[i].y + int64_t(tap / d.kw) * d.dy, x = places[i].x + int64_t(tap % d.kw) * d.dx;
          if (y < 0 || y >= d.in.h || x < 0 || x >= d.in.w) {
            std::memset(static_cast<void *>(to), 0, sizeof(S) * inputs);
          } else {
            const S *from = static_cast<const S *>(d.in.data) + places[i].r * d.in.sr + y * d.in.sh + x * d.in.sw +
                            int64_t(g) * inputs * d.in.sc;
            copy_channels<S>(op, from, places[i].r, g * inputs, inputs, to);
          }
          to += inputs;
        }
      }
      for (size_t b = 0; b < op.inner.size(); b++)
        run_panels<S>(op, op.inner[b], false, b == 0, g, places, base, order, p, out, only);
    }
    return;
  }
  for (int32_t g = 0; g < d.groups; g++) {
    if (transposed) {
      for (int32_t phase = 0; phase < d.sy * d.sx; phase++) {
        int32_t n = 0;
        for (int32_t i = 0; i < p; i++)
          if (places[i].y % d.sy * d.sx + places[i].x % d.sx == phase) order[n++] = i;
        run_panels<S>(op, op.edge[phase], true, true, g, places, base, order, n, out, only);
      }
      continue;
    }
    if (g > 0) {
      const int64_t step = d.in.c / d.groups;
      for (int32_t i = 0; i < inside; i++) base[order[i]] += step;
    }
    for (size_t b = 0; b < op.inner.size(); b++) {
      run_panels<S>(op, op.inner[b], false, b == 0, g, places, base, order, inside, out, only);
      run_panels<S>(op, op.edge[b], true, b == 0, g, places, base, order + outside, kMaxBlock - outside, out,
                    only);
    }
  }
}

}  // namespace VF_SPACE
}  // namespace vf
#endif
