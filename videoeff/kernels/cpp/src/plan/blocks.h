// Active pixels in blocks for the workers, and the masks they leave.
#ifndef VIDEOEFF_BLOCKS_H
#define VIDEOEFF_BLOCKS_H

#include <algorithm>
#include <cstring>
#include "plan.h"

namespace vf {

// Pixels of a block: few enough that every worker has some.
static int64_t block_size(const Op &op, int64_t pixels, int workers) {
  int64_t size = op.block_pixels, count = (pixels + size - 1) / size;
  if (workers > 1 && count < kBlocksEach * workers && pixels >= kPixelsEach * workers) {
    count = (count + workers - 1) / workers * workers;
    const int64_t step = op.products == VF_PRODUCTS_TILE ? kTileStep / 2 : 4;
    size = std::min<int64_t>(size, ((pixels + count - 1) / count + step - 1) / step * step);
  }
  return size;
}

// Cuts the runs into blocks of `size` pixels, those of different rows apart where wanted.
static void cut_blocks(vf_plan &plan, int64_t pixels, int64_t size, bool apart) {
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

static void compute_block(const Work &work, const Block &block, Worker &worker) {
  vf_plan &plan = *work.plan;
  uint64_t changed[kMaxBlock / 64 + 1];
  float squares[kMaxBlock];
  float *wanted = work.op->d.magnitude ? squares : nullptr;
  bool force = plan.fresh_rows[block.runs->r] != 0;
  plan.kernels->block(*work.op, block, worker.scratch, force, changed, wanted);
  store_outcome(*work.mask, block, changed, wanted);
}

// What follows once the block's results lie in register 0.
static void finish_block(vf_plan &plan, const Op &op, Mask &mask, const Block &block, Scratch &scratch) {
  uint64_t changed[kMaxBlock / 64 + 1];
  float squares[kMaxBlock];
  float *wanted = op.d.magnitude ? squares : nullptr;
  plan.kernels->finish(op, block, scratch, plan.fresh_rows[block.runs->r] != 0, changed, wanted);
  store_outcome(mask, block, changed, wanted);
}

static void block_task(void *context, int64_t index, int worker) {
  const Work &work = *static_cast<Work *>(context);
  compute_block(work, work.plan->blocks[index], work.plan->workers[worker]);
}

// Blocks that the workers compute together, panel of weights by panel, in registers they share.
struct Shared {
  vf_plan *plan;
  const Op *op;
  Mask *mask;
  size_t first, last;             // of the plan's blocks
  int32_t whole, turns;           // panels computed by one worker each; panels that a worker has a part in
  int32_t parts;                  // of the work

  // Blocks `from` .. `to` - 1 as one, and the shared registers from there on.
  Block joined(size_t from, size_t to, Scratch &scratch) const {
    const Block *blocks = plan->blocks.data();
    Block all{blocks[from].runs, 0, 0};
    for (size_t i = from; i < to; i++) all.count += blocks[i].count, all.pixels += blocks[i].pixels;
    int64_t before = 0;
    for (size_t i = first; i < from; i++) before += blocks[i].pixels;
    const int64_t item = op->d.dtype == VF_F64 ? 8 : 4;
    scratch.reg[0] = static_cast<char *>(plan->shared.data) + before * op->ld * item;
    return all;
  }
  // Part `index` of `count` of the blocks.
  size_t start(int64_t index, int64_t count) const { return first + size_t(int64_t(last - first) * index / count); }
};

// Each worker has as many whole panels as the others, and then its part of the pixels of each panel that is left.
static void panel_task(void *context, int64_t index, int worker) {
  const Shared &work = *static_cast<Shared *>(context);
  Scratch scratch = work.plan->workers[worker].scratch;
  const int32_t turn = int32_t(index) % work.turns, whole = work.whole / work.parts;
  const int32_t part = int32_t(index) / work.turns, first = part * whole;
  size_t from = work.first, to = work.last;
  int32_t panel = first + turn, later = turn + 1 < whole ? panel + 1 : work.whole;
  if (turn >= whole) {
    panel = work.whole + turn - whole, later = panel + 1;
    from = work.start(part, work.parts), to = work.start(part + 1, work.parts);
  }
  if (from == to) return;
  const Block block = work.joined(from, to, scratch);
  scratch.copied = &work.plan->workers[worker].copied;
  scratch.block = turn < whole ? work.plan->shared_blocks : 0;
  work.plan->kernels->panel(*work.op, block, scratch, panel, later);
}

static void finish_task(void *context, int64_t index, int worker) {
  const Shared &work = *static_cast<Shared *>(context);
  vf_plan &plan = *work.plan;
  for (size_t i = work.start(index, work.parts); i < work.start(index + 1, work.parts); i++) {
    Scratch scratch = plan.workers[worker].scratch;
    const Block block = work.joined(i, i + 1, scratch);
    finish_block(plan, *work.op, *work.mask, block, scratch);
  }
}

// A layer of many weights: the workers share the weights instead of the pixels. Each reads its own part of them, once
// for as many pixels as a block may have.
static bool shares_weights(const Op &op) {
  if (op.winograd_tiles) return op.weight.bytes >= kManyWinogradWeights && op.panels.size() >= 2;
  return op.d.kind == VF_CONV && op.before.empty() && !op.depthwise && op.d.groups == 1 && !op.gather && op.panels.size() >= 2 &&
         op.weight.bytes >= kManyWeights;
}

static bool run_shared(vf_plan &plan, const Op &op, int64_t pixels, const Frame &frame) {
  if (frame.workers < 2 || !shares_weights(op)) return false;
  // Weights that are shared are read once, but results go from one worker to another.
  if (op.products == VF_PRODUCTS_TILE && op.weight.bytes / size_t(producer_channels(op)) < size_t(kSharedResults * pixels)) return false;
  const int32_t panels = int32_t(op.panels.size());
  if (panels < frame.workers && pixels > op.block_pixels) return false;  // there are more pixels to share than panels
  cut_blocks(plan, pixels, kSharedPiece, frame.any_fresh);
  const int32_t parts = frame.workers, whole = panels / parts * parts;
  Shared work{&plan, &op, &plan.masks[op.d.mask], 0, 0, whole, whole / parts + panels - whole, parts};
  while (work.last < plan.blocks.size()) {
    work.first = work.last;
    for (int32_t held = 0; work.last < plan.blocks.size(); work.last++)
      if ((held += plan.blocks[work.last].pixels) > op.most_pixels) break;
    plan.shared_blocks++;
    frame.team.run(int64_t(work.turns) * parts, parts, panel_task, &work);
    frame.team.run(parts, parts, finish_task, &work);
  }
  return true;
}

static void run_blocks(vf_plan &plan, const Op &op, int64_t pixels, const Frame &frame) {
  if (run_shared(plan, op, pixels, frame)) return;
  const int workers = pixels * op.cycles < kAlone ? 1 : frame.workers;
  cut_blocks(plan, pixels, block_size(op, pixels, workers), frame.any_fresh);
  Work work{&plan, &op, &plan.masks[op.d.mask]};
  frame.team.run(int64_t(plan.blocks.size()), workers, block_task, &work);
}

}  // namespace vf
#endif
