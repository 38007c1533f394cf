// Means over all pixels: sums of 32 pixels are kept, and those that changed are taken anew.
#ifndef VIDEOEFF_MEANS_H
#define VIDEOEFF_MEANS_H

#include <algorithm>
#include <cstring>
#include "blocks.h"

namespace vf {

struct MeanWork {
  vf_plan *plan;
  const Op *op;
  Sums *sums;
  const Mask *from;
  const uint8_t *all;  // rows of streams to sum anew
};

static void mean_task(void *context, int64_t index, int) {
  const MeanWork &work = *static_cast<MeanWork *>(context);
  const vf_view &in = work.op->d.in;
  const int32_t i = int32_t(index / in.h), y = int32_t(index % in.h);
  const bool all = work.all[i] != 0;
  if (!all && !(work.from && work.from->any && work.from->flag(i, y))) return;
  Sums &sums = *work.sums;
  double *pieces = sums.piece.data() + (size_t(i) * in.h + y) * sums.pieces * in.c;
  double *row = sums.row.data() + (size_t(i) * in.h + y) * in.c;
  for (int32_t t = 0; t < sums.pieces; t++) {
    if (!all && !(uint32_t(work.from->row(i, y)[t >> 1] >> (t & 1 ? 32 : 0)))) continue;
    double *piece = pieces + size_t(t) * in.c;
    std::memset(piece, 0, sizeof(double) * in.c);
    work.plan->kernels->accumulate(in, {i, y, t * 32, std::min(32, in.w - t * 32)}, piece);
  }
  std::memset(row, 0, sizeof(double) * in.c);
  for (int32_t t = 0; t < sums.pieces; t++)
    for (int32_t c = 0; c < in.c; c++) row[c] += pieces[size_t(t) * in.c + c];
}

static void linear_task(void *context, int64_t index, int) {
  const MeanWork &work = *static_cast<MeanWork *>(context);
  const Op &op = *work.op;
  const int32_t outputs = op.d.args[op.d.epi[0].b - VF_ARG].w, first = int32_t(index) * kLinearPart;
  work.plan->kernels->linear(op, work.plan->workers[0].scratch, first, std::min(outputs, first + kLinearPart));
}

// A linear layer of many weights right behind the mean: the workers share its outputs.
static bool share_linear(vf_plan &plan, const Op &op, const Frame &frame) {
  const vf_op &d = op.d;
  if (frame.workers < 2 || d.nepi < 1 || d.epi[0].op != VF_LINEAR || d.epi[0].a != 0) return false;
  const vf_view &w = d.args[d.epi[0].b - VF_ARG];
  if (int64_t(w.w) * w.c < kManyLinearWeights) return false;
  MeanWork work{&plan, &op, nullptr, nullptr, nullptr};
  frame.team.run((w.w + kLinearPart - 1) / kLinearPart, frame.workers, linear_task, &work);
  return true;
}

static void run_mean(vf_plan &plan, size_t index, const Op &op, const Mask &active, const Frame &frame) {
  const vf_view &in = op.d.in;
  Sums &sums = plan.sums[index];
  const Mask *from = nullptr;
  for (int32_t k = 0; k < op.d.nreach; k++) {
    const Mask &m = plan.masks[op.d.reach[k].mask];
    if (m.h == in.h && m.w == in.w) from = &m;
  }
  if (!sums.pieces) {
    sums.pieces = (in.w + 31) / 32;
    sums.piece.assign(size_t(in.r) * in.h * sums.pieces * in.c, 0);
    sums.row.assign(size_t(in.r) * in.h * in.c, 0);
  }
  std::vector<uint8_t> all(size_t(in.r), uint8_t(!sums.valid || !from || op.d.nreach != 1));
  for (int32_t i = 0; i < in.r; i++) all[i] |= plan.fresh_rows[i];
  MeanWork work{&plan, &op, &sums, from, all.data()};
  frame.team.run(int64_t(in.r) * in.h, frame.workers, mean_task, &work);
  sums.valid = true;
  std::vector<double> mean(static_cast<size_t>(in.c));
  for (int32_t i = 0; i < in.r; i++) {
    if (!active.flag(i, 0)) continue;
    std::fill(mean.begin(), mean.end(), 0.0);
    for (int32_t y = 0; y < in.h; y++) {
      const double *row = sums.row.data() + (size_t(i) * in.h + y) * in.c;
      for (int32_t c = 0; c < in.c; c++) mean[c] += row[c];
    }
    for (double &m : mean) m /= double(in.h) * in.w;
    Scratch &scratch = plan.workers[0].scratch;
    plan.kernels->set_row(op, scratch, 0, mean.data(), in.c);
    scratch.done = share_linear(plan, op, frame) ? 1 : 0;
    const Run run{i, 0, 0, 1};
    const Block block{&run, 1, 1};
    uint64_t changed = 0;
    float squares = 0;
    plan.kernels->finish(op, block, scratch, plan.fresh_rows[i] != 0, &changed, op.d.magnitude ? &squares : nullptr);
    scratch.done = 0;
    store_outcome(plan.masks[op.d.mask], block, &changed, op.d.magnitude ? &squares : nullptr);
  }
}

}  // namespace vf
#endif
