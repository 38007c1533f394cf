// Convolutions by matrix tiles (AMX): 16 pixels by 16 output channels in one instruction, over 64 bytes of inputs, which are 64
// numbers of 8 bits or 32 of bfloat16. Sums of numbers are those of dots.h. A pixel of bfloat16 is summed in the same order
// whatever is computed with it, so that it comes out the same.
//
// The inputs of 16 pixels are read in place where these lie equally far apart, else copied together. A tile has as many
// inputs as there are side by side in a row of the window; what is read behind them has weights of zero.
#ifndef VIDEOEFF_TILES_H
#define VIDEOEFF_TILES_H

#include "dots.h"

#if VF_ISA == VF_ISA_AVX512 && defined(__x86_64__) && __has_include(<amxbf16intrin.h>)
#define VF_TILES 1
#else
#define VF_TILES 0
#endif

#if VF_TILES
namespace vf {
namespace VF_SPACE {

#define VF_TILE_TARGET __attribute__((target("amx-tile,amx-int8,amx-bf16")))

constexpr int32_t kTileRows = 16, kTileBytes = 64, kTileSize = kTileRows * kTileBytes;

struct alignas(64) TileShape {
  uint8_t palette = 1, start = 0, reserved[14] = {};
  uint16_t bytes[16] = {};
  uint8_t rows[16] = {};
};

// Sets the thread's tiles up, once a frame: between frames the thread is somebody else's.
VF_TILE_TARGET inline void set_tiles_up() {
  static thread_local uint64_t frame = 0;
  if (frame == frame_number()) return;
  TileShape shape;
  for (int i = 0; i < 8; i++) shape.bytes[i] = kTileBytes, shape.rows[i] = kTileRows;
  _tile_loadconfig(&shape);
  frame = frame_number();
}

// 16 pixels: where the first one's inputs lie, how many bytes on the next one's, and where from there each step begins.
struct TileInput {
  const char *at;
  int64_t apart;
  const int64_t *offsets;
};
constexpr size_t kTileInputs = (kMaxBlock / kTileRows * sizeof(TileInput) + 63) / 64 * 64;

// Whether tiles serve an op. Of bfloat16 both inputs and weights are such.
inline bool fits_tiles(const Op &op) {
  const vf_op &d = op.d;
  return d.kind == VF_CONV && d.groups == 1 && d.in.sc == 1 && !d.gate && !op.decodes;
}

// Whether the taps of a row of the window lie side by side.
inline bool rows_together(const vf_op &d) { return d.dx == 1 && d.in.sw == d.in.c; }

// Bits begin .. begin + count - 1, of 64.
VF_INLINE uint64_t some_bytes(int64_t count, int64_t begin) {
  return count >= 64 ? ~uint64_t(0) : ((uint64_t(1) << count) - 1) << (count ? begin : 0);
}

template <class S> void prepare_tiles(Op &op) {
  constexpr int32_t U = Unit<S>::inputs, row = kTileBytes / int32_t(sizeof(S)), L = lanes<float>;
  constexpr int64_t item = int64_t(sizeof(S));
  using Weight = typename Unit<S>::Weight;
  const vf_op &d = op.d;
  const int32_t inputs = d.in.c, outputs = producer_channels(op), window = d.kh * d.kw;
  const bool whole = rows_together(d);
  op.gather = op.rows = false, op.rest = 0;
  op.steps.clear(), op.offsets.clear(), op.extent = 0, op.in_place = true;
  for (int32_t r = 0; r < d.kh; r++)
    for (int32_t c = 0; c < d.kw; c += whole ? d.kw : 1)
      for (int32_t first = 0, stop = whole ? d.kw * inputs : inputs; first < stop; first += row) {
        const int32_t count = std::min(stop - first, row);
        const int64_t offset = int64_t(r) * d.dy * d.in.sh + int64_t(c) * d.dx * d.in.sw + first;
        op.steps.push_back({r, c, first, count, some_bytes(count * item, 0)});
        op.offsets.push_back(offset * item);
        op.extent = std::max(op.extent, op.offsets.back() + kTileBytes);
        // Of bfloat16, what lies behind a step must not be read: nothing times 0 takes a NaN away.
        op.in_place &= std::is_same_v<S, u8> || count == row;
      }
  const int64_t steps = int64_t(op.steps.size());
  for (int64_t s = 0; s < steps; s++) op.offsets.push_back(s * kTileSize);  // of inputs copied together
  op.reduction = int32_t(steps) * row;
  op.panels.assign(size_t((outputs + L - 1) / L / 2), 2);
  if ((outputs + L - 1) / L % 2) op.panels.push_back(1);
  op.weight.reserve(size_t(steps) * kTileSize * size_t((outputs + L - 1) / L));
  const Weight *from = static_cast<const Weight *>(d.weight);
  Weight *to = static_cast<Weight *>(op.weight.data);
  int32_t begin = 0;
  for (int32_t vectors : op.panels) {
    for (const TileStep &step : op.steps)
      for (int32_t o = begin; o < begin + vectors * L; o += L)
        for (int32_t i = 0; i < row; i += U)
          for (int32_t j = 0; j < L; j++)
            for (int32_t q = 0; q < U; q++) {
              const int32_t at = step.first + i + q, tap = step.row * d.kw + step.column + at / inputs;
              const bool there = o + j < outputs && i + q < step.count;
              *to++ = there ? from[(int64_t(o + j) * inputs + at % inputs) * window + tap] : Weight{};
            }
    begin += vectors * L;
  }
  pack_channels<S>(op);
  const int64_t fits = kTilesCopied / (steps * kTileBytes) / kTileStep * kTileStep;
  op.most_pixels = int32_t(std::clamp<int64_t>(fits, kTileStep, kMaxBlock));
  op.block_pixels = std::min(std::max(op.block_pixels / kTileStep, 1) * kTileStep, op.most_pixels);
  op.temp_bytes = kTileInputs + size_t(op.most_pixels) * size_t(steps) * kTileBytes + kTileSize;
}

// Adds up `steps` steps of MT x NT tiles, beginning with rows of `begin` (NT x 16), and stores them `ld` elements apart.
template <class S, int MT, int NT>
VF_TILE_TARGET __attribute__((noinline)) void tile_product(const TileInput *input, int64_t steps, const char *panel,
                                                           const void *begin, float *const *out, int64_t ld) {
  const char *first = static_cast<const char *>(begin);
  _tile_loadd(0, first, 0);
  if constexpr (NT == 2) _tile_loadd(1, first + kTileBytes, 0);
  if constexpr (MT == 2) _tile_loadd(2, first, 0);
  if constexpr (MT == 2 && NT == 2) _tile_loadd(3, first + kTileBytes, 0);
  for (int64_t s = 0; s < steps; s++, panel += NT * kTileSize) {
    _tile_loadd(6, panel, kTileBytes);
    _tile_loadd(4, input[0].at + input[0].offsets[s], input[0].apart);
    if constexpr (NT == 2) _tile_loadd(7, panel + kTileSize, kTileBytes);
    if constexpr (MT == 2) _tile_loadd(5, input[1].at + input[1].offsets[s], input[1].apart);
    if constexpr (std::is_same_v<S, u8>) {
      _tile_dpbusd(0, 4, 6);
      if constexpr (NT == 2) _tile_dpbusd(1, 4, 7);
      if constexpr (MT == 2) _tile_dpbusd(2, 5, 6);
      if constexpr (MT == 2 && NT == 2) _tile_dpbusd(3, 5, 7);
    } else {
      _tile_dpbf16ps(0, 4, 6);
      if constexpr (NT == 2) _tile_dpbf16ps(1, 4, 7);
      if constexpr (MT == 2) _tile_dpbf16ps(2, 5, 6);
      if constexpr (MT == 2 && NT == 2) _tile_dpbf16ps(3, 5, 7);
    }
  }
  const int64_t apart = ld * int64_t(sizeof(float));
  _tile_stored(0, out[0], apart);
  if constexpr (NT == 2) _tile_stored(1, out[0] + 16, apart);
  if constexpr (MT == 2) _tile_stored(2, out[1], apart);
  if constexpr (MT == 2 && NT == 2) _tile_stored(3, out[1] + 16, apart);
}

// A pixel of a block: the address of its first tap, which may lie outside the input, and where in the input that is.
struct TilePixel {
  uintptr_t at;
  int32_t y, x;
};

// The inputs of `n` pixels, one step after the other as tiles. Taps outside the input are zeros.
template <class S> void copy_inputs(const Op &op, const TilePixel *pixels, int32_t n, char *to) {
  constexpr int64_t item = int64_t(sizeof(S));
  const vf_op &d = op.d;
  const int32_t inputs = d.in.c;
  const bool whole = rows_together(d);
  const __m512i zeros = std::is_same_v<S, u8> ? _mm512_loadu_si512(op.zeros.data) : _mm512_setzero_si512();
  const int64_t below = int64_t(d.in.h) - int64_t(d.kh - 1) * d.dy, right = int64_t(d.in.w) - int64_t(d.kw - 1) * d.dx;
  for (int32_t i = 0; i < n; i++, to += kTileBytes) {
    const TilePixel &pixel = pixels[i];
    const int64_t *offset = op.offsets.data();
    char *into = to;
    const auto copy = [&](uint64_t bytes) {
      const void *from = reinterpret_cast<const void *>(pixel.at + uintptr_t(*offset++));
      _mm512_storeu_si512(into, _mm512_mask_loadu_epi8(zeros, __mmask64(bytes), from));
      into += kTileSize;
    };
    if (pixel.y >= 0 && pixel.y < below && pixel.x >= 0 && pixel.x < right) {
      for (const TileStep &step : op.steps) copy(step.bytes);
      continue;
    }
    for (const TileStep &step : op.steps) {
      int64_t first = 0, stop = step.count;  // those of the step that lie inside
      const int64_t y = pixel.y + int64_t(step.row) * d.dy, x = pixel.x + int64_t(step.column) * d.dx;
      if (y < 0 || y >= d.in.h) stop = 0;
      else if (whole)
        first = std::max<int64_t>(-x * inputs - step.first, 0),
        stop = std::min<int64_t>(stop, (d.in.w - x) * inputs - step.first);
      else if (x < 0 || x >= d.in.w) stop = 0;
      copy(some_bytes(std::max<int64_t>(stop - first, 0) * item, first * item));
    }
  }
}

// What sums of numbers stand for, in place, of `count` rows that lie `ld` elements apart.
inline void settle(const Channels<u8> &channels, float *rows, int64_t ld, int32_t count, int64_t width) {
  constexpr int L = lanes<float>;
  for (int32_t i = 0; i < count; i++, rows += ld)
    for (int64_t j = 0; j < width; j += L) {
      vint sum;
      std::memcpy(&sum, rows + j, sizeof sum);
      store<float>(rows + j, settled(channels, sum, j));
    }
}

template <class S> VF_INLINE void tile_products(const TileInput *input, int tiles, int64_t steps, const char *panel, int vectors,
                                                const void *begin, float *const *out, int64_t ld) {
  if (tiles == 2 && vectors == 2) tile_product<S, 2, 2>(input, steps, panel, begin, out, ld);
  else if (tiles == 2) tile_product<S, 2, 1>(input, steps, panel, begin, out, ld);
  else if (vectors == 2) tile_product<S, 1, 2>(input, steps, panel, begin, out, ld);
  else tile_product<S, 1, 1>(input, steps, panel, begin, out, ld);
}

// Finds the inputs of a block's pixels, 16 at a time, and copies those together that cannot be read where they lie.
template <class S> void find_inputs(const Op &op, const Block &block, const Scratch &scratch, TileInput *inputs, char *copied) {
  constexpr int64_t item = int64_t(sizeof(S));
  const vf_op &d = op.d;
  const int64_t steps = int64_t(op.steps.size());
  TilePixel pixels[kMaxBlock + kTileRows];
  bool inside[kMaxBlock];
  const bool rows = op.reads == Op::kRows;
  const uintptr_t data = reinterpret_cast<uintptr_t>(d.in.data), first_row = reinterpret_cast<uintptr_t>(scratch.rows);
  const uintptr_t end = rows ? UINTPTR_MAX : data + uintptr_t(d.in.size * item);
  const int64_t below = int64_t(d.in.h) - int64_t(d.kh - 1) * d.dy, right = int64_t(d.in.w) - int64_t(d.kw - 1) * d.dx;
  int32_t count = 0;
  for (int32_t k = 0; k < block.count; k++) {
    const Run &run = block.runs[k];
    const int32_t y = run.y * d.sy - d.py;
    int32_t x = run.x * d.sx - d.px;
    if (rows) {
      for (int32_t i = 0; i < run.n; i++, count++)
        pixels[count] = {first_row + uintptr_t(count * d.in.sw * item), 0, 0}, inside[count] = true;
      continue;
    }
    uintptr_t at = data + uintptr_t((run.r * d.in.sr + y * d.in.sh + x * d.in.sw) * item);
    for (int32_t i = 0; i < run.n; i++, count++, x += d.sx, at += uintptr_t(d.sx * d.in.sw * item)) {
      pixels[count] = {at, y, x};
      inside[count] = y >= 0 && y < below && x >= 0 && x < right;
    }
  }
  const int32_t groups = (count + kTileRows - 1) / kTileRows;
  for (int32_t g = 0; g < groups; g++) {
    const int32_t first = g * kTileRows, n = std::min(count - first, kTileRows);
    const int64_t apart = n > 1 ? int64_t(pixels[first + 1].at - pixels[first].at) : kTileBytes;
    bool direct = op.in_place && inside[first];
    for (int32_t i = 1; i < n && direct; i++)
      direct = inside[first + i] && int64_t(pixels[first + i].at - pixels[first + i - 1].at) == apart;
    const int64_t last = (kTileRows - 1) * apart;  // of a group that is not full, too
    if (direct && apart >= 0 && pixels[first].at + uintptr_t(last + op.extent) <= end) {
      inputs[g] = {reinterpret_cast<const char *>(pixels[first].at), apart, op.offsets.data()};
      continue;
    }
    copy_inputs<S>(op, pixels + first, n, copied);
    inputs[g] = {copied, kTileBytes, op.offsets.data() + steps};
    copied += steps * kTileSize;
  }
}

// As `convolution`.
template <class S> void tile_convolution(const Op &op, const Block &block, Scratch &scratch, int32_t only) {
  constexpr int L = lanes<float>;
  const int64_t steps = int64_t(op.steps.size());
  set_tiles_up();
  auto *inputs = static_cast<TileInput *>(scratch.temp);
  if (!scratch.copied || !scratch.block || *scratch.copied != scratch.block)
    find_inputs<S>(op, block, scratch, inputs, static_cast<char *>(scratch.temp) + kTileInputs);
  if (scratch.copied) *scratch.copied = scratch.block;
  const int32_t count = block.pixels, groups = (count + kTileRows - 1) / kTileRows;
  const char *panel = static_cast<const char *>(op.weight.data);
  float *out = static_cast<float *>(scratch.reg[0]);
  alignas(64) float part[kTileRows * 2 * L];  // of a group that is not full: what follows it may be another worker's
  int64_t column = 0;
  for (size_t index = 0; index < op.panels.size(); index++) {
    const int32_t vectors = op.panels[index];
    if (only < 0 || only == int32_t(index)) {
      const Channels<S> channels = channels_of<S>(op, column);
      for (int32_t g = 0; g < groups;) {
        const int32_t first = g * kTileRows, left = count - first;
        const int tiles = left >= 2 * kTileRows ? 2 : 1;
        const int32_t n = std::min(left, tiles * kTileRows);
        const bool full = n == tiles * kTileRows;
        float *to = out + first * int64_t(op.ld) + column;
        float *results[2] = {full ? to : part, to + kTileRows * int64_t(op.ld)};  // the second of two tiles alone
        tile_products<S>(inputs + g, tiles, steps, panel, vectors, channels.begin, results, full ? op.ld : 2 * L);
        for (int32_t i = 0; i < n && !full; i++)
          std::memcpy(to + i * int64_t(op.ld), part + i * 2 * L, size_t(vectors) * VF_BYTES);
        if constexpr (std::is_same_v<S, u8>)
          if (!op.sums) settle(channels, to, op.ld, n, int64_t(vectors) * L);
        g += tiles;
      }
    }
    panel += steps * vectors * kTileSize;
    column += vectors * L;
  }
}

}  // namespace VF_SPACE
}  // namespace vf
#endif
#endif
