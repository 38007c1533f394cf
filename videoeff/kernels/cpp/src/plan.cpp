// The frame plan: reach, lists of active pixels, blocks for the workers. Compiled once, for the baseline processor.
#include "plan.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <new>

#include "check.h"

namespace vf {

Memory::~Memory() { std::free(data); }
void Memory::reserve(size_t wanted) {
  if (wanted <= bytes) return;
  std::free(data);
  bytes = (wanted + 127) / 64 * 64;
  data = std::aligned_alloc(64, bytes);
  if (!data) {
    bytes = 0;
    throw std::bad_alloc();
  }
  std::memset(data, 0, bytes);  // padding is added and multiplied, never shown: it must not be NaN
}

static const Kernels *kernels_of(int32_t isa) {
#if VF_X86
  if (isa == 2) return kernels_avx512();
  if (isa == 1) return kernels_avx2();
#endif
  return isa == 0 ? kernels_portable() : nullptr;
}

static void copy_tables(Op &op) {
  vf_op &d = op.d;
  if (d.streams) op.streams.assign(d.streams, d.streams + d.out.r), d.streams = op.streams.data();
  if (d.kind == VF_SEPARABLE) {
    size_t ny = size_t(d.out.h) * d.ty, nx = size_t(d.out.w) * d.tx;
    op.iy.assign(d.iy, d.iy + ny), op.wy.assign(d.wy, d.wy + ny);
    op.ix.assign(d.ix, d.ix + nx), op.wx.assign(d.wx, d.wx + nx);
    d.iy = op.iy.data(), d.wy = op.wy.data(), d.ix = op.ix.data(), d.wx = op.wx.data();
  }
  if (d.factor != 0) op.taps.assign(d.taps, d.taps + size_t(d.kh) * d.kw), d.taps = op.taps.data();
}

// ---------------------------------------------------------------- which pixels

// Rows of the result whose streams are fresh.
static void find_fresh(vf_plan &plan, const Op &op, const Frame &frame) {
  plan.fresh_rows.assign(size_t(op.d.out.r), 0);
  if (!frame.any_fresh) return;
  for (int32_t i = 0; i < op.d.out.r; i++) plan.fresh_rows[i] = op.streams.empty() || frame.fresh[op.streams[i]];
}

static void find_reach(vf_plan &plan, const Op &op, Mask &active) {
  const vf_op &d = op.d;
  const Window window{d.kh, d.kw, d.sy, d.sx, d.py, d.px, d.dy, d.dx};
  for (int32_t k = 0; k < d.nreach; k++) {
    const Mask &from = plan.masks[d.reach[k].mask];
    if (!from.any) continue;
    int32_t kind = d.dense ? int32_t(VF_WHOLE) : d.reach[k].kind;
    switch (kind) {
      case VF_SAME: reach_same(from, active); break;
      case VF_WINDOW: reach_window(from, window, active, plan.words); break;
      case VF_TABLE: reach_table(from, d.iy, d.ty, d.ix, d.tx, active, plan.words); break;
      case VF_SPREAD: reach_spread(from, window, active); break;
      default:
        for (int32_t i = 0; i < from.r; i++)
          if (from.row_any(i)) active.fill_row(i);
    }
  }
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

// ---------------------------------------------------------------- blocks

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

static void run_blocks(vf_plan &plan, const Op &op, int64_t pixels, const Frame &frame) {
  if (run_panels(plan, op, pixels, frame)) return;
  cut_blocks(plan, op, pixels, frame.workers, frame.any_fresh);
  Work work{&plan, &op, &plan.masks[op.d.mask]};
  plan.pool.run(int64_t(plan.blocks.size()), frame.workers, block_task, &work);
}

// ---------------------------------------------------------------- inputs

struct InputWork {
  vf_plan *plan;
  const Op *op;
  const vf_frame *frame;
  Mask *mask, *hits;      // changed pixels; blocks that exceed the limit
  const uint8_t *fresh;   // by row
  int32_t strips;         // strips of block rows in a stream
};

static float input_limit(const vf_op &d, int32_t row) {
  if (d.threshold == 0) return 0.5f;
  return d.relative ? float(d.threshold) * d.scale[row] : float(d.threshold);
}

// Amounts of one strip of blocks, and which of its blocks exceed the limit.
static void input_test_task(void *context, int64_t index, int) {
  const InputWork &work = *static_cast<InputWork *>(context);
  const vf_op &d = work.op->d;
  const int32_t r = int32_t(index / work.strips), by = int32_t(index % work.strips), b = d.block;
  if (work.fresh[r]) return;
  const int32_t width = d.out.w, first = by * b, last = std::min(d.out.h, first + b);
  const float limit = input_limit(d, r);
  Mask &hits = *work.hits;
  uint64_t *bits = hits.row(r, by), seen = 0;
  thread_local std::vector<float> amount;
  thread_local std::vector<float> total;
  amount.resize(size_t(width));
  total.assign(size_t(hits.w), 0.f);
  for (int32_t y = first; y < last; y++) {
    work.plan->kernels->input_amount(*work.op, *work.frame, {r, y, 0, width}, amount.data());
    if (b == 1) {
      for (int32_t x = 0; x < width; x += 64) {
        uint64_t word = 0;
        const int32_t n = std::min(64, width - x);
        for (int32_t k = 0; k < n; k++) word |= uint64_t(!(amount[x + k] <= limit)) << k;
        bits[x >> 6] = word, seen |= word;
      }
    } else {
      for (int32_t x = 0; x < width; x += b) {
        float sum = 0;
        for (int32_t k = x; k < std::min(width, x + b); k++) sum += amount[k];
        total[x / b] += sum;
      }
    }
  }
  if (b > 1)
    for (int32_t x = 0; x < hits.w; x++) {
      float mean = total[x] / float((last - first) * (std::min(width, (x + 1) * b) - x * b));
      if (!(mean <= limit)) bits[x >> 6] |= uint64_t(1) << (x & 63), seen = 1;
    }
  hits.flag(r, by) = seen != 0;
}

// Store a strip of pixel rows where its mask says so.
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

static void run_input(vf_plan &plan, const Op &op, Mask &hits, const Frame &frame) {
  const vf_op &d = op.d;
  Mask &mask = plan.masks[d.mask];
  const bool blocks = d.threshold > 0 && d.block > 1;
  vf_op plain = d;  // block and dilation belong to the test, and at threshold 0 there is none
  Op probe_op;
  const Op *used = &op;
  if (d.threshold == 0 && (d.block > 1 || d.dilation > 0)) {
    plain.block = 1, plain.dilation = 0;
    probe_op.d = plain;
    used = &probe_op;
  }
  const vf_op &u = used->d;
  const int32_t b = blocks ? d.block : 1, strips = (d.out.h + b - 1) / b;
  hits.clear();
  InputWork work{&plan, used, frame.frames + d.input, &mask, &hits, plan.fresh_rows.data(), strips};
  plan.pool.run(int64_t(d.out.r) * strips, frame.workers, input_test_task, &work);
  hits.settle();
  if (u.dilation > 0 || b > 1) {
    const int32_t reach = u.dilation;
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
    reach_same(hits, mask);
  }
  for (int32_t i = 0; i < d.out.r; i++)
    if (plan.fresh_rows[i]) mask.fill_row(i);
  if (mask.any) plan.pool.run(int64_t(d.out.r) * d.out.h, frame.workers, input_store_task, &work);
}

// ---------------------------------------------------------------- means

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
  double *tiles = sums.tile.data() + (size_t(i) * in.h + y) * sums.tiles * in.c;
  double *row = sums.row.data() + (size_t(i) * in.h + y) * in.c;
  for (int32_t t = 0; t < sums.tiles; t++) {
    if (!all && !(uint32_t(work.from->row(i, y)[t >> 1] >> (t & 1 ? 32 : 0)))) continue;
    double *tile = tiles + size_t(t) * in.c;
    std::memset(tile, 0, sizeof(double) * in.c);
    work.plan->kernels->accumulate(in, {i, y, t * 32, std::min(32, in.w - t * 32)}, tile);
  }
  std::memset(row, 0, sizeof(double) * in.c);
  for (int32_t t = 0; t < sums.tiles; t++)
    for (int32_t c = 0; c < in.c; c++) row[c] += tiles[size_t(t) * in.c + c];
}

static void run_mean(vf_plan &plan, size_t index, const Op &op, const Mask &active, const Frame &frame) {
  const vf_view &in = op.d.in;
  Sums &sums = plan.sums[index];
  const Mask *from = nullptr;
  for (int32_t k = 0; k < op.d.nreach; k++) {
    const Mask &m = plan.masks[op.d.reach[k].mask];
    if (m.h == in.h && m.w == in.w) from = &m;
  }
  if (!sums.tiles) {
    sums.tiles = (in.w + 31) / 32;
    sums.tile.assign(size_t(in.r) * in.h * sums.tiles * in.c, 0);
    sums.row.assign(size_t(in.r) * in.h * in.c, 0);
  }
  std::vector<uint8_t> all(size_t(in.r), uint8_t(!sums.valid || !from || op.d.nreach != 1));
  for (int32_t i = 0; i < in.r; i++) all[i] |= plan.fresh_rows[i];
  MeanWork work{&plan, &op, &sums, from, all.data()};
  plan.pool.run(int64_t(in.r) * in.h, frame.workers, mean_task, &work);
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
    const Run run{i, 0, 0, 1};
    const Block block{&run, 1, 1};
    uint64_t changed = 0;
    float squares = 0;
    plan.kernels->finish(op, block, scratch, plan.fresh_rows[i] != 0, &changed, op.d.magnitude ? &squares : nullptr);
    store_outcome(plan.masks[op.d.mask], block, &changed, op.d.magnitude ? &squares : nullptr);
  }
}

// ---------------------------------------------------------------- ops

constexpr double kHysteresis = 0.05;  // an op that was computed whole stays so until this much less is active

static void write_scales(vf_plan &plan, const Op &op) {
  const vf_op &d = op.d;
  if (!d.scale) return;
  for (int32_t i = 0; i < d.out.r; i++) {
    if (!plan.fresh_rows[i]) continue;
    double sums[2] = {0, 0};
    for (int32_t y = 0; y < d.out.h; y++) plan.kernels->moments(op, {i, y, 0, d.out.w}, sums);
    const double n = double(d.out.h) * d.out.w * d.out.c, mean = sums[0] / n;
    const double spread = std::sqrt(std::max(0.0, sums[1] / n - mean * mean));
    d.scale[i] = std::isfinite(spread) && std::isfinite(sums[0]) ? float(spread) : 0.f;
  }
}

// Rows of which most is active are computed whole where that is faster. Each row decides for itself: streams do not
// influence each other. Returns the pixels to compute.
static int64_t complete(Op &op, Mask &active) {
  const vf_op &d = op.d;
  op.whole.resize(size_t(d.out.r), 0);
  int64_t pixels = 0;
  for (int32_t i = 0; i < d.out.r; i++) {
    int64_t count = 0;
    for (int32_t y = 0; y < d.out.h; y++)
      if (active.flag(i, y))
        for (int32_t k = 0; k < active.words; k++) count += __builtin_popcountll(active.row(i, y)[k]);
    const double share = d.dense_share - (op.whole[i] ? kHysteresis : 0);
    op.whole[i] = double(count) >= share * double(d.out.h) * d.out.w;
    if (op.whole[i]) active.fill_row(i), count = int64_t(d.out.h) * d.out.w;
    pixels += count;
  }
  return pixels;
}

static void run_op(vf_plan &plan, size_t index, const Frame &frame, bool count) {
  Op &op = plan.ops[index];
  const vf_op &d = op.d;
  Mask &mask = plan.masks[d.mask], &active = plan.active[d.mask];
  const int64_t total = int64_t(d.out.r) * d.out.h * d.out.w;
  mask.clear();
  find_fresh(plan, op, frame);
  if (d.kind == VF_INPUT) {
    run_input(plan, op, active, frame);
    if (count) plan.counts[2 * index] += total;
    write_scales(plan, op);
    return;
  }
  active.clear();
  find_reach(plan, op, active);
  if (d.factor != 0) predict(plan, op, active);
  if (frame.any_fresh)
    for (int32_t i = 0; i < d.out.r; i++)
      if (plan.fresh_rows[i]) active.fill_row(i);
  if (!active.any) return;
  int64_t pixels = active.count(), scheduled = pixels;
  if (d.kind == VF_MEAN) {
    run_mean(plan, index, op, active, frame);
  } else {
    if (d.dense_share <= 1 && d.factor == 0 && pixels < total) scheduled = complete(op, active);
    plan.runs.clear();
    runs_of(active, plan.runs);
    run_blocks(plan, op, scheduled, frame);
  }
  mask.settle();
  if (frame.any_fresh) write_scales(plan, op);
  if (count) plan.counts[2 * index] += pixels, plan.counts[2 * index + 1] += scheduled;
}

static void reserve_workers(vf_plan &plan, int workers) {
  while (int(plan.workers.size()) < workers) {
    Worker worker;
    worker.registers.reserve(plan.register_bytes * VF_MAX_REGS);
    worker.temp.reserve(plan.temp_bytes + 64);
    for (int k = 0; k < VF_MAX_REGS; k++)
      worker.scratch.reg[k] = static_cast<char *>(worker.registers.data) + plan.register_bytes * k;
    worker.scratch.temp = worker.temp.data;
    plan.workers.push_back(std::move(worker));
  }
}

static void build(vf_plan &plan, const vf_op *ops, int64_t nops, const vf_mask *masks, int64_t nmasks) {
  plan.masks.resize(size_t(nmasks)), plan.active.resize(size_t(nmasks));
  for (int64_t i = 0; i < nmasks; i++) {
    plan.masks[i].resize(masks[i].r, masks[i].h, masks[i].w, masks[i].magnitude != 0);
    plan.active[i].resize(1, 1, 1, false);
  }
  plan.ops.resize(size_t(nops)), plan.sums.resize(size_t(nops));
  plan.counts.assign(size_t(nops) * 2, 0), plan.times.assign(size_t(nops), 0);
  for (int64_t i = 0; i < nops; i++) {
    Op &op = plan.ops[i];
    op.d = ops[i];
    copy_tables(op);
    const vf_op &d = op.d;
    const int32_t b = d.kind == VF_INPUT && d.threshold > 0 ? d.block : 1;
    plan.active[d.mask].resize(d.out.r, (d.out.h + b - 1) / b, (d.out.w + b - 1) / b, false);
    plan.kernels->prepare(op);
    plan.register_bytes = std::max(plan.register_bytes, (register_bytes(op) + 127) / 64 * 64);
    plan.temp_bytes = std::max(plan.temp_bytes, op.temp_bytes);
  }
}

}  // namespace vf

using namespace vf;

extern "C" {

int32_t vf_abi(void) { return VF_ABI; }

int64_t vf_sizeof(int32_t what) {
  const int64_t sizes[] = {sizeof(vf_op), sizeof(vf_view), sizeof(vf_epi), sizeof(vf_mask), sizeof(vf_frame)};
  return what >= 0 && what < 5 ? sizes[what] : -1;
}

int32_t vf_best_isa(void) {
#if VF_X86
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("fma"))
    return 2;
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return 1;
#endif
  return 0;
}

vf_plan *vf_plan_create(const vf_op *ops, int64_t nops, const vf_mask *masks, int64_t nmasks, int32_t isa, char *error,
                        int64_t error_size) {
  const Problem problem{error, error_size};
  const int32_t best = vf_best_isa();
  if (isa < 0) isa = best;
  if (isa > best) return problem("instruction set %d is not there", isa), nullptr;
  if (!ops || !masks || nops < 1 || nmasks < 1 || nops > (1 << 20) || nmasks > (1 << 20))
    return problem("%lld ops over %lld masks", (long long)nops, (long long)nmasks), nullptr;
  for (int64_t i = 0; i < nmasks; i++) {
    const vf_mask &m = masks[i];
    if (m.r < 1 || m.h < 1 || m.w < 1 || int64_t(m.r) * m.h >= kMaxExtent || int64_t(m.r) * m.h * m.w >= kMaxExtent)
      return problem("mask %lld is %d x %d x %d", (long long)i, m.r, m.h, m.w), nullptr;
  }
  try {
    std::vector<uint8_t> taken(size_t(nmasks), 0);
    for (int64_t i = 0; i < nops; i++) {
      if (!check_op(ops[i], i, masks, nmasks, problem)) return nullptr;
      if (taken[ops[i].mask]++) return problem("op %lld: its mask is another op's too", (long long)i), nullptr;
    }
    std::unique_ptr<vf_plan> plan(new vf_plan);
    plan->kernels = kernels_of(isa);
    build(*plan, ops, nops, masks, nmasks);
    return plan.release();
  } catch (const std::exception &) {
    return problem("not enough memory for the plan"), nullptr;
  }
}

void vf_plan_destroy(vf_plan *plan) { delete plan; }

int32_t vf_plan_run(vf_plan *plan, const vf_frame *frames, int64_t nframes, const uint8_t *fresh, int64_t streams,
                    int32_t threads, int32_t count) {
  if (!plan || nframes < 0 || streams < 0 || threads < 1) return 1;
  try {
    for (const Op &op : plan->ops) {
      if (op.d.kind == VF_INPUT && op.d.input >= nframes) return 2;
      for (int32_t s : op.streams)
        if (s < 0 || s >= streams) return 3;
    }
    Frame frame{frames, fresh, false, std::min(threads, 256)};
    for (int64_t i = 0; i < streams; i++) frame.any_fresh |= fresh[i] != 0;
    reserve_workers(*plan, frame.workers);
    for (size_t i = 0; i < plan->ops.size(); i++) {
      auto start = std::chrono::steady_clock::now();
      run_op(*plan, i, frame, count != 0);
      plan->times[i] +=
          std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now() - start).count();
    }
  } catch (const std::exception &) {
    return 4;
  }
  return 0;
}

void vf_plan_invalidate(vf_plan *plan) {
  for (Sums &s : plan->sums) s.valid = false;
}

int64_t *vf_plan_counts(vf_plan *plan) { return plan->counts.data(); }

int64_t *vf_plan_times(vf_plan *plan, int32_t reset) {
  if (reset) std::fill(plan->times.begin(), plan->times.end(), 0);
  return plan->times.data();
}

int64_t vf_plan_bytes(const vf_plan *plan, int32_t what) {
  size_t total = 0;
  if (what == 0) {
    for (const Op &op : plan->ops) total += op.weight.bytes + op.bias.bytes;
  } else if (what == 1) {
    for (const auto *masks : {&plan->masks, &plan->active})
      for (const Mask &m : *masks) total += m.bits.size() * 8 + m.rows.size() + m.squares.size() * 4;
    for (const Sums &s : plan->sums) total += (s.tile.size() + s.row.size()) * 8;
  } else {
    for (const Worker &w : plan->workers) total += w.registers.bytes + w.temp.bytes;
    total += plan->plane.size() * 4;
  }
  return int64_t(total);
}

int32_t vf_mask_read(vf_plan *plan, int32_t mask, int32_t which, uint8_t *bytes) {
  if (mask < 0 || size_t(mask) >= plan->masks.size()) return 1;
  const Mask &m = plan->masks[mask];
  const Mask *from = &m;
  bool all = false;  // an input looks at every pixel; its `active` holds the blocks of its test
  if (which == 1)
    for (const Op &op : plan->ops)
      if (op.d.mask == mask) from = &plan->active[mask], all = op.d.kind == VF_INPUT;
  for (int32_t i = 0; i < m.r; i++)
    for (int32_t y = 0; y < m.h; y++)
      for (int32_t x = 0; x < m.w; x++) *bytes++ = all || from->get(i, y, x);
  return 0;
}

int32_t vf_mask_write(vf_plan *plan, int32_t mask, const uint8_t *bytes) {
  if (mask < 0 || size_t(mask) >= plan->masks.size()) return 1;
  Mask &m = plan->masks[mask];
  m.clear();
  for (int32_t i = 0; i < m.r; i++)
    for (int32_t y = 0; y < m.h; y++) {
      uint64_t *row = m.row(i, y);
      for (int32_t x = 0; x < m.w; x++)
        if (*bytes++) row[x >> 6] |= uint64_t(1) << (x & 63), m.flag(i, y) = 1, m.any = true;
    }
  return 0;
}

int32_t vf_magnitude_read(vf_plan *plan, int32_t mask, float *squares) {
  if (mask < 0 || size_t(mask) >= plan->masks.size() || plan->masks[mask].squares.empty()) return 1;
  const Mask &m = plan->masks[mask];
  size_t at = 0;
  for (int32_t i = 0; i < m.r; i++)
    for (int32_t y = 0; y < m.h; y++)
      for (int32_t x = 0; x < m.w; x++, at++) squares[at] = m.get(i, y, x) ? m.squares[at] : 0.f;
  return 0;
}

int32_t vf_magnitude_write(vf_plan *plan, int32_t mask, const float *squares) {
  if (mask < 0 || size_t(mask) >= plan->masks.size() || plan->masks[mask].squares.empty()) return 1;
  std::vector<float> &to = plan->masks[mask].squares;
  std::memcpy(to.data(), squares, to.size() * sizeof(float));
  return 0;
}


int32_t vf_all_finite(const void *data, int64_t count, int32_t dtype, int32_t threads) {
  (void)threads;
  return kernels_of(vf_best_isa())->all_finite(data, count, dtype);
}

}  // extern "C"
