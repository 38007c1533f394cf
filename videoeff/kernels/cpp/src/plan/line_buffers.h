// Convolutions before a depthwise one or a maximum whose results are not kept. A worker computes them anew in a line
// buffer: a few rows that stay in its cache and move down the picture. What follows reads them there. Kept, such a map is
// among the largest of its network, and is written, read and compared in memory.
#ifndef VIDEOEFF_LINE_BUFFERS_H
#define VIDEOEFF_LINE_BUFFERS_H

#include <algorithm>
#include <cstring>

#include "blocks.h"

namespace vf {

// Rows and columns of a line buffer that `rows` and `columns` results read.
static int64_t buffer_rows(const vf_op &w, int64_t rows) { return (rows - 1) * w.sy + int64_t(w.kh - 1) * w.dy + 1; }
static int64_t buffer_columns(const vf_op &w, int64_t columns) {
  return (columns - 1) * w.sx + int64_t(w.kw - 1) * w.dx + 1;
}

// How large a line buffer is: as many columns as leave room for some rows.
static void size_line_buffer(Op &op, Op &expansion) {
  const vf_op &w = reader_of(op).d;
  const int64_t pixel = expansion.ld * item_of(op.d.dtype), wanted = buffer_rows(w, kLineBufferWanted);
  int32_t columns = w.out.w;
  while (columns > kLineBufferColumns && buffer_columns(w, columns) * wanted * pixel > kLineBufferBytes)
    columns = std::max((columns / 2 + kLineBufferStep - 1) / kLineBufferStep * kLineBufferStep, kLineBufferColumns);
  const int64_t pitch = buffer_columns(w, columns);
  const int64_t room = (kLineBufferBytes / (pitch * pixel) - buffer_rows(w, 1)) / w.sy + 1;
  op.columns = columns, op.height = int32_t(std::clamp<int64_t>(room, 1, kLineBufferRows));
  expansion.d.out.sw = expansion.ld, expansion.d.out.sh = expansion.ld * pitch;
}

// The stages as ops of their own. `op` has only its descriptor yet, and is left to be prepared.
// Elements of a map of which some rows are in memory, or none: what reads it has its own room behind them.
constexpr int64_t kUnbounded = int64_t(1) << 40;

static void make_stages(const Kernels &kernels, Op &op) {
  const vf_op d = op.d;
  vf_view from = d.in;
  for (int32_t k = 0; k < d.nbefore; k++) {
    const vf_stage &s = d.before[k];
    Op stage;
    vf_op &to = stage.d;
    stage.stage = true;
    stage.reads = k == 0 ? Op::kMap : Op::kLineBuffer;
    to.kind = VF_CONV, to.dtype = d.dtype, to.in = from;
    to.out.r = d.out.r, to.out.h = s.h, to.out.w = s.w, to.out.c = s.c, to.out.sc = 1, to.out.dtype = d.dtype;
    to.out.grid = s.grid, to.out.size = kUnbounded;
    to.kh = s.kh, to.kw = s.kw, to.sy = s.sy, to.sx = s.sx, to.py = s.py, to.px = s.px, to.dy = s.dy, to.dx = s.dx;
    to.groups = s.groups, to.weight = s.weight, to.bias = s.bias, to.width[0] = s.c;
    to.integer = s.integer, to.factors = s.factors;
    to.nepi = s.nepi, to.epi[0] = s.epi;
    kernels.prepare(stage);
    to.out.sw = stage.ld;
    from = to.out;
    op.before.push_back(std::move(stage));
  }
  op.d.in = from;
}

static void prepare_stages(vf_plan &plan, Op &op) {
  Op &first = op.before.front(), &last = op.before.back();
  op.reads = last.depthwise ? Op::kRows : Op::kLineBuffer;
  for (const Op &stage : op.before) {
    op.cycles += stage.cycles;
    plan.temp_bytes = std::max(plan.temp_bytes, stage.temp_bytes);
    plan.register_bytes = std::max(plan.register_bytes, (register_bytes(stage) + 127) / 64 * 64);
  }
  op.window = window_of(reader_of(op).d);
  size_t rows = 0, buffer = 0;
  if (last.depthwise) {
    op.block_pixels = std::min(op.block_pixels, kStageBlock);
    rows = size_t(op.block_pixels + kSpareRows) * size_t(last.ld * item_of(op.d.dtype));
  }
  if (!first.depthwise) {
    size_line_buffer(op, first);
    const Op &w = reader_of(op);
    (&w == &op ? op.d.in : last.d.in) = first.d.out;
    // a group of neighbouring results may be computed that is longer than their run
    buffer = size_t(buffer_rows(w.d, op.height) * first.d.out.sh + kSpareRows * w.d.sx * first.ld) * size_t(item_of(op.d.dtype));
  }
  plan.row_bytes = std::max(plan.row_bytes, (rows + 127) / 64 * 64);
  plan.line_buffer_bytes = std::max(plan.line_buffer_bytes, (buffer + 127) / 64 * 64);
}

struct LineBuffers {
  vf_plan *plan;
  const Op *op;
  const Mask *active;
  Work work;
  int32_t across;  // line buffers beside one another

  // Computes blocks of at most `most` pixels.
  template <class F> static void each_block(const std::vector<Run> &runs, std::vector<Run> &cut, int32_t most, F compute) {
    cut.clear();
    int32_t held = 0;
    auto close = [&] {
      if (held) compute(Block{cut.data(), int32_t(cut.size()), held});
      cut.clear(), held = 0;
    };
    for (const Run &run : runs)
      for (int32_t at = 0; at < run.n;) {
        const int32_t take = std::min(run.n - at, most - held);
        cut.push_back({run.r, run.y, run.x + at, take});
        held += take, at += take;
        if (held == most) close();
      }
    close();
  }

  void run(const Part &part, int32_t left, Worker &worker) const;
};

// A line buffer down the rows of a part: what the next rows read of it is moved up, the rest is computed.
void LineBuffers::run(const Part &part, int32_t left, Worker &worker) const {
  const Op &expansion = op->before.front();
  const vf_op &w = reader_of(*op).d;
  const vf_view &map = expansion.d.out;
  const int32_t right = std::min(left + op->columns, w.out.w), top = int32_t(buffer_rows(w, 1));
  const int64_t item = item_of(op->d.dtype), row = map.sh * item, x0 = int64_t(left) * w.sx - w.px;
  const int32_t reach = int32_t(buffer_columns(w, 1));
  Scratch &scratch = worker.scratch;
  char *memory = static_cast<char *>(worker.line_buffer.data);
  std::vector<uint64_t> &bits = worker.bits;
  bits.assign(size_t(map.w + 63) / 64, 0);
  int32_t begin = 0, end = 0;  // rows of the map that are in the line buffer
  for (int32_t y = part.first; y < part.stop; y += op->height) {
    const int32_t stop = std::min(y + op->height, part.stop);
    worker.runs.clear();
    for (int32_t k = y; k < stop; k++)
      if (active->flag(part.r, k))
        each_run(active->row(part.r, k), active->words, left, right,
                 [&](int32_t x, int32_t n) { worker.runs.push_back({part.r, k, x, n}); });
    if (worker.runs.empty()) {
      begin = end = 0;
      continue;
    }
    const int32_t first = std::max(y * w.sy - w.py, 0), last = std::min((stop - 1) * w.sy - w.py + top, map.h);
    if (end > first)
      std::memmove(memory, memory + (first - begin) * row, size_t((end - first) * row));
    else
      end = first;
    begin = first;
    scratch.line_buffer = memory - begin * row - x0 * map.sw * item;
    worker.inner.clear();
    for (; end < last; end++) {  // with all columns that rows below will read as well
      const int32_t above = end + w.py - top + 1;
      const int32_t from = std::max(part.first, above > 0 ? (above + w.sy - 1) / w.sy : 0);
      const int32_t to = std::min(part.stop - 1, (end + w.py) / w.sy);
      for (int32_t k = from; k <= to; k++) {
        if (!active->flag(part.r, k)) continue;
        each_run(active->row(part.r, k), active->words, left, right, [&](int32_t x, int32_t n) {
          const int64_t a = std::max<int64_t>(int64_t(x) * w.sx - w.px, 0);
          const int64_t b = std::min<int64_t>(int64_t(x + n - 1) * w.sx - w.px + reach, map.w);
          for (int64_t u = a; u < b;) {
            const int64_t some = std::min<int64_t>(b - u, 64 - (u & 63));
            bits[size_t(u >> 6)] |= (some == 64 ? ~uint64_t(0) : (uint64_t(1) << some) - 1) << (u & 63);
            u += some;
          }
        });
      }
      each_run(bits.data(), int32_t(bits.size()), 0, map.w,
               [&](int32_t x, int32_t n) { worker.inner.push_back({part.r, end, x, n}), worker.expanded += n; });
      std::fill(bits.begin(), bits.end(), 0);
    }
    const Kernels &kernels = *plan->kernels;
    const int32_t most = writes_in_place(expansion) ? kMaxBlock : expansion.block_pixels;
    each_block(worker.inner, worker.cut, most, [&](const Block &b) { kernels.expand(expansion, b, scratch); });
    each_block(worker.runs, worker.cut, op->block_pixels, [&](const Block &b) { compute_block(work, b, worker); });
  }
}

// Pixels of stages that all workers computed since this was asked last.
static int64_t take_expanded(vf_plan &plan) {
  int64_t n = 0;
  for (Worker &worker : plan.workers) n += worker.expanded, worker.expanded = 0;
  return n;
}

static void line_buffer_task(void *context, int64_t index, int worker) {
  const LineBuffers &buffers = *static_cast<LineBuffers *>(context);
  vf_plan &plan = *buffers.plan;
  const Part &part = plan.parts[size_t(index / buffers.across)];
  buffers.run(part, int32_t(index % buffers.across) * buffers.op->columns, plan.workers[worker]);
}

// The active pixels of an op with a line buffer.
static void run_line_buffers(vf_plan &plan, const Op &op, const Mask &active, int64_t pixels, const Frame &frame) {
  take_expanded(plan);
  const int workers = pixels * op.cycles < kAlone ? 1 : frame.workers;
  const int64_t share = pixels / (kPartsEach * workers) + 1;
  plan.parts.clear();
  for (int32_t i = 0; i < active.r; i++) {
    int64_t held = 0;
    Part part{i, 0, 0};
    auto close = [&](int32_t y) {
      if (held) part.stop = y, plan.parts.push_back(part);
      held = 0;
    };
    for (int32_t y = 0; y < active.h; y++) {
      const int64_t count = active.flag(i, y) ? active.count(i, y, y + 1) : 0;
      if (!count || (held >= share && y - part.first >= kPartRows)) close(y);
      if (count && !held) part.first = y;
      held += count;
    }
    close(active.h);
  }
  const int32_t across = (op.d.out.w + op.columns - 1) / op.columns;
  LineBuffers buffers{&plan, &op, &active, {&plan, &op, &plan.masks[op.d.mask]}, across};
  frame.team.run(int64_t(plan.parts.size()) * across, workers, line_buffer_task, &buffers);
}

}  // namespace vf
#endif
