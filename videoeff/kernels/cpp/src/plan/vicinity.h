// Bounded reach: which pixels are near what changed, and which of those that changes reach are put off.
#ifndef VIDEOEFF_VICINITY_H
#define VIDEOEFF_VICINITY_H

#include <algorithm>
#include <cstring>

#include "plan.h"

namespace vf {

// Copies the tables of the op's vicinity, unless an op before it brought them.
static void make_vicinity(vf_plan &plan, Op &op, const vf_mask *masks) {
  vf_op &d = op.d;
  if (!d.vicinity) return;
  op.sweep.assign(d.sweep, d.sweep + (d.nsweep ? d.nsweep + 1 : 0)), d.sweep = op.sweep.data();
  if (plan.vicinities.size() < size_t(d.vicinity)) plan.vicinities.resize(size_t(d.vicinity));
  Vicinity &made = plan.vicinities[d.vicinity - 1];
  if (!made.near.empty()) return;
  made.mask.resize(d.out.r, d.out.h, d.out.w, false);
  for (int32_t k = 0; k < d.nnear; k++) {
    const vf_near &n = d.near[k];
    Near near{n.mask, !n.top, {}, {}, {}, {}};
    if (n.top) {
      const int32_t width = masks[n.mask].w;
      near.top.assign(n.top, n.top + d.out.h), near.bottom.assign(n.bottom, n.bottom + d.out.h);
      near.first.assign(n.first, n.first + width), near.last.assign(n.last, n.last + width);
    }
    made.near.push_back(std::move(near));
  }
}

// The pixels near what has changed so far in this frame.
static const Mask &vicinity_of(vf_plan &plan, const Op &op) {
  Vicinity &v = plan.vicinities[op.d.vicinity - 1];
  if (v.ready) return v.mask;
  v.ready = true;
  Mask &to = v.mask;
  to.clear();
  for (const Near &near : v.near) {
    const Mask &from = plan.masks[near.mask];
    if (!from.any) continue;
    plan.words.resize(size_t(from.words));
    for (int32_t i = 0; i < to.r; i++) {
      if (near.whole) {
        if (from.row_any(i)) to.fill_row(i);
        continue;
      }
      for (int32_t y = 0; y < to.h; y++) {
        bool seen = false;
        for (int32_t v0 = near.top[y]; v0 <= near.bottom[y]; v0++) {
          if (!from.flag(i, v0)) continue;
          const uint64_t *row = from.row(i, v0);
          if (!seen) std::memcpy(plan.words.data(), row, size_t(from.words) * 8);
          else
            for (int32_t k = 0; k < from.words; k++) plan.words[k] |= row[k];
          seen = true;
        }
        if (!seen) continue;
        uint64_t *out = to.row(i, y);
        each_run(plan.words.data(), from.words, 0, from.w, [&](int32_t x, int32_t n) {
          const int32_t first = near.first[x], last = near.last[x + n - 1];  // neither ever falls
          if (first <= last) set_bits(out, first, last + 1), to.flag(i, y) = 1, to.any = true;
        });
      }
    }
  }
  return to;
}

// Of the pixels that changes reach, and those put off before, keeps in `active` what is near or whose turn it is, and puts
// off the rest. To do it twice over the same rows changes nothing.
static void put_off(vf_plan &plan, const Op &op, Mask &active, RowBlock rows) {
  const vf_op &d = op.d;
  if (!d.vicinity) return;
  const Mask &near = vicinity_of(plan, op);
  const bool still = !active.any && !near.any;
  for (int32_t i = 0; i < d.out.r; i++) {
    int32_t first = 0, stop = 0;
    if (d.nsweep && d.phase[op.streams[i]] >= 0) {
      const int32_t p = d.phase[op.streams[i]] % d.nsweep;
      first = d.sweep[p], stop = d.sweep[p + 1];
    }
    const int32_t begin = still ? std::max(rows.first, first) : rows.first;
    const int32_t end = still ? std::min(rows.stop, stop) : rows.stop;
    for (int32_t y = begin; y < end; y++) {
      const bool due = y >= first && y < stop, close = near.any && near.flag(i, y);
      if (!due && !close && !active.flag(i, y)) continue;
      uint64_t *bits = active.row(i, y), *marks = d.deferred + (size_t(i) * d.out.h + y) * active.words, seen = 0;
      const uint64_t *allowed = near.row(i, y);
      for (int32_t k = 0; k < active.words; k++) {
        const uint64_t wanted = bits[k] | marks[k], now = due ? wanted : close ? wanted & allowed[k] : 0;
        bits[k] = now, marks[k] = wanted & ~now, seen |= now;
      }
      active.flag(i, y) = seen != 0;
    }
  }
  active.settle();
}

// Drops what is not near, and puts nothing off: to tell how much there is to do.
static void keep_near(vf_plan &plan, const Op &op, Mask &active) {
  const Mask &near = vicinity_of(plan, op);
  for (int32_t i = 0; i < active.r; i++)
    for (int32_t y = 0; y < active.h; y++) {
      if (!active.flag(i, y)) continue;
      uint64_t *bits = active.row(i, y), seen = 0;
      const uint64_t *allowed = near.row(i, y);
      for (int32_t k = 0; k < active.words; k++) seen |= bits[k] &= allowed[k];
      active.flag(i, y) = seen != 0;
    }
  active.settle();
}

// Whether pixels of some rows of entry i are put off.
static bool any_put_off(const Op &op, int32_t i, RowBlock rows) {
  const vf_op &d = op.d;
  if (!d.vicinity) return false;
  const int32_t words = (d.out.w + 63) / 64;
  const uint64_t *marks = d.deferred + size_t(i) * d.out.h * words;
  return std::any_of(marks + size_t(rows.first) * words, marks + size_t(rows.stop) * words, [](uint64_t m) { return m != 0; });
}

// A stream that begins has nothing put off.
static void forget_put_off(const Op &op, int32_t i) {
  const vf_op &d = op.d;
  const size_t count = size_t(d.out.h) * ((d.out.w + 63) / 64);
  if (d.vicinity) std::memset(d.deferred + i * count, 0, count * 8);
}

}  // namespace vf
#endif
