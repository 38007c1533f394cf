// Convolutions by instructions that multiply and add up several inputs in each lane: 4 numbers of 8 bits, or 2 of bfloat16,
// here called a unit. The blocks are those of gemm.h. Sums of 8-bit numbers are exact, in any order, and a result is what the
// sum stands for.
#ifndef VIDEOEFF_DOTS_H
#define VIDEOEFF_DOTS_H

#include <algorithm>

#include "pixels.h"

namespace vf {
namespace VF_SPACE {

typedef int8_t vweights __attribute__((vector_size(VF_BYTES)));

// Inputs of a unit, of four bytes; what weights and sums are.
template <class S> struct Unit {
  static constexpr int32_t inputs = 1;
};
template <> struct Unit<u8> {
  using Weight = int8_t;
  using Sum = int32_t;
  static constexpr int32_t inputs = 4;
};
template <> struct Unit<bf16> {
  using Weight = bf16;
  using Sum = float;
  static constexpr int32_t inputs = 2;
};
template <class S> int32_t units_up(int32_t n) { return (n + Unit<S>::inputs - 1) / Unit<S>::inputs * Unit<S>::inputs; }

// Whether inputs lie in whole units, as numbers always do.
template <class S> bool in_units(const Op &op) {
  return std::is_same_v<S, u8> || (std::is_same_v<S, bf16> && op.products != VF_PRODUCTS_PLAIN);
}

// acc + the sums of four products in each lane, of the four numbers in `four` and the weights in `w`. Without an instruction
// for it: the products of even and of odd inputs apart, in 16 bits, where none overflows.
VF_INLINE vint dot_plain(vint acc, int32_t four, vweights w) {
#if VF_ISA == VF_ISA_AVX512
  const __m512i a = _mm512_set1_epi32(four), b = (__m512i)w, low = _mm512_set1_epi16(0xff);
  const __m512i even = _mm512_madd_epi16(_mm512_and_si512(a, low), _mm512_srai_epi16(_mm512_slli_epi16(b, 8), 8));
  const __m512i odd = _mm512_madd_epi16(_mm512_srli_epi16(a, 8), _mm512_srai_epi16(b, 8));
  return acc + (vint)even + (vint)odd;
#elif VF_ISA == VF_ISA_AVX2
  const __m256i a = _mm256_set1_epi32(four), b = (__m256i)w, low = _mm256_set1_epi16(0xff);
  const __m256i even = _mm256_madd_epi16(_mm256_and_si256(a, low), _mm256_srai_epi16(_mm256_slli_epi16(b, 8), 8));
  const __m256i odd = _mm256_madd_epi16(_mm256_srli_epi16(a, 8), _mm256_srai_epi16(b, 8));
  return acc + (vint)even + (vint)odd;
#else
  uint8_t a[4];
  std::memcpy(a, &four, sizeof a);
  for (int i = 0; i < lanes<float>; i++)
    for (int k = 0; k < 4; k++) acc[i] += int32_t(a[k]) * w[i * 4 + k];
  return acc;
#endif
}

// What a register block needs of its channels: what sums begin with, of numbers (less the zero times all weights) and what a
// product of 1 stands for, and the bias; of bfloat16 the bias alone.
template <class S> struct Channels {
  const typename Unit<S>::Sum *begin;
  const float *factor, *bias;
};
VF_INLINE vfloat settled(const Channels<u8> &channels, vint sum, int64_t at) {
  return __builtin_convertvector(sum, vfloat) * load(channels.factor + at) + load(channels.bias + at);
}
VF_INLINE vfloat settled(const Channels<bf16> &, vfloat sum, int64_t) { return sum; }

// rows[i][column + j] = what begin[j] + sum over segments of input[i] * panel[j] stands for, for MR pixels and NV vectors.
// Pointers as in micro.h; of a segment `k` and `length` count inputs.
#define VF_DOTS(name, attributes, S, dot)                                                                              \
  template <int MR, int NV>                                                                                            \
  __attribute__((noinline)) attributes void name(const S *const *base, const S *const *edge,                           \
                                                 const Segment *segments, int count, const Unit<S>::Weight *panel,     \
                                                 const Channels<S> &channels, float *const *rows, int64_t column) {    \
    constexpr int L = lanes<float>;                                                                                    \
    using vsum = std::conditional_t<std::is_same_v<S, u8>, vint, vfloat>;                                              \
    vsum acc[MR][NV];                                                                                                  \
    _Pragma("GCC unroll 16") for (int j = 0; j < NV; j++) {                                                            \
      vsum first;                                                                                                      \
      std::memcpy(&first, channels.begin + j * L, sizeof first);                                                       \
      _Pragma("GCC unroll 16") for (int i = 0; i < MR; i++) acc[i][j] = first;                                         \
    }                                                                                                                  \
    for (int s = 0; s < count; s++) {                                                                                  \
      const S *p[MR];                                                                                                  \
      _Pragma("GCC unroll 16") for (int i = 0; i < MR; i++) p[i] =                                                     \
          edge ? edge[s * MR + i] : base[i] + segments[s].offset;                                                      \
      const auto *w = panel + int64_t(segments[s].k) * (NV * L);                                                       \
      for (int32_t k = 0; k < segments[s].length; k += Unit<S>::inputs) {                                              \
        vweights b[NV];                                                                                                \
        _Pragma("GCC unroll 16") for (int j = 0; j < NV; j++)                                                          \
            std::memcpy(&b[j], w + j * L * Unit<S>::inputs, VF_BYTES);                                                 \
        w += NV * L * Unit<S>::inputs;                                                                                 \
        _Pragma("GCC unroll 16") for (int i = 0; i < MR; i++) {                                                        \
          int32_t unit;                                                                                                \
          std::memcpy(&unit, p[i] + k, sizeof unit);                                                                   \
          _Pragma("GCC unroll 16") for (int j = 0; j < NV; j++) acc[i][j] = dot(acc[i][j], unit, b[j]);                \
        }                                                                                                              \
      }                                                                                                                \
    }                                                                                                                  \
    _Pragma("GCC unroll 16") for (int j = 0; j < NV; j++)                                                              \
        _Pragma("GCC unroll 16") for (int i = 0; i < MR; i++)                                                          \
            store<float>(rows[i] + column + j * L, settled(channels, acc[i][j], j * L));                               \
  }

VF_DOTS(integer_plain, , u8, dot_plain)
#if VF_ISA == VF_ISA_AVX512
#define VF_DOT(acc, unit, w) ((vint)_mm512_dpbusd_epi32((__m512i)(acc), _mm512_set1_epi32(unit), (__m512i)(w)))
VF_DOTS(integer_dot, __attribute__((target("avx512vnni"))), u8, VF_DOT)
#define VF_DOT_BF16(acc, unit, w) \
  ((vfloat)_mm512_dpbf16_ps((__m512)(acc), (__m512bh)_mm512_set1_epi32(unit), (__m512bh)(w)))
VF_DOTS(bf16_dot, __attribute__((target("avx512bf16"))), bf16, VF_DOT_BF16)
#elif VF_ISA == VF_ISA_AVX2
#define VF_DOT(acc, unit, w) ((vint)_mm256_dpbusd_avx_epi32((__m256i)(acc), _mm256_set1_epi32(unit), (__m256i)(w)))
VF_DOTS(integer_dot, __attribute__((target("avxvnni"))), u8, VF_DOT)
#endif
#undef VF_DOTS

// Whether the processor has the instruction.
template <class S> bool has_dot() {
#if VF_ISA == VF_ISA_AVX512
  return std::is_same_v<S, u8> ? __builtin_cpu_supports("avx512vnni") : __builtin_cpu_supports("avx512bf16");
#elif VF_ISA == VF_ISA_AVX2
  return std::is_same_v<S, u8> && __builtin_cpu_supports("avxvnni");
#else
  return false;
#endif
}

template <class S>
using DotBlock = void (*)(const S *const *, const S *const *, const Segment *, int, const typename Unit<S>::Weight *,
                          const Channels<S> &, float *const *, int64_t);

// A block by the instruction; null where there is none, as has_dot says.
template <class S, int MR, int NV> constexpr DotBlock<S> by_instruction() {
#if VF_ISA > VF_ISA_PORTABLE
  if constexpr (std::is_same_v<S, u8>) return integer_dot<MR, NV>;
#endif
#if VF_ISA == VF_ISA_AVX512
  if constexpr (std::is_same_v<S, bf16>) return bf16_dot<MR, NV>;
#endif
  return nullptr;
}

template <class S, int NV> DotBlock<S> dot_block(int which, bool dots) {
  if constexpr (std::is_same_v<S, u8>)
    if (!dots)
      return which == 0 ? integer_plain<kBlocks[NV][0], NV>
                        : which == 3 ? integer_plain<1, NV> : integer_plain<kBlocks[NV][2], NV>;
  (void)dots;
  switch (which) {
    case 0: return by_instruction<S, kBlocks[NV][0], NV>();
    case 1: return by_instruction<S, kBlocks[NV][1], NV>();
    case 2: return by_instruction<S, kBlocks[NV][2], NV>();
    default: return by_instruction<S, kBlocks[NV][3], NV>();
  }
}
template <class S> DotBlock<S> dot_block(int vectors, int which, bool dots) {
#if VF_ISA == VF_ISA_AVX512
  if (vectors == 4) return dot_block<S, 4>(which, dots);
  if (vectors == 3) return dot_block<S, 3>(which, dots);
#endif
  return vectors == 2 ? dot_block<S, 2>(which, dots) : dot_block<S, 1>(which, dots);
}

// Inputs that are filled up to whole units together: those of a tap, or where pixels of few channels lie side by side those
// of a row of the window, which is then copied together at an edge.
template <class S> bool packs_rows(const vf_op &d) {
  const int32_t inputs = d.in.c;
  return std::is_same_v<S, u8> && d.groups == 1 && d.dx == 1 && d.kw > 1 && d.in.sc == 1 && d.in.sw == inputs &&
         inputs % Unit<S>::inputs != 0 && inputs < 16;
}
template <class S> int32_t packed_inputs(const Op &op) {
  const vf_op &d = op.d;
  const int32_t inputs = d.in.c / d.groups;
  return op.rows ? d.kh * units_up<S>(d.kw * inputs) : d.kh * d.kw * units_up<S>(inputs);
}

// Sums of numbers begin with, for each output channel, the zero times all weights, less; and then factors and bias. Of
// bfloat16: the bias. `room`: how many of each.
inline int64_t channel_room(const Op &op) { return round_up(producer_channels(op), lanes<float>) + 4 * lanes<float>; }
template <class S> void pack_channels(Op &op) {
  const vf_op &d = op.d;
  const int32_t total = producer_channels(op), window = d.kh * d.kw, inputs = d.in.c / d.groups;
  const int64_t room = channel_room(op);
  op.bias.reserve(size_t(room) * 3 * sizeof(float));
  if constexpr (std::is_same_v<S, u8>) {
    const Grid<u8> grid(d.in);
    const int8_t *from = static_cast<const int8_t *>(d.weight);
    const float *given = static_cast<const float *>(d.bias);
    int32_t *begin = static_cast<int32_t *>(op.bias.data);
    float *factor = reinterpret_cast<float *>(begin + room), *bias = factor + room;
    const int32_t zero = int32_t(grid.row(VF_GRID_ZERO)[0]);
    for (int32_t o = 0; o < total; o++) {
      int32_t sum = 0;
      for (int32_t i = 0; i < window * inputs; i++) sum += from[int64_t(o) * window * inputs + i];
      begin[o] = -zero * sum;
      factor[o] = grid.row(VF_GRID_SCALE)[0] * d.factors[o];
      bias[o] = given ? given[o] : 0.0f;
    }
    op.zeros.reserve(size_t(units_up<S>(inputs)) + 64);
    std::memset(op.zeros.data, zero, op.zeros.bytes);
  } else {
    float *begin = static_cast<float *>(op.bias.data);
    for (int32_t o = 0; o < total; o++) begin[o] = d.bias ? widen(static_cast<const S *>(d.bias)[o]) : 0.0f;
    op.zeros.reserve(size_t(units_up<S>(inputs)) * sizeof(S) + 64);
  }
}
template <class S> Channels<S> channels_of(const Op &op, int64_t first) {
  const auto *begin = static_cast<const typename Unit<S>::Sum *>(op.bias.data);
  const float *factor = reinterpret_cast<const float *>(begin + channel_room(op));
  return {begin + first, factor + first, factor + channel_room(op) + first};
}

// Weights (O, I / g, kh, kw) as panels [group][panel][packed inputs][vectors x lanes], the inputs of a unit of an output
// channel together.
template <class S> void pack_dots(Op &op) {
  constexpr int L = lanes<float>;
  constexpr int32_t U = Unit<S>::inputs;
  using Weight = typename Unit<S>::Weight;
  const vf_op &d = op.d;
  const int32_t inputs = d.in.c / d.groups, outputs = producer_channels(op) / d.groups, window = d.kh * d.kw;
  op.reduction = packed_inputs<S>(op), op.rest = 0;
  op.panels = split_panels((outputs + L - 1) / L);
  op.weight.reserve(size_t(d.groups) * size_t(op.reduction) * size_t(round_up(outputs, L)) * sizeof(Weight));
  const Weight *from = static_cast<const Weight *>(d.weight);
  Weight *to = static_cast<Weight *>(op.weight.data);
  for (int32_t g = 0; g < d.groups; g++) {
    int32_t first = 0;
    for (int32_t vectors : op.panels) {
      const int32_t groups = op.rows ? d.kh : window, taps = op.rows ? d.kw : 1;
      for (int32_t k = 0; k < groups; k++)
        for (int32_t i = 0; i < units_up<S>(taps * inputs); i += U)
          for (int32_t j = 0; j < vectors * L; j++)
            for (int32_t q = 0; q < U; q++) {
              const int32_t o = first + j, tap = k * taps + (i + q) / inputs, input = (i + q) % inputs;
              const bool there = o < outputs && i + q < taps * inputs;
              *to++ = there ? from[(int64_t(g * outputs + o) * inputs + input) * window + tap] : Weight{};
            }
      first += vectors * L;
    }
  }
  pack_channels<S>(op);
}

// One list of segments for all pixels inside, one, tap by tap, for those at an edge.
template <class S> void plan_dots(Op &op) {
  const vf_op &d = op.d;
  const int32_t inputs = d.in.c / d.groups, wide = units_up<S>(inputs);
  op.inner.assign(1, {}), op.edge.assign(1, {});
  if (op.gather) {
    op.inner[0] = {{0, op.reduction, 0, 0, 0}};
    return;
  }
  if (op.rows) {  // at an edge: copied together
    const int32_t row = units_up<S>(d.kw * inputs);
    for (int32_t r = 0; r < d.kh; r++) op.inner[0].push_back({int64_t(r) * d.dy * d.in.sh, row, r * row, r * d.kw, 0});
    op.edge[0] = {{0, op.reduction, 0, 0, 0}};
    return;
  }
  const bool whole = d.groups == 1 && d.dx == 1 && d.in.sw == wide && inputs == wide;
  for (int32_t r = 0; r < d.kh; r++)
    for (int32_t c = 0; c < d.kw; c++) {
      const int32_t tap = r * d.kw + c;
      const int64_t offset = int64_t(r) * d.dy * d.in.sh + int64_t(c) * d.dx * d.in.sw;
      op.edge[0].push_back({0, wide, tap * wide, tap, 0});
      if (!whole) op.inner[0].push_back({offset, wide, tap * wide, tap, 0});
      else if (c == 0) op.inner[0].push_back({offset, d.kw * wide, tap * wide, tap, 0});
    }
}

// Whether the pixels can be read in place, in whole units: what the last one ends with lies in the buffer. What is no number
// must not be read where it does not belong, as nothing times 0 takes a NaN away.
template <class S> bool reads_units(const vf_op &d) {
  const vf_view &v = d.in;
  const int32_t inputs = v.c / d.groups;
  if (!std::is_same_v<S, u8> && inputs % Unit<S>::inputs) return false;
  const int64_t last = (v.r - 1) * v.sr + (v.h - 1) * v.sh + (v.w - 1) * v.sw + int64_t(d.groups - 1) * inputs;
  return v.sc == 1 && last + inputs + Unit<S>::inputs - 1 <= v.size;
}

template <class S> void prepare_dots(Op &op) {
  op.gather = op.gather || !reads_units<S>(op.d);
  op.rows = !op.gather && packs_rows<S>(op.d);
  pack_dots<S>(op);
  plan_dots<S>(op);
}

// Run the panels of one group over pixels order[0 .. n), which share a list of segments. Taps outside the input are read as
// zeros.
template <class S>
void run_dot_panels(const Op &op, const std::vector<Segment> &segments, bool edges, int32_t group, const Pixels<S> &pixels,
                    const int32_t *order, int32_t n) {
  constexpr int L = lanes<float>;
  if (n == 0) return;
  const bool dots = op.products != VF_PRODUCTS_PLAIN;
  const int32_t outputs = producer_channels(op) / op.d.groups;
  const int count = int(segments.size());
  const auto *panel = static_cast<const typename Unit<S>::Weight *>(op.weight.data) +
                      int64_t(group) * op.reduction * round_up(outputs, L);
  const S *from[kMaxBlock], *table[64 * 12];
  float *rows[kMaxBlock];
  for (int32_t i = 0; i < n; i++)
    from[i] = pixels.base[order[i]], rows[i] = pixels.out + int64_t(order[i]) * op.ld;
  if (op.rows) edges = false;  // copied together
  std::vector<const S *> longer;
  const S **edge = table;
  if (edges && count > 64) longer.resize(size_t(count) * 12), edge = longer.data();
  int64_t column = int64_t(group) * outputs;
  for (size_t index = 0; index < op.panels.size(); index++) {
    const int32_t vectors = op.panels[index];
    int32_t at = pixels.only < 0 || pixels.only == int32_t(index) ? 0 : n;
    const Channels<S> channels = channels_of<S>(op, column);
    for (int which = 0; which < 4 && at < n; which++) {
      const bool small = !dots && (which == 1 || which == 2);  // dot_block has one size between the largest and 1
      const int mr = kBlocks[vectors][small ? 2 : which];
      const DotBlock<S> kernel = dot_block<S>(vectors, small ? 2 : which, dots);
      for (; n - at >= mr; at += mr) {
        if (!edges) {
          kernel(from + at, nullptr, segments.data(), count, panel, channels, rows + at, column);
          continue;
        }
        for (int s = 0; s < count; s++)
          for (int i = 0; i < mr; i++) edge[s * mr + i] = tap_of<S>(op, pixels.place[order[at + i]], segments[s], group);
        kernel(nullptr, edge, segments.data(), count, panel, channels, rows + at, column);
      }
    }
    panel += int64_t(op.reduction) * vectors * L;
    column += vectors * L;
  }
}

// The windows of pixels at an edge, copied together one after the other, each row filled up to whole quads.
inline void copy_windows(const Op &op, Pixels<u8> &pixels, const int32_t *order, int32_t n, u8 *to) {
  const vf_op &d = op.d;
  const u8 *data = static_cast<const u8 *>(d.in.data);
  const int32_t inputs = d.in.c, row = units_up<u8>(d.kw * inputs);
  for (int32_t i = 0; i < n; i++) {
    const Place &at = pixels.place[order[i]];
    pixels.base[order[i]] = to;
    for (int32_t ky = 0; ky < d.kh; ky++, to += row)
      for (int32_t kx = 0; kx < d.kw; kx++) {
        const int64_t y = at.y + int64_t(ky) * d.dy, x = at.x + kx;
        const bool there = y >= 0 && y < d.in.h && x >= 0 && x < d.in.w;
        const u8 *from = there ? data + at.r * d.in.sr + y * d.in.sh + x * d.in.sw : zeros_of<u8>(op);
        std::memcpy(to + kx * inputs, from, size_t(inputs));
      }
  }
}

// The channels of a pixel of numbers as what they stand for, side by side.
VF_INLINE void decode_channels(const vf_view &v, const u8 *from, int32_t first, int32_t count, float *to) {
  constexpr int L = lanes<float>;
  const Grid<u8> grid(v);
  for (int32_t c = 0; c < count; c += L) {
    const int n = std::min<int>(L, count - c);
    const vfloat x = v.sc == 1 ? (n == L ? load(from + c) : load_part(from + c, n)) : load_strided(from + c * v.sc, v.sc, n);
    const vfloat y = grid.decode(x, first + c);
    if (n == L) store(to + c, y);
    else store_part(to + c, y, n);
  }
}

}  // namespace VF_SPACE
}  // namespace vf
#endif
