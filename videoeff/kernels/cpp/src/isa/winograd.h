// 3x3 convolutions with fewer products: minimal filtering F(2x2, 3x3) (Lavin and Gray, "Fast Algorithms for Convolutional
// Neural Networks", 2016). A tile of 2x2 results takes 16 products for each pair of channels where taking them one by one
// takes 36. Each result is made of the 3x3 inputs it depends on and of no other, so that it is the same, to the last bit,
// whichever of its neighbours are computed with it.
#ifndef VIDEOEFF_WINOGRAD_H
#define VIDEOEFF_WINOGRAD_H

#include <algorithm>

#include "gemm.h"
#include "window.h"

namespace vf {
namespace VF_SPACE {

constexpr int kPositions = 16;      // of a transformed tile
inline int64_t tile_row(const vf_op &d) { return round_up(d.in.c, 16); }

// Elements between the positions of `n` tiles: an odd number of cache lines, so that those of a tile share no cache set.
inline int64_t position_step(int64_t n, int64_t row) { return ((n * row + 15) / 16 | 1) * 16; }

// The weights of each panel of output channels as [position][input][vectors x lanes]: G g G^T, in double precision.
template <class S> void pack_winograd(Op &op) {
  using T = compute<S>;
  constexpr int L = lanes<T>;
  static const double g[4][3] = {{1, 0, 0}, {.5, .5, .5}, {.5, -.5, .5}, {0, 0, 1}};
  const vf_op &d = op.d;
  const int32_t inputs = d.in.c, outputs = producer_channels(op), vectors = int32_t((outputs + L - 1) / L);
  op.reduction = inputs;
  if (vectors % kMaxVectors) op.panels = split_panels(vectors);
  else op.panels.assign(size_t(vectors / kMaxVectors), kMaxVectors);
  op.weight.reserve(size_t(kPositions) * inputs * vectors * L * sizeof(T));
  const S *from = static_cast<const S *>(d.weight);
  T *panel = static_cast<T *>(op.weight.data);
  int32_t first = 0;
  for (int32_t width : op.panels) {
    const int64_t row = int64_t(width) * L, position = row * inputs;
    for (int32_t i = 0; i < inputs; i++)
      for (int32_t j = 0; j < row && first + j < outputs; j++) {
        const S *w = from + (int64_t(first + j) * inputs + i) * 9;
        double half[4][3];
        for (int a = 0; a < 4; a++)
          for (int c = 0; c < 3; c++)
            half[a][c] = g[a][0] * widen(w[c]) + g[a][1] * widen(w[3 + c]) + g[a][2] * widen(w[6 + c]);
        for (int a = 0; a < 4; a++)
          for (int b = 0; b < 4; b++)
            panel[(a * 4 + b) * position + i * row + j] =
                T(half[a][0] * g[b][0] + half[a][1] * g[b][1] + half[a][2] * g[b][2]);
      }
    panel += kPositions * position;
    first += int32_t(row);
  }
  op.bias.reserve(size_t(vectors + kMaxVectors) * L * sizeof(T));
  T *bias = static_cast<T *>(op.bias.data);
  for (int32_t i = 0; i < outputs && d.bias; i++) bias[i] = T(widen(static_cast<const S *>(d.bias)[i]));
  // Many, also where their inputs pass L2: weights are read once for so many. Of the tiles that lie between one another where
  // a window is dilated, dx are taken together.
  op.winograd_tiles = op.ld <= kManyOutputs ? kMaxWinogradTiles : std::max(op.block_pixels / 4, d.dx);
  op.block_pixels = 4 * op.winograd_tiles;
  const int64_t steps = position_step(op.winograd_tiles, tile_row(d)) + position_step(op.winograd_tiles, kMaxVectors * L);
  op.temp_bytes = size_t(kPositions * steps) * sizeof(T) + size_t(d.out.w / 2 + 2 * d.dx) * sizeof(int32_t);
}

struct Tile {
  int32_t r, y, x;     // the first tap
  int32_t column;      // of tiles
  int32_t row[4];      // scratch row of each result; of those not wanted one behind the block's
};

// The tiles in which the pixels of a block lie. `slots`: a number for each column of tiles, of any value.
inline int32_t collect_tiles(const vf_op &d, const Block &block, int32_t *slots, Tile *tiles) {
  const int32_t s = d.dx;
  int32_t n = 0, p = 0;
  for (int32_t k = 0; k < block.count; k++) {
    const Run &run = block.runs[k];
    const int32_t top = run.y - run.y / s % 2 * s - d.py, lower = run.y / s % 2 * 2;
    for (int32_t x = run.x; x < run.x + run.n; x++, p++) {
      const int32_t column = x / (2 * s) * s + x % s, at = slots[column];
      const bool known = at >= 0 && at < n && tiles[at].column == column && tiles[at].y == top && tiles[at].r == run.r;
      if (!known) {
        slots[column] = n;
        const int32_t none = block.pixels;
        tiles[n++] = {run.r, top, x - x / s % 2 * s - d.px, column, {none, none, none, none}};
      }
      tiles[slots[column]].row[lower + x / s % 2] = p;
    }
  }
  return n;
}

// B^T d B of L channels of a tile, to `to`, positions `step` apart.
template <class T, class F> VF_INLINE void transform_inputs(F input, T *to, int64_t step) {
  vec<T> rows[4][4];
  unrolled<4>([&](auto y) {
    const vec<T> a = input(y, 0), b = input(y, 1), c = input(y, 2), e = input(y, 3);
    rows[y][0] = a - c, rows[y][1] = b + c, rows[y][2] = c - b, rows[y][3] = b - e;
  });
  unrolled<4>([&](auto x) {
    store<T>(to + x * step, rows[0][x] - rows[2][x]);
    store<T>(to + (4 + x) * step, rows[1][x] + rows[2][x]);
    store<T>(to + (8 + x) * step, rows[2][x] - rows[1][x]);
    store<T>(to + (12 + x) * step, rows[1][x] - rows[3][x]);
  });
}

template <class S> void transform_tile(const vf_op &d, const Tile &tile, compute<S> *to, int64_t step) {
  using T = compute<S>;
  constexpr int L = lanes<T>;
  const int32_t s = d.dx, channels = d.in.c;
  const S *data = static_cast<const S *>(d.in.data) + tile.r * d.in.sr;
  if (tile.y >= 0 && tile.x >= 0 && tile.y + 3 * s < d.in.h && tile.x + 3 * s < d.in.w) {
    const S *from = data + tile.y * d.in.sh + tile.x * d.in.sw;
    const int64_t down = s * d.in.sh, right = s * d.in.sw;
    int32_t c = 0;
    for (; c + L <= channels; c += L)
      transform_inputs<T>([&](auto y, auto x) { return load(from + c + y * down + x * right); }, to + c, step);
    if (const int n = channels - c)
      transform_inputs<T>([&](auto y, auto x) { return load_part(from + c + y * down + x * right, n); }, to + c, step);
    return;
  }
  const S *tap[4][4];
  for (int y = 0; y < 4; y++)
    for (int x = 0; x < 4; x++) {
      const int32_t v = tile.y + y * s, u = tile.x + x * s;
      const bool inside = v >= 0 && v < d.in.h && u >= 0 && u < d.in.w;
      tap[y][x] = inside ? data + v * d.in.sh + u * d.in.sw : zero_row<S>();
    }
  for (int32_t c = 0; c < channels; c += L) {
    const int n = std::min(L, channels - c);
    transform_inputs<T>([&](auto y, auto x) { return n == L ? load(tap[y][x] + c) : load_part(tap[y][x] + c, n); }, to + c,
                        step);
  }
}

// A^T m A of `vectors` vectors of output channels, and the bias.
template <class T>
VF_INLINE void transform_result(const T *m, int64_t step, const T *bias, int vectors, T *const *rows, int64_t column) {
  constexpr int L = lanes<T>;
  for (int j = 0; j < vectors; j++, m += L, bias += L, column += L) {
    vec<T> upper[4], lower[4];
    unrolled<4>([&](auto x) {
      const vec<T> a = load(m + x * step), b = load(m + (4 + x) * step);
      const vec<T> c = load(m + (8 + x) * step), e = load(m + (12 + x) * step);
      upper[x] = a + (b + c), lower[x] = b - c - e;
    });
    const vec<T> shift = load(bias);
    store<T>(rows[0] + column, upper[0] + (upper[1] + upper[2]) + shift);
    store<T>(rows[1] + column, upper[1] - upper[2] - upper[3] + shift);
    store<T>(rows[2] + column, lower[0] + (lower[1] + lower[2]) + shift);
    store<T>(rows[3] + column, lower[1] - lower[2] - lower[3] + shift);
  }
}

// The products of one panel for `n` tiles: [position][tile][vectors x lanes].
template <class S>
void multiply_tiles(const Op &op, const compute<S> *panel, int32_t vectors, const compute<S> *inputs, compute<S> *products,
                    int32_t n) {
  using T = compute<S>;
  constexpr int L = lanes<T>;
  alignas(64) static const T zeros[kMaxVectors * L] = {};
  const Segment segment{0, op.d.in.c, 0, 0, 0};
  const int64_t ld = tile_row(op.d), width = int64_t(vectors) * L, position = width * op.d.in.c;
  const int64_t input_step = position_step(n, ld), product_step = position_step(n, width);
  const int64_t share = share_of_pass<S>(vectors, n);
  const T *from[12];
  T *rows[12];
  for (int p = 0; p < kPositions; p++, panel += position, inputs += input_step, products += product_step) {
    const T *after = panel + position;  // of the next position: asked for while this one is multiplied
    int32_t at = 0;
    for (int which = 0; which < 4 && at < n; which++) {
      const int mr = block_of<T>(vectors, which);
      Micro<T> kernel = micro_of<T>(vectors, which);
      for (; n - at >= mr; at += mr, after += share * op.d.in.c) {
        for (int i = 0; i < mr; i++) from[i] = inputs + (at + i) * ld, rows[i] = products + (at + i) * width;
        kernel(from, nullptr, &segment, 1, panel, zeros, rows, 0, reinterpret_cast<const char *>(after),
               share * int64_t(sizeof(T)));
      }
    }
  }
}

// Panels first .. last - 1 of the results of a block, whose pixels lie in at most Op::tiles tiles, to register 0.
template <class S> void winograd(const Op &op, const Block &block, Scratch &scratch, int32_t first, int32_t last) {
  using T = compute<S>;
  constexpr int L = lanes<T>;
  const vf_op &d = op.d;
  Tile tiles[kMaxWinogradTiles];
  const int64_t ld = tile_row(d);
  T *inputs = static_cast<T *>(scratch.temp), *products = inputs + kPositions * position_step(op.winograd_tiles, ld);
  int32_t *slots = reinterpret_cast<int32_t *>(products + kPositions * position_step(op.winograd_tiles, kMaxVectors * L));
  const int32_t n = collect_tiles(d, block, slots, tiles);
  for (int32_t t = 0; t < n; t++) transform_tile<S>(d, tiles[t], inputs + t * ld, position_step(n, ld));
  const T *panel = static_cast<const T *>(op.weight.data), *bias = static_cast<const T *>(op.bias.data);
  T *out = static_cast<T *>(scratch.reg[0]);
  int64_t column = 0;
  for (int32_t index = 0; index < last; index++) {
    const int32_t vectors = op.panels[size_t(index)];
    const int64_t width = int64_t(vectors) * L;
    if (index >= first) {
      const int64_t step = position_step(n, width);
      multiply_tiles<S>(op, panel, vectors, inputs, products, n);
      for (int32_t t = 0; t < n; t++) {
        T *rows[4];
        for (int q = 0; q < 4; q++) rows[q] = out + int64_t(tiles[t].row[q]) * op.ld;
        transform_result<T>(products + t * width, step, bias + column, vectors, rows, column);
      }
    }
    panel += kPositions * width * d.in.c;
    column += width;
  }
}

}  // namespace VF_SPACE
}  // namespace vf
#endif
