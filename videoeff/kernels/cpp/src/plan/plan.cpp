// The frame plan: reach, lists of active pixels, blocks for the workers. Compiled once, for the baseline processor.
#include "plan.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <new>

#if VF_X86
#include <cpuid.h>
#endif
#if defined(__linux__)
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif
#include <pthread.h>

#include "common.h"
#include "row_blocks.h"
#include "blocks.h"
#include "check.h"
#include "frames.h"
#include "means.h"
#include "planes.h"
#include "reach.h"
#include "line_buffers.h"
#include "vicinity.h"

namespace vf {

// Ask for large pages where there is room for some: maps of tens of megabytes are walked pixel by pixel, and small pages
// cost a walk of the page table each few kilobytes. Only advice; it moves nothing.
static void advise_large_pages(void *data, size_t bytes) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  constexpr uintptr_t page = uintptr_t(2) << 20;
  const uintptr_t first = (uintptr_t(data) + page - 1) / page * page, last = (uintptr_t(data) + bytes) / page * page;
  if (last > first) madvise(reinterpret_cast<void *>(first), last - first, MADV_HUGEPAGE);
#else
  (void)data, (void)bytes;
#endif
}

Memory::~Memory() {
  if (common) {
    leave(common);
  } else {
    std::free(data);
  }
}
void Memory::reserve(size_t wanted) {
  if (wanted <= bytes) return;
  std::free(data);
  bytes = (wanted + 127) / 64 * 64;
  data = std::aligned_alloc(64, bytes);
  if (!data) {
    bytes = 0;
    throw std::bad_alloc();
  }
  advise_large_pages(data, bytes);
  std::memset(data, 0, bytes);  // padding is added and multiplied, never shown: it must not be NaN
}

static int32_t products_wanted = -1;
static std::atomic<uint64_t> frames_begun{0};
uint64_t frame_number() { return frames_begun.load(std::memory_order_relaxed); }

// Linux gives a process the memory for tiles when it asks for them.
static bool may_have_tiles() {
#if VF_X86 && defined(__linux__)
  static const bool given = [] {
    constexpr long request = 0x1023, tile_data = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
    unsigned a = 0, b = 0, c = 0, d = 0;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return false;
    constexpr unsigned bf16 = 1u << 22, tile = 1u << 24, int8 = 1u << 25;
    if ((d & bf16) == 0 || (d & tile) == 0 || (d & int8) == 0) return false;
    return syscall(SYS_arch_prctl, request, tile_data) == 0;
  }();
  return given;
#else
  return false;
#endif
}

int32_t best_products() {
  if (products_wanted >= 0 && products_wanted < VF_PRODUCTS_TILE) return products_wanted;
  return may_have_tiles() ? VF_PRODUCTS_TILE : VF_PRODUCTS_DOT;
}
bool chooses_products() { return products_wanted < 0; }

static const Kernels *kernels_of(int32_t isa) {
#if VF_X86
  if (isa == VF_ISA_AVX512) return kernels_avx512();
  if (isa == VF_ISA_AVX2) return kernels_avx2();
#endif
  return isa == VF_ISA_PORTABLE ? kernels_portable() : nullptr;
}

// The noise, each number of all channels together, in units of its largest floor.
static void copy_noise(Op &op) {
  vf_op &d = op.d;
  const int32_t c = d.out.c;
  op.noise.resize(size_t(c) * 3), op.noise_unit = 0, op.flat_noise = true;
  for (int32_t j = 0; j < c; j++) op.noise_unit = std::max(op.noise_unit, d.noise[3 * j + 1]);
  for (int32_t j = 0; j < c; j++) {
    op.noise[j] = d.noise[3 * j] / op.noise_unit, op.noise[c + j] = d.noise[3 * j + 1] / op.noise_unit;
    op.noise[2 * c + j] = d.noise[3 * j + 2];
    op.flat_noise &= d.noise[3 * j] == 0;
  }
  d.noise = op.noise.data();
}

// Which pixels are watched, and what of each row is.
static void copy_watched(Op &op) {
  vf_op &d = op.d;
  const size_t rows = size_t(d.out.r) * d.out.h, words = (size_t(d.out.w) + 63) / 64;
  op.watched.assign(d.watched, d.watched + rows * words);
  op.watches.resize(rows);
  for (size_t k = 0; k < rows; k++) {
    int64_t found = 0;
    for (size_t j = 0; j < words; j++) found += __builtin_popcountll(op.watched[k * words + j]);
    op.watches[k] = !found ? Op::kIgnored : found < d.out.w ? Op::kPart : Op::kWatched;
  }
  d.watched = op.watched.data();
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
  if (d.kind == VF_INPUT && d.noise) copy_noise(op);
  if (d.kind == VF_INPUT && d.watched) copy_watched(op);
  if (d.factor != 0) op.taps.assign(d.taps, d.taps + size_t(d.kh) * d.kw), d.taps = op.taps.data();
}

// ---------------------------------------------------------------- ops

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

static void run_op(vf_plan &plan, size_t index, const Frame &frame, bool count) {
  Op &op = plan.ops[index];
  const vf_op &d = op.d;
  Mask &mask = plan.masks[d.mask], &active = plan.active[d.mask];
  const int64_t total = int64_t(d.out.r) * d.out.h * d.out.w;
  mask.clear();
  find_fresh(plan, op, frame);
  if (d.kind == VF_INPUT) {
    run_input(plan, op, active, plan.seen[index], frame);
    if (count) plan.counts[VF_COUNTS * index] += total;
    write_scales(plan, op);
    return;
  }
  active.clear();
  find_reach(plan, op, active);
  if (d.factor != 0) predict(plan, op, active);
  put_off(plan, op, active, {0, active.h});
  if (frame.any_fresh)
    for (int32_t i = 0; i < d.out.r; i++)
      if (plan.fresh_rows[i]) active.fill_row(i), forget_put_off(op, i);
  if (!active.any) return;
  int64_t pixels = active.count(), scheduled = pixels;
  if (d.kind == VF_MEAN) {
    run_mean(plan, index, op, active, frame);
  } else {
    scheduled = run_active(plan, op, active, pixels, {0, active.h}, frame);
  }
  mask.settle();
  if (frame.any_fresh) write_scales(plan, op);
  if (!count) return;
  int64_t *counts = plan.counts.data() + VF_COUNTS * index;
  counts[0] += pixels, counts[1] += scheduled;
  if (op.columns) counts[2] += plan.reached[d.mask].count(), counts[3] += take_expanded(plan);
}

// Tests all frames before anything is changed. Returns the first frame that is not finite, -1 if all are.
static int32_t test_frames(vf_plan &plan, const Frame &frame) {
  int32_t bad = -1;
  for (size_t i = 0; i < plan.ops.size(); i++) {
    const Op &op = plan.ops[i];
    if (op.d.kind != VF_INPUT) continue;
    auto start = std::chrono::steady_clock::now();
    find_fresh(plan, op, frame);
    if (!test_input(plan, op, plan.active[op.d.mask], plan.seen[i].weak, frame) && bad < 0) bad = op.d.input;
    plan.times[i] += since(start);
  }
  return bad;
}

static void reserve_workers(vf_plan &plan, int workers) {
  if (workers > 1) plan.shared.reserve(plan.shared_bytes);
  while (int(plan.workers.size()) < workers) {
    Worker worker;
    worker.registers.reserve(plan.register_bytes * VF_MAX_REGS);
    worker.temp.reserve(plan.temp_bytes + 64);
    worker.rows.reserve(plan.row_bytes), worker.line_buffer.reserve(plan.line_buffer_bytes);
    for (int k = 0; k < VF_MAX_REGS; k++)
      worker.scratch.reg[k] = static_cast<char *>(worker.registers.data) + plan.register_bytes * k;
    worker.scratch.temp = worker.temp.data, worker.scratch.rows = worker.rows.data;
    plan.workers.push_back(std::move(worker));
  }
}

static void build(vf_plan &plan, const vf_op *ops, int64_t nops, const vf_mask *masks, int64_t nmasks) {
  plan.masks.resize(size_t(nmasks)), plan.active.resize(size_t(nmasks)), plan.reached.resize(size_t(nmasks));
  for (int64_t i = 0; i < nmasks; i++) {
    plan.masks[i].resize(masks[i].r, masks[i].h, masks[i].w, masks[i].magnitude != 0);
    plan.active[i].resize(1, 1, 1, false);
  }
  plan.ops.resize(size_t(nops)), plan.sums.resize(size_t(nops)), plan.seen.resize(size_t(nops));
  plan.counts.assign(size_t(nops) * VF_COUNTS, 0), plan.times.assign(size_t(nops), 0);
  for (int64_t i = 0; i < nops; i++) {
    Op &op = plan.ops[i];
    op.d = ops[i];
    copy_tables(op);
    make_vicinity(plan, op, masks);
    // blocks and dilation belong to the change test, and at threshold 0 there is none
    if (op.d.kind != VF_INPUT || op.d.threshold == 0) op.d.block = 1, op.d.dilation = 0, op.d.grow = 0;
    const vf_op &d = op.d;
    const int32_t b = d.block;
    plan.active[d.mask].resize(d.out.r, (d.out.h + b - 1) / b, (d.out.w + b - 1) / b, false);
    if (d.kind == VF_INPUT && d.threshold > 0) prepare_seen(plan.seen[i], plan.active[d.mask]);
    if (d.watched) count_watched_blocks(op);
    const int64_t item = item_of(d.dtype), r = d.out.r - 1, h = d.out.h - 1;
    advise_large_pages(d.out.data, size_t((r * d.out.sr + h * d.out.sh + d.out.w * d.out.sw) * item));
    if (d.nbefore) make_stages(*plan.kernels, op);
    plan.kernels->prepare(op);
    op.window = window_of(d);
    if (d.nbefore) prepare_stages(plan, op);
    if (op.columns) plan.reached[d.mask].resize(d.out.r, d.before[0].h, d.before[0].w, false);
    plan.register_bytes = std::max(plan.register_bytes, (register_bytes(op) + 127) / 64 * 64);
    plan.temp_bytes = std::max(plan.temp_bytes, op.temp_bytes);
    if (shares_weights(op)) {
      const size_t rows = kMaxBlock + kSpareRows;
      plan.shared_bytes = std::max(plan.shared_bytes, rows * size_t(op.ld) * size_t(d.dtype == VF_F64 ? 8 : 4));
    }
  }
  for (Op &op : plan.ops) {
    for (Op &stage : op.before)
      for (Memory *memory : {&stage.weight, &stage.bias}) share(*memory);
    for (Memory *memory : {&op.weight, &op.bias}) share(*memory);
  }
  find_chains(plan);
}

}  // namespace vf

using namespace vf;

extern "C" {

int32_t vf_abi(void) { return VF_ABI; }

int32_t vf_best_isa(void) {
#if VF_X86
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("fma"))
    return VF_ISA_AVX512;
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return VF_ISA_AVX2;
#endif
  return VF_ISA_PORTABLE;
}

int32_t vf_use_products(int32_t best) {
  products_wanted = std::min<int32_t>(best, VF_PRODUCTS_TILE);
  const Kernels *kernels = kernels_of(vf_best_isa());
  return std::min(best_products(), kernels->products());
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

void vf_plan_destroy(vf_plan *plan) {
  delete plan;
}

int32_t vf_plan_run(vf_plan *plan, const vf_frame *frames, int64_t nframes, const uint8_t *fresh, int64_t streams,
                    int32_t threads, int32_t flags) {
  if (!plan || nframes < 0 || streams < 0 || threads < 1) return VF_ANSWER_NO_CALL;
  try {
    for (const Op &op : plan->ops) {
      if (op.d.kind == VF_INPUT && op.d.input >= nframes) return VF_ANSWER_NO_FRAME;
      for (int32_t s : op.streams)
        if (s < 0 || s >= streams) return VF_ANSWER_NO_STREAM;
    }
    const Team team(std::min(threads, 256));
    Frame frame{frames, fresh, false, std::min(threads, 256), team};
    frames_begun.fetch_add(1, std::memory_order_relaxed);
    for (int64_t i = 0; i < streams; i++) frame.any_fresh |= fresh[i] != 0;
    reserve_workers(*plan, frame.workers);
    for (Vicinity &v : plan->vicinities) v.ready = false;
    const int32_t bad = test_frames(*plan, frame);
    if (bad >= 0 && flags & VF_FLAG_FINITE) return VF_ANSWER_NOT_FINITE + bad;
    for (size_t i = 0; i < plan->ops.size(); i++) {
      const size_t stop = flags & VF_FLAG_OP_BY_OP ? i + 1 : plan->chain[i];
      if (stop > i + 1 && run_chain(*plan, i, stop, frame, (flags & VF_FLAG_COUNT) != 0)) {
        i = stop - 1;
        continue;
      }
      auto start = std::chrono::steady_clock::now();
      run_op(*plan, i, frame, (flags & VF_FLAG_COUNT) != 0);
      plan->times[i] += since(start);
    }
  } catch (const std::exception &) {
    return VF_ANSWER_NO_MEMORY;
  }
  return VF_ANSWER_DONE;
}

void vf_use_openmp(vf_parallel parallel) {
  openmp().store(parallel);
}

void vf_plan_invalidate(vf_plan *plan) {
  for (Sums &s : plan->sums) s.valid = false;
}

int64_t *vf_plan_counts(vf_plan *plan) { return plan->counts.data(); }

const float *vf_plan_seen(const vf_plan *plan, int64_t op) {
  if (op < 0 || size_t(op) >= plan->seen.size() || plan->seen[op].figures.empty()) return nullptr;
  return plan->seen[op].figures.data();
}

int64_t *vf_plan_times(vf_plan *plan, int32_t reset) {
  if (reset) std::fill(plan->times.begin(), plan->times.end(), 0);
  return plan->times.data();
}

int64_t vf_plan_row_blocks(const vf_plan *plan) { return plan->row_blocks; }

int64_t vf_common_bytes(void) { return int64_t(common_bytes()); }

int64_t vf_plan_bytes(const vf_plan *plan, int32_t what) {
  size_t total = 0;
  if (what == VF_HELD_WEIGHTS) {
    for (const Op &op : plan->ops) {
      total += op.weight.bytes + op.bias.bytes;
      for (const Op &stage : op.before) total += stage.weight.bytes + stage.bias.bytes;
    }
  } else if (what == VF_HELD_MASKS) {
    for (const auto *masks : {&plan->masks, &plan->active, &plan->reached})
      for (const Mask &m : *masks) total += m.bits.size() * 8 + m.rows.size() + m.squares.size() * 4;
    for (const Vicinity &v : plan->vicinities) total += v.mask.bits.size() * 8 + v.mask.rows.size();
    for (const Seen &s : plan->seen) total += (s.weak.bits.size() + s.before.bits.size()) * 8 + s.figures.size() * 4;
    for (const Sums &s : plan->sums) total += (s.piece.size() + s.row.size()) * 8;
    for (const Op &op : plan->ops) total += op.watched.size() * 8 + op.watches.size();
  } else {
    for (const Worker &w : plan->workers) total += w.registers.bytes + w.temp.bytes + w.rows.bytes + w.line_buffer.bytes;
    total += plan->shared.bytes + plan->plane.size() * 4;
  }
  return int64_t(total);
}

int32_t vf_mask_read(vf_plan *plan, int32_t mask, int32_t which, uint8_t *bytes) {
  if (mask < 0 || size_t(mask) >= plan->masks.size()) return 1;
  const Mask &m = plan->masks[mask];
  const Mask *from = &m;
  bool all = false;  // an input looks at every pixel; its `active` holds the blocks of its test
  if (which == VF_MASK_ACTIVE)
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

void vf_planes(const void *from, void *to, int64_t entries, int64_t pixels, int64_t channels, int64_t item,
               int32_t threads) {
  run_planes({from, to, pixels, channels, item, 0}, entries, threads);
}

int32_t vf_all_finite(const void *data, int64_t count, int32_t dtype) {
  return kernels_of(vf_best_isa())->all_finite(data, count, dtype);
}

}  // extern "C"
