// The kernels of one instruction set: compiled once with each value of VF_ISA.
#include <algorithm>
#include <chrono>
#include <new>
#include <type_traits>

#include "commit.h"
#include "copies.h"
#include "depthwise.h"
#include "epilogue.h"
#include "fused.h"
#include "gemm.h"
#include "input.h"
#include "narrow.h"
#include "reduce.h"
#include "window.h"
#include "winograd.h"

namespace vf {
namespace VF_SPACE {

inline bool is_depthwise(const Op &op) {
  const vf_op &d = op.d;
  return d.kind == VF_CONV && d.groups == d.in.c && d.groups > 1 && producer_channels(op) == d.in.c && !d.gate;
}

// The cycles of a pixel: two vector products a cycle, a few vector operations for each value, some for the pixel.
template <class S> int64_t cycles_of(const Op &op) {
  constexpr int64_t L = lanes<compute<S>>;
  const vf_op &d = op.d;
  const int64_t taps = std::max<int64_t>(1, int64_t(d.kh) * d.kw), vectors = (d.out.c + L - 1) / L;
  const bool dense = (d.kind == VF_CONV || d.kind == VF_TRANSPOSED) && !op.depthwise;
  const int64_t inputs = (op.winograd_tiles ? 4 : taps) * (d.in.c / d.groups) / (in_units<S>(op) ? Unit<S>::inputs : 1);
  const int64_t products = op.products == VF_PRODUCTS_TILE ? int64_t(op.steps.size()) : inputs / kProductsPerCycle;
  return vectors * (dense ? products : taps) +
         vectors * (kCyclesOfVector + kCyclesOfInstruction * d.nepi) + kCyclesOfPixel;
}

// How an op's input is read: numbers that are multiplied with other than integer weights as what they stand for.
inline int32_t input_dtype(const Op &op) {
  const vf_op &d = op.d;
  if (d.kind == VF_POINTWISE || d.kind == VF_INPUT) return d.dtype;
  return op.decodes ? int32_t(VF_F32) : d.in.dtype;
}

// Whether the processor's products of bfloat16 are faster than those of float32, by a fifth at least: on some they are not.
// Measured once, on blocks in the nearest cache: some 20 microseconds.
inline bool bf16_dots_pay() {
#if VF_ISA == VF_ISA_AVX512
  static const bool pay = [] {
    constexpr int inputs = 64, pixels = kBlocks[2][0], outputs = 2 * lanes<float>;
    alignas(64) static bf16 input[pixels * inputs];
    alignas(64) static float weights[inputs * outputs], results[pixels * outputs];
    const bf16 *base[pixels];
    float *rows[pixels];
    for (int i = 0; i < pixels; i++) base[i] = input + i * inputs, rows[i] = results + i * outputs;
    const Segment segment{0, inputs, 0, 0, 0};
    const Channels<bf16> channels{weights, weights, weights};
    const auto best_of = [](auto run) {
      auto best = std::chrono::nanoseconds::max();
      for (int i = 0; i < 50; i++) {
        const auto start = std::chrono::steady_clock::now();
        run();
        best = std::min(best, std::chrono::nanoseconds(std::chrono::steady_clock::now() - start));
      }
      return best;
    };
    const bf16 *pairs = reinterpret_cast<const bf16 *>(weights);
    const auto dots = best_of([&] { bf16_dot<pixels, 2>(base, nullptr, &segment, 1, pairs, channels, rows, 0); });
    const auto plain = best_of([&] {
      micro<bf16, pixels, 2>(base, nullptr, &segment, 1, weights, weights, rows, 0, reinterpret_cast<const char *>(weights), 0);
    });
    return dots * 6 < plain * 5;
  }();
  return pay;
#else
  return false;
#endif
}

// How its products are computed.
template <class S> int32_t products_of(const Op &op) {
  const int32_t best = best_products();
  if (Unit<S>::inputs == 1 || op.d.kind != VF_CONV) return VF_PRODUCTS_PLAIN;
#if VF_TILES
  if (best >= VF_PRODUCTS_TILE && fits_tiles(op)) return VF_PRODUCTS_TILE;
#endif
  if (best < VF_PRODUCTS_DOT || !has_dot<S>()) return VF_PRODUCTS_PLAIN;
  if constexpr (std::is_same_v<S, bf16>)
    if (chooses_products() && !bf16_dots_pay()) return VF_PRODUCTS_PLAIN;
  return VF_PRODUCTS_DOT;
}
// The best that this file has for the processor.
inline int32_t any_products() {
#if VF_TILES
  return VF_PRODUCTS_TILE;
#endif
  return has_dot<u8>() || has_dot<bf16>() ? VF_PRODUCTS_DOT : VF_PRODUCTS_PLAIN;
}

// `S`: how the input is read.
template <class S> void prepare_op(Op &op) {
  using T = compute<S>;
  vf_op &d = op.d;
  int32_t widest = producer_channels(op);
  for (int i = 0; i < VF_MAX_REGS; i++) widest = d.width[i] > widest ? d.width[i] : widest;
  widest = d.out.c > widest ? d.out.c : widest;
  op.ld = int32_t(round_up(widest, kRowStep) + kRowStep);
  if (op.ld % kSetElements == 0) op.ld += kRowStep;
  op.temp_bytes = 0;
  find_ending(op);
  op.block_pixels = int32_t(kScratchBytes / (int64_t(op.ld) * int64_t(sizeof(T))) / kBlockStep * kBlockStep);
  op.block_pixels = std::clamp(op.block_pixels, kBlockStep, int32_t(kMaxBlock));
  if (d.kind != VF_CONV && d.kind != VF_TRANSPOSED) {
    op.block_pixels = std::min(op.block_pixels, kMaxPlainBlock);
    op.span = find_span(op);
    op.narrow = find_narrow<S>(op);
    op.copies = find_copy(op);
    op.temp_bytes = size_t(op.span) * size_t(round_up(d.in.c, lanes<T>)) * sizeof(T);
    return;
  }
  op.depthwise = is_depthwise(op);
  if (op.depthwise) {
    const int32_t ld = op.ld;
    pack_depthwise<S>(op);
    op.ld = ld;
    op.block_pixels = std::min(op.block_pixels, kMaxPlainBlock);
    return;
  }
  if constexpr (kMain<S>)
    if (d.winograd) return pack_winograd<S>(op);
  op.gather = d.kind == VF_CONV && (d.in.sc != 1 || d.gate || op.decodes);
  const int32_t ld = op.ld;
  op.products = products_of<S>(op);
  if constexpr (Unit<S>::inputs > 1) {
#if VF_TILES
    if (op.products == VF_PRODUCTS_TILE) return prepare_tiles<S>(op);
#endif
    if (in_units<S>(op)) prepare_dots<S>(op);
  }
  if constexpr (!std::is_same_v<S, u8>) {
    if (!in_units<S>(op)) {
      pack_convolution<S>(op);
      op.ld = ld;
      plan_reduction<S>(op);
      op.asks_old = d.in.dtype == d.dtype && asks_old<S>(op);
    }
  }
  if (op.gather || op.rows) {
    int64_t row = int64_t(op.reduction) * int64_t(sizeof(S));
    while (op.block_pixels > kBlockStep && row * op.block_pixels > kScratchBytes) op.block_pixels -= kBlockStep;
    op.temp_bytes = size_t(row) * op.block_pixels;
  }
}

template <class S> void prepare(Op &op) {
  prepare_op<S>(op);
  // Numbers need few products: what a block's results cost is going from one pass to the next through the cache.
  if (op.d.dtype == VF_U8 && op.weight.bytes < kFewWeights) {
    const int32_t step = op.products == VF_PRODUCTS_TILE ? kTileStep : kBlockStep;
    const int64_t fits = kNearBytes / (int64_t(op.ld) * int64_t(sizeof(float))) / step * step;
    op.block_pixels = int32_t(std::clamp<int64_t>(fits, step, op.block_pixels));
  }
  op.cycles = cycles_of<S>(op);
  op.uniform = op.d.dtype == VF_U8 && one_scale(op.d.out);
  op.sums = op.products == VF_PRODUCTS_TILE && std::is_same_v<S, u8> && op.d.dtype == VF_U8 && op.ending >= 0 && op.ending != kTimes;
}

template <class S>
void finish(const Op &op, const Block &block, Scratch &scratch, bool force, uint64_t *changed, float *squares) {
  if constexpr (!std::is_same_v<S, double>) {
    switch (op.ending) {
      case kProduced: return finish_fused<S, kProduced>(op, block, scratch, force, changed, squares);
      case kPlus: return finish_fused<S, kPlus>(op, block, scratch, force, changed, squares);
      case kRoundedPlus:
        if constexpr (std::is_same_v<S, u8>) return finish_fused<S, kRoundedPlus>(op, block, scratch, force, changed, squares);
        break;
      case kTimes: return finish_fused<S, kTimes, false>(op, block, scratch, force, changed, squares, Same<compute<S>>{});
      default: break;
    }
  }
  if (op.d.nepi) run_epilogue<S>(op, block, scratch);
  commit<S>(op, block, scratch, force, changed, squares);
}

template <class S> void winograd_panels(const Op &op, const Block &block, Scratch &scratch, int32_t first, int32_t last) {
  if constexpr (kMain<S>) winograd<S>(op, block, scratch, first, last);
}

template <class S> void depthwise_stage(const Op &op, const Block &block, Scratch &scratch) {
  using T = compute<S>;
  depthwise<S>(op, block, scratch);
  if (!writes_in_place(op)) return keep_stage<S>(op, block, scratch);
  T *rows[kMaxBlock];
  for (int32_t i = 0; i < block.pixels; i++) rows[i] = static_cast<T *>(scratch.rows) + int64_t(i) * op.ld;
  activate<T>(op.d, rows, block.pixels, 0, op.d.out.c);
}

// The part of a block before its epilogue; `S`: how the input is read.
template <class S> void produce(const Op &op, const Block &block, Scratch &scratch) {
  switch (op.d.kind) {
    case VF_CONV:
    case VF_TRANSPOSED:
      if (op.depthwise) depthwise<S>(op, block, scratch);
      else if (op.winograd_tiles) winograd_panels<S>(op, block, scratch, 0, int32_t(op.panels.size()));
      else convolution<S>(op, block, scratch, -1, -1);
      break;
    case VF_MAXPOOL: maxpool<S>(op, block, scratch); break;
    case VF_SEPARABLE: separable<S>(op, block, scratch); break;
    default: break;
  }
}

template <class S> void set_row(const Op &op, Scratch &scratch, int32_t row, const double *values, int32_t c) {
  using T = compute<S>;
  T *to = static_cast<T *>(scratch.reg[0]) + int64_t(row) * op.ld;
  for (int32_t i = 0; i < c; i++) {
    std::conditional_t<std::is_same_v<S, u8>, float, S> s;
    narrow(T(values[i]), &s);  // a mean is a value of its own in the model's precision
    to[i] = widen(s);
  }
}

// Calls Function<S> for the storage type of `dtype`.
#define VF_BY_DTYPE(dtype, function, ...)                   \
  switch (dtype) {                                          \
    case VF_F64: return function<double>(__VA_ARGS__);      \
    case VF_BF16: return function<bf16>(__VA_ARGS__);       \
    case VF_U8: return function<u8>(__VA_ARGS__);           \
    default: return function<float>(__VA_ARGS__);           \
  }

static void any_prepare(Op &op) {
  op.decodes = op.d.kind == VF_CONV && op.d.in.dtype == VF_U8 && !op.d.integer && !is_depthwise(op);
  VF_BY_DTYPE(input_dtype(op), prepare, op)
}
static void any_finish(const Op &op, const Block &block, Scratch &s, bool force, uint64_t *changed, float *squares) {
  VF_BY_DTYPE(op.d.dtype, finish, op, block, s, force, changed, squares)
}
static void any_produce(const Op &op, const Block &block, Scratch &s) {
  VF_BY_DTYPE(input_dtype(op), produce, op, block, s)
}
static void any_depthwise_stage(const Op &op, const Block &block, Scratch &s) {
  VF_BY_DTYPE(op.d.dtype, depthwise_stage, op, block, s)
}
static void any_block(const Op &op, const Block &block, Scratch &s, bool force, uint64_t *changed, float *squares) {
  if (op.copies == Op::kEncodes) return encode_block(op, block, s, force, changed);
  if (op.copies == Op::kCasts)
    return op.d.dtype == VF_BF16 ? cast_block<float, bf16>(op, block, force, changed) : cast_block<bf16, float>(op, block, force, changed);
  if (op.copies != Op::kComputes) { VF_BY_DTYPE(op.d.dtype, copy_block, op, block, force, changed) }
  if (op.narrow && op.d.dtype == VF_F32) return narrow_block<float>(op, block, force, changed);
  if (op.reads == Op::kRows) any_depthwise_stage(op.before.back(), block, s);
  if (op.d.kind != VF_POINTWISE) any_produce(op, block, s);
  any_finish(op, block, s, force, changed, squares);
}
static void any_panel(const Op &op, const Block &block, Scratch &s, int32_t panel, int32_t later) {
  VF_BY_DTYPE(input_dtype(op), convolution, op, block, s, panel, later)
}
static void any_winograd(const Op &op, const Block &block, Scratch &s, int32_t first, int32_t last) {
  VF_BY_DTYPE(op.d.dtype, winograd_panels, op, block, s, first, last)
}
static void any_expand(const Op &op, const Block &block, Scratch &s) {
  any_panel(op, block, s, -1, -1);
  if (writes_in_place(op)) return;
  VF_BY_DTYPE(op.d.dtype, keep_stage, op, block, s)
}
static void any_linear(const Op &op, Scratch &s, int32_t first, int32_t last) {
  VF_BY_DTYPE(op.d.dtype, linear_part, op, s, first, last)
}
static void any_set_row(const Op &op, Scratch &s, int32_t row, const double *values, int32_t c) {
  VF_BY_DTYPE(op.d.dtype, set_row, op, s, row, values, c)
}
static bool any_row(const Op &op, const vf_frame &frame, const RowTest &test) {
  switch (op.d.dtype) {
    case VF_F64: return input_row<double>(op, frame, test);
    case VF_BF16: return input_row<bf16>(op, frame, test);
    case VF_U8: return input_row<u8>(op, frame, test);
    default: return input_row<float>(op, frame, test);
  }
}
static void any_alike(const Op &op, const vf_frame &frame, int32_t r, float *figures) {
  VF_BY_DTYPE(op.d.dtype, input_alike, op, frame, r, figures)
}
static void any_store(const Op &op, const vf_frame &frame, const Run &run, float *squares) {
  VF_BY_DTYPE(op.d.dtype, input_store, op, frame, run, squares)
}
static void any_moments(const Op &op, const Run &run, double *sums) {
  VF_BY_DTYPE(op.d.dtype, moments, op, run, sums)
}
static void any_accumulate(const vf_view &view, const Run &run, double *sums) {
  VF_BY_DTYPE(view.dtype, accumulate, view, run, sums)
}
static bool any_finite(const void *data, int64_t count, int32_t dtype) {
  switch (dtype) {
    case VF_F64: return all_finite(static_cast<const double *>(data), count);
    case VF_BF16: return all_finite(static_cast<const bf16 *>(data), count);
    default: return all_finite(static_cast<const float *>(data), count);
  }
}

static const Kernels table = {any_prepare, any_block,   any_panel, any_winograd, any_finish,  any_expand,     any_linear,
                              any_set_row, any_row,     any_store, any_moments, any_accumulate, any_finite,
                              any_alike, any_products};

}  // namespace VF_SPACE

#if VF_ISA == VF_ISA_AVX512
const Kernels *kernels_avx512() { return &isa_avx512::table; }
#elif VF_ISA == VF_ISA_AVX2
const Kernels *kernels_avx2() { return &isa_avx2::table; }
#else
const Kernels *kernels_portable() { return &isa_portable::table; }
#endif

}  // namespace vf
