// Activations of the stages of a convolution: applied where the result lies, which is not kept.
#ifndef VIDEOEFF_STAGES_H
#define VIDEOEFF_STAGES_H

#include "epilogue.h"

namespace vf {
namespace VF_SPACE {

// Columns first .. first + width - 1 of some rows; whole vectors, the last one may reach into the gap between rows.
template <class T, class F>
VF_INLINE void activate(T *const *rows, int32_t count, int64_t first, int64_t width, F f) {
  for (int32_t i = 0; i < count; i++) {
    T *row = rows[i] + first;
    for (int64_t k = 0; k < width; k += lanes<T>) store<T>(row + k, f(load(row + k)));
  }
}

template <class T> void activate(const vf_op &d, T *const *rows, int32_t count, int64_t first, int64_t width) {
  if (!d.nepi) return;
  const vf_epi &e = d.epi[0];
  const T p = T(e.p), q = T(e.q);
  switch (e.op) {
    case VF_CLAMP: return activate(rows, count, first, width, Clamp<T>{p, q});
    case VF_HARDSWISH: return activate(rows, count, first, width, Hardswish<T>{p, q});
    case VF_SILU: return activate(rows, count, first, width, Silu<T>{p, q});
    case VF_GELU: return activate(rows, count, first, width, Gelu<T>{p, q});
    default:  // VF_LEAKY: others are refused
      if (e.p == 0) return activate(rows, count, first, width, Relu<T>{p, q});
      return activate(rows, count, first, width, Leaky<T>{p, q});
  }
}

}  // namespace VF_SPACE
}  // namespace vf
#endif
