// The register blocks of the matrix product: MR pixels x NV vectors of output channels over the reduction, and the few
// channels after the last whole vector along it.
#ifndef VIDEOEFF_MICRO_H
#define VIDEOEFF_MICRO_H

#include "vector.h"

namespace vf {
namespace VF_SPACE {

#if VF_ISA == VF_ISA_AVX512
constexpr int kMaxVectors = kMaxVectorsOf32, kMaxRest = kMaxRestOf32;
constexpr const auto &kBlocks = kBlocksOf32;
#else
constexpr int kMaxVectors = kMaxVectorsOf16, kMaxRest = 0;
constexpr const auto &kBlocks = kBlocksOf16;
#endif

// rows[i][column + j] (+)= sum over segments of input[i] * panel[j]. Pointers: base[i] + segment offset, or, where `edge` is
// given, edge[segment * MR + i]. Meanwhile a line of `ahead`, `step` elements further each time, is brought to L2.
// Never more than kChain products are added one to another: a sum of sums rounds less than one long sum.
template <class S, int MR, int NV>
__attribute__((noinline)) void micro(const S *const *base, const S *const *edge, const Segment *segments, int count,
                                     const compute<S> *panel, const compute<S> *bias, compute<S> *const *rows,
                                     int64_t column, const char *ahead, int64_t step) {
  using T = compute<S>;
  constexpr int L = lanes<T>;
  vec<T> acc[MR][NV] = {};
  const auto add_to_rows = [&] {
#pragma GCC unroll 16
    for (int j = 0; j < NV; j++)
#pragma GCC unroll 16
      for (int i = 0; i < MR; i++) {
        T *to = rows[i] + column + j * L;
        store(to, acc[i][j] + (bias ? load(bias + j * L) : load(to)));
        acc[i][j] = vec<T>{};
      }
    bias = nullptr;
  };
  int64_t boundary = 0;  // where a chain ends, in rows of the panel: the same ones whatever segments are left out
  for (int s = 0; s < count; s++) {
    const S *p[MR];
#pragma GCC unroll 16
    for (int i = 0; i < MR; i++) p[i] = edge ? edge[s * MR + i] : base[i] + segments[s].offset;
    const int64_t first = segments[s].k, length = segments[s].length;
    const T *w = panel + first * (NV * L);
    for (int64_t k = 0; k < length;) {
      if (first + k >= boundary) {
        if (s || k) add_to_rows();
        boundary = ((first + k) / kChain + 1) * kChain;
      }
      const int64_t stop = length < boundary - first ? length : boundary - first;
      for (; k < stop; k++) {
        vec<T> b[NV];
#pragma GCC unroll 16
        for (int j = 0; j < NV; j++) b[j] = load(w + j * L);
        w += NV * L;
        if constexpr (NV > 1) __builtin_prefetch(ahead, 0, 2), ahead += step;  // a single vector has no load to spare
#pragma GCC unroll 16
        for (int i = 0; i < MR; i++) {
          vec<T> a = broadcast<T>(widen(p[i][k]));
#pragma GCC unroll 16
          for (int j = 0; j < NV; j++) acc[i][j] += a * b[j];
        }
      }
    }
  }
  add_to_rows();
}

// The few output channels after the last whole vector: with a vector of zeros to fill, a layer of 18 channels would cost
// as much as one of 32. Each is a product along the reduction instead, a vector of inputs at a time:
// rows[i][column + r] (+)= sum over segments of input[i] * weight[r]. Needs vectors that are loaded in part at no cost.

template <class S, int MR, int R>
__attribute__((noinline)) void micro_rest(const S *const *base, const S *const *edge, const Segment *segments, int count,
                                          const compute<S> *weight, int64_t reduction, const compute<S> *bias,
                                          compute<S> *const *rows, int64_t column) {
  using T = compute<S>;
  constexpr int L = lanes<T>;
  vec<T> acc[MR][R] = {};
  for (int s = 0; s < count; s++) {
    const S *p[MR];
#pragma GCC unroll 16
    for (int i = 0; i < MR; i++) p[i] = edge ? edge[s * MR + i] : base[i] + segments[s].offset;
    const T *w = weight + segments[s].k;
    const int length = segments[s].length;
    int k = 0;
    for (; k + L <= length; k += L) {
      vec<T> b[R];
#pragma GCC unroll 16
      for (int r = 0; r < R; r++) b[r] = load(w + r * reduction + k);
#pragma GCC unroll 16
      for (int i = 0; i < MR; i++) {
        const vec<T> a = load(p[i] + k);
#pragma GCC unroll 16
        for (int r = 0; r < R; r++) acc[i][r] += a * b[r];
      }
    }
    if (const int n = length - k) {
      vec<T> b[R];
#pragma GCC unroll 16
      for (int r = 0; r < R; r++) b[r] = load_part(w + r * reduction + k, n);
#pragma GCC unroll 16
      for (int i = 0; i < MR; i++) {
        const vec<T> a = load_part(p[i] + k, n);
#pragma GCC unroll 16
        for (int r = 0; r < R; r++) acc[i][r] += a * b[r];
      }
    }
  }
#pragma GCC unroll 16
  for (int i = 0; i < MR; i++)
#pragma GCC unroll 16
    for (int r = 0; r < R; r++) {
      T &to = rows[i][column + r];
      to = (bias ? bias[r] : to) + total(acc[i][r]);
    }
}

template <class S>
using MicroRest = void (*)(const S *const *, const S *const *, const Segment *, int, const compute<S> *, int64_t,
                           const compute<S> *, compute<S> *const *, int64_t);

template <class S> MicroRest<S> micro_of_rest(int rest, bool one) {
  switch (rest) {
#define VF_REST(R) \
  case R: return one ? micro_rest<S, 1, R> : micro_rest<S, kRestPixels[R], R>;
    VF_REST(1) VF_REST(2) VF_REST(3) VF_REST(4) VF_REST(5) VF_REST(6) VF_REST(7) VF_REST(8)
#undef VF_REST
    default: return nullptr;
  }
}

template <class S>
using Micro = void (*)(const S *const *, const S *const *, const Segment *, int, const compute<S> *,
                       const compute<S> *, compute<S> *const *, int64_t, const char *, int64_t);

// Only float has kernels for every remainder: what other types lose is a little time, and the library stays small.
template <class S> constexpr bool kMain = sizeof(S) == 4;
template <class S> VF_INLINE int block_of(int vectors, int which) {
  return kMain<S> || which == 0 || which == 3 ? kBlocks[vectors][which] : 1;
}

template <class S, int NV> Micro<S> micro_of(int which) {
  if constexpr (!kMain<S>) return which == 0 ? micro<S, kBlocks[NV][0], NV> : micro<S, 1, NV>;
  switch (which) {
    case 0: return micro<S, kBlocks[NV][0], NV>;
    case 1: return micro<S, kBlocks[NV][1], NV>;
    case 2: return micro<S, kBlocks[NV][2], NV>;
    default: return micro<S, kBlocks[NV][3], NV>;
  }
}
template <class S> Micro<S> micro_of(int vectors, int which) {
#if VF_ISA == VF_ISA_AVX512
  if (vectors == 4) return micro_of<S, 4>(which);
  if (vectors == 3) return micro_of<S, 3>(which);
#endif
  return vectors == 2 ? micro_of<S, 2>(which) : micro_of<S, 1>(which);
}

}  // namespace VF_SPACE
}  // namespace vf
#endif
