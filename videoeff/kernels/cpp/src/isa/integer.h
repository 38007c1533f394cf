// Convolutions of 8-bit numbers: the blocks of gemm.h with integer products, of 4 inputs at a time. Sums are exact, in any
// order; a result is what the sum stands for.
#ifndef VIDEOEFF_INTEGER_H
#define VIDEOEFF_INTEGER_H

#include <algorithm>

#include "pixels.h"

namespace vf {
namespace VF_SPACE {

typedef int8_t vweights __attribute__((vector_size(VF_BYTES)));

constexpr int32_t kQuad = 4;  // inputs that an instruction multiplies and adds up
inline int32_t quads_up(int32_t n) { return (n + kQuad - 1) / kQuad * kQuad; }

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
  uint8_t a[kQuad];
  std::memcpy(a, &four, sizeof a);
  for (int i = 0; i < lanes<float>; i++)
    for (int k = 0; k < kQuad; k++) acc[i] += int32_t(a[k]) * w[i * kQuad + k];
  return acc;
#endif
}

// What a register block needs of its channels: what sums begin with (less the zero times all weights), what a product of 1
// stands for, and the bias.
struct Channels {
  const int32_t *begin;
  const float *factor, *bias;
};

// rows[i][column + j] = (begin[j] + sum over segments of input[i] * panel[j]) factor[j] + bias[j], for MR pixels and NV
// vectors. Pointers as in micro.h.
#define VF_INTEGER(name, attributes, dot)                                                                              \
  template <int MR, int NV>                                                                                            \
  __attribute__((noinline)) attributes void name(const u8 *const *base, const u8 *const *edge,                         \
                                                 const Segment *segments, int count, const int8_t *panel,              \
                                                 const Channels &channels, float *const *rows, int64_t column) {       \
    constexpr int L = lanes<float>;                                                                                    \
    vint acc[MR][NV];                                                                                                  \
    _Pragma("GCC unroll 16") for (int j = 0; j < NV; j++) {                                                            \
      vint first;                                                                                                      \
      std::memcpy(&first, channels.begin + j * L, sizeof first);                                                       \
      _Pragma("GCC unroll 16") for (int i = 0; i < MR; i++) acc[i][j] = first;                                         \
    }                                                                                                                  \
    for (int s = 0; s < count; s++) {                                                                                  \
      const u8 *p[MR];                                                                                                 \
      _Pragma("GCC unroll 16") for (int i = 0; i < MR; i++) p[i] =                                                     \
          edge ? edge[s * MR + i] : base[i] + segments[s].offset;                                                      \
      const int8_t *w = panel + int64_t(segments[s].k) * (NV * L);                                                     \
      for (int32_t k = 0; k < segments[s].length; k += kQuad) {                                                        \
        vweights b[NV];                                                                                                \
        _Pragma("GCC unroll 16") for (int j = 0; j < NV; j++) std::memcpy(&b[j], w + j * VF_BYTES, VF_BYTES);          \
        w += NV * VF_BYTES;                                                                                            \
        _Pragma("GCC unroll 16") for (int i = 0; i < MR; i++) {                                                        \
          int32_t four;                                                                                                \
          std::memcpy(&four, p[i] + k, sizeof four);                                                                   \
          _Pragma("GCC unroll 16") for (int j = 0; j < NV; j++) acc[i][j] = dot(acc[i][j], four, b[j]);                \
        }                                                                                                              \
      }                                                                                                                \
    }                                                                                                                  \
    _Pragma("GCC unroll 16") for (int j = 0; j < NV; j++) {                                                            \
      const vfloat factor = load(channels.factor + j * L), bias = load(channels.bias + j * L);                         \
      _Pragma("GCC unroll 16") for (int i = 0; i < MR; i++)                                                            \
          store<float>(rows[i] + column + j * L, __builtin_convertvector(acc[i][j], vfloat) * factor + bias);          \
    }                                                                                                                  \
  }

VF_INTEGER(integer_plain, , dot_plain)
#if VF_ISA == VF_ISA_AVX512
#define VF_DOT(acc, four, w) ((vint)_mm512_dpbusd_epi32((__m512i)(acc), _mm512_set1_epi32(four), (__m512i)(w)))
VF_INTEGER(integer_dot, __attribute__((target("avx512vnni"))), VF_DOT)
#elif VF_ISA == VF_ISA_AVX2
#define VF_DOT(acc, four, w) ((vint)_mm256_dpbusd_avx_epi32((__m256i)(acc), _mm256_set1_epi32(four), (__m256i)(w)))
VF_INTEGER(integer_dot, __attribute__((target("avxvnni"))), VF_DOT)
#endif
#undef VF_INTEGER

// Whether the processor has the instruction.
inline bool has_dot() {
#if VF_ISA == VF_ISA_AVX512
  return __builtin_cpu_supports("avx512vnni");
#elif VF_ISA == VF_ISA_AVX2
  return __builtin_cpu_supports("avxvnni");
#else
  return false;
#endif
}

using Integer = void (*)(const u8 *const *, const u8 *const *, const Segment *, int, const int8_t *, const Channels &,
                         float *const *, int64_t);

template <int NV> Integer integer_of(int which, bool dots) {
#if VF_ISA > VF_ISA_PORTABLE
  if (dots) {
    switch (which) {
      case 0: return integer_dot<kBlocks[NV][0], NV>;
      case 1: return integer_dot<kBlocks[NV][1], NV>;
      case 2: return integer_dot<kBlocks[NV][2], NV>;
      default: return integer_dot<kBlocks[NV][3], NV>;
    }
  }
#endif
  (void)dots;
  return which == 0 ? integer_plain<kBlocks[NV][0], NV> : which == 3 ? integer_plain<1, NV> : integer_plain<kBlocks[NV][2], NV>;
}
inline Integer integer_of(int vectors, int which, bool dots) {
#if VF_ISA == VF_ISA_AVX512
  if (vectors == 4) return integer_of<4>(which, dots);
  if (vectors == 3) return integer_of<3>(which, dots);
#endif
  return vectors == 2 ? integer_of<2>(which, dots) : integer_of<1>(which, dots);
}

// Inputs that are filled up to whole quads together: those of a tap, or where pixels of few channels lie side by side those
// of a row of the window, which is then copied together at an edge.
inline bool packs_rows(const vf_op &d) {
  const int32_t inputs = d.in.c;
  return d.groups == 1 && d.dx == 1 && d.kw > 1 && d.in.sc == 1 && d.in.sw == inputs && inputs % kQuad != 0 && inputs < 16;
}
inline int32_t packed_inputs(const Op &op) {
  const vf_op &d = op.d;
  const int32_t inputs = d.in.c / d.groups;
  return op.rows ? d.kh * quads_up(d.kw * inputs) : d.kh * d.kw * quads_up(inputs);
}

// Weights (O, I / g, kh, kw) of int8_t as panels [group][panel][packed inputs][vectors x lanes], four inputs of an output
// channel together; and behind one another what the channels begin with, their factors, their bias.
inline void pack_integer(Op &op) {
  constexpr int L = lanes<float>;
  const vf_op &d = op.d;
  const int32_t inputs = d.in.c / d.groups, outputs = producer_channels(op) / d.groups, window = d.kh * d.kw;
  const int32_t wide = quads_up(inputs), total = outputs * d.groups;
  op.dots = may_use_dots() && has_dot();
  op.reduction = packed_inputs(op), op.rest = 0;
  op.panels = split_panels((outputs + L - 1) / L);
  const int64_t padded = round_up(outputs, L), room = round_up(total, L) + 4 * L;
  op.weight.reserve(size_t(d.groups) * size_t(op.reduction) * size_t(padded));
  op.bias.reserve(size_t(room) * 3 * sizeof(float));
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
  int8_t *to = static_cast<int8_t *>(op.weight.data);
  for (int32_t g = 0; g < d.groups; g++) {
    int32_t first = 0;
    for (int32_t vectors : op.panels) {
      const int32_t groups = op.rows ? d.kh : window, taps = op.rows ? d.kw : 1;
      for (int32_t k = 0; k < groups; k++)
        for (int32_t i = 0; i < quads_up(taps * inputs); i += kQuad)
          for (int32_t j = 0; j < vectors * L; j++)
            for (int32_t q = 0; q < kQuad; q++) {
              const int32_t o = first + j, tap = k * taps + (i + q) / inputs, input = (i + q) % inputs;
              const bool there = o < outputs && i + q < taps * inputs;
              *to++ = there ? from[(int64_t(g * outputs + o) * inputs + input) * window + tap] : int8_t(0);
            }
      first += vectors * L;
    }
  }
  op.zeros.reserve(size_t(wide) + 64);
  std::memset(op.zeros.data, zero, op.zeros.bytes);
}

// One list of segments for all pixels inside, one, tap by tap, for those at an edge.
inline void plan_integer(Op &op) {
  const vf_op &d = op.d;
  const int32_t inputs = d.in.c / d.groups, wide = quads_up(inputs);
  op.inner.assign(1, {}), op.edge.assign(1, {});
  if (op.gather) {
    op.inner[0] = {{0, op.reduction, 0, 0, 0}};
    return;
  }
  if (op.rows) {  // at an edge: copied together
    const int32_t row = quads_up(d.kw * inputs);
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

// Whether the pixels can be read in place, in whole quads: those that the last one ends with lie in the buffer.
inline bool reads_quads(const vf_op &d) {
  const vf_view &v = d.in;
  const int32_t inputs = v.c / d.groups;
  const int64_t last = (v.r - 1) * v.sr + (v.h - 1) * v.sh + (v.w - 1) * v.sw + int64_t(d.groups - 1) * inputs;
  return v.sc == 1 && last + inputs + kQuad - 1 <= v.size;
}

// Run the panels of one group over pixels order[0 .. n), which share a list of segments. Taps outside the input are read as
// zeros.
inline void run_integer_panels(const Op &op, const std::vector<Segment> &segments, bool edges, int32_t group,
                               const Pixels<u8> &pixels, const int32_t *order, int32_t n) {
  constexpr int L = lanes<float>;
  if (n == 0) return;
  const bool dots = op.dots;
  const int32_t total = producer_channels(op), outputs = total / op.d.groups;
  const int64_t room = round_up(total, L) + 4 * L;
  const int count = int(segments.size());
  const int8_t *panel = static_cast<const int8_t *>(op.weight.data) + int64_t(group) * op.reduction * round_up(outputs, L);
  const int32_t *begin = static_cast<const int32_t *>(op.bias.data) + int64_t(group) * outputs;
  const float *factor = reinterpret_cast<const float *>(begin + room);
  const u8 *from[kMaxBlock], *table[64 * 12];
  float *rows[kMaxBlock];
  for (int32_t i = 0; i < n; i++)
    from[i] = pixels.base[order[i]], rows[i] = pixels.out + int64_t(order[i]) * op.ld;
  if (op.rows) edges = false;  // copied together
  std::vector<const u8 *> longer;
  const u8 **edge = table;
  if (edges && count > 64) longer.resize(size_t(count) * 12), edge = longer.data();
  int64_t column = int64_t(group) * outputs;
  for (size_t index = 0; index < op.panels.size(); index++) {
    const int32_t vectors = op.panels[index];
    int32_t at = pixels.only < 0 || pixels.only == int32_t(index) ? 0 : n;
    const Channels channels{begin, factor, factor + room};
    for (int which = 0; which < 4 && at < n; which++) {
      const bool small = !dots && (which == 1 || which == 2);  // integer_of has one size between the largest and 1
      const int mr = kBlocks[vectors][small ? 2 : which];
      const Integer kernel = integer_of(vectors, small ? 2 : which, dots);
      for (; n - at >= mr; at += mr) {
        if (!edges) {
          kernel(from + at, nullptr, segments.data(), count, panel, channels, rows + at, column);
          continue;
        }
        for (int s = 0; s < count; s++)
          for (int i = 0; i < mr; i++) edge[s * mr + i] = tap_of<u8>(op, pixels.place[order[at + i]], segments[s], group);
        kernel(nullptr, edge, segments.data(), count, panel, channels, rows + at, column);
      }
    }
    panel += int64_t(op.reduction) * vectors * L;
    begin += vectors * L, factor += vectors * L, column += vectors * L;
  }
}

// The windows of pixels at an edge, copied together one after the other, each row filled up to whole quads.
inline void copy_windows(const Op &op, Pixels<u8> &pixels, const int32_t *order, int32_t n, u8 *to) {
  const vf_op &d = op.d;
  const u8 *data = static_cast<const u8 *>(d.in.data);
  const int32_t inputs = d.in.c, row = quads_up(d.kw * inputs);
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
VF_INLINE void decode_channels(const vf_view &v, int64_t offset, int32_t first, int32_t count, float *to) {
  constexpr int L = lanes<float>;
  const Grid<u8> grid(v);
  const u8 *from = static_cast<const u8 *>(v.data) + offset;
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
