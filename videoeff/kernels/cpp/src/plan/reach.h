// Which pixels of an op to compute: what changes reach, less what is predicted to stay.
#ifndef VIDEOEFF_REACH_H
#define VIDEOEFF_REACH_H

#include <algorithm>
#include <cstring>
#include "plan.h"

namespace vf {

// Rows of the result whose streams are fresh.
static void find_fresh(vf_plan &plan, const Op &op, const Frame &frame) {
  plan.fresh_rows.assign(size_t(op.d.out.r), 0);
  if (!frame.any_fresh) return;
  for (int32_t i = 0; i < op.d.out.r; i++) plan.fresh_rows[i] = op.streams.empty() || frame.fresh[op.streams[i]];
}

static void find_reach(vf_plan &plan, const Op &op, Mask &active, RowBlock rows) {
  const vf_op &d = op.d;
  const Window &window = op.window;
  const bool buffered = op.columns > 0;  // what changes reach of the first stage, then what follows from that
  const Window inner = buffered ? window_of(op.before[0].d) : window;
  Mask &next = buffered ? plan.reached[d.mask] : active;
  if (buffered) next.clear();
  const RowBlock all = buffered ? RowBlock{0, next.h} : rows;
  for (int32_t k = 0; k < d.nreach; k++) {
    const Mask &from = plan.masks[d.reach[k].mask];
    if (!from.any) continue;
    int32_t kind = d.dense ? int32_t(VF_WHOLE) : d.reach[k].kind;
    switch (kind) {
      case VF_SAME: reach_same(from, active, rows); break;
      case VF_WINDOW: reach_window(from, inner, next, plan.words, all); break;
      case VF_TABLE: reach_table(from, d.iy, d.ty, d.ix, d.tx, active, plan.words); break;
      case VF_SPREAD: reach_spread(from, window, active); break;
      default:
        for (int32_t i = 0; i < from.r; i++)
          if (from.row_any(i)) active.fill_row(i);
    }
  }
  if (buffered) reach_window(next, window, active, plan.words, rows);
}

// Tables, spreads and whole rows are found for the whole mask, whatever rows are asked for.
static void find_reach(vf_plan &plan, const Op &op, Mask &active) {
  find_reach(plan, op, active, {0, active.h});
}

static void add_energy(const vf_plan &plan, const vf_term *terms, int32_t count, int32_t i, int32_t y, float *row) {
  for (int32_t k = 0; k < count; k++) {
    const Mask &m = plan.masks[terms[k].mask];
    if (!m.any || !m.flag(i, y)) continue;
    const float share = float(terms[k].share), *squares = m.squares.data() + (size_t(i) * m.h + y) * m.w;
    const uint64_t *bits = m.row(i, y);
    for (int32_t j = 0; j < m.words; j++)
      for (uint64_t left = bits[j]; left; left &= left - 1) {
        int32_t x = j * 64 + __builtin_ctzll(left);
        row[x] += share * squares[x];
      }
  }
}

// Predicted changes: pixels whose pending energy stays below (factor threshold scale)^2 are put off.
static void predict(vf_plan &plan, const Op &op, Mask &active) {
  const vf_op &d = op.d;
  const int32_t height = d.in.h, width = d.in.w, out = d.out.w;
  // rows of squared magnitudes of the input with room for the taps on both sides, row after row as needed
  const int32_t left = d.px, right = std::max(0, (out - 1) * d.sx + (d.kw - 1) * d.dx - d.px - width + 1);
  const int32_t pitch = left + width + right;
  plan.plane.resize(size_t(height) * pitch + size_t(out));
  float *sum = plan.plane.data() + size_t(height) * pitch;
  for (int32_t i = 0; i < d.out.r; i++) {
    if (plan.fresh_rows[i]) {
      std::memset(d.pending + size_t(i) * d.out.h * out, 0, sizeof(float) * size_t(d.out.h) * out);
      continue;
    }
    if (!active.any) continue;
    int32_t ready = 0;  // rows of the plane filled so far
    std::vector<uint8_t> &holds = plan.holds;  // whether a row of the plane is not zero
    holds.assign(size_t(height), 0);
    float base = float(d.factor * d.threshold);
    float limit = base * base;
    if (d.relative) limit = limit * (d.scale[i] * d.scale[i]);
    for (int32_t y = 0; y < d.out.h; y++) {
      if (!active.flag(i, y)) continue;
      const int32_t last = std::min(height - 1, y * d.sy - d.py + (d.kh - 1) * d.dy);
      for (; ready <= last; ready++) {
        bool any = false;
        for (int32_t k = 0; k < d.nsources; k++) {
          const Mask &m = plan.masks[d.sources[k].mask];
          any |= m.any && m.flag(i, ready);
        }
        if (!any) continue;
        holds[ready] = 1;
        float *row = plan.plane.data() + size_t(ready) * pitch;
        std::memset(row, 0, sizeof(float) * pitch);
        add_energy(plan, d.sources, d.nsources, i, ready, row + left);
      }
      std::memset(sum, 0, sizeof(float) * out);
      for (int32_t r = 0; r < d.kh; r++) {
        int32_t v = y * d.sy - d.py + r * d.dy;
        if (v < 0 || v >= height || !holds[v]) continue;
        const float *row = plan.plane.data() + size_t(v) * pitch;
        for (int32_t c = 0; c < d.kw; c++) {
          const float tap = d.taps[r * d.kw + c], *from = row + left - d.px + c * d.dx;
          if (d.sx == 1)
            for (int32_t x = 0; x < out; x++) sum[x] += tap * from[x];
          else
            for (int32_t x = 0; x < out; x++) sum[x] += tap * from[size_t(x) * d.sx];
        }
      }
      add_energy(plan, d.residuals, d.nresiduals, i, y, sum);
      float *pending = d.pending + (size_t(i) * d.out.h + y) * out;
      uint64_t *bits = active.row(i, y), seen = 0;
      for (int32_t j = 0; j < active.words; j++) {
        for (uint64_t rest = bits[j]; rest; rest &= rest - 1) {
          int32_t x = j * 64 + __builtin_ctzll(rest);
          pending[x] += sum[x];
          if (pending[x] <= limit) bits[j] &= ~(uint64_t(1) << (x & 63));
          else pending[x] = 0;
        }
        seen |= bits[j];
      }
      if (!seen) active.flag(i, y) = 0;
    }
  }
  active.settle();
}

}  // namespace vf
#endif
