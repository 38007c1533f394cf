// What the convolutions of values and of numbers share: panels of output channels, and the pixels of a block with their taps.
#ifndef VIDEOEFF_PIXELS_H
#define VIDEOEFF_PIXELS_H

#include <type_traits>

#include "micro.h"

namespace vf {
namespace VF_SPACE {

// Widths in vectors of the panels of `vectors` vectors of channels.
inline std::vector<int32_t> split_panels(int32_t vectors) {
  std::vector<int32_t> panels;
  if (kMaxVectors == 4) {
    int32_t fours = vectors % 3 == 1 && vectors >= 4 ? 1 : vectors % 3 == 2 && vectors >= 8 ? 2 : 0;
    int32_t threes = (vectors - 4 * fours) / 3, rest = vectors - 4 * fours - 3 * threes;
    panels.assign(threes, 3);
    panels.insert(panels.end(), fours, 4);
    if (rest) panels.push_back(rest);
  } else {
    panels.assign(vectors / 2, 2);
    if (vectors % 2) panels.push_back(1);
  }
  return panels;
}

// Zeros that taps outside the input read.
template <class S> const S *zero_row() {
  static const S zeros[kReduction + VF_MAX_WINOGRAD_INPUTS] = {};
  return zeros;
}
template <class S> const S *zeros_of(const Op &op) {
  return op.zeros.data ? static_cast<const S *>(op.zeros.data) : zero_row<S>();
}

struct Place {
  int32_t r, y, x;  // first tap in the input (transposed: the output pixel)
};

// The address of one tap of a pixel, or zeros.
template <class S> VF_INLINE const S *tap_of(const Op &op, const Place &p, const Segment &s, int32_t group) {
  const vf_op &d = op.d;
  int64_t y, x;
  if (d.kind == VF_TRANSPOSED) {
    int64_t v = int64_t(p.y) + d.py - int64_t(s.tap / d.kw) * d.dy, u = int64_t(p.x) + d.px - int64_t(s.tap % d.kw) * d.dx;
    if (v < 0 || u < 0) return zeros_of<S>(op);
    y = v / d.sy, x = u / d.sx;
  } else {
    y = p.y + int64_t(s.tap / d.kw) * d.dy, x = p.x + int64_t(s.tap % d.kw) * d.dx;
  }
  if (y < 0 || y >= d.in.h || x < 0 || x >= d.in.w) return zeros_of<S>(op);
  return static_cast<const S *>(d.in.data) + p.r * d.in.sr + y * d.in.sh + x * d.in.sw +
         int64_t(group) * (d.in.c / d.groups) + s.channel;
}

// The pixels of a block. `only` >= 0: that panel alone is wanted, and `later` probably next by the same worker.
template <class S> struct Pixels {
  Place place[kMaxBlock];
  const S *base[kMaxBlock], *old[kMaxBlock];  // the first tap, where all are inside; the value kept (Op::asks_old)
  compute<S> *out;                            // scratch rows
  compute<S> *row[kMaxBlock];                 // of a stage instead: where the results belong
  int32_t only, later;
};

}  // namespace VF_SPACE
}  // namespace vf
#endif
