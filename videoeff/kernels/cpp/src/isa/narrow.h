// Pointwise steps with constants over few channels, as the normalisation of a picture: a pixel fills a part of a vector
// only, so whole runs are taken as rows of values, several pixels a vector.
#ifndef VIDEOEFF_NARROW_H
#define VIDEOEFF_NARROW_H

#include <algorithm>
#include <cstring>

#include "fused.h"

namespace vf {
namespace VF_SPACE {

// Vectors after which channels and lanes come together again, if an op is of this kind, else 0: one map and constants of
// a value for each channel, every step on what the step before left, at threshold 0.
template <class S> int32_t find_narrow(const Op &op) {
  const vf_op &d = op.d;
  constexpr int L = lanes<compute<S>>;
  if (!kMain<S> || d.kind != VF_POINTWISE || op.ending >= 0 || d.threshold != 0 || d.magnitude || d.nepi < 1 ||
      d.nepi > kNarrowSteps || d.out.sc != 1 || d.out.sw != d.out.c)
    return 0;
  for (int i = 0; i < d.nepi; i++) {
    const vf_epi &e = d.epi[i];
    if (e.op != VF_ADD && e.op != VF_SUB && e.op != VF_MUL && e.op != VF_DIV) return 0;
    if (e.dst != 0 || e.b < VF_ARG || (i == 0 ? e.a < VF_ARG : e.a != 0)) return 0;
    const vf_view &map = d.args[(i == 0 ? e.a : e.b) - VF_ARG], &constant = d.args[e.b - VF_ARG];
    if (i == 0 && (!is_row(map, d) || map.sw != d.out.c)) return 0;
    if (constant.sh != 0 || constant.sw != 0 || (constant.sr != 0 && d.out.r > 1) || constant.dtype != d.dtype) return 0;
    if (constant.sc != 0 && constant.c != d.out.c) return 0;
  }
  for (int32_t vectors = 1; vectors <= kNarrowVectors; vectors++)
    if (vectors * L % d.out.c == 0) return vectors;
  return 0;
}

template <class S>
void narrow_block(const Op &op, const Block &block, bool force, uint64_t *changed) {
  using T = compute<S>;
  constexpr int L = lanes<T>;
  const vf_op &d = op.d;
  const int32_t c = d.out.c, group = op.narrow * L / c;  // pixels
  alignas(64) T constants[kNarrowSteps][kNarrowVectors * L];
  for (int i = 0; i < d.nepi; i++) {
    const vf_view &v = d.args[d.epi[i].b - VF_ARG];
    for (int j = 0; j < op.narrow * L; j++) constants[i][j] = widen(static_cast<const S *>(v.data)[j % c * v.sc]);
  }
  const vf_view &map = d.args[d.epi[0].a - VF_ARG];
  std::memset(changed, 0, sizeof(uint64_t) * size_t((block.pixels + 63) / 64));
  const uint64_t pixel = (uint64_t(1) << c) - 1;
  int32_t p = 0;
  for (int32_t k = 0; k < block.count; k++) {
    const Run &run = block.runs[k];
    const S *from = static_cast<const S *>(map.data) + run.r * map.sr + run.y * map.sh + run.x * map.sw;
    S *to = static_cast<S *>(d.out.data) + run.r * d.out.sr + run.y * d.out.sh + run.x * d.out.sw;
    for (int32_t at = 0; at < run.n; at += group, from += group * c, to += group * c) {
      const int32_t pixels = std::min(group, run.n - at), values = pixels * c;
      uint64_t differs = 0;
      for (int32_t j = 0; j < values; j += L) {
        const int n = std::min(L, values - j);
        vec<T> x = n == L ? load(from + j) : load_part(from + j, n);
        for (int i = 0; i < d.nepi; i++) {
          const vec<T> y = load(constants[i] + j);
          switch (d.epi[i].op) {
            case VF_ADD: x = x + y; break;
            case VF_SUB: x = x - y; break;
            case VF_MUL: x = x * y; break;
            default: x = x / y; break;
          }
        }
        const vec<T> old = n == L ? load(to + j) : load_part(to + j, n);
        if (n == L) store(to + j, x);
        else store_part(to + j, x, n);
        const uint64_t valid = n == 64 ? ~uint64_t(0) : (uint64_t(1) << n) - 1;
        differs |= (uint64_t(bits_of(vint(x != old))) & valid) << j;
      }
      for (int32_t i = 0; i < pixels; i++, p++)
        changed[p >> 6] |= uint64_t(force || (differs >> (i * c) & pixel) != 0) << (p & 63);
    }
  }
}

}  // namespace VF_SPACE
}  // namespace vf
#endif
