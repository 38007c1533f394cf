// Convolution as an indirect matrix product: the input is read in place through a pointer for each pixel, the
// weights lie in panels of a few vectors of output channels, and a register block of MR pixels x NV vectors runs over
// the reduction. Wide layers run panel by panel over a block of pixels, so that a panel is read from L2 once a block.
#ifndef VIDEOEFF_GEMM_H
#define VIDEOEFF_GEMM_H

#include <algorithm>
#include <type_traits>

#include "dots.h"
#include "micro.h"
#include "pixels.h"
#include "stages.h"
#include "tiles.h"

namespace vf {
namespace VF_SPACE {

// How many of the output channels after the last whole vector are better computed along the reduction.
inline int32_t rest_of(const Op &op, int32_t over, int32_t vectors) {
  const vf_op &d = op.d;
  if (over == 0 || over > kMaxRest || vectors == 0 || d.kind != VF_CONV || d.groups != 1) return 0;
  const int64_t reduction = op.reduction, segments = d.dx == 1 ? d.kh : d.kh * d.kw;
  const int64_t along = over * (reduction / 16 + segments + kRestSums);  // products, parts of vectors, sums
  return along < reduction * kRestQuarters / 4 ? over : 0;
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
  op.ld = int32_t(round_up(total, kRowStep) + kRowStep);
}

// Whether the passes over a block ask for the values that its results will be tested against: where pixels lie side by
// side and there is much of them beside the products, as in 1x1 layers to more channels.
template <class S> bool asks_old(const Op &op) {
  const vf_op &d = op.d;
  if (d.kind != VF_CONV || d.groups != 1 || op.gather || op.inner.size() != 1 || op.weight.bytes >= kManyWeights ||
      d.out.sc != 1 || d.out.sw != d.out.c)
    return false;
  const int64_t pass = block_of<S>(op.panels[0], 0) * int64_t(d.out.c) * int64_t(sizeof(S));
  return pass / int64_t(op.panels.size()) >= kAskBytes * op.reduction;
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

// Where the weights lie that are wanted after a part of panel `index`: of many weights, which do not stay in the cache.
// `later`: the panel that comes next if only panel `index` is computed now, else -1.
template <class S>
const compute<S> *part_after(const Op &op, const std::vector<Segment> &segments, const compute<S> *panel, int32_t index,
                             int32_t later) {
  constexpr int64_t L = lanes<compute<S>>;
  if (op.weight.bytes < kManyWeights || op.d.groups > 1) return nullptr;
  const int64_t width = op.panels[size_t(index)] * L, stop = segments.back().k + segments.back().length;
  if (later >= 0 && stop < op.reduction) return panel + stop * width;
  const int32_t wanted = later < 0 ? index + 1 : later;
  if (wanted <= index || wanted >= int32_t(op.panels.size())) return nullptr;
  for (int32_t i = index; i < wanted; i++) panel += op.reduction * op.panels[size_t(i)] * L;
  return later < 0 ? panel + segments[0].k * op.panels[size_t(wanted)] * L : panel;
}

// Elements that each pass over a row of a panel asks for, if all passes over `n` pixels together ask for a whole row.
template <class S> int64_t share_of_pass(int32_t vectors, int32_t n) {
  int64_t passes = 0;
  for (int which = 0; which < 4; which++) passes += n / block_of<S>(vectors, which), n %= block_of<S>(vectors, which);
  return passes ? (vectors * lanes<compute<S>> + passes - 1) / passes : 0;
}

// Run the panels of one group over pixels order[0 .. n), which share a list of segments.
template <class S>
void run_panels(const Op &op, const std::vector<Segment> &segments, bool edges, bool first, int32_t group,
                const Pixels<S> &pixels, const int32_t *order, int32_t n) {
  if constexpr (Unit<S>::inputs > 1)
    if (in_units<S>(op)) return run_dot_panels<S>(op, segments, edges, group, pixels, order, n);
  if constexpr (!std::is_same_v<S, u8>) {
  using T = compute<S>;
  constexpr int L = lanes<T>;
  if (n == 0) return;
  const int32_t outputs = producer_channels(op) / op.d.groups;
  const int count = int(segments.size());
  const T *panel = static_cast<const T *>(op.weight.data) + int64_t(group) * op.reduction * round_up(outputs, L);
  const T *bias = static_cast<const T *>(op.bias.data) + int64_t(group) * outputs;
  const S *from[kMaxBlock], *table[64 * 12];
  T *rows[kMaxBlock];
  const bool in_place = writes_in_place(op);
  for (int32_t i = 0; i < n; i++) {
    from[i] = pixels.base[order[i]];
    rows[i] = in_place ? pixels.row[order[i]] : pixels.out + int64_t(order[i]) * op.ld;
  }
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
        const S *tap = tap_of<S>(op, pixels.place[order[at + i]], segments[s], group);
        edge[used * mr + i] = tap;
        inside |= tap != zeros_of<S>(op);
      }
      if (inside) live[used++] = segments[s];
    }
    return used;
  };
  const int32_t only = pixels.only;
  // of the reduction in this list; those of an edge may be empty, and nothing is asked for there
  const int64_t length = edges ? 0 : segments.back().k + segments.back().length - segments[0].k;
  const int64_t kept = int64_t(op.d.out.c) * int64_t(sizeof(S)) / int64_t(op.panels.size());  // a panel's part of a pixel
  for (size_t index = 0; index < op.panels.size(); index++) {
    const int32_t vectors = op.panels[index];
    int32_t at = only < 0 || only == int32_t(index) ? 0 : n;
    // Meanwhile the cache is asked for what comes next: more weights, or the values that the results are tested against.
    const T *after = edges ? nullptr : part_after<S>(op, segments, panel, int32_t(index), only < 0 ? -1 : pixels.later);
    const int64_t share = after ? share_of_pass<S>(vectors, n - at) : 0;
    for (int which = 0; which < 4 && at < n; which++) {
      const int mr = block_of<S>(vectors, which);
      Micro<S> kernel = micro_of<S>(vectors, which);
      for (; n - at >= mr; at += mr) {
        const char *ahead = reinterpret_cast<const char *>(after ? after : panel);
        int64_t step = share * int64_t(sizeof(T));
        if (edges) {
          kernel(nullptr, edge, live, find_taps(at, mr), panel, first ? bias : nullptr, rows + at, column, ahead, 0);
          if (in_place) activate<T>(op.d, rows + at, mr, column, int64_t(vectors) * L);
          continue;
        }
        if (op.asks_old) {
          ahead = reinterpret_cast<const char *>(pixels.old[order[at]]) + mr * kept * int64_t(index);
          step = (mr * kept + length - 1) / length;
        }
        kernel(from + at, nullptr, segments.data(), count, panel, first ? bias : nullptr, rows + at, column, ahead, step);
        if (after) after += share * length;
        if (in_place) activate<T>(op.d, rows + at, mr, column, int64_t(vectors) * L);
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
      if (in_place) activate<T>(op.d, rows + at, mr, column, op.rest);
    }
  }
  }
}

// The channels of a pixel side by side, times the gate of its row where there is one.
template <class S>
VF_INLINE void copy_channels(const Op &op, const S *from, int32_t r, int32_t first, int32_t count, S *to) {
  const vf_op &d = op.d;
  constexpr int L = lanes<compute<S>>;
  if (!d.gate) {
    if constexpr (sizeof(S) == sizeof(compute<S>)) return copy_strided(from, d.in.sc, count, to);
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

// `only` >= 0: one panel of the output channels, so that several workers can share the weights of a wide layer; `later`
// is the panel that the same worker will probably have next.
template <class S> void convolution(const Op &op, const Block &block, Scratch &scratch, int32_t only, int32_t later) {
  using T = compute<S>;
#if VF_TILES
  if constexpr (Unit<S>::inputs > 1)
    if (op.products == VF_PRODUCTS_TILE) return tile_convolution<S>(op, block, scratch, only);
#endif
  const vf_op &d = op.d;
  const bool transposed = d.kind == VF_TRANSPOSED;
  Pixels<S> pixels;
  pixels.out = static_cast<T *>(scratch.reg[0]), pixels.only = only, pixels.later = later;
  Place *places = pixels.place;
  const S **base = pixels.base;
  int32_t order[kMaxBlock], inside = 0, outside = kMaxBlock, p = 0;
  const S *data = static_cast<const S *>(d.in.data);
  const int64_t below = int64_t(d.in.h) - int64_t(d.kh - 1) * d.dy, right = int64_t(d.in.w) - int64_t(d.kw - 1) * d.dx;
  for (int32_t k = 0; k < block.count; k++) {
    const Run &run = block.runs[k];
    if (op.asks_old) {
      const S *o = static_cast<const S *>(d.out.data) + run.r * d.out.sr + run.y * d.out.sh + run.x * d.out.sw;
      for (int32_t i = 0; i < run.n; i++) pixels.old[p + i] = o + i * d.out.sw;
    }
    if (transposed) {
      for (int32_t i = 0; i < run.n; i++, p++) places[p] = {run.r, run.y, run.x + i}, base[p] = nullptr;
      continue;
    }
    if (op.reads == Op::kRows) {
      const S *rows = static_cast<const S *>(scratch.rows);
      for (int32_t i = 0; i < run.n; i++, p++) order[inside++] = p, base[p] = rows + p * d.in.sw, places[p] = {0, 0, 0};
      continue;
    }
    if (writes_in_place(op)) {
      T *to = static_cast<T *>(scratch.line_buffer) + (run.y * d.out.sh + run.x * d.out.sw);
      for (int32_t i = 0; i < run.n; i++) pixels.row[p + i] = to + i * d.out.sw;
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
  if constexpr (std::is_same_v<S, u8>)
    if (op.rows) copy_windows(op, pixels, order + outside, kMaxBlock - outside, static_cast<u8 *>(scratch.temp));
  if (op.gather) {
    const bool rows = op.reads == Op::kRows;
    const void *origin = rows ? scratch.rows : d.in.data;
    S *packed = static_cast<S *>(scratch.temp);
    const int32_t inputs = d.in.c / d.groups, wide = in_units<S>(op) ? units_up<S>(inputs) : inputs;
    for (int32_t g = 0; g < d.groups; g++) {
      S *to = packed;
      for (int32_t i = 0; i < p; i++) {
        base[i] = to;
        for (int32_t tap = 0; tap < d.kh * d.kw; tap++) {
          int64_t y = places[i].y + int64_t(tap / d.kw) * d.dy, x = places[i].x + int64_t(tap % d.kw) * d.dx;
          if (y < 0 || y >= d.in.h || x < 0 || x >= d.in.w) {
            if (op.zeros.data) std::memcpy(static_cast<void *>(to), op.zeros.data, sizeof(S) * size_t(inputs));
            else std::memset(static_cast<void *>(to), 0, sizeof(S) * inputs);
          } else {
            const int64_t at = (rows ? i * d.in.sw : places[i].r * d.in.sr + y * d.in.sh + x * d.in.sw) +
                               int64_t(g) * inputs * d.in.sc;
            if (!op.decodes) copy_channels<S>(op, static_cast<const S *>(origin) + at, places[i].r, g * inputs, inputs, to);
            else if constexpr (std::is_same_v<S, float>)
              decode_channels(d.in, static_cast<const u8 *>(origin) + at, g * inputs, inputs, to);
          }
          if constexpr (!std::is_same_v<S, u8>)
            for (int32_t i = inputs; i < wide; i++) narrow(T(0), to + i);
          to += wide;
        }
      }
      for (size_t b = 0; b < op.inner.size(); b++)
        run_panels<S>(op, op.inner[b], false, b == 0, g, pixels, order, p);
    }
    return;
  }
  for (int32_t g = 0; g < d.groups; g++) {
    if (transposed) {
      for (int32_t phase = 0; phase < d.sy * d.sx; phase++) {
        int32_t n = 0;
        for (int32_t i = 0; i < p; i++)
          if (places[i].y % d.sy * d.sx + places[i].x % d.sx == phase) order[n++] = i;
        run_panels<S>(op, op.edge[phase], true, true, g, pixels, order, n);
      }
      continue;
    }
    if (g > 0) {
      const int64_t step = d.in.c / d.groups;
      for (int32_t i = 0; i < inside; i++) base[order[i]] += step;
    }
    for (size_t b = 0; b < op.inner.size(); b++) {
      run_panels<S>(op, op.inner[b], false, b == 0, g, pixels, order, inside);
      run_panels<S>(op, op.edge[b], true, b == 0, g, pixels, order + outside, kMaxBlock - outside);
    }
  }
}

}  // namespace VF_SPACE
}  // namespace vf
#endif
