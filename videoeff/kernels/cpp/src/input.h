// Frames: how far a pixel is from the value kept, and storing it. Colour planes meet channels-last values here, so the
// frequent three planes are taken apart and put together by vector shuffles.
#ifndef VIDEOEFF_INPUT_H
#define VIDEOEFF_INPUT_H

#include <cmath>
#include <utility>

#include "vmath.h"
#include "vector.h"

namespace vf {
namespace VF_SPACE {

// The amount of the change test for frames: channels at any stride.
template <class S> void amount_any(const Op &op, const vf_frame &frame, const Run &run, float *amount) {
  using T = compute<S>;
  const vf_op &d = op.d;
  const S *from = static_cast<const S *>(frame.data) + run.r * frame.sr + run.y * frame.sh + run.x * frame.sw;
  const S *old = static_cast<const S *>(d.out.data) + run.r * d.out.sr + run.y * d.out.sh + run.x * d.out.sw;
  const int32_t c = d.out.c;
  const bool exact = d.threshold == 0, most = d.test == VF_TEST_MAX;
  for (int32_t i = 0; i < run.n; i++) {
    T energy = 0, top = 0, bad = 0;
    bool differ = false;
    for (int32_t j = 0; j < c; j++) {
      T now = widen(from[i * frame.sw + j * frame.sc]), was = widen(old[i * d.out.sw + j * d.out.sc]);
      T x = std::fabs(now - was);
      differ |= now != was;
      energy += x * x, bad += x - x;
      top = x > top ? x : top;
    }
    amount[i] = exact ? float(differ) : most ? float(top + bad) : float(std::sqrt(d.test == VF_TEST_RMS ? energy / T(c) : energy));
  }
}

template <class S> void store_any(const Op &op, const vf_frame &frame, const Run &run, float *squares) {
  using T = compute<S>;
  const vf_op &d = op.d;
  const S *from = static_cast<const S *>(frame.data) + run.r * frame.sr + run.y * frame.sh + run.x * frame.sw;
  S *to = static_cast<S *>(d.out.data) + run.r * d.out.sr + run.y * d.out.sh + run.x * d.out.sw;
  const int32_t c = d.out.c;
  if (squares)
    for (int32_t i = 0; i < run.n; i++) {
      T energy = 0;
      for (int32_t j = 0; j < c; j++) {
        T x = T(widen(from[i * frame.sw + j * frame.sc])) - T(widen(to[i * d.out.sw + j * d.out.sc]));
        energy += x * x;
      }
      squares[i] = float(energy / T(c));
    }
  if (d.out.sc == 1 && frame.sc == 1) {
    for (int32_t i = 0; i < run.n; i++) std::memcpy(to + i * d.out.sw, from + i * frame.sw, sizeof(S) * c);
  } else {
    for (int32_t i = 0; i < run.n; i++)
      for (int32_t j = 0; j < c; j++) to[i * d.out.sw + j * d.out.sc] = from[i * frame.sw + j * frame.sc];
  }
}

// Lane k of a result takes one element of the three vectors a, b, c laid end to end: channel J of interleaved pixels,
// or the J-th vector of interleaved planes.
#if defined(__clang__)
#define VF_SHUFFLES 0
#else
#define VF_SHUFFLES 1
template <int L, int J, bool Apart> constexpr int place(int k) {
  return Apart ? 3 * k + J : (J * L + k) % 3 * L + (J * L + k) / 3;
}
template <class T, int J, bool Apart, int... K>
VF_INLINE vec<T> gather3(vec<T> a, vec<T> b, vec<T> c, std::integer_sequence<int, K...>) {
  constexpr int L = lanes<T>;
  constexpr typename Vec<T>::mask first = {(place<L, J, Apart>(K) < 2 * L ? place<L, J, Apart>(K) : 0)...};
  constexpr typename Vec<T>::mask second = {
      (place<L, J, Apart>(K) < 2 * L ? K : L + place<L, J, Apart>(K) - 2 * L)...};
  return __builtin_shuffle(__builtin_shuffle(a, b, first), c, second);
}
template <class T, int J, bool Apart> VF_INLINE vec<T> gather3(vec<T> a, vec<T> b, vec<T> c) {
  return gather3<T, J, Apart>(a, b, c, std::make_integer_sequence<int, lanes<T>>{});
}
#endif

// Whether a run is three planes of neighbouring pixels over a channels-last value.
inline bool is_planar(const vf_op &d, const vf_frame &frame) {
  return VF_SHUFFLES && d.out.c == 3 && d.out.sc == 1 && d.out.sw == 3 && frame.sw == 1 && frame.sc != 1;
}

template <class S> void input_amount(const Op &op, const vf_frame &frame, const Run &run, float *amount) {
#if VF_SHUFFLES
  if constexpr (sizeof(S) == 4) {
    const vf_op &d = op.d;
    if (is_planar(d, frame)) {
      constexpr int L = lanes<float>;
      const S *from = static_cast<const S *>(frame.data) + run.r * frame.sr + run.y * frame.sh + run.x;
      const S *old = static_cast<const S *>(d.out.data) + run.r * d.out.sr + run.y * d.out.sh + run.x * 3;
      const bool exact = d.threshold == 0, most = d.test == VF_TEST_MAX;
      const float share = d.test == VF_TEST_RMS ? 1.f / 3 : 1.f;
      int32_t i = 0;
      for (; i + L <= run.n; i += L) {
        const vfloat a = load(old + 3 * i), b = load(old + 3 * i + L), c = load(old + 3 * i + 2 * L);
        vfloat energy = {}, top = {};
        vint differ = {};
        const vfloat kept[3] = {gather3<float, 0, true>(a, b, c), gather3<float, 1, true>(a, b, c),
                                gather3<float, 2, true>(a, b, c)};
        for (int j = 0; j < 3; j++) {
          const vfloat was = kept[j], now = load(from + i + j * frame.sc);
          if (exact) {
            differ |= now != was;
          } else {
            const vfloat x = now - was;
            energy += x * x;
            const vfloat size = absolute<float>(x);
            top = size <= top ? top : size;  // NaN takes over and stays
            top = x != x ? x : top;
          }
        }
        if (exact) store(amount + i, differ ? broadcast(1.f) : broadcast(0.f));
        else store(amount + i, most ? top : vsqrt(energy * share));
      }
      if (i < run.n) amount_any<S>(op, frame, {run.r, run.y, run.x + i, run.n - i}, amount + i);
      return;
    }
  }
#endif
  amount_any<S>(op, frame, run, amount);
}

template <class S> void input_store(const Op &op, const vf_frame &frame, const Run &run, float *squares) {
#if VF_SHUFFLES
  if constexpr (sizeof(S) == 4) {
    const vf_op &d = op.d;
    if (is_planar(d, frame) && !squares) {
      constexpr int L = lanes<float>;
      const S *from = static_cast<const S *>(frame.data) + run.r * frame.sr + run.y * frame.sh + run.x;
      S *to = static_cast<S *>(d.out.data) + run.r * d.out.sr + run.y * d.out.sh + run.x * 3;
      int32_t i = 0;
      for (; i + L <= run.n; i += L) {
        const vfloat a = load(from + i), b = load(from + i + frame.sc), c = load(from + i + 2 * frame.sc);
        store(to + 3 * i, gather3<float, 0, false>(a, b, c));
        store(to + 3 * i + L, gather3<float, 1, false>(a, b, c));
        store(to + 3 * i + 2 * L, gather3<float, 2, false>(a, b, c));
      }
      if (i < run.n) store_any<S>(op, frame, {run.r, run.y, run.x + i, run.n - i}, nullptr);
      return;
    }
  }
#endif
  store_any<S>(op, frame, run, squares);
}

}  // namespace VF_SPACE
}  // namespace vf
#endif
