// Frames: how far a pixel is from the value kept, and storing it. Colour planes meet channels-last values here, so the
// frequent three planes are taken apart and put together by vector shuffles.
#ifndef VIDEOEFF_INPUT_H
#define VIDEOEFF_INPUT_H

#include <cmath>
#include <type_traits>
#include <utility>

#include "vmath.h"
#include "vector.h"

namespace vf {
namespace VF_SPACE {

// Where the amounts of a row of a frame go: bits of the pixels that exceed the limit, or sums over rows.
struct Amounts {
  const RowTest &test;
  VF_INLINE void put(int32_t x, float amount) const {
    if (test.bits) test.bits[x >> 6] |= uint64_t(!(amount <= test.limit)) << (x & 63);
    else if (test.first) test.sums[x] = amount;
    else test.sums[x] += amount;
  }
  VF_INLINE void put(int32_t x, vfloat amount) const {  // x a multiple of the lanes
    if (test.bits) test.bits[x >> 6] |= uint64_t(bits_of(~(vint)(amount <= broadcast(test.limit)))) << (x & 63);
    else if (test.first) store(test.sums + x, amount);
    else store(test.sums + x, load(test.sums + x) + amount);
  }
};

// How frames are told: of values of the type that is kept, or of numbers' as float32.
template <class K> using framed = std::conditional_t<std::is_same_v<K, u8>, float, K>;

// A value of a frame and the one kept: how far apart they are, whether another is to be kept, what the kept one stands for.
// Of numbers half a step is taken off, as commit.h has it.
template <class K> struct Kept {
  using T = compute<K>;
  explicit Kept(const vf_view &) {}
  VF_INLINE T apart(T now, T was) const { return std::fabs(now - was); }
  VF_INLINE bool differs(T now, T was) const { return now != was; }
  VF_INLINE T stands_for(T was) const { return was; }
  VF_INLINE vec<T> apart(vec<T> now, vec<T> was) const { return absolute<T>(now - was); }
  VF_INLINE typename Vec<T>::mask differs(vec<T> now, vec<T> was) const { return now != was; }
  VF_INLINE vec<T> stands_for(vec<T> was) const { return was; }
};
template <> struct Kept<u8> {  // of a grid of one scale
  float scale, zero, inverse, low, high;
  explicit Kept(const vf_view &v) {
    const Grid<u8> g(v);
    scale = g.row(VF_GRID_SCALE)[0], zero = g.row(VF_GRID_ZERO)[0], inverse = g.row(VF_GRID_INVERSE)[0];
    low = g.row(VF_GRID_LOW)[0], high = g.row(VF_GRID_HIGH)[0];
  }
  VF_INLINE vfloat steps(vfloat x) const {
    x = x * inverse;
    x = x >= low ? x : broadcast(low);
    return (x <= high ? x : broadcast(high)) + zero;
  }
  VF_INLINE vfloat rounded(vfloat x) const {
    const vfloat magic = broadcast(12582912.0f);
    x = steps(x) - zero;  // exact: what was added is a whole number
    x = x + magic;
    return (x - magic) + zero;
  }
  VF_INLINE vfloat apart(vfloat now, vfloat was) const {
    const vfloat far = absolute<float>(steps(now) - was) - 0.5f;
    const vfloat found = (far > 0 ? far : vfloat{}) * scale;
    return now != now ? now : found;
  }
  VF_INLINE vint differs(vfloat now, vfloat was) const { return rounded(now) != was; }
  VF_INLINE vfloat stands_for(vfloat was) const { return (was - zero) * scale; }
  VF_INLINE float apart(float now, float was) const { return apart(broadcast(now), broadcast(was))[0]; }
  VF_INLINE bool differs(float now, float was) const { return differs(broadcast(now), broadcast(was))[0] != 0; }
  VF_INLINE float stands_for(float was) const { return (was - zero) * scale; }
};

// The change test's amounts from column `first` on, channels at any stride; whether all values are finite. The amount of
// the noise's test is a square, in units of Op::noise_unit.
template <class K> bool row_any(const Op &op, const vf_frame &frame, const RowTest &test, int32_t first) {
  using T = compute<K>;
  const vf_op &d = op.d;
  const framed<K> *from = static_cast<const framed<K> *>(frame.data) + test.r * frame.sr + test.y * frame.sh;
  const K *old = static_cast<const K *>(d.out.data) + test.r * d.out.sr + test.y * d.out.sh;
  const Kept<K> kept(d.out);
  const int32_t c = d.out.c;
  const bool exact = d.threshold == 0, most = d.test == VF_TEST_MAX, noisy = !exact && d.test == VF_TEST_NOISE;
  const float *noise = op.noise.data();
  const Amounts amounts{test};
  T wrong = 0;
  for (int32_t i = first; i < d.out.w; i++) {
    T energy = 0, top = 0, bad = 0;
    bool differ = false;
    for (int32_t j = 0; j < c; j++) {
      T now = widen(from[i * frame.sw + j * frame.sc]), was = widen(old[i * d.out.sw + j * d.out.sc]);
      T x = kept.apart(now, was);
      differ |= kept.differs(now, was);
      if (noisy) {
        const T over = kept.stands_for(was) - T(noise[2 * c + j]);
        x /= std::sqrt(T(noise[c + j]) + T(noise[j]) * (over > 0 ? over : T(0)));
      }
      energy += x * x, bad += x - x, wrong += now * T(0);
      top = x > top ? x : top;
    }
    amounts.put(i, exact   ? float(differ)
                   : most  ? float(top + bad)
                   : noisy ? float(energy / T(c))
                           : float(std::sqrt(d.test == VF_TEST_RMS ? energy / T(c) : energy)));
  }
  return wrong == 0;
}

template <class S> void store_any(const Op &op, const vf_frame &frame, const Run &run, float *squares) {
  using T = compute<S>;
  const vf_op &d = op.d;
  const framed<S> *from = static_cast<const framed<S> *>(frame.data) + run.r * frame.sr + run.y * frame.sh + run.x * frame.sw;
  S *to = static_cast<S *>(d.out.data) + run.r * d.out.sr + run.y * d.out.sh + run.x * d.out.sw;
  const int32_t c = d.out.c;
  const Kept<S> kept(d.out);
  if (squares)
    for (int32_t i = 0; i < run.n; i++) {
      T energy = 0;
      for (int32_t j = 0; j < c; j++) {
        T x = kept.apart(T(widen(from[i * frame.sw + j * frame.sc])), T(widen(to[i * d.out.sw + j * d.out.sc])));
        energy += x * x;
      }
      squares[i] = float(energy / T(c));
    }
  if constexpr (std::is_same_v<S, u8>) {
    if (d.out.sc == 1 && frame.sc == 1 && d.out.sw == c && frame.sw == c) {
      constexpr int L = lanes<float>;
      const int32_t values = run.n * c;
      int32_t k = 0;
      for (; k + L <= values; k += L) store(to + k, kept.rounded(load(from + k)));
      if (k < values) store_part(to + k, kept.rounded(load_part(from + k, values - k)), values - k);
      return;
    }
    for (int32_t i = 0; i < run.n; i++)
      for (int32_t j = 0; j < c; j++)
        narrow(kept.rounded(broadcast(from[i * frame.sw + j * frame.sc]))[0], to + i * d.out.sw + j * d.out.sc);
  } else if (d.out.sc == 1 && frame.sc == 1 && d.out.sw == c && frame.sw == c) {
    std::memcpy(to, from, sizeof(S) * size_t(c) * size_t(run.n));
  } else if (d.out.sc == 1 && frame.sc == 1) {
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

// Whether three channels of neighbouring pixels lie side by side in the value and in the frame, or the frame is three
// planes of neighbouring pixels.
inline bool is_packed(const vf_op &d) { return VF_SHUFFLES && d.out.c == 3 && d.out.sc == 1 && d.out.sw == 3; }
inline bool is_planar(const vf_op &d, const vf_frame &frame) {
  return is_packed(d) && frame.sw == 1 && frame.sc != 1;
}
inline bool is_interleaved(const vf_op &d, const vf_frame &frame) {
  return is_packed(d) && frame.sw == 3 && frame.sc == 1;
}

#if VF_SHUFFLES
// What a test in units of the noise asks of the values kept.
enum class Variance { kNone, kFlat, kLevels };

// Sum over three channels of the squares over the noise's variance, which is told from the values kept: over a common
// denominator, since a division takes as long as all else. Where no variance depends on the value, by factors.
template <Variance V> struct Noise3 {
  vfloat gain[3], floor[3], black[3];
  explicit Noise3(const float *noise) {
    for (int j = 0; j < 3; j++) {
      gain[j] = broadcast(noise[j]), black[j] = broadcast(noise[6 + j]);
      floor[j] = broadcast(V == Variance::kFlat ? 1 / noise[3 + j] : noise[3 + j]);
    }
  }
  VF_INLINE vfloat operator()(const vfloat (&square)[3], const vfloat (&was)[3]) const {
    if constexpr (V == Variance::kFlat) return square[0] * floor[0] + square[1] * floor[1] + square[2] * floor[2];
    vfloat v[3];
    for (int j = 0; j < 3; j++) {
      const vfloat over = was[j] - black[j];
      v[j] = floor[j] + gain[j] * (over > 0.f ? over : broadcast(0.f));
    }
    const vfloat last = v[1] * v[2];
    return (square[0] * last + v[0] * (square[1] * v[2] + square[2] * v[1])) / (v[0] * last);
  }
};

// The same for whole vectors of three channels; returns where it stopped.
template <class K, bool Planes, Variance V>
int32_t row_of_three(const Op &op, const vf_frame &frame, const RowTest &test, bool &finite) {
  constexpr int L = lanes<float>;
  const vf_op &d = op.d;
  const float *from = static_cast<const float *>(frame.data) + test.r * frame.sr + test.y * frame.sh;
  const K *old = static_cast<const K *>(d.out.data) + test.r * d.out.sr + test.y * d.out.sh;
  const Kept<K> value(d.out);
  const bool exact = d.threshold == 0, most = d.test == VF_TEST_MAX;
  const float share = V != Variance::kNone || d.test == VF_TEST_RMS ? 1.f / 3 : 1.f;
  constexpr bool noisy = V != Variance::kNone;
  const float none[9] = {};
  const Noise3<V> over_variance(noisy ? op.noise.data() : none);
  const Amounts amounts{test};
  vfloat wrong = {};
  int32_t i = 0;
  for (; i + L <= d.out.w; i += L) {
    const vfloat a = load(old + 3 * i), b = load(old + 3 * i + L), c = load(old + 3 * i + 2 * L);
    const vfloat kept[3] = {gather3<float, 0, true>(a, b, c), gather3<float, 1, true>(a, b, c),
                            gather3<float, 2, true>(a, b, c)};
    vfloat came[3];
    if constexpr (Planes) {
      for (int j = 0; j < 3; j++) came[j] = load(from + i + j * frame.sc);
    } else {
      const vfloat e = load(from + 3 * i), f = load(from + 3 * i + L), g = load(from + 3 * i + 2 * L);
      came[0] = gather3<float, 0, true>(e, f, g), came[1] = gather3<float, 1, true>(e, f, g);
      came[2] = gather3<float, 2, true>(e, f, g);
    }
    if constexpr (noisy) {
      vfloat squares[3];
      vfloat was[3];
      for (int j = 0; j < 3; j++) {
        const vfloat x = value.apart(came[j], kept[j]);
        wrong += came[j] * 0.f, squares[j] = x * x, was[j] = value.stands_for(kept[j]);
      }
      amounts.put(i, over_variance(squares, was) * share);
      continue;
    }
    vfloat energy = {}, top = {};
    vint differ = {};
    for (int j = 0; j < 3; j++) {
      const vfloat was = kept[j], now = came[j];
      wrong += now * 0.f;  // zero for every finite value, else NaN
      if (exact) {
        differ |= value.differs(now, was);
      } else {
        const vfloat x = value.apart(now, was), size = x;
        energy += x * x;
        top = size <= top ? top : size;  // NaN takes over and stays
        top = x != x ? x : top;
      }
    }
    amounts.put(i, exact ? (differ ? broadcast(1.f) : broadcast(0.f)) : most ? top : vsqrt(energy * share));
  }
  finite = !any(wrong != 0.f);
  return i;
}

template <class K, bool Planes>
int32_t row_of_three_by(const Op &op, const vf_frame &frame, const RowTest &test, bool &finite) {
  if (op.d.threshold == 0 || op.d.test != VF_TEST_NOISE)
    return row_of_three<K, Planes, Variance::kNone>(op, frame, test, finite);
  if (op.flat_noise) return row_of_three<K, Planes, Variance::kFlat>(op, frame, test, finite);
  return row_of_three<K, Planes, Variance::kLevels>(op, frame, test, finite);
}
#endif

template <class S> bool input_row(const Op &op, const vf_frame &frame, const RowTest &test) {
  int32_t done = 0;
  bool finite = true;
#if VF_SHUFFLES
  if constexpr (std::is_same_v<S, float> || std::is_same_v<S, u8>) {
    if (is_planar(op.d, frame)) done = row_of_three_by<S, true>(op, frame, test, finite);
    if (is_interleaved(op.d, frame)) done = row_of_three_by<S, false>(op, frame, test, finite);
  }
#endif
  return row_any<S>(op, frame, test, done) && finite;
}

// The correlation of a frame and the value kept, over sums of the channels of every fourth watched pixel of every fourth row, and
// the share of their squared difference that frame = gain value + offset explains. Both are 1 where one is the same
// everywhere, so that a black frame is no other scene.
template <class S> void input_alike(const Op &op, const vf_frame &frame, int32_t r, float *figures) {
  const vf_op &d = op.d;
  const Kept<S> kept(d.out);
  double n = 0, a = 0, b = 0, aa = 0, bb = 0, ab = 0;
  const size_t words = (size_t(d.out.w) + 63) / 64;
  for (int32_t y = 0; y < d.out.h; y += 4) {
    const uint64_t *watched = d.watched ? d.watched + (size_t(r) * d.out.h + y) * words : nullptr;
    for (int32_t x = 0; x < d.out.w; x += 4) {
      if (watched && !(watched[x >> 6] >> (x & 63) & 1)) continue;
      const framed<S> *from = static_cast<const framed<S> *>(frame.data) + r * frame.sr + y * frame.sh + x * frame.sw;
      const S *old = static_cast<const S *>(d.out.data) + r * d.out.sr + y * d.out.sh + x * d.out.sw;
      double now = 0, was = 0;
      for (int32_t j = 0; j < d.out.c; j++) now += double(widen(from[j * frame.sc])), was += double(kept.stands_for(widen(old[j * d.out.sc])));
      n += 1, a += now, b += was, aa += now * now, bb += was * was, ab += now * was;
    }
  }
  const double left = n * aa - a * a, right = n * bb - b * b;
  const double least = 1e-12 * (n * aa + n * bb), both = n * ab - a * b, apart = n * (aa + bb - 2 * ab);
  figures[0] = figures[1] = 1;
  if (!(left > least && right > least && apart > least)) return;
  figures[0] = float(both / std::sqrt(left * right)), figures[1] = float(1 - (left - both * both / right) / apart);
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
  if constexpr (std::is_same_v<S, u8>) {
    const vf_op &d = op.d;
    if (is_planar(d, frame) && !squares) {
      constexpr int L = lanes<float>;
      const float *from = static_cast<const float *>(frame.data) + run.r * frame.sr + run.y * frame.sh + run.x;
      u8 *to = static_cast<u8 *>(d.out.data) + run.r * d.out.sr + run.y * d.out.sh + run.x * 3;
      const Kept<u8> kept(d.out);
      int32_t i = 0;
      for (; i + L <= run.n; i += L) {
        const vfloat a = kept.rounded(load(from + i)), b = kept.rounded(load(from + i + frame.sc));
        const vfloat c = kept.rounded(load(from + i + 2 * frame.sc));
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
