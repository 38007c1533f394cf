// Inputs: the change test of the caller's frames, by pixel or by block, and storing what changed.
#ifndef VIDEOEFF_FRAMES_H
#define VIDEOEFF_FRAMES_H

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>

#include "plan.h"

namespace vf {

struct InputWork {
  vf_plan *plan;
  const Op *op;
  const vf_frame *frame;
  Mask *mask, *hits;      // changed pixels; blocks that exceed the limit
  Mask *weak;             // blocks that exceed a share of it; without memory where only pixels are tested
  const uint8_t *fresh;   // by row
  int32_t block_rows;     // rows of blocks in a stream
  std::atomic<bool> finite{true};
};

static void prepare_seen(Seen &seen, const Mask &blocks) {
  seen.weak.resize(blocks.r, blocks.h, blocks.w, false);
  seen.before.resize(blocks.r, blocks.h, blocks.w, false);
  seen.figures.assign(size_t(blocks.r) * VF_SEEN, NAN);
}

static const uint64_t *watched_row(const Op &op, int32_t r, int32_t y) {
  return op.watched.data() + (size_t(r) * op.d.out.h + y) * ((size_t(op.d.out.w) + 63) / 64);
}

static uint8_t watches(const Op &op, int32_t r, int32_t y) {
  return op.watches.empty() ? uint8_t(Op::kWatched) : op.watches[size_t(r) * op.d.out.h + y];
}

// Whether sums over blocks are compared; without blocks pixels are, as they are read.
static bool sums_blocks(const vf_op &d) { return d.block > 1 || d.grow > 0; }

// What an amount of isa/input.h has to exceed, for a share of the threshold; amounts of the noise's test are squares.
static float input_limit(const Op &op, int32_t row, double share) {
  const vf_op &d = op.d;
  if (d.threshold == 0) return 0.5f;
  const double limit = d.threshold * share;
  if (d.test == VF_TEST_NOISE) return float(limit * limit * op.noise_unit);
  return d.relative ? float(limit) * d.scale[row] : float(limit);
}

// Blocks of each row of the batch that hold a watched pixel.
static void count_watched_blocks(Op &op) {
  const vf_op &d = op.d;
  const int32_t words = (d.out.w + 63) / 64, b = d.block;
  op.watched_blocks.assign(size_t(d.out.r), 0);
  std::vector<uint64_t> column(static_cast<size_t>(words));
  for (int32_t r = 0; r < d.out.r; r++)
    for (int32_t first = 0; first < d.out.h; first += b) {
      std::fill(column.begin(), column.end(), 0);
      for (int32_t y = first; y < std::min(d.out.h, first + b); y++)
        for (int32_t j = 0; j < words; j++) column[j] |= watched_row(op, r, y)[j];
      for (int32_t x = 0; x < d.out.w; x += b) {
        bool any = false;
        each_run(column.data(), words, x, std::min(d.out.w, x + b), [&](int32_t, int32_t) { any = true; });
        op.watched_blocks[r] += any;
      }
    }
}

// Sums of `B` neighbours; of `b` where B is 0.
template <int B> static void sum_neighbours(const float *from, int32_t count, int32_t b, float *to) {
  const int32_t n = B ? B : b;
  for (int32_t x = 0; x < count; x++) {
    float sum = 0;
    for (int32_t k = 0; k < n; k++) sum += from[size_t(x) * n + k];
    to[x] = sum;
  }
}

// Means of blocks: sums of their columns over `rows` rows become those of `b` columns, less where the row ends.
static void block_means(const float *sums, int32_t width, int32_t b, int32_t rows, float *means) {
  const int32_t whole = width / b, left = width - whole * b;
  if (b == 8) sum_neighbours<8>(sums, whole, b, means);
  else if (b == 4) sum_neighbours<4>(sums, whole, b, means);
  else sum_neighbours<0>(sums, whole, b, means);
  const float pixels = float(rows * b);
  for (int32_t x = 0; x < whole; x++) means[x] /= pixels;
  if (!left) return;
  sum_neighbours<0>(sums + size_t(whole) * b, 1, left, means + whole);
  means[whole] /= float(rows * left);
}

// Bits of what exceeds a limit; whether there are any.
static bool exceeding(const float *values, int32_t count, float limit, uint64_t *bits) {
  uint64_t seen = 0;
  for (int32_t first = 0; first < count; first += 64) {
    uint64_t word = 0;
    const int32_t n = std::min(64, count - first);
    for (int32_t k = 0; k < n; k++) word |= uint64_t(!(values[first + k] <= limit)) << k;
    seen |= bits[first >> 6] = word;
  }
  return seen != 0;
}

// Whether a row of a frame that is ignored is finite, where its values lie side by side; `known`: whether they do.
static bool ignored_is_finite(const Kernels &kernels, const Op &op, const vf_frame &frame, int32_t r, int32_t y, bool &known) {
  const vf_op &d = op.d;
  const int64_t item = d.dtype == VF_U8 ? 4 : item_of(d.dtype), c = d.out.c;
  const char *row = static_cast<const char *>(frame.data) + (r * frame.sr + y * frame.sh) * item;
  known = true;
  if (frame.sc == 1 && frame.sw == c) return kernels.all_finite(row, c * d.out.w, d.dtype);
  known = frame.sw == 1;
  bool finite = true;
  for (int64_t j = 0; known && j < c; j++) finite &= kernels.all_finite(row + j * frame.sc * item, d.out.w, d.dtype);
  return finite;
}

// A row of pixels of which some are ignored, or all: these set no bit, and add nothing to the sums. All are read for what is
// not finite.
static bool test_part(const Kernels &kernels, const Op &op, const vf_frame &frame, const RowTest &test) {
  const int32_t width = op.d.out.w, words = (width + 63) / 64;
  const uint64_t *watched = watched_row(op, test.r, test.y);
  if (watches(op, test.r, test.y) == Op::kIgnored) {
    bool known = false;
    const bool finite = ignored_is_finite(kernels, op, frame, test.r, test.y, known);
    if (known && !test.bits && test.first) std::fill(test.sums, test.sums + width, 0.f);
    if (known) return finite;
  }
  if (test.bits) {
    const bool finite = kernels.input_row(op, frame, test);
    for (int32_t j = 0; j < words; j++) test.bits[j] &= watched[j];
    return finite;
  }
  thread_local std::vector<float> amounts;
  amounts.resize(size_t(width));
  const bool finite = kernels.input_row(op, frame, {test.r, test.y, test.limit, nullptr, amounts.data(), true});
  if (test.first) std::fill(test.sums, test.sums + width, 0.f);
  each_run(watched, words, 0, width, [&](int32_t x, int32_t n) {
    for (int32_t i = x; i < x + n; i++) test.sums[i] += amounts[i];
  });
  return finite;
}

// Tests one row of blocks against the values kept: which of its blocks exceed the limit, and is it finite.
static void input_test_task(void *context, int64_t index, int) {
  InputWork &work = *static_cast<InputWork *>(context);
  const Op &op = *work.op;
  const vf_op &d = op.d;
  const int32_t r = int32_t(index / work.block_rows), by = int32_t(index % work.block_rows), b = d.block;
  const int32_t width = d.out.w, first = by * b, last = std::min(d.out.h, first + b);
  const bool blocks = sums_blocks(d);
  Mask &hits = *work.hits, &weak = *work.weak;
  uint64_t *bits = hits.row(r, by);
  thread_local std::vector<float> sums, means;
  if (blocks) sums.resize(size_t(width)), means.resize(size_t(hits.w));
  RowTest test{r, first, input_limit(op, r, 1), blocks ? nullptr : bits, sums.data(), true};
  bool finite = true;
  const Kernels &kernels = *work.plan->kernels;
  for (; test.y < last; test.y++, test.first = false)
    finite &= watches(op, r, test.y) == Op::kWatched ? kernels.input_row(op, *work.frame, test)
                                                     : test_part(kernels, op, *work.frame, test);
  if (!finite) work.finite = false;
  if (work.fresh[r]) {  // nothing is kept to test against; it was read for what is not finite
    std::memset(bits, 0, sizeof(uint64_t) * size_t(hits.words));
    return;
  }
  if (blocks) {
    block_means(sums.data(), width, b, last - first, means.data());
    hits.flag(r, by) = exceeding(means.data(), hits.w, test.limit, bits);
    weak.flag(r, by) = exceeding(means.data(), hits.w, input_limit(op, r, d.weak), weak.row(r, by));
    return;
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
static bool test_input(vf_plan &plan, const Op &op, Mask &hits, Mask &weak, const Frame &frame) {
  const vf_op &d = op.d;
  const int32_t block_rows = (d.out.h + d.block - 1) / d.block;
  hits.clear(), weak.clear();
  InputWork work{&plan, &op, frame.frames + d.input, nullptr, &hits, &weak, plan.fresh_rows.data(), block_rows};
  frame.team.run(int64_t(d.out.r) * block_rows, frame.workers, input_test_task, &work);
  hits.settle(), weak.settle();
  return work.finite;
}

// Words of a row: of three rows ORed, each bit with its neighbours to the left and right.
static uint64_t around(const uint64_t *row, int32_t words, int32_t j) {
  return row[j] | bits_at(row, words, int64_t(j) * 64 - 1) | bits_at(row, words, int64_t(j) * 64 + 1);
}

// Adds the weak blocks among the eight around each hit, `steps` times.
static void grow_hits(Mask &hits, const Mask &weak, int32_t steps, std::vector<uint64_t> &temp) {
  for (int32_t step = 0; step < steps && hits.any; step++) {
    const size_t words = size_t(hits.words);
    temp.assign(hits.bits.begin(), hits.bits.end());
    temp.resize(hits.bits.size() + words);
    uint64_t *column = temp.data() + hits.bits.size();
    bool grew = false;
    for (int32_t i = 0; i < hits.r; i++)
      for (int32_t y = 0; y < hits.h; y++) {
        if (!weak.flag(i, y)) continue;
        std::memset(column, 0, words * 8);
        for (int32_t v = std::max(0, y - 1); v <= std::min(hits.h - 1, y + 1); v++)
          for (size_t j = 0; j < words; j++) column[j] |= temp[(size_t(i) * hits.h + v) * words + j];
        uint64_t *row = hits.row(i, y), seen = 0;
        const uint64_t *small = weak.row(i, y);
        for (size_t j = 0; j < words; j++) {
          const uint64_t more = around(column, hits.words, int32_t(j)) & small[j] & ~row[j];
          row[j] |= more, seen |= more;
        }
        if (seen) hits.flag(i, y) = 1, grew = true;
      }
    if (!grew) return;
  }
}

// Figures of the test of each row, before anything is stored. `small`: blocks that moved a little.
static void note_seen(vf_plan &plan, const Op &op, const Mask &hits, const Mask &small, Seen &seen, const Frame &frame) {
  for (int32_t i = 0; i < hits.r; i++) {
    float *figures = seen.figures.data() + size_t(i) * VF_SEEN;
    std::fill(figures, figures + VF_SEEN, NAN);
    int64_t strong = 0, rises = 0;
    const size_t first = size_t(i) * hits.h * hits.words, last = first + size_t(hits.h) * hits.words;
    for (size_t k = first; k < last; k++) {
      strong += __builtin_popcountll(hits.bits[k]), rises += __builtin_popcountll(small.bits[k] & ~seen.before.bits[k]);
      seen.before.bits[k] = small.bits[k];
    }
    if (plan.fresh_rows[i]) continue;
    const int64_t blocks = op.watched.empty() ? int64_t(hits.h) * hits.w : std::max<int64_t>(1, op.watched_blocks[i]);
    figures[0] = float(strong) / float(blocks), figures[1] = float(rises) / float(blocks);
    if (2 * strong >= blocks) plan.kernels->input_alike(op, frame.frames[op.d.input], i, figures + 2);
  }
}

// Takes ignored pixels out of those that changed.
static void drop_ignored(const Op &op, Mask &mask) {
  for (int32_t i = 0; i < mask.r; i++)
    for (int32_t y = 0; y < mask.h; y++) {
      if (!mask.flag(i, y) || watches(op, i, y) == Op::kWatched) continue;
      uint64_t *row = mask.row(i, y), seen = 0;
      const uint64_t *watched = watched_row(op, i, y);
      for (int32_t j = 0; j < mask.words; j++) seen |= row[j] &= watched[j];
      mask.flag(i, y) = seen != 0;
    }
  mask.settle();
}

// From the hits to the pixels that changed, which are stored.
static void run_input(vf_plan &plan, const Op &op, Mask &hits, Seen &seen, const Frame &frame) {
  const vf_op &d = op.d;
  Mask &mask = plan.masks[d.mask];
  const int32_t b = d.block, reach = d.dilation;
  if (d.threshold > 0) note_seen(plan, op, hits, sums_blocks(d) ? seen.weak : hits, seen, frame);
  if (d.grow > 0) grow_hits(hits, seen.weak, d.grow, plan.words);
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
        uint64_t *to = mask.row(i, y * b);
        if (b == 1) {
          for (int32_t j = 0; j < mask.words; j++) to[j] = plan.words[j];
        } else {
          each_run(plan.words.data(), hits.words, 0, hits.w, [&](int32_t x, int32_t n) {
            set_bits(to, x * b, std::min(mask.w, (x + n) * b));
          });
        }
        to[mask.words - 1] &= mask.last();
        for (int32_t py = y * b; py < std::min(mask.h, (y + 1) * b); py++) {
          if (py > y * b) std::memcpy(mask.row(i, py), to, sizeof(uint64_t) * size_t(mask.words));
          mask.flag(i, py) = 1;
        }
        mask.any = true;
      }
  } else {
    reach_same(hits, mask, {0, mask.h});
  }
  if (mask.any && !op.watched.empty()) drop_ignored(op, mask);
  for (int32_t i = 0; i < d.out.r; i++)
    if (plan.fresh_rows[i]) mask.fill_row(i);
  InputWork work{&plan, &op, frame.frames + d.input, &mask, &hits, nullptr, plan.fresh_rows.data(), 0};
  if (mask.any) frame.team.run(int64_t(d.out.r) * d.out.h, frame.workers, input_store_task, &work);
}

}  // namespace vf
#endif
