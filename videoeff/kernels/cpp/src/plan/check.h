// Whether a descriptor can be served: what the kernels take for granted is checked here, once.
#ifndef VIDEOEFF_CHECK_H
#define VIDEOEFF_CHECK_H

#include <cmath>
#include <cstdarg>
#include <cstdio>

#include "internal.h"

namespace vf {

struct Problem {
  char *text;
  int64_t size;
  bool operator()(const char *format, ...) const __attribute__((format(printf, 2, 3))) {
    if (text && size > 0) {
      va_list arguments;
      va_start(arguments, format);
      std::vsnprintf(text, size_t(size), format, arguments);
      va_end(arguments);
    }
    return false;
  }
};

constexpr int64_t kMaxExtent = int64_t(1) << 31;

inline bool check_view(const vf_view &v, int64_t op, const char *what, bool data, const Problem &problem) {
  const int64_t extents[4] = {v.r, v.h, v.w, v.c}, strides[4] = {v.sr, v.sh, v.sw, v.sc};
  if (v.dtype < VF_F32 || v.dtype > VF_U8) return problem("op %lld: %s has dtype %d", (long long)op, what, v.dtype);
  if ((v.dtype == VF_U8) != (v.grid != nullptr)) return problem("op %lld: %s: numbers without a grid, or a grid alone", (long long)op, what);
  int64_t last = 0, count = 1;
  for (int i = 0; i < 4; i++) {
    if (extents[i] < 1 || extents[i] >= kMaxExtent)
      return problem("op %lld: %s has extent %lld", (long long)op, what, (long long)extents[i]);
    if (strides[i] < 0 || strides[i] >= kMaxExtent)
      return problem("op %lld: %s has stride %lld", (long long)op, what, (long long)strides[i]);
    if (strides[i] > 0 && (extents[i] - 1) > (kMaxExtent - 1) / strides[i])
      return problem("op %lld: %s has more than 2^31 elements", (long long)op, what);
    last += (extents[i] - 1) * strides[i];
    count *= extents[i];
    if (count >= kMaxExtent || last >= kMaxExtent)
      return problem("op %lld: %s has more than 2^31 elements", (long long)op, what);
  }
  if (data && !v.data) return problem("op %lld: %s has no memory", (long long)op, what);
  if (last >= v.size)
    return problem("op %lld: %s reaches element %lld of %lld", (long long)op, what, (long long)last, (long long)v.size);
  return true;
}

inline bool overlap(const vf_view &a, const vf_view &b) {
  auto item = [](const vf_view &v) { return item_of(v.dtype); };
  auto last = [](const vf_view &v) {
    return (v.r - 1) * v.sr + (v.h - 1) * v.sh + (v.w - 1) * v.sw + (v.c - 1) * v.sc + 1;
  };
  uintptr_t a0 = uintptr_t(a.data), b0 = uintptr_t(b.data);
  if (a0 + uintptr_t(last(a) * item(a)) <= b0 || b0 + uintptr_t(last(b) * item(b)) <= a0) return false;
  // Slices of the channels of one buffer lie between one another: apart if their channels are.
  if (a.dtype != b.dtype || a.sw != b.sw || a.sh != b.sh || a.sr != b.sr || a.sw == 0) return true;
  int64_t apart = (int64_t(b0) - int64_t(a0)) / item(a), pixel_stride = a.sw;
  int64_t shift = ((apart % pixel_stride) + pixel_stride) % pixel_stride;  // first channel of b behind that of a, within a pixel
  if (a.sc == b.sc && a.sc > 1 && shift % a.sc != 0) return false;
  int64_t alast = (a.c - 1) * a.sc, blast = (b.c - 1) * b.sc;
  return !(shift > alast && shift + blast < pixel_stride);
}

inline bool is_register(int32_t r) { return r >= 0 && r < VF_MAX_REGS; }

// Whether an op does nothing but give its bfloat16 argument in float32.
inline bool widens(const vf_op &d) {
  return d.kind == VF_POINTWISE && d.dtype == VF_F32 && d.nargs == 1 && d.args[0].dtype == VF_BF16 && d.nepi == 1 &&
         d.epi[0].op == VF_COPY && d.epi[0].a == VF_ARG;
}

inline bool check_epilogue(const vf_op &d, int64_t index, const Problem &problem) {
  long long i = index;
  if (d.nepi < 0 || d.nepi > VF_MAX_EPI || d.nargs < 0 || d.nargs > VF_MAX_ARGS)
    return problem("op %lld: %d instructions with %d arguments", i, d.nepi, d.nargs);
  int32_t width[VF_MAX_REGS] = {};
  for (int k = 0; k < VF_MAX_REGS; k++)
    if (d.width[k] < 0 || d.width[k] > (1 << 20)) return problem("op %lld: register %d is %d wide", i, k, d.width[k]);
  Op probe;
  probe.d = d;
  width[0] = producer_channels(probe);
  auto operand = [&](int32_t x) -> int32_t {  // width, 0 for a broadcast, -1 for a mistake
    if (is_register(x)) return width[x] > 0 ? width[x] : -1;
    if (x < VF_ARG || x - VF_ARG >= d.nargs) return -1;
    const vf_view &v = d.args[x - VF_ARG];
    return v.sc == 0 ? 0 : v.c;
  };
  for (int k = 0; k < d.nargs; k++) {
    const vf_view &v = d.args[k];
    if (!check_view(v, index, "an argument", true, problem)) return false;
    const bool numbers = v.dtype == VF_U8 && (d.dtype == VF_F32 || d.dtype == VF_U8);
    if (v.dtype != d.dtype && v.dtype != VF_F32 && !numbers && !widens(d)) return problem("op %lld: argument %d has dtype %d", i, k, v.dtype);
    if (v.dtype == VF_F32 && d.dtype == VF_F64) return problem("op %lld: argument %d has dtype %d", i, k, v.dtype);
  }
  for (int k = 0; k < d.nepi; k++) {
    const vf_epi &e = d.epi[k];
    if (e.op < VF_COPY || e.op > VF_ROUND || !is_register(e.dst))
      return problem("op %lld: instruction %d is no instruction", i, k);
    bool binary = (e.op >= VF_ADD && e.op <= VF_MINIMUM) || e.op == VF_PRELU || e.op == VF_ROUND;
    int32_t a = operand(e.a), b = binary ? operand(e.b) : 0;
    if (a < 0 || b < 0) return problem("op %lld: instruction %d reads nothing", i, k);
    if (e.op == VF_ROUND && (e.b < VF_ARG || d.args[e.b - VF_ARG].dtype != VF_U8 || d.args[e.b - VF_ARG].sc != 1 || d.dtype == VF_F64))
      return problem("op %lld: instruction %d rounds to no grid", i, k);
    int32_t result = a > b ? a : b;
    if (e.op == VF_LINEAR) {
      if (e.b < VF_ARG || e.b - VF_ARG + (e.q != 0) >= d.nargs) return problem("op %lld: no weights", i);
      const vf_view &w = d.args[e.b - VF_ARG];
      if (w.dtype == VF_U8 || w.c != a || w.sc != 1 || w.sw != w.c || w.h != 1 || w.r != 1 || !is_register(e.a) || e.a == e.dst)
        return problem("op %lld: instruction %d: the weights do not fit", i, k);
      result = w.w;
      if (e.q != 0 && (d.args[e.b - VF_ARG + 1].c != result || d.args[e.b - VF_ARG + 1].sc != 1 ||
                       d.args[e.b - VF_ARG + 1].dtype == VF_U8))
        return problem("op %lld: instruction %d: the bias does not fit", i, k);
    } else {
      if ((a && a != result) || (b && b != result)) return problem("op %lld: instruction %d: widths differ", i, k);
      if (!result) result = d.width[e.dst];
    }
    if (result < 1 || result > d.width[e.dst])
      return problem("op %lld: instruction %d needs a register %d wide", i, k, result);
    width[e.dst] = result;
  }
  if (d.kind != VF_INPUT && width[0] != d.out.c)
    return problem("op %lld: the result has %d channels, its value %d", i, width[0], d.out.c);
  for (int k = 0; k < d.nargs; k++) {  // maps, gates and constants; weights of VF_LINEAR are neither
    const vf_view &v = d.args[k];
    bool weights = false;
    for (int j = 0; j < d.nepi; j++) weights |= d.epi[j].op == VF_LINEAR && d.epi[j].b - VF_ARG == k;
    if (weights || d.gate == k + 1) continue;
    bool fits = (v.r == d.out.r || v.sr == 0) && (v.h == d.out.h || v.sh == 0) && (v.w == d.out.w || v.sw == 0);
    if (!fits) return problem("op %lld: argument %d is no map of the result's extent", i, k);
    if (overlap(v, d.out)) return problem("op %lld: argument %d overlaps the value", i, k);
  }
  return true;
}

inline bool check_terms(const vf_op &d, int64_t index, const vf_mask *masks, int64_t nmasks, const Problem &problem) {
  long long i = index;
  if (d.factor == 0) return true;
  if (d.kind != VF_CONV || !d.pending || !d.taps || !(d.factor > 0) || !std::isfinite(d.factor))
    return problem("op %lld: changes cannot be predicted here", i);
  if (d.nsources < 1 || d.nsources > VF_MAX_TERMS || d.nresiduals < 0 || d.nresiduals > VF_MAX_TERMS)
    return problem("op %lld: %d and %d terms", i, d.nsources, d.nresiduals);
  for (int k = 0; k < d.nsources + d.nresiduals; k++) {
    bool source = k < d.nsources;
    const vf_term &t = source ? d.sources[k] : d.residuals[k - d.nsources];
    if (t.mask < 0 || t.mask >= nmasks || !masks[t.mask].magnitude)
      return problem("op %lld: term %d has no magnitudes", i, k);
    const vf_mask &m = masks[t.mask];
    const vf_view &v = source ? d.in : d.out;
    if (m.r != d.out.r || m.h != v.h || m.w != v.w) return problem("op %lld: term %d has another extent", i, k);
  }
  return true;
}

inline bool check_reach(const vf_op &d, int64_t index, const vf_mask *masks, int64_t nmasks, const Problem &problem) {
  long long i = index;
  if (d.nreach < 0 || d.nreach > VF_MAX_REACH) return problem("op %lld: reached from %d masks", i, d.nreach);
  for (int k = 0; k < d.nreach; k++) {
    const vf_reach &r = d.reach[k];
    if (r.mask < 0 || r.mask >= nmasks || r.mask == d.mask) return problem("op %lld: mask %d", i, r.mask);
    const vf_mask &m = masks[r.mask];
    bool fits = m.r == d.out.r;
    if (r.kind == VF_SAME) fits &= m.h == d.out.h && m.w == d.out.w;
    else if (r.kind == VF_WINDOW)
      fits &= (d.kind == VF_CONV || d.kind == VF_MAXPOOL) && m.h == d.in.h && m.w == d.in.w;
    else if (r.kind == VF_TABLE) fits &= d.kind == VF_SEPARABLE && m.h == d.in.h && m.w == d.in.w;
    else if (r.kind == VF_SPREAD) fits &= d.kind == VF_TRANSPOSED && m.h == d.in.h && m.w == d.in.w;
    else fits &= r.kind == VF_WHOLE;
    if (!fits) return problem("op %lld: reach %d (kind %d) does not fit its mask", i, k, r.kind);
  }
  return true;
}

inline bool check_window(const vf_op &d, int64_t index, const Problem &problem) {
  long long i = index;
  constexpr int32_t most = 1 << 15;
  for (int32_t v : {d.kh, d.kw, d.sy, d.sx, d.dy, d.dx})
    if (v < 1 || v > most) return problem("op %lld: window %d", i, v);
  for (int32_t v : {d.py, d.px})
    if (v < 0 || v > most) return problem("op %lld: padding %d", i, v);
  if (d.kind == VF_MAXPOOL) {
    // every window holds a pixel of the input
    bool fits = d.py < (d.kh - 1) * int64_t(d.dy) + 1 && d.px < (d.kw - 1) * int64_t(d.dx) + 1;
    fits &= int64_t(d.out.h - 1) * d.sy - d.py < d.in.h && int64_t(d.out.w - 1) * d.sx - d.px < d.in.w;
    return fits || problem("op %lld: a window lies outside the input", i);
  }
  if (d.groups < 1 || d.in.c % d.groups || d.width[0] < 1 || d.width[0] > (1 << 20) || d.width[0] % d.groups || !d.weight)
    return problem("op %lld: %d groups of %d and %d channels", i, d.groups, d.in.c, d.width[0]);
  if (d.gate < 0 || d.gate > d.nargs || (d.gate && d.kind != VF_CONV))
    return problem("op %lld: gate %d of %d arguments", i, d.gate, d.nargs);
  if (d.gate) {
    const vf_view &v = d.args[d.gate - 1];
    if (v.c != d.in.c || v.dtype != d.dtype || v.h != 1 || v.w != 1 || (v.r != d.in.r && v.sr != 0))
      return problem("op %lld: the gate does not fit the input", i);
  }
  if (d.kind == VF_TRANSPOSED && d.in.sc != 1) return problem("op %lld: channels of the input are apart", i);
  if (int64_t(d.kh) * d.kw * (d.in.c / d.groups) * int64_t(d.width[0]) >= kMaxExtent)
    return problem("op %lld: more than 2^31 weights", i);
  return true;
}

// What comes before an op: a convolution, then a depthwise one, or one of them; the op follows, 1x1, depthwise, or after
// the convolution a maximum. `in` becomes what the op itself reads.
inline bool check_stages(const vf_op &d, int64_t index, const Problem &problem, vf_view &in) {
  long long i = index;
  if (d.nbefore > VF_MAX_STAGES || d.nbefore < 0) return problem("op %lld: %d stages", i, d.nbefore);
  if (d.dtype != d.in.dtype || d.in.sc != 1 || d.gate || d.factor != 0 || (d.kind != VF_CONV && d.kind != VF_MAXPOOL))
    return problem("op %lld: stages of an op of kind %d, with a gate, predicted changes or another dtype", i, d.kind);
  int windows = 0;
  for (int32_t k = 0; k <= d.nbefore; k++) {
    vf_op probe = d;
    probe.in = in, probe.nbefore = 0;
    if (k < d.nbefore) {
      const vf_stage &s = d.before[k];
      for (int32_t v : {s.h, s.w, s.c})
        if (v < 1 || v > (1 << 20)) return problem("op %lld: stage %d has extent %d", i, k, v);
      probe.kind = VF_CONV, probe.kh = s.kh, probe.kw = s.kw, probe.sy = s.sy, probe.sx = s.sx, probe.py = s.py;
      probe.px = s.px, probe.dy = s.dy, probe.dx = s.dx, probe.groups = s.groups, probe.weight = s.weight;
      probe.width[0] = s.c, probe.out.h = s.h, probe.out.w = s.w, probe.out.c = s.c, probe.nargs = 0;
      const vf_epi &e = s.epi;
      const bool known = e.op == VF_CLAMP || e.op == VF_LEAKY || e.op == VF_HARDSWISH || e.op == VF_SILU || e.op == VF_GELU;
      if (s.nepi < 0 || s.nepi > 1 || (s.nepi && (!known || e.a != 0 || e.dst != 0)))
        return problem("op %lld: stage %d has instructions that are not served", i, k);
      if ((d.dtype == VF_U8) != (s.grid != nullptr)) return problem("op %lld: stage %d: numbers without a grid, or a grid alone", i, k);
      if (s.integer && (d.dtype != VF_U8 || !s.factors || s.groups != 1)) return problem("op %lld: stage %d has integer weights", i, k);
    }
    if (!check_window(probe, index, problem)) return false;
    const bool most = probe.kind == VF_MAXPOOL;
    const bool deep = !most && probe.groups > 1 && probe.groups == in.c && probe.width[0] == in.c;
    const bool sums = !most && probe.groups == 1 && int64_t(probe.kh) * probe.kw * in.c <= VF_MAX_STAGE_INPUTS;
    const bool plain = sums && probe.kh == 1 && probe.kw == 1 && probe.sy == 1 && probe.sx == 1 && !probe.py && !probe.px &&
                       probe.out.h == in.h && probe.out.w == in.w;
    const bool first = k == 0 && sums && !(d.nbefore == 1 && d.kind == VF_CONV && d.groups == 1);
    const bool place = most ? k == 1 && d.nbefore == 1 : k == d.nbefore - 1 || (k == 1 && d.nbefore == 1);
    if (deep || most ? !place || windows++ > 0 : !(first || plain))
      return problem("op %lld: stage %d is of another kind than serves in its place", i, k);
    const int64_t tall = int64_t(probe.kh - 1) * probe.dy + 1, wide = int64_t(probe.kw - 1) * probe.dx + 1;
    const bool fits = tall <= VF_MAX_STAGE_WINDOW && wide <= VF_MAX_STAGE_WINDOW && probe.sy <= VF_MAX_STAGE_STRIDE &&
                      probe.sx <= VF_MAX_STAGE_STRIDE && probe.py < tall && probe.px < wide &&
                      int64_t(probe.out.h - 1) * probe.sy - probe.py < in.h &&
                      int64_t(probe.out.w - 1) * probe.sx - probe.px < in.w;
    if (!fits) return problem("op %lld: stage %d has a window of %d x %d", i, k, probe.kh, probe.kw);
    if (k < d.nbefore) in.h = probe.out.h, in.w = probe.out.w, in.c = probe.out.c;
  }
  return windows == 1 || problem("op %lld: no stage looks at a neighbourhood", i);
}

// Whether 2x2 results can be computed together, by minimal filtering (isa/winograd.h).
inline bool fits_winograd(const vf_op &d) {
  return d.kind == VF_CONV && d.dtype == VF_F32 && d.in.dtype == VF_F32 && d.nbefore == 0 && d.groups == 1 && !d.gate && d.kh == 3 && d.kw == 3 &&
         d.sy == 1 && d.sx == 1 && d.dy == d.dx && d.dx <= VF_MAX_WINOGRAD_DILATION && d.in.sc == 1 && d.in.c <= VF_MAX_WINOGRAD_INPUTS;
}

inline bool check_vicinity(const vf_op &d, int64_t index, const vf_mask *masks, int64_t nmasks, const Problem &problem) {
  long long i = index;
  if (!d.vicinity) return true;
  if (d.vicinity < 0 || d.vicinity > nmasks || d.nnear < 1 || d.nnear > nmasks || !d.near || !d.deferred || d.kind == VF_INPUT)
    return problem("op %lld: vicinity %d of %d sources", i, d.vicinity, d.nnear);
  for (int32_t k = 0; k < d.nnear; k++) {
    const vf_near &n = d.near[k];
    if (n.mask < 0 || n.mask >= nmasks || n.mask == d.mask || masks[n.mask].r != d.out.r)
      return problem("op %lld: source %d of its vicinity is mask %d", i, k, n.mask);
    const vf_mask &from = masks[n.mask];
    const int given = (n.top != nullptr) + (n.bottom != nullptr) + (n.first != nullptr) + (n.last != nullptr);
    if (given != 0 && given != 4) return problem("op %lld: source %d of its vicinity lacks a table", i, k);
    if (!given) continue;
    for (int32_t y = 0; y < d.out.h; y++)
      if (n.top[y] < 0 || n.bottom[y] >= from.h || n.top[y] > n.bottom[y])
        return problem("op %lld: source %d of its vicinity has rows %d to %d", i, k, n.top[y], n.bottom[y]);
    for (int32_t x = 0; x < from.w; x++)
      if (n.first[x] < 0 || n.last[x] >= d.out.w || (x && (n.first[x] < n.first[x - 1] || n.last[x] < n.last[x - 1])))
        return problem("op %lld: source %d of its vicinity has columns %d to %d", i, k, n.first[x], n.last[x]);
  }
  if (d.nsweep < 0 || d.nsweep > (1 << 24)) return problem("op %lld: a sweep of %d frames", i, d.nsweep);
  if (!d.nsweep) return true;
  if (!d.sweep || !d.phase || !d.streams) return problem("op %lld: a sweep without rows or streams", i);
  for (int32_t p = 0; p < d.nsweep; p++)
    if (d.sweep[p] < 0 || d.sweep[p + 1] < d.sweep[p] || d.sweep[p + 1] > d.out.h)
      return problem("op %lld: a sweep over rows %d to %d", i, d.sweep[p], d.sweep[p + 1]);
  return true;
}

inline bool check_op(const vf_op &d, int64_t index, const vf_mask *masks, int64_t nmasks, const Problem &problem) {
  long long i = index;
  if (d.kind < VF_INPUT || d.kind > VF_TRANSPOSED) return problem("op %lld: kind %d", i, d.kind);
  if (d.dtype < VF_F32 || d.dtype > VF_U8) return problem("op %lld: dtype %d", i, d.dtype);
  if (d.mask < 0 || d.mask >= nmasks) return problem("op %lld: mask %d of %lld", i, d.mask, (long long)nmasks);
  if (!check_view(d.out, index, "its value", true, problem)) return false;
  const vf_mask &own = masks[d.mask];
  if (own.r != d.out.r || own.h != d.out.h || own.w != d.out.w || d.out.dtype != d.dtype)
    return problem("op %lld: its mask or dtype does not fit its value", i);
  if ((d.out.r > 1 && !d.out.sr) || (d.out.h > 1 && !d.out.sh) || (d.out.w > 1 && !d.out.sw) || (d.out.c > 1 && !d.out.sc))
    return problem("op %lld: elements of its value share memory", i);
  if (d.test < VF_TEST_ANY || d.test > VF_TEST_NOISE || (d.test == VF_TEST_NOISE && !d.noise) || !(d.threshold >= 0) || (d.relative && !d.scale) ||
      (d.test == VF_TEST_ANY && d.threshold != 0))
    return problem("op %lld: change test %d at %g", i, d.test, d.threshold);
  if (d.magnitude && !own.magnitude) return problem("op %lld: its mask keeps no magnitudes", i);
  if (d.kind == VF_INPUT) {
    if (d.input < 0 || d.input > 1024 || d.block < 1 || d.block > (1 << 15) || d.dilation < 0 || d.dilation > (1 << 15))
      return problem("op %lld: input %d with blocks of %d, dilation %d", i, d.input, d.block, d.dilation);
    if (d.grow < 0 || d.grow > (1 << 15) || !(d.weak >= 0 && d.weak <= 1))
      return problem("op %lld: hits grow %d times from %g of the threshold", i, d.grow, d.weak);
    for (int64_t k = 0; d.noise && k < d.out.c; k++)
      if (!(d.noise[3 * k] >= 0) || !(d.noise[3 * k + 1] > 0) || d.noise[3 * k + 2] - d.noise[3 * k + 2] != 0)
        return problem("op %lld: noise of channel %lld", i, (long long)k);
    if (d.dtype == VF_U8 && !one_scale(d.out)) return problem("op %lld: a frame as numbers of several scales", i);
    const int64_t words = (int64_t(d.out.w) + 63) / 64, rest = d.out.w % 64;
    for (int64_t k = 0; d.watched && rest && k < int64_t(d.out.r) * d.out.h; k++)
      if (d.watched[(k + 1) * words - 1] >> rest) return problem("op %lld: watched pixels beyond its row %lld", i, (long long)k);
    if (d.nbefore) return problem("op %lld: an input has no stages", i);
    return d.nepi == 0 || problem("op %lld: an input has no instructions", i);
  }
  if (d.test == VF_TEST_NOISE || d.watched) return problem("op %lld: a test by noise, or of watched pixels, is for inputs", i);
  if (d.kind != VF_POINTWISE) {
    if (!check_view(d.in, index, "its input", true, problem)) return false;
    const bool mixed = (d.in.dtype == VF_U8 && d.dtype == VF_F32) || (d.in.dtype == VF_F32 && d.dtype == VF_U8);
    if ((d.in.dtype != d.dtype && !mixed) || d.in.r != d.out.r) return problem("op %lld: its input does not fit its value", i);
    if (d.in.dtype == VF_U8 && (d.kind == VF_TRANSPOSED || d.gate)) return problem("op %lld: kind %d of numbers, or a gate", i, d.kind);
    if (overlap(d.in, d.out)) return problem("op %lld: its input overlaps its value", i);
  }
  vf_op last = d;  // without its stages
  if (d.nbefore) {
    if (!check_stages(d, index, problem, last.in)) return false;
  } else if ((d.kind == VF_CONV || d.kind == VF_MAXPOOL || d.kind == VF_TRANSPOSED) && !check_window(d, index, problem)) {
    return false;
  }
  if (d.integer && (d.kind != VF_CONV || d.in.dtype != VF_U8 || !d.factors))
    return problem("op %lld: integer weights of kind %d", i, d.kind);
  if (d.winograd && !fits_winograd(d)) return problem("op %lld: minimal filtering (winograd) does not serve it", i);
  if (d.kind == VF_SEPARABLE) {
    if (d.ty < 1 || d.tx < 1 || !d.iy || !d.ix || !d.wy || !d.wx || d.ty > d.in.h || d.tx > d.in.w)
      return problem("op %lld: no tables", i);
    for (int64_t k = 0; k < int64_t(d.out.h) * d.ty; k++)
      if (d.iy[k] < 0 || d.iy[k] >= d.in.h) return problem("op %lld: table row %lld", i, (long long)k);
    for (int64_t k = 0; k < int64_t(d.out.w) * d.tx; k++)
      if (d.ix[k] < 0 || d.ix[k] >= d.in.w) return problem("op %lld: table column %lld", i, (long long)k);
  }
  if (d.kind == VF_MEAN && (d.out.h != 1 || d.out.w != 1)) return problem("op %lld: a mean has one pixel", i);
  return check_epilogue(last, index, problem) && check_reach(d, index, masks, nmasks, problem) &&
         check_terms(d, index, masks, nmasks, problem) && check_vicinity(d, index, masks, nmasks, problem);
}

}  // namespace vf
#endif
