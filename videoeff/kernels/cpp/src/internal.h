// What plan/ (compiled once) and isa/ (compiled once for each instruction set) share.
#ifndef VIDEOEFF_INTERNAL_H
#define VIDEOEFF_INTERNAL_H

#include <cstdint>
#include <cstddef>
#include <vector>

#include "tuning.h"
#include "videoeff.h"

namespace vf {

// `n` neighbouring pixels of a row of the result: (r, y, x) .. (r, y, x + n - 1).
struct Run {
  int32_t r, y, x, n;
};

// Pixels to compute together: at most Op::block_pixels, in scratch rows 0 .. pixels - 1 in the order of the runs.
struct Block {
  const Run *runs;
  int32_t count;
  int32_t pixels;
};

struct bf16 {
  uint16_t bits;
};

// A number of a grid (vf_view::grid), which it needs to mean something.
struct u8 {
  uint8_t code;
};

// The compute type of a storage type.
template <class S> struct Compute {
  using type = S;
};
template <> struct Compute<bf16> {
  using type = float;
};
template <> struct Compute<u8> {
  using type = float;
};

// Numbers in a row of a grid, those behind the channels included.
inline int64_t grid_row(int64_t channels) { return (channels + 15) / 16 * 16 + 16; }
// Whether one scale and one zero serve all channels of a grid.
inline bool one_scale(const vf_view &v) {
  const int64_t pitch = grid_row(v.c);
  for (int row = 0; row < VF_GRID_ROWS; row++)
    for (int64_t c = 1; c < v.c; c++)
      if (v.grid[row * pitch + c] != v.grid[row * pitch]) return false;
  return true;
}
inline int64_t item_of(int32_t dtype) { return dtype == VF_F64 ? 8 : dtype == VF_F32 ? 4 : dtype == VF_BF16 ? 2 : 1; }

struct Common;

// Memory aligned to a cache line.
struct Memory {
  void *data = nullptr;
  size_t bytes = 0;
  Common *common = nullptr;  // whose memory it is, where plans share it
  Memory() = default;
  Memory(const Memory &) = delete;
  Memory &operator=(const Memory &) = delete;
  Memory(Memory &&other) noexcept : data(other.data), bytes(other.bytes), common(other.common) {
    other.data = nullptr, other.bytes = 0, other.common = nullptr;
  }
  ~Memory();
  void reserve(size_t wanted);  // contents are lost when it grows; not of common memory
};

// A stretch of the reduction of a convolution: `length` neighbouring input elements of each pixel, beginning
// `offset` elements from the pixel's first tap, times rows `k` .. of a weight panel.
struct Segment {
  int64_t offset;
  int32_t length, k, tap, channel;
};

// The inputs that a matrix tile holds: `count` neighbouring elements of one row of a window, from element `first` of what lies
// side by side there. `column`: the tap it begins with; `bytes`: a bit for each.
struct TileStep {
  int32_t row, column, first, count;
  uint64_t bytes;
};

struct Window {
  int32_t kh, kw, sy, sx, py, px, dy, dx;
};

struct Op {
  vf_op d{};
  std::vector<int32_t> streams;      // copies of what the descriptor points to
  std::vector<int32_t> iy, ix;
  std::vector<double> wy, wx;
  std::vector<float> taps;
  std::vector<float> noise;          // (3, C) gain, floor, black: the descriptor's over noise_unit; the last as it is
  float noise_unit = 0;              // a variance near those of the noise, so that their products stay in range
  bool flat_noise = false;           // no gains: the variance of a channel is one number
  std::vector<uint64_t> watched;     // the descriptor's; empty: every pixel may count as changed
  enum Watches : uint8_t { kIgnored, kPart, kWatched };
  std::vector<uint8_t> watches;      // (R, H): what of a row of pixels is watched
  std::vector<int64_t> watched_blocks;  // (R): blocks with a watched pixel
  int32_t ld = 0;                    // elements (compute type) between the rows of a scratch register
  int32_t block_pixels = 0;          // pixels of a block
  int32_t most_pixels = kMaxBlock;   // of one that workers share
  int64_t cycles = 0;                // of a pixel, roughly
  // packed by the kernels
  Memory weight;                     // convolutions: panels; depthwise: (kh, kw, C padded)
  Memory bias;                       // (padded C) in the compute type
  std::vector<int32_t> panels;       // widths of the panels of output channels, in vectors
  int32_t rest = 0;                  // output channels after the panels, each computed along the reduction
  bool depthwise = false;
  bool decodes = false;              // numbers of a grid are turned into what they stand for as they are gathered
  bool rows = false;                 // rows of a window are filled up to whole units, not taps (dots.h)
  int32_t products = VF_PRODUCTS_PLAIN;  // Products
  bool sums = false;                 // register 0 holds sums of integers, which the ending takes for what they stand for
  bool uniform = false;              // one scale and one zero serve all channels of the value
  std::vector<TileStep> steps;       // of the reduction (tiles.h)
  std::vector<int64_t> offsets;      // bytes from a pixel's first tap to each of them; then those of inputs copied together
  int64_t extent = 0;                // bytes from there that all of them read
  bool in_place = false;             // they may be read where they lie
  Memory zeros;                      // what taps outside the input read, where it is not zero_row
  bool gather = false;               // input pixels are copied together first: their channels are not neighbours
  bool asks_old = false;             // a convolution that asks for the values kept while it computes
  int32_t reduction = 0;             // kh kw I / groups
  std::vector<std::vector<Segment>> inner, edge;  // by block of the reduction; transposed: edge by phase
  std::vector<uint8_t> whole;        // by row: the last frame computed everything because most of it was active
  int32_t narrow = 0;                // pointwise over few channels (narrow.h): vectors that hold whole pixels, else 0
  enum { kComputes, kCopies, kEncodes, kPicks, kCasts };
  int32_t copies = kComputes;        // copies.h
  int32_t winograd_tiles = 0;        // by minimal filtering (winograd.h): tiles of 2x2 results, at most so many a block
  size_t temp_bytes = 0;             // of Scratch::temp
  int32_t span = 0;                  // separable sums: columns that a stretch of pixels reads, 0: pixel by pixel
  // what comes before a convolution and is not kept (line_buffers.h)
  std::vector<Op> before;
  Window window{};                   // of the op, or of the one among its stages that reads a line buffer
  bool stage = false;                // a stage: its result goes to a line buffer, or if it is depthwise to Scratch::rows
  enum { kMap, kLineBuffer, kRows } reads = kMap;
  int32_t columns = 0, height = 0;   // of the results that a line buffer serves at a time; 0: there is none
  std::vector<int32_t> sweep;
  // the ending in one pass (fused.h): its source, the first argument of that, and its instruction
  int32_t ending = -1, operand = 0, activation = -1, rounding = 0;
};

// One worker's memory. Registers are rows of `Op::ld` compute elements, 64 byte aligned.
struct Scratch {
  void *reg[VF_MAX_REGS];
  void *temp;                        // Op::temp_bytes, for the kernel's own use
  int32_t done = 0;                  // instructions of the epilogue that were carried out already
  void *line_buffer = nullptr;       // pixel (0, 0) of the map of which it holds some rows; may lie outside
  void *rows = nullptr;              // results of a depthwise stage, those of the block's pixels one after the other
  // Of a block whose panels are computed call by call: a number of its own, and that of the block whose inputs `temp` holds.
  uint64_t block = 0, *copied = nullptr;
};
constexpr int kSpareRows = 32;       // rows after the last pixel of a register that may be overwritten
// A row of a frame under test. The amount of a pixel is 1 or 0 at threshold 0.
struct RowTest {
  int32_t r, y;
  float limit;
  uint64_t *bits;                    // set where the amount exceeds the limit; null: amounts are summed
  float *sums;                       // (W) over the rows tested since `first`
  bool first;
};

struct Kernels {
  // Prepare an op: choose ld, block_pixels and temp_bytes, pack weights.
  void (*prepare)(Op &op);
  // Compute the block into register 0, then finish it. `force`: store and count everything as changed (a fresh
  // stream). Sets bit i of `changed` for the block's pixel i and, where wanted, its squared magnitude.
  void (*block)(const Op &op, const Block &block, Scratch &scratch, bool force, uint64_t *changed, float *squares);
  // The part of `block` before the epilogue, for one panel of output channels of a convolution. `later`: the panel that
  // this worker will probably have next.
  void (*panel)(const Op &op, const Block &block, Scratch &scratch, int32_t panel, int32_t later);
  // The part of `block` before the epilogue, for panels first .. last - 1 of a convolution that is computed by
  // minimal filtering.
  void (*winograd)(const Op &op, const Block &block, Scratch &scratch, int32_t first, int32_t last);
  // The second half of `block`, with register 0 given: epilogue, test, store.
  void (*finish)(const Op &op, const Block &block, Scratch &scratch, bool force, uint64_t *changed, float *squares);
  // The results of a 1x1 stage, to Scratch::line_buffer.
  void (*expand)(const Op &op, const Block &block, Scratch &scratch);
  // Outputs first .. last - 1 of the linear layer that is instruction 0 of a block of one pixel.
  void (*linear)(const Op &op, Scratch &scratch, int32_t first, int32_t last);
  // Set row `row` of register 0 to `values` (c).
  void (*set_row)(const Op &op, Scratch &scratch, int32_t row, const double *values, int32_t c);
  // Tests a row of a frame against the value kept; whether all of the frame's values in it are finite.
  bool (*input_row)(const Op &op, const vf_frame &frame, const RowTest &test);
  // Copy a run of a frame into the value; squared magnitudes where not null.
  void (*input_store)(const Op &op, const vf_frame &frame, const Run &run, float *squares);
  // Add the sum and the sum of squares of a run of the value to sums[0] and sums[1].
  void (*moments)(const Op &op, const Run &run, double *sums);
  // Add the channels of a run of a view to `sums` (C).
  void (*accumulate)(const vf_view &view, const Run &run, double *sums);
  bool (*all_finite)(const void *data, int64_t count, int32_t dtype);
  // How alike a frame and the value kept are, of row r, over sums of some pixels' channels: figures 2 and 3 of VF_SEEN.
  void (*input_alike)(const Op &op, const vf_frame &frame, int32_t r, float *figures);
  int32_t (*products)();  // the best that they have for the processor (Products)
};

// The best that plans may use, if the processor has it (Products).
int32_t best_products();
bool chooses_products();  // nothing was said of them: the faster ones serve
// Another number in every frame of any plan: what a thread sets up once a frame has one of its own.
uint64_t frame_number();

const Kernels *kernels_portable();
const Kernels *kernels_avx2();
const Kernels *kernels_avx512();

// Whether the results of a stage are computed where they are read next. Others are rounded on their way there.
inline bool writes_in_place(const Op &op) { return op.stage && (op.d.dtype == VF_F32 || op.d.dtype == VF_F64); }

// Channels of the producer's result: of a convolution the width given for register 0, of others those of their input.
inline int32_t producer_channels(const Op &op) {
  if (op.d.kind == VF_CONV || op.d.kind == VF_TRANSPOSED) return op.d.width[0];
  return op.d.kind == VF_POINTWISE ? 0 : op.d.in.c;
}

inline Window window_of(const vf_op &d) { return {d.kh, d.kw, d.sy, d.sx, d.py, d.px, d.dy, d.dx}; }

// The depthwise convolution or maximum among an op and its stages, which reads a line buffer if anything does.
inline const Op &reader_of(const Op &op) {
  return !op.before.empty() && op.before.back().depthwise ? op.before.back() : op;
}

// Registers of an op, for the widest of its rows.
inline size_t register_bytes(const Op &op) {
  size_t item = op.d.dtype == VF_F64 ? 8 : 4;
  return size_t(op.ld) * (op.block_pixels + kSpareRows) * item;
}

}  // namespace vf
#endif
