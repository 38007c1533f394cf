// Active pixels in blocks of Winograd tiles, for convolutions that compute 2x2 results together (isa/winograd.h).
#ifndef VIDEOEFF_WINOGRAD_BLOCKS_H
#define VIDEOEFF_WINOGRAD_BLOCKS_H

#include <algorithm>

#include "blocks.h"

namespace vf {

// Cuts active pixels into blocks of at most `most` tiles. The results of a tile lie `s`, the dilation, apart: 2 s rows
// and columns make s x s tiles. Of those that hold an active pixel only the active ones are computed.
struct WinogradCutter {
  vf_plan &plan;
  const Mask &active;
  int32_t s, most, longest;  // pixels of a run

  size_t first = 0;          // run of the block that is open
  int32_t held = 0, pixels = 0;
  int64_t total = 0;         // tiles

  void close() {
    total += held;
    if (pixels) plan.blocks.push_back({nullptr, int32_t(plan.cut.size() - first), pixels});
    first = plan.cut.size(), held = pixels = 0;
  }

  void add_row(int32_t r, int32_t y, int32_t from, int32_t to) {
    each_run(active.row(r, y), active.words, from, to, [&](int32_t x, int32_t n) {
      for (int32_t at = 0; at < n; at += longest) plan.cut.push_back({r, y, x + at, std::min(longest, n - at)});
      pixels += n;
    });
  }

  // Columns from .. to - 1, whole tiles but at the border, of rows y and y + s, which are there if they are not negative.
  void add(int32_t r, int32_t upper, int32_t lower, int32_t from, int32_t to) {
    while (from < to) {
      int32_t room = (most - held) / s;  // groups of s tiles that the open block has room for
      if (room == 0) {
        close();
        continue;
      }
      const int32_t stop = std::min(to, from + room * 2 * s);
      if (upper >= 0) add_row(r, upper, from, stop);
      if (lower >= 0) add_row(r, lower, from, stop);
      held += (stop - from + 2 * s - 1) / (2 * s) * s;
      from = stop;
    }
  }

  void cut(RowBlock rows, bool apart) {
    plan.cut.clear(), plan.blocks.clear();
    first = 0, total = 0;
    plan.words.resize(size_t(active.words));
    for (int32_t r = 0; r < active.r; r++) {
      if (apart) close();
      for (int32_t group = rows.first / (2 * s); group * 2 * s < rows.stop; group++)
        for (int32_t k = 0; k < s; k++) {
          const int32_t y = group * 2 * s + k;
          auto there = [&](int32_t v) { return v >= rows.first && v < rows.stop && active.flag(r, v) ? v : -1; };
          const int32_t upper = there(y), lower = there(y + s);
          if (upper < 0 && lower < 0) continue;
          for (int32_t j = 0; j < active.words; j++)
            plan.words[j] = (upper < 0 ? 0 : active.row(r, upper)[j]) | (lower < 0 ? 0 : active.row(r, lower)[j]);
          int32_t done = 0;  // columns before this one are taken
          each_run(plan.words.data(), active.words, 0, active.w, [&](int32_t x, int32_t n) {
            const int32_t from = std::max(done, x / (2 * s) * 2 * s);
            done = std::min(active.w, (x + n + 2 * s - 1) / (2 * s) * 2 * s);
            add(r, upper, lower, from, done);
          });
        }
    }
    close();
    const Run *runs = plan.cut.data();
    for (Block &block : plan.blocks) block.runs = runs, runs += block.count;
  }
};

// One block that all workers compute: each has some of the panels of weights, then some of the pixels.
struct SharedWinograd {
  vf_plan *plan;
  const Op *op;
  Mask *mask;
  Block block;
  int32_t parts;

  // The first panel of a part: as many vectors of output channels before it as fit best.
  int32_t panel(int64_t part) const {
    int64_t all = 0, before = 0;
    for (const int32_t vectors : op->panels) all += vectors;
    int32_t index = 0;
    for (; index < int32_t(op->panels.size()); index++) {
      const int32_t vectors = op->panels[size_t(index)];
      if ((2 * before + vectors) * parts > 2 * all * part) break;
      before += vectors;
    }
    return index;
  }
  // Part `index` of the block, and the shared registers from there on.
  Block part(int64_t index, Scratch &scratch) const {
    const int64_t from = block.count * index / parts, to = block.count * (index + 1) / parts;
    int64_t before = 0;
    for (int64_t i = 0; i < from; i++) before += block.runs[i].n;
    Block some{block.runs + from, int32_t(to - from), 0};
    for (int64_t i = from; i < to; i++) some.pixels += block.runs[i].n;
    scratch.reg[0] = static_cast<char *>(plan->shared.data) + before * op->ld * int64_t(sizeof(float));
    return some;
  }
};

static void winograd_panels_task(void *context, int64_t index, int worker) {
  const SharedWinograd &work = *static_cast<SharedWinograd *>(context);
  Scratch scratch = work.plan->workers[worker].scratch;
  scratch.reg[0] = work.plan->shared.data;
  work.plan->kernels->winograd(*work.op, work.block, scratch, work.panel(index), work.panel(index + 1));
}

static void winograd_finish_task(void *context, int64_t index, int worker) {
  const SharedWinograd &work = *static_cast<SharedWinograd *>(context);
  vf_plan &plan = *work.plan;
  Scratch scratch = plan.workers[worker].scratch;
  const Block block = work.part(index, scratch);
  if (block.pixels) finish_block(plan, *work.op, *work.mask, block, scratch);
}

// Whether the workers share the weights: where those are very many, or few tiles have to be computed. With more tiles each
// worker reads the weights once for tiles of its own, and waits for nobody.
static bool shares_winograd(const Op &op, int64_t pixels, int workers) {
  if (workers < 2 || !shares_weights(op) || int32_t(op.panels.size()) < workers) return false;
  return op.weight.bytes >= kMostWinogradWeights || pixels < kSharedWinogradBlocks * kMaxBlock * workers;
}

// The active pixels of an op that is computed by minimal filtering.
static void run_winograd(vf_plan &plan, const Op &op, const Mask &active, int64_t pixels, RowBlock rows, const Frame &frame) {
  const int32_t s = op.d.dx;
  Mask &mask = plan.masks[op.d.mask];
  if (shares_winograd(op, pixels, frame.workers)) {
    WinogradCutter cutter{plan, active, s, op.winograd_tiles, kSharedRun};
    cutter.cut(rows, frame.any_fresh);
    if (const int64_t rounds = int64_t(plan.blocks.size()); rounds > 1) {  // of the same length: each reads all weights
      cutter.most = int32_t(std::min<int64_t>(op.winograd_tiles, ((cutter.total + rounds - 1) / rounds + s + 3) / 4 * 4));
      cutter.cut(rows, frame.any_fresh);
    }
    for (const Block &block : plan.blocks) {
      SharedWinograd work{&plan, &op, &mask, block, frame.workers};
      frame.team.run(frame.workers, frame.workers, winograd_panels_task, &work);
      frame.team.run(frame.workers, frame.workers, winograd_finish_task, &work);
    }
    return;
  }
  const int workers = pixels * op.cycles < kAlone ? 1 : frame.workers;
  const int32_t most = int32_t((block_size(op, pixels, workers) + 3) / 4);
  WinogradCutter{plan, active, s, std::max(most, s), 1 << 20}.cut(rows, frame.any_fresh);
  Work work{&plan, &op, &mask};
  frame.team.run(int64_t(plan.blocks.size()), workers, block_task, &work);
}

}  // namespace vf
#endif
