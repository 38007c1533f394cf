// Change masks: one bit a pixel, rows of 64-bit words, a flag for each row that is not empty.
#ifndef VIDEOEFF_MASKS_H
#define VIDEOEFF_MASKS_H

#include <cstdint>
#include <cstring>
#include <vector>

#include "internal.h"

namespace vf {

struct Mask {
  int32_t r = 1, h = 1, w = 1, words = 1;
  bool any = false;
  std::vector<uint64_t> bits;   // (r, h, words); bits beyond w are 0
  std::vector<uint8_t> rows;    // (r, h) 1 where a row holds a bit
  std::vector<float> squares;   // (r, h, w) squared magnitudes, valid where a bit is set; empty if not wanted

  void resize(int32_t r_, int32_t h_, int32_t w_, bool magnitude) {
    r = r_, h = h_, w = w_, words = (w_ + 63) / 64;
    bits.assign(size_t(r) * h * words, 0);
    rows.assign(size_t(r) * h, 0);
    squares.assign(magnitude ? size_t(r) * h * w : 0, 0.f);
    any = false;
  }
  uint64_t *row(int32_t i, int32_t y) { return bits.data() + (size_t(i) * h + y) * words; }
  const uint64_t *row(int32_t i, int32_t y) const { return bits.data() + (size_t(i) * h + y) * words; }
  uint8_t &flag(int32_t i, int32_t y) { return rows[size_t(i) * h + y]; }
  bool flag(int32_t i, int32_t y) const { return rows[size_t(i) * h + y] != 0; }
  uint64_t last() const { return w % 64 ? (uint64_t(1) << (w % 64)) - 1 : ~uint64_t(0); }

  void clear() {
    if (!any) return;
    for (size_t i = 0; i < rows.size(); i++)
      if (rows[i]) {
        std::memset(bits.data() + i * words, 0, size_t(words) * 8);
        rows[i] = 0;
      }
    any = false;
  }
  void fill_row(int32_t i) { fill_rows(i, 0, h); }
  void fill_rows(int32_t i, int32_t first, int32_t stop) {
    for (int32_t y = first; y < stop; y++) {
      uint64_t *to = row(i, y);
      for (int32_t k = 0; k < words; k++) to[k] = ~uint64_t(0);
      to[words - 1] = last();
      flag(i, y) = 1;
    }
    any |= first < stop;
  }
  bool row_any(int32_t i) const {
    if (!any) return false;
    for (int32_t y = 0; y < h; y++)
      if (flag(i, y)) return true;
    return false;
  }
  bool get(int32_t i, int32_t y, int32_t x) const { return row(i, y)[x >> 6] >> (x & 63) & 1; }
  int64_t count() const {
    int64_t n = 0;
    for (int32_t i = 0; any && i < r; i++) n += count(i, 0, h);
    return n;
  }
  // Rows first .. stop - 1 of entry i.
  int64_t count(int32_t i, int32_t first, int32_t stop) const {
    int64_t n = 0;
    for (int32_t y = first; y < stop; y++)
      if (flag(i, y))
        for (int32_t k = 0; k < words; k++) n += __builtin_popcountll(row(i, y)[k]);
    return n;
  }
  // Recompute `any` from the row flags, which workers set.
  void settle() {
    any = false;
    for (uint8_t f : rows) any |= f != 0;
  }
};

// 64 bits of a row from bit `x` on; x may lie outside.
inline uint64_t bits_at(const uint64_t *row, int32_t words, int64_t x) {
  int64_t k = x >> 6;
  int s = int(x & 63);
  uint64_t low = k >= 0 && k < words ? row[k] : 0;
  if (!s) return low;
  uint64_t high = k + 1 >= 0 && k + 1 < words ? row[k + 1] : 0;
  return low >> s | high << (64 - s);
}

// Sets the bits first .. stop - 1 of a row.
inline void set_bits(uint64_t *row, int32_t first, int32_t stop) {
  while (first < stop) {
    const int32_t s = first & 63, n = std::min(64 - s, stop - first);
    row[first >> 6] |= (n == 64 ? ~uint64_t(0) : (uint64_t(1) << n) - 1) << s;
    first += n;
  }
}

// The bits first .. stop - 1 of a row as runs, to `add(x, n)`.
template <class F> inline void each_run(const uint64_t *row, int32_t words, int32_t first, int32_t stop, F add) {
  for (int32_t x = first; x < stop;) {
    uint64_t bits = bits_at(row, words, x);
    if (!bits) {
      x += 64;
      continue;
    }
    x += __builtin_ctzll(bits);
    int32_t n = 0;
    while (x + n < stop && (bits = ~bits_at(row, words, x + n)) == 0) n += 64;
    if (x + n < stop) n += __builtin_ctzll(bits);
    n = std::min(n, stop - x);
    if (n > 0) add(x, n);
    x += n;
  }
}

// OR `n` bits of `from`, beginning at bit `first`, into `row` at bit x. Workers share words at the seams.
inline void or_bits(uint64_t *row, int32_t x, int32_t n, const uint64_t *from, int32_t first) {
  while (n > 0) {
    int s = x & 63;
    int take = n < 64 - s ? n : 64 - s;
    uint64_t v = from[first >> 6] >> (first & 63);
    if ((first & 63) && (first & 63) + take > 64) v |= from[(first >> 6) + 1] << (64 - (first & 63));
    if (take < 64) v &= (uint64_t(1) << take) - 1;
    if (v) __atomic_fetch_or(row + (x >> 6), v << s, __ATOMIC_RELAXED);
    x += take, first += take, n -= take;
  }
}

// Every second bit, from bit 0 on, packed into the lower half.
inline uint64_t even_bits(uint64_t v) {
  v &= 0x5555555555555555u;
  v = (v | v >> 1) & 0x3333333333333333u;
  v = (v | v >> 2) & 0x0f0f0f0f0f0f0f0fu;
  v = (v | v >> 4) & 0x00ff00ff00ff00ffu;
  v = (v | v >> 8) & 0x0000ffff0000ffffu;
  return (v | v >> 16) & 0x00000000ffffffffu;
}

inline void add_row(Mask &to, int32_t i, int32_t y, const uint64_t *row) {
  uint64_t *out = to.row(i, y);
  uint64_t seen = 0;
  for (int32_t k = 0; k < to.words; k++) seen |= out[k] |= row[k];
  if (seen) to.flag(i, y) = 1, to.any = true;
}

// Some neighbouring rows of every entry of a mask: first .. stop - 1.
struct RowBlock {
  int32_t first, stop;
};

// Pixels whose window holds a set bit: rows of the window are ORed, then the columns by shifts.
inline void reach_window(const Mask &from, const Window &w, Mask &to, std::vector<uint64_t> &temp, RowBlock rows) {
  if (!from.any) return;
  temp.resize(size_t(from.words) + to.words);
  uint64_t *column = temp.data(), *out = temp.data() + from.words;
  for (int32_t i = 0; i < to.r; i++)
    for (int32_t y = rows.first; y < rows.stop; y++) {
      bool seen = false;
      for (int32_t k = 0; k < w.kh; k++) {
        int64_t v = int64_t(y) * w.sy - w.py + int64_t(k) * w.dy;
        if (v < 0 || v >= from.h || !from.flag(i, int32_t(v))) continue;
        const uint64_t *row = from.row(i, int32_t(v));
        if (!seen)
          std::memcpy(column, row, size_t(from.words) * 8);
        else
          for (int32_t j = 0; j < from.words; j++) column[j] |= row[j];
        seen = true;
      }
      if (!seen) continue;
      for (int32_t j = 0; j < to.words; j++) {
        uint64_t v = 0;
        for (int32_t k = 0; k < w.kw; k++) {
          int64_t x = int64_t(j) * 64 * w.sx - w.px + int64_t(k) * w.dx;
          if (w.sx == 1) {
            v |= bits_at(column, from.words, x);
          } else if (w.sx == 2) {
            v |= even_bits(bits_at(column, from.words, x)) | even_bits(bits_at(column, from.words, x + 64)) << 32;
          } else {
            for (int32_t b = 0; b < 64; b++) {
              int64_t at = x + int64_t(b) * w.sx;
              if (at >= 0 && at < from.w) v |= (column[at >> 6] >> (at & 63) & 1) << b;
            }
          }
        }
        out[j] = v;
      }
      out[to.words - 1] &= to.last();
      add_row(to, i, y, out);
    }
}

// Pixels that a set bit is spread to by a transposed window.
inline void reach_spread(const Mask &from, const Window &w, Mask &to) {
  if (!from.any) return;
  for (int32_t i = 0; i < from.r; i++)
    for (int32_t v = 0; v < from.h; v++) {
      if (!from.flag(i, v)) continue;
      const uint64_t *row = from.row(i, v);
      for (int32_t k = 0; k < w.kh; k++) {
        int64_t y = int64_t(v) * w.sy - w.py + int64_t(k) * w.dy;
        if (y < 0 || y >= to.h) continue;
        uint64_t *out = to.row(i, int32_t(y));
        bool seen = false;
        for (int32_t j = 0; j < from.words; j++)
          for (uint64_t left = row[j]; left; left &= left - 1) {
            int64_t u = int64_t(j) * 64 + __builtin_ctzll(left);
            for (int32_t c = 0; c < w.kw; c++) {
              int64_t x = u * w.sx - w.px + int64_t(c) * w.dx;
              if (x >= 0 && x < to.w) out[x >> 6] |= uint64_t(1) << (x & 63), seen = true;
            }
          }
        if (seen) to.flag(i, int32_t(y)) = 1, to.any = true;
      }
    }
}

// Pixels one of whose table entries is set: iy (h, ty), ix (w, tx).
inline void reach_table(const Mask &from, const int32_t *iy, int32_t ty, const int32_t *ix, int32_t tx, Mask &to,
                        std::vector<uint64_t> &temp) {
  if (!from.any) return;
  temp.resize(size_t(from.words) + to.words);
  uint64_t *column = temp.data(), *out = temp.data() + from.words;
  for (int32_t i = 0; i < to.r; i++)
    for (int32_t y = 0; y < to.h; y++) {
      bool seen = false;
      for (int32_t k = 0; k < ty; k++) {
        int32_t v = iy[size_t(y) * ty + k];
        if (!from.flag(i, v)) continue;
        const uint64_t *row = from.row(i, v);
        for (int32_t j = 0; j < from.words; j++) column[j] = seen ? column[j] | row[j] : row[j];
        seen = true;
      }
      if (!seen) continue;
      std::memset(out, 0, size_t(to.words) * 8);
      for (int32_t x = 0; x < to.w; x++)
        for (int32_t k = 0; k < tx; k++) {
          int32_t u = ix[size_t(x) * tx + k];
          out[x >> 6] |= (column[u >> 6] >> (u & 63) & 1) << (x & 63);
        }
      add_row(to, i, y, out);
    }
}

inline void reach_same(const Mask &from, Mask &to, RowBlock rows) {
  if (!from.any) return;
  for (int32_t i = 0; i < to.r; i++)
    for (int32_t y = rows.first; y < rows.stop; y++)
      if (from.flag(i, y)) add_row(to, i, y, from.row(i, y));
}

// Append the set bits as runs.
inline void runs_of(const Mask &mask, std::vector<Run> &runs, RowBlock rows) {
  if (!mask.any) return;
  for (int32_t i = 0; i < mask.r; i++)
    for (int32_t y = rows.first; y < rows.stop; y++) {
      if (!mask.flag(i, y)) continue;
      const uint64_t *row = mask.row(i, y);
      int32_t open = -1;  // where the run that is not closed yet began
      for (int32_t k = 0; k < mask.words; k++) {
        uint64_t v = row[k];
        int32_t base = k * 64, at = 0;
        while (at < 64) {
          uint64_t rest = v >> at;
          if (open < 0) {
            if (!rest) break;
            at += __builtin_ctzll(rest);
            open = base + at;
          } else {
            uint64_t holes = ~rest;
            if (at) holes &= (uint64_t(1) << (64 - at)) - 1;
            if (!holes) break;  // open to the end of the word
            at += __builtin_ctzll(holes);
            runs.push_back({i, y, open, base + at - open});
            open = -1;
          }
        }
      }
      if (open >= 0) runs.push_back({i, y, open, mask.w - open});
    }
}

}  // namespace vf
#endif
