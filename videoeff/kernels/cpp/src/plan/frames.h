// Inputs: the change test of the caller's frames, by pixel or by block, and storing what changed.
#ifndef VIDEOEFF_FRAMES_H
#define VIDEOEFF_FRAMES_H

#include <algorithm>
#include <atomic>
#include <cstring>

#include "plan.h"

namespace vf {

struct InputWork {
  vf_plan *plan;
  const Op *op;
  const vf_frame *frame;
  Mask *mask, *hits;      // changed pixels; blocks that exceed the limit
  const uint8_t *fresh;   // by row
  int32_t block_rows;     // rows of blocks in a stream
  std::atomic<bool> finite{true};
};

static float input_limit(const vf_op &d, int32_t row) {
  if (d.threshold == 0) return 0.5f;
  return d.relative ? float(d.threshold) * d.scale[row] : float(d.threshold);
}

// Tests one row of blocks against the values kept: which of its blocks exceed the limit, and is it finite.
static void input_test_task(void *context, int64_t index, int) {
  InputWork &work = *static_cast<InputWork *>(context);
  const vf_op &d = work.op->d;
  const int32_t r = int32_t(index / work.block_rows), by = int32_t(index % work.block_rows), b = d.block;
  const int32_t width = d.out.w, first = by * b, last = std::min(d.out.h, first + b);
  Mask &hits = *work.hits;
  uint64_t *bits = hits.row(r, by);
  thread_local std::vector<float> sums;
  if (b > 1) sums.resize(size_t(width));
  RowTest test{r, first, input_limit(d, r), b == 1 ? bits : nullptr, sums.data(), true};
  bool finite = true;
  for (; test.y < last; test.y++, test.first = false) finite &= work.plan->kernels->input_row(*work.op, *work.frame, test);
  if (!finite) work.finite = false;
  if (work.fresh[r]) {  // nothing is kept to test against; it was read for what is not finite
    std::memset(bits, 0, sizeof(uint64_t) * size_t(hits.words));
    return;
  }
  if (b > 1)
    for (int32_t x = 0; x < hits.w; x++) {
      const int32_t end = std::min(width, (x + 1) * b);
      float sum = 0;
      for (int32_t k = x * b; k < end; k++) sum += sums[size_t(k)];
      const float mean = sum / float((last - first) * (end - x * b));
      if (!(mean <= test.limit)) bits[x >> 6] |= uint64_t(1) << (x & 63);
    }
  uint64_t seen = 0;
  for (int32_t k = 0; k < hits.words; k++) seen |= bits[k];
  hits.flag(r, by) = seen != 0;
}

// Store a row of pixels where its mask says so.
static void input_store_task(void *context, int64_t index, int) {
  const InputWork &work = *static_cast<InputWork *>(context);
  const vf_op &d = work.op->d;
  const int32_t r = int32_t(index / d.out.h), y = int32_t(index % d.out.h);
  Mask &mask = *work.mask;
  if (!mask.flag(r, y)) return;
  float *squares = d.magnitude ? mask.squares.data() + (size_t(r) * mask.h + y) * mask.w : nullptr;
  const uint64_t *bits = mask.row(r, y);
  for (int32_t x = 0; x < mask.w;) {
    uint64_t rest = bits[x >> 6] >> (x & 63);
    if (!rest) {
      x = (x / 64 + 1) * 64;
      continue;
    }
    x += __builtin_ctzll(rest);
    int32_t end = x;
    while (end < mask.w && bits[end >> 6] >> (end & 63) & 1) end++;
    work.plan->kernels->input_store(*work.op, *work.frame, {r, y, x, end - x}, squares ? squares + x : nullptr);
    if (squares && work.fresh[r]) std::memset(squares + x, 0, sizeof(float) * (end - x));
    x = end;
  }
}

// Tests a frame and changes nothing but the hits. Returns whether all its values are finite.
static bool test_input(vf_plan &plan, const Op &op, Mask &hits, const Frame &frame) {
  const vf_op &d = op.d;
  const int32_t block_rows = (d.out.h + d.block - 1) / d.block;
  hits.clear();
  InputWork work{&plan, &op, frame.frames + d.input, nullptr, &hits, plan.fresh_rows.data(), block_rows};
  plan.pool.run(int64_t(d.out.r) * block_rows, frame.workers, input_test_task, &work);
  hits.settle();
  return work.finite;
}

// From the hits to the pixels that changed, which are stored.
static void run_input(vf_plan &plan, const Op &op, Mask &hits, const Frame &frame) {
  const vf_op &d = op.d;
  Mask &mask = plan.masks[d.mask];
  const int32_t b = d.block, reach = d.dilation;
  if (reach > 0 || b > 1) {
    for (int32_t i = 0; i < hits.r && hits.any; i++)
      for (int32_t y = 0; y < hits.h; y++) {
        bool any = false;
        plan.words.assign(size_t(hits.words), 0);
        for (int32_t v = std::max(0, y - reach); v <= std::min(hits.h - 1, y + reach); v++) {
          if (!hits.flag(i, v)) continue;
          any = true;
          const uint64_t *row = hits.row(i, v);
          for (int32_t j = 0; j < hits.words; j++)
            for (int32_t s = -reach; s <= reach; s++) plan.words[j] |= bits_at(row, hits.words, int64_t(j) * 64 + s);
        }
        if (!any) continue;
        for (int32_t py = y * b; py < std::min(mask.h, (y + 1) * b); py++) {
          uint64_t *to = mask.row(i, py);
          if (b == 1) {
            for (int32_t j = 0; j < mask.words; j++) to[j] = plan.words[j];
          } else {
            for (int32_t x = 0; x < hits.w; x++)
              if (plan.words[x >> 6] >> (x & 63) & 1)
                for (int32_t px = x * b; px < std::min(mask.w, (x + 1) * b); px++) to[px >> 6] |= uint64_t(1) << (px & 63);
          }
          to[mask.words - 1] &= mask.last();
          mask.flag(i, py) = 1;
        }
        mask.any = true;
      }
  } else {
    reach_same(hits, mask, {0, mask.h});
  }
  for (int32_t i = 0; i < d.out.r; i++)
    if (plan.fresh_rows[i]) mask.fill_row(i);
  InputWork work{&plan, &op, frame.frames + d.input, &mask, &hits, plan.fresh_rows.data(), 0};
  if (mask.any) plan.pool.run(int64_t(d.out.r) * d.out.h, frame.workers, input_store_task, &work);
}

}  // namespace vf
#endif
