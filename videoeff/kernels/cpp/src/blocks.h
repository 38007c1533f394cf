// Active pixels in blocks for the workers, and the masks they leave.
#ifndef VIDEOEFF_BLOCKS_H
#define VIDEOEFF_BLOCKS_H

#include <algorithm>
#include <cstring>
#include "plan.h"

namespace vf {

static void cut_blocks(vf_plan &plan, const Op &op, int64_t pixels, int workers, bool apart) {
  int64_t size = op.block_pixels, count = (pixels + size - 1) / size;
  if (workers > 1 && count < 4 * workers && pixels >= 16 * workers) {
    count = (count + workers - 1) / workers * workers;
    size = std::min<int64_t>(size, ((pixels + count - 1) / count + 3) / 4 * 4);
  }
  plan.cut.clear(), plan.blocks.clear();
  plan.cut.reserve(plan.runs.size() + size_t(pixels / size) + 2);
  size_t first = 0;
  int32_t held = 0;
  auto close = [&] {
    if (held) plan.blocks.push_back({plan.cut.data() + first, int32_t(plan.cut.size() - first), held});
    first = plan.cut.size(), held = 0;
  };
  for (const Run &run : plan.runs) {
    if (apart && held && plan.cut.back().r != run.r) close();
    for (int32_t at = 0; at < run.n;) {
      int32_t take = int32_t(std::min<int64_t>(run.n - at, size - held));
      plan.cut.push_back({run.r, run.y, run.x + at, take});
      held += take, at += take;
      if (held == size) close();
    }
  }
  close();
}

struct Work {
  vf_plan *plan;
  const Op *op;
  Mask *mask;
};

static void store_outcome(Mask &mask, const Block &block, const uint64_t *changed, const float *squares) {
  int32_t at = 0;
  for (int32_t k = 0; k < block.count; k++) {
    const Run &run = block.runs[k];
    uint64_t seen = 0;
    for (int32_t i = 0; i < run.n; i++) seen |= changed[(at + i) >> 6] >> ((at + i) & 63) & 1;
    if (seen) {
      or_bits(mask.row(run.r, run.y), run.x, run.n, changed, at);
      __atomic_store_n(&mask.flag(run.r, run.y), uint8_t(1), __ATOMIC_RELAXED);
      if (squares)
        std::memcpy(mask.squares.data() + (size_t(run.r) * mask.h + run.y) * mask.w + run.x, squares + at,
                    sizeof(float) * run.n);
    }
    at += run.n;
  }
}

static void block_task(void *context, int64_t index, int worker) {
  const Work &work = *static_cast<Work *>(context);
  vf_plan &plan = *work.plan;
  const Block &block = plan.blocks[index];
  uint64_t changed[kMaxBlock / 64 + 1];
  float squares[kMaxBlock];
  float *wanted = work.op->d.magnitude ? squares : nullptr;
  bool force = plan.fresh_rows[block.runs->r] != 0;
  plan.kernels->block(*work.op, block, plan.workers[worker].scratch, force, changed, wanted);
  store_outcome(*work.mask, block, changed, wanted);
}

static void panel_task(void *context, int64_t index, int) {
  const Work &work = *static_cast<Work *>(context);
  vf_plan &plan = *work.plan;  // all workers fill the registers of the first, panel by panel
  plan.kernels->panel(*work.op, plan.blocks[0], plan.workers[0].scratch, int32_t(index));
}

// A few pixels of a layer with many weights: the workers share the weights instead of the pixels.
static bool run_panels(vf_plan &plan, const Op &op, int64_t pixels, const Frame &frame) {
  if (frame.workers < 2 || op.panels.size() < 2 || op.gather || op.d.groups != 1 || op.d.kind != VF_CONV ||
      pixels > op.block_pixels || op.weight.bytes < (size_t(512) << 10))
    return false;
  cut_blocks(plan, op, pixels, 1, frame.any_fresh);
  if (plan.blocks.size() != 1) return false;
  Work work{&plan, &op, &plan.masks[op.d.mask]};
  plan.pool.run(int64_t(op.panels.size()), frame.workers, panel_task, &work);
  const Block &block = plan.blocks[0];
  uint64_t changed[kMaxBlock / 64 + 1];
  float squares[kMaxBlock];
  float *wanted = op.d.magnitude ? squares : nullptr;
  plan.kernels->finish(op, block, plan.workers[0].scratch, plan.fresh_rows[block.runs->r] != 0, changed, wanted);
  store_outcome(*work.mask, block, changed, wanted);
  return true;
}

constexpr int64_t kAlone = 12000;  // cycles that are over before another thread has joined and left

static void run_blocks(vf_plan &plan, const Op &op, int64_t pixels, const Frame &frame) {
  if (run_panels(plan, op, pixels, frame)) return;
  const int workers = pixels * op.cycles < kAlone ? 1 : frame.workers;
  cut_blocks(plan, op, pixels, workers, frame.any_fresh);
  Work work{&plan, &op, &plan.masks[op.d.mask]};
  plan.pool.run(int64_t(plan.blocks.size()), workers, block_task, &work);
}

}  // namespace vf
#endif
