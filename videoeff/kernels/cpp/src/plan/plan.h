// A frame plan in memory.
#ifndef VIDEOEFF_PLAN_H
#define VIDEOEFF_PLAN_H

#include <memory>
#include <vector>

#include "internal.h"
#include "masks.h"
#include "team.h"

namespace vf {

// One source of a vicinity, with copies of the tables.
struct Near {
  int32_t mask;
  bool whole;
  std::vector<int32_t> top, bottom, first, last;
};

// The pixels of maps of one size that are near what changed, found when the first of them asks.
struct Vicinity {
  std::vector<Near> near;
  Mask mask;
  bool ready = false;
};

// Sums of a mean: of pieces of 32 pixels of a row, then of the pieces of a row. A small change costs a small sum,
// exactly.
struct Sums {
  int32_t pieces = 0;              // of a row
  std::vector<double> piece, row;  // (r, h, pieces, c), (r, h, c)
  bool valid = false;
};

struct Worker {
  Memory registers, temp, rows, line_buffer;
  Scratch scratch{};
  uint64_t copied = 0;   // Scratch::copied
  // of a line buffer, reused
  std::vector<Run> runs, inner, cut;
  std::vector<uint64_t> bits;
  int64_t expanded = 0;  // pixels of stages since they were counted
};

// What the test of an input saw: blocks that moved a little, in this frame and in the one before, and figures.
struct Seen {
  Mask weak, before;
  std::vector<float> figures;      // (r, VF_SEEN)
};

// Some rows of results of entry r.
struct Part {
  int32_t r, first, stop;
};

// What one call of vf_plan_run carries from op to op.
struct Frame {
  const vf_frame *frames;
  const uint8_t *fresh;  // per stream
  bool any_fresh;
  int workers;
  const Team &team;
};

}  // namespace vf

struct vf_plan {
  const vf::Kernels *kernels = nullptr;
  std::vector<vf::Op> ops;
  std::vector<size_t> chain;             // by op: where the chain that it begins ends, or the op itself
  std::vector<vf::Mask> masks, active;   // changed pixels; pixels computed
  std::vector<vf::Mask> reached;         // by mask: what changes reach of a first stage that is computed in a line buffer
  std::vector<vf::Vicinity> vicinities;
  std::vector<vf::Sums> sums;            // by op
  std::vector<vf::Seen> seen;            // by op; of inputs alone
  std::vector<int64_t> counts, times;    // (ops, VF_COUNTS), (ops)
  std::vector<vf::Worker> workers;
  vf::Memory shared;                     // registers that all workers fill together
  uint64_t shared_blocks = 0;            // computed in them so far
  size_t register_bytes = 0, temp_bytes = 0, shared_bytes = 0, row_bytes = 0, line_buffer_bytes = 0;
  // reused from op to op
  std::vector<uint64_t> words;
  std::vector<vf::Run> runs, cut;
  std::vector<vf::Block> blocks;
  std::vector<vf::Part> parts;
  std::vector<float> plane;
  std::vector<uint8_t> fresh_rows, holds;
  std::vector<int32_t> done;             // rows, by op of a chain
  int64_t row_blocks = 0;
};

#endif
