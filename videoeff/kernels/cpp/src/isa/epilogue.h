// The epilogue after a producer: a few instructions over the rows of the registers, one pixel a row.
#ifndef VIDEOEFF_EPILOGUE_H
#define VIDEOEFF_EPILOGUE_H

#include <algorithm>
#include <type_traits>

#include "vmath.h"

namespace vf {
namespace VF_SPACE {

// ---- what an instruction does to a vector ----------------------------------------------------------------------

#define VF_UNARY(name, expression)                                                  \
  template <class T> struct name {                                                  \
    T p, q;                                                                         \
    VF_INLINE vec<T> operator()(vec<T> x) const { return expression; }              \
  };
#define VF_BINARY(name, expression)                                                 \
  template <class T> struct name {                                                  \
    VF_INLINE vec<T> operator()(vec<T> x, vec<T> y) const { return expression; }    \
  };

template <class T> VF_INLINE vec<T> clamp(vec<T> x, T low, T high) {
  x = x < low ? broadcast(low) : x;
  return x > high ? broadcast(high) : x;
}
template <class T> VF_INLINE vec<T> relu(vec<T> x) { return x < 0 ? vec<T>{} : x; }
template <class T> VF_INLINE vec<T> mish(vec<T> x) {  // tanh(log(1 + e)) = e (e + 2) / (e (e + 2) + 2)
  vec<T> e = vexp(x > 20 ? broadcast(T(20)) : x);
  vec<T> t = e * (e + 2);
  return x > 20 ? x : x * (t / (t + 2));
}
template <class T> VF_INLINE vec<T> softplus(vec<T> x, T p, T q) {
  vec<T> z = x * p;
  return z > q ? x : vlog1p(vexp(z)) / p;
}
template <class T> VF_INLINE vec<T> gelu(vec<T> x) { return x * T(0.5) * (1 + verf(x * T(0.70710678118654752440))); }
template <class T> VF_INLINE vec<T> gelu_tanh(vec<T> x) {
  vec<T> inner = T(0.79788456080286535588) * (x + T(0.044715) * x * x * x);
  return T(0.5) * x * (1 + vtanh(inner));
}

VF_UNARY(Affine, x * p + q)
VF_UNARY(Reciprocal, p / x)
VF_UNARY(Clamp, clamp(x, p, q))
VF_UNARY(Relu, relu<T>(x))
VF_UNARY(Leaky, x < 0 ? x * p : x)
VF_UNARY(Sigmoid, vsigmoid(x))
VF_UNARY(Tanh, vtanh(x))
VF_UNARY(Exp, vexp(x))
VF_UNARY(Log, vlog(x))
VF_UNARY(Sqrt, vsqrt(x))
VF_UNARY(Abs, absolute<T>(x))
VF_UNARY(Neg, -x)
VF_UNARY(Silu, over_one_plus(x, vexp(-x)))
VF_UNARY(Hardswish, x * clamp<T>(x + 3, 0, 6) * T(1.0 / 6))
VF_UNARY(Hardsigmoid, clamp<T>(x + 3, 0, 6) * T(1.0 / 6))
VF_UNARY(Gelu, gelu<T>(x))
VF_UNARY(GeluTanh, gelu_tanh<T>(x))
VF_UNARY(Elu, x > 0 ? x * q : vexpm1(x) * (p * q))
VF_UNARY(Softplus, softplus<T>(x, p, q))
VF_UNARY(Mish, mish<T>(x))
VF_UNARY(Erf, verf(x))
VF_UNARY(Square, x *x)
VF_UNARY(Cube, x *x *x)
VF_UNARY(InverseSqrt, 1 / vsqrt(x))
VF_UNARY(Power, vpow<T>(x, p))

VF_BINARY(Add, x + y)
VF_BINARY(AddRelu, relu<T>(x + y))
VF_BINARY(Sub, x - y)
VF_BINARY(Mul, x *y)
VF_BINARY(Div, x / y)
VF_BINARY(Maximum, vmaximum(x, y))
VF_BINARY(Minimum, vminimum(x, y))
VF_BINARY(Prelu, x < 0 ? x * y : x)
#undef VF_UNARY
#undef VF_BINARY

// ---- operands --------------------------------------------------------------------------------------------------

// A register, or an argument in memory. Gives for each pixel a pointer to compute elements; what is not there in that
// form is first copied, kPiece channels at a time.
template <class S> struct Operand {
  using T = typename Compute<S>::type;
  const T *row;               // register, else null
  int64_t ld;
  const vf_view *view;        // argument, else null
  const void *copied;
  alignas(64) T copy[kPiece];

  bool exact() const { return view->dtype == (sizeof(T) == 8 ? VF_F64 : VF_F32); }
  // Loads of a whole vector may pass the last channel only in registers and copies.
  bool guarded() const { return view && exact() && view->sc == 1; }

  template <class M> VF_INLINE const T *fill(const M *from, int64_t stride, int n) {
    if (from == copied) return copy;  // the same for the next pixel: a gate, a constant
    copied = from;
    if (stride == 0) {
      const vec<T> v = broadcast<T>(widen(*from));
      for (int i = 0; i < n; i += lanes<T>) store<T>(copy + i, v);
      return copy;
    }
    int i = 0;
    if (stride == 1)
      for (; i + lanes<T> <= n; i += lanes<T>) store<T>(copy + i, load(from + i));
    copy_strided(from + i * stride, stride, n - i, copy + i);
    return copy;
  }

  // Numbers of a grid as what they stand for.
  VF_INLINE const T *decoded(const u8 *from, int64_t stride, int c, int n) {
    if constexpr (sizeof(T) == 4) {
      if (from == copied) return copy;
      copied = from;
      const Grid<u8> grid(*view);
      for (int i = 0; i < n; i += lanes<float>) {
        const int m = std::min(lanes<float>, n - i);
        vfloat x;
        if (stride == 0) x = broadcast(widen(*from));
        else if (stride == 1) x = m == lanes<float> ? load(from + i) : load_part(from + i, m);
        else x = load_strided(from + i * stride, stride, m);
        store<float>(copy + i, grid.decode(x, stride == 0 ? 0 : c + i));
      }
    }
    return copy;
  }

  // `n` channels from channel c on of pixel (r, y, x), which is row `pixel` of the block.
  VF_INLINE const T *fetch(int r, int y, int x, int64_t pixel, int c, int n) {
    if (!view) return row + pixel * ld + c;
    const int64_t offset = r * view->sr + y * view->sh + x * view->sw + c * view->sc;
    if (view->dtype == VF_U8) return decoded(static_cast<const u8 *>(view->data) + offset, view->sc, c, n);
    if constexpr (std::is_same_v<S, float>)
      if (view->dtype == VF_BF16) return fill(static_cast<const bf16 *>(view->data) + offset, view->sc, n);
    if (!exact()) return fill(static_cast<const S *>(view->data) + offset, view->sc, n);
    const T *at = static_cast<const T *>(view->data) + offset;
    return view->sc == 1 ? at : fill(at, view->sc, n);
  }
};

// Calls f(row in the block, r, y, x) for every pixel.
template <class F> VF_INLINE void each_pixel(const Block &block, F f) {
  int64_t pixel = 0;
  for (int i = 0; i < block.count; i++) {
    const Run &run = block.runs[i];
    for (int j = 0; j < run.n; j++) f(pixel++, run.r, run.y, run.x + j);
  }
}

// Register to register. Rows are padded, so that whole vectors may be stored.
template <class T, class F> void transform(const T *from, T *to, int64_t ld, int width, int pixels, F f) {
  for (int64_t p = 0; p < pixels; p++)
    for (int i = 0; i < width; i += lanes<T>) store<T>(to + p * ld + i, f(load(from + p * ld + i)));
}

template <class S, class F>
void combine(const Block &block, Operand<S> &a, Operand<S> &b, typename Compute<S>::type *dst, int64_t ld, int width,
             F f) {
  using T = typename Compute<S>::type;
  constexpr int N = lanes<T>;
  const bool guarded_a = a.guarded(), guarded_b = b.guarded();
  each_pixel(block, [&](int64_t pixel, int r, int y, int x) {
    for (int c = 0; c < width; c += kPiece) {
      const int n = std::min(width - c, kPiece);
      const T *left = a.fetch(r, y, x, pixel, c, n);
      const T *right = b.fetch(r, y, x, pixel, c, n);
      T *to = dst + pixel * ld + c;
      int i = 0;
      for (; i + N <= n; i += N) store<T>(to + i, f(load(left + i), load(right + i)));
      if (i < n)
        store<T>(to + i, f(guarded_a ? load_part(left + i, n - i) : load(left + i),
                           guarded_b ? load_part(right + i, n - i) : load(right + i)));
    }
  });
}

// ---- over the channels of a pixel ------------------------------------------------------------------------------

// Calls f(vector, first channel, channels left, at most lanes) along a row.
template <class T, class F> VF_INLINE void each_vector(const T *row, int width, F f) {
  for (int i = 0; i < width; i += lanes<T>) f(load(row + i), i, width - i);
}

template <class T> void softmax_row(const T *from, T *to, int width, bool logarithm) {
  const T lowest = T(-INFINITY);
  vec<T> top = broadcast(lowest);
  each_vector(from, width, [&](vec<T> v, int, int n) {
    if (n < lanes<T>) v = first_lanes(v, n, lowest);
    top = v > top ? v : top;
  });
  const T peak = highest<T>(top);
  vec<T> all = {};
  each_vector(from, width, [&](vec<T> v, int i, int n) {
    v = v - peak;
    vec<T> e = vexp(v);
    store<T>(to + i, logarithm ? v : e);
    all += n < lanes<T> ? first_lanes(e, n, T(0)) : e;
  });
  const T s = total(all);
  if (logarithm) {
    const T shift = std::log(s);
    each_vector(to, width, [&](vec<T> v, int i, int) { store<T>(to + i, v - shift); });
  } else {
    const T scale = 1 / s;
    each_vector(to, width, [&](vec<T> v, int i, int) { store<T>(to + i, v * scale); });
  }
}

template <class T> void normalize_row(const T *from, T *to, int width, T epsilon, bool centred) {
  T mean = 0;
  if (centred) {
    vec<T> all = {};
    each_vector(from, width, [&](vec<T> v, int, int n) { all += n < lanes<T> ? first_lanes(v, n, T(0)) : v; });
    mean = total(all) / T(width);
  }
  vec<T> squares = {};
  each_vector(from, width, [&](vec<T> v, int, int n) {
    if (n < lanes<T>) v = first_lanes(v, n, mean);
    squares += (v - mean) * (v - mean);
  });
  const T scale = 1 / std::sqrt(total(squares) / T(width) + epsilon);
  each_vector(from, width, [&](vec<T> v, int i, int) { store<T>(to + i, (v - mean) * scale); });
}

// out[p][r] = sum over i of w[r][i] in[p][i], for R rows of w and P pixels.
template <int R, int P, class W, class T>
VF_INLINE void dot_rows(const W *w, int64_t width, const T *in, T *out, int64_t ld) {
  vec<T> acc[R][P] = {};
  int64_t i = 0;
  for (; i + lanes<T> <= width; i += lanes<T>)
    for (int r = 0; r < R; r++) {
      const vec<T> v = load(w + r * width + i);
      for (int p = 0; p < P; p++) acc[r][p] += v * load(in + p * ld + i);
    }
  if (const int n = int(width - i))
    for (int r = 0; r < R; r++) {
      const vec<T> v = load_part(w + r * width + i, n);
      for (int p = 0; p < P; p++) acc[r][p] += v * load_part(in + p * ld + i, n);
    }
  for (int r = 0; r < R; r++)
    for (int p = 0; p < P; p++) out[p * ld + r] = total(acc[r][p]);
}

template <class W, class T>
void linear_rows(const W *w, int outputs, int64_t width, const T *in, T *out, int64_t ld, int pixels) {
  int o = 0;
  for (; o + 4 <= outputs; o += 4) {
    int p = 0;
    for (; p + 2 <= pixels; p += 2) dot_rows<4, 2>(w + o * width, width, in + p * ld, out + p * ld + o, ld);
    for (; p < pixels; p++) dot_rows<4, 1>(w + o * width, width, in + p * ld, out + p * ld + o, ld);
  }
  for (; o < outputs; o++)
    for (int p = 0; p < pixels; p++) dot_rows<1, 1>(w + o * width, width, in + p * ld, out + p * ld + o, ld);
}

// ---- the epilogue ----------------------------------------------------------------------------------------------

template <class S> struct Epilogue {
  using T = typename Compute<S>::type;
  const Op &op;
  const Block &block;
  Scratch &scratch;
  int width[VF_MAX_REGS];
  Operand<S> left, right;

  Epilogue(const Op &o, const Block &b, Scratch &s) : op(o), block(b), scratch(s) {}
  T *reg(int k) const { return static_cast<T *>(scratch.reg[k]); }
  const vf_view &argument(int index) const { return op.d.args[index - VF_ARG]; }
  int width_of(int index) const {  // 0: any, a broadcast argument
    if (index < VF_ARG) return width[index];
    return argument(index).sc ? argument(index).c : 0;
  }
  void bind(Operand<S> &operand, int index) {
    operand.view = index < VF_ARG ? nullptr : &argument(index);
    operand.row = index < VF_ARG ? reg(index) : nullptr;
    operand.ld = op.ld;
    operand.copied = nullptr;
  }
  int result_width(const vf_epi &e, int n) { return width[e.dst] = n ? n : op.d.width[e.dst]; }

  // The rows of operand `a`: where they are, or brought to register `dst`.
  const T *rows(int a, int dst, int n) {
    if (a < VF_ARG) return reg(a);
    T *to = reg(dst);
    bind(left, a);
    each_pixel(block, [&](int64_t pixel, int r, int y, int x) {
      for (int c = 0; c < n; c += kPiece) {
        const int piece = std::min(n - c, kPiece);
        std::memcpy(to + pixel * op.ld + c, left.fetch(r, y, x, pixel, c, piece), piece * sizeof(T));
      }
    });
    return to;
  }

  template <template <class> class F> void unary(const vf_epi &e) {
    const int n = result_width(e, width_of(e.a));
    transform(rows(e.a, e.dst, n), reg(e.dst), op.ld, n, block.pixels, F<T>{T(e.p), T(e.q)});
  }
  template <template <class> class F> void binary(const vf_epi &e) {
    bind(left, e.a), bind(right, e.b);
    const int n = result_width(e, std::max(width_of(e.a), width_of(e.b)));
    combine(block, left, right, reg(e.dst), op.ld, n, F<T>{});
  }
  template <class F> void along_channels(const vf_epi &e, F f) {
    const int n = result_width(e, width_of(e.a));
    const T *from = rows(e.a, e.dst, n);
    T *to = reg(e.dst);
    for (int64_t p = 0; p < block.pixels; p++) f(from + p * op.ld, to + p * op.ld, n);
  }

  void copy(const vf_epi &e) {
    const int n = result_width(e, width_of(e.a));
    const T *from = rows(e.a, e.dst, n);
    if (from != reg(e.dst)) std::memcpy(reg(e.dst), from, int64_t(block.pixels) * op.ld * sizeof(T));
  }

  // The destination is another register than the argument (plans are checked for it).
  void linear(const vf_epi &e) {
    const vf_view &w = argument(e.b);
    if (sizeof(S) == sizeof(T) || w.dtype == VF_F32)  // numbers of a grid are no weights
      linear_rows(static_cast<const T *>(w.data), w.w, w.c, reg(e.a), reg(e.dst), op.ld, block.pixels);
    else
      linear_rows(static_cast<const S *>(w.data), w.w, w.c, reg(e.a), reg(e.dst), op.ld, block.pixels);
    width[e.dst] = w.w;
    if (e.q == 0) return;
    bind(left, e.dst), bind(right, e.b + 1);
    combine(block, left, right, reg(e.dst), op.ld, w.w, Add<T>{});
  }

  void round(const vf_epi &e) {
    if constexpr (sizeof(T) == 4) {
      const Grid<u8> grid(argument(e.b));
      along_channels(e, [&](const T *from, T *to, int n) {
        for (int i = 0; i < n; i += lanes<T>) store<T>(to + i, grid.decode(grid.encode(load(from + i), i), i));
      });
    }
  }

  void power(const vf_epi &e) {
    if (e.p == 0.5) return unary<Sqrt>(e);
    if (e.p == 2) return unary<Square>(e);
    if (e.p == 3) return unary<Cube>(e);
    if (e.p == -0.5) return unary<InverseSqrt>(e);
    unary<Power>(e);
  }

  void run() {
    const vf_op &d = op.d;
    std::fill(width, width + VF_MAX_REGS, 0);
    width[0] = producer_channels(op);
    for (int i = 0; i < d.nepi; i++) {
      const vf_epi &e = d.epi[i];
      if (i < scratch.done) {  // a linear layer
        width[e.dst] = argument(e.b).w;
        continue;
      }
      if (e.op == VF_ADD && i + 1 < d.nepi) {
        const vf_epi &next = d.epi[i + 1];
        if (next.op == VF_LEAKY && next.p == 0 && next.a == e.dst && next.dst == e.dst) {
          binary<AddRelu>(e);
          i++;
          continue;
        }
      }
      step(e);
    }
  }

  void step(const vf_epi &e) {
    switch (e.op) {
      case VF_COPY: return copy(e);
      case VF_ADD: return binary<Add>(e);
      case VF_SUB: return binary<Sub>(e);
      case VF_MUL: return binary<Mul>(e);
      case VF_DIV: return binary<Div>(e);
      case VF_MAXIMUM: return binary<Maximum>(e);
      case VF_MINIMUM: return binary<Minimum>(e);
      case VF_PRELU: return binary<Prelu>(e);
      case VF_AFFINE: return unary<Affine>(e);
      case VF_RDIV: return unary<Reciprocal>(e);
      case VF_CLAMP: return unary<Clamp>(e);
      case VF_LEAKY: return e.p == 0 ? unary<Relu>(e) : unary<Leaky>(e);
      case VF_SIGMOID: return unary<Sigmoid>(e);
      case VF_TANH: return unary<Tanh>(e);
      case VF_EXP: return unary<Exp>(e);
      case VF_LOG: return unary<Log>(e);
      case VF_SQRT: return unary<Sqrt>(e);
      case VF_ABS: return unary<Abs>(e);
      case VF_NEG: return unary<Neg>(e);
      case VF_SILU: return unary<Silu>(e);
      case VF_HARDSWISH: return unary<Hardswish>(e);
      case VF_HARDSIGMOID: return unary<Hardsigmoid>(e);
      case VF_GELU: return unary<Gelu>(e);
      case VF_GELU_TANH: return unary<GeluTanh>(e);
      case VF_ELU: return unary<Elu>(e);
      case VF_SOFTPLUS: return unary<Softplus>(e);
      case VF_MISH: return unary<Mish>(e);
      case VF_ERF: return unary<Erf>(e);
      case VF_POW: return power(e);
      case VF_ROUND: return round(e);
      case VF_LINEAR: return linear(e);
      case VF_SOFTMAX:
        return along_channels(e, [](const T *from, T *to, int n) { softmax_row(from, to, n, false); });
      case VF_LOG_SOFTMAX:
        return along_channels(e, [](const T *from, T *to, int n) { softmax_row(from, to, n, true); });
      case VF_NORMALIZE:
        return along_channels(e, [&](const T *from, T *to, int n) { normalize_row(from, to, n, T(e.p), true); });
      case VF_RMS_NORMALIZE:
        return along_channels(e, [&](const T *from, T *to, int n) { normalize_row(from, to, n, T(e.p), false); });
    }
  }
};

// Some outputs of the linear layer that is instruction 0, for row 0.
template <class S> void linear_part(const Op &op, Scratch &scratch, int32_t first, int32_t last) {
  using T = typename Compute<S>::type;
  const vf_epi &e = op.d.epi[0];
  const vf_view &w = op.d.args[e.b - VF_ARG];
  const T *in = static_cast<const T *>(scratch.reg[e.a]);
  T *out = static_cast<T *>(scratch.reg[e.dst]) + first;
  if (sizeof(S) == sizeof(T) || w.dtype == VF_F32)
    linear_rows(static_cast<const T *>(w.data) + int64_t(first) * w.c, last - first, w.c, in, out, op.ld, 1);
  else
    linear_rows(static_cast<const S *>(w.data) + int64_t(first) * w.c, last - first, w.c, in, out, op.ld, 1);
  if (e.q == 0) return;
  const vf_view &b = op.d.args[e.b + 1 - VF_ARG];
  for (int32_t i = 0; i < last - first; i++)
    out[i] += sizeof(S) == sizeof(T) || b.dtype == VF_F32 ? static_cast<const T *>(b.data)[first + i]
                                                          : T(widen(static_cast<const S *>(b.data)[first + i]));
}

template <class S> void run_epilogue(const Op &op, const Block &block, Scratch &scratch) {
  Epilogue<S>(op, block, scratch).run();
}

}  // namespace VF_SPACE
}  // namespace vf
#endif
