// Chains of ops over large maps, row block by row block: some rows of each op after the other, so that an op finds what it
// reads in the cache. Op after op, a map of megabytes is gone to memory before the next op reads it.
#ifndef VIDEOEFF_ROW_BLOCKS_H
#define VIDEOEFF_ROW_BLOCKS_H

#include <algorithm>
#include <chrono>

#include "blocks.h"
#include "reach.h"
#include "line_buffers.h"
#include "vicinity.h"
#include "winograd_blocks.h"

namespace vf {

static int64_t since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now() - start).count();
}

static int64_t count_rows(const Mask &mask, RowBlock rows) {
  int64_t n = 0;
  for (int32_t i = 0; i < mask.r; i++) n += mask.count(i, rows.first, rows.stop);
  return n;
}

// Rows of which most is active are computed whole where that is faster, unless some of them are put off. Each stream decides
// for itself: they do not influence each other. Returns the pixels to compute.
static int64_t complete(Op &op, Mask &active, RowBlock rows) {
  const vf_op &d = op.d;
  op.whole.resize(size_t(d.out.r), 0);
  const int64_t extent = int64_t(rows.stop - rows.first) * d.out.w;
  int64_t pixels = 0;
  for (int32_t i = 0; i < d.out.r; i++) {
    int64_t count = active.count(i, rows.first, rows.stop);
    const double share = d.dense_share - (op.whole[i] ? kHysteresis : 0);
    op.whole[i] = double(count) >= share * double(extent) && !any_put_off(op, i, rows);
    if (op.whole[i]) active.fill_rows(i, rows.first, rows.stop), count = extent;
    pixels += count;
  }
  return pixels;
}

// Computes the `pixels` active pixels of some rows, or all of them. Returns how many were computed.
static int64_t run_active(vf_plan &plan, Op &op, Mask &active, int64_t pixels, RowBlock rows, const Frame &frame) {
  if (op.d.dense_share <= 1 && op.d.factor == 0) pixels = complete(op, active, rows);
  if (op.columns) return run_line_buffers(plan, op, active, pixels, frame), pixels;
  if (op.winograd_tiles) return run_winograd(plan, op, active, pixels, rows, frame), pixels;
  plan.runs.clear();
  runs_of(active, plan.runs, rows);
  run_blocks(plan, op, pixels, frame);
  return pixels;
}

static int64_t map_bytes(const Op &op) {
  const vf_view &v = op.d.out;
  return int64_t(v.r) * v.h * v.w * v.c * item_of(op.d.dtype);
}

// Whether rows of an op follow from some rows of what it reads.
static bool goes_by_rows(const Op &op) {
  const vf_op &d = op.d;
  if (d.kind != VF_CONV && d.kind != VF_MAXPOOL && d.kind != VF_POINTWISE) return false;
  if (d.factor != 0 || d.dense || d.nreach < 1 || shares_weights(op) || !op.before.empty()) return false;
  return std::all_of(d.reach, d.reach + d.nreach, [](const vf_reach &r) { return r.kind == VF_SAME || r.kind == VF_WINDOW; });
}

static bool reads(const Op &op, int32_t mask) {
  return std::any_of(op.d.reach, op.d.reach + op.d.nreach, [&](const vf_reach &r) { return r.mask == mask; });
}

// Whether an op has to know all changes of one of ops first .. index - 1, to tell what is near.
static bool waits_for(const vf_plan &plan, size_t first, size_t index) {
  const vf_op &d = plan.ops[index].d;
  if (!d.vicinity) return false;
  for (const Near &near : plan.vicinities[d.vicinity - 1].near)
    for (size_t k = first; k < index; k++)
      if (plan.ops[k].d.mask == near.mask) return true;
  return false;
}

static void find_chains(vf_plan &plan) {
  const size_t count = plan.ops.size();
  plan.chain.resize(count), plan.done.resize(count);
  for (size_t i = 0, stop; i < count; i = stop) {
    stop = i + 1;
    while (stop < count && goes_by_rows(plan.ops[stop - 1]) && goes_by_rows(plan.ops[stop]) &&
           map_bytes(plan.ops[stop - 1]) >= kLargeMap && plan.ops[stop].d.out.r == plan.ops[i].d.out.r &&
           reads(plan.ops[stop], plan.ops[stop - 1].d.mask) && !waits_for(plan, i, stop))
      stop++;
    plan.chain[i] = stop;
    for (size_t k = i + 1; k < stop; k++) plan.chain[k] = k + 1;
  }
}

// Rows of op `index` that can be computed now, of a chain that begins with `first`.
static int32_t rows_ready(const vf_plan &plan, size_t first, size_t index) {
  const vf_op &d = plan.ops[index].d;
  int32_t ready = d.out.h;
  for (int32_t k = 0; k < d.nreach; k++)
    for (size_t from = first; from < index; from++) {
      const vf_op &source = plan.ops[from].d;
      if (source.mask != d.reach[k].mask || plan.done[from] == source.out.h) continue;
      int32_t rows = plan.done[from];
      if (d.reach[k].kind == VF_WINDOW) {
        const int32_t top = rows - 1 - (d.kh - 1) * d.dy + d.py;  // of the last window that is whole
        rows = top < 0 ? 0 : top / d.sy + 1;
      }
      ready = std::min(ready, rows);
    }
  return ready;
}

// Rows of one op, all or those pixels that are active.
static void run_rows(vf_plan &plan, size_t index, RowBlock rows, const Frame &frame, bool count) {
  Op &op = plan.ops[index];
  const vf_op &d = op.d;
  Mask &mask = plan.masks[d.mask], &active = plan.active[d.mask];
  find_reach(plan, op, active, rows);
  put_off(plan, op, active, rows);
  const int64_t pixels = active.any ? count_rows(active, rows) : 0;
  if (!pixels) return;
  plan.row_blocks++;
  const int64_t scheduled = run_active(plan, op, active, pixels, rows, frame);
  mask.settle();
  if (count) plan.counts[VF_COUNTS * index] += pixels, plan.counts[VF_COUNTS * index + 1] += scheduled;
}

// Runs ops first .. stop - 1 row block by row block, if so much is active that it pays. Returns whether it did.
static bool run_chain(vf_plan &plan, size_t first, size_t stop, const Frame &frame, bool count) {
  if (frame.any_fresh) return false;
  const Op &head = plan.ops[first];
  Mask &active = plan.active[head.d.mask];
  active.clear();
  find_reach(plan, head, active);
  if (head.d.vicinity) keep_near(plan, head, active);
  int64_t widest = 0;
  for (size_t i = first; i < stop; i++) widest = std::max(widest, map_bytes(plan.ops[i]));
  const double share = double(active.count()) / (double(head.d.out.r) * head.d.out.h * head.d.out.w);
  const double count_of_blocks = share * double(widest) / double(kRowBlockBytes * frame.workers);
  if (count_of_blocks < kFewestRowBlocks) return false;
  if (head.d.vicinity) active.clear();  // so far it was only counted
  const int32_t step = std::max(int32_t(double(head.d.out.h) / count_of_blocks), 1);
  find_fresh(plan, head, frame);
  for (size_t i = first; i < stop; i++) {
    const vf_op &d = plan.ops[i].d;
    plan.masks[d.mask].clear(), plan.done[i] = 0;
    if (i > first) plan.active[d.mask].clear();
  }
  while (plan.done[stop - 1] < plan.ops[stop - 1].d.out.h)
    for (size_t i = first; i < stop; i++) {
      const auto start = std::chrono::steady_clock::now();
      const int32_t height = plan.ops[i].d.out.h;
      const RowBlock rows{plan.done[i], i == first ? std::min(plan.done[i] + step, height) : rows_ready(plan, first, i)};
      if (rows.stop > rows.first) run_rows(plan, i, rows, frame, count), plan.done[i] = rows.stop;
      plan.times[i] += since(start);
    }
  return true;
}

}  // namespace vf
#endif
