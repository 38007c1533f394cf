// The C interface of the native kernels: a frame plan is a list of ops over buffers; one call runs a frame.
//
// A value is a map (R, H, W, C): rows (streams), pixels, channels. Every op fills one value: it works out which
// pixels a change reaches (bit masks), computes those (`kind`), passes them through an epilogue (`epi`), tests
// them against the value kept, stores what moved and leaves a mask.
#ifndef VIDEOEFF_H
#define VIDEOEFF_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

// Exported: everything else is compiled with hidden visibility.
#if defined(__GNUC__)
#define VF_API __attribute__((visibility("default")))
#else
#define VF_API
#endif

#define VF_ABI 7
#define VF_MAX_ARGS 6
#define VF_MAX_EPI 24
#define VF_MAX_REGS 4
#define VF_MAX_REACH 40
#define VF_MAX_TERMS 8
#define VF_MAX_STAGES 2

enum vf_dtype { VF_F32 = 0, VF_F64 = 1, VF_BF16 = 2 };

// How a pixel of the result is computed before the epilogue; the result lies in register 0.
enum vf_kind {
  VF_INPUT = 0,      // the caller's frame `in` (data given per frame); no epilogue
  VF_POINTWISE = 1,  // nothing: the epilogue loads its arguments
  VF_CONV = 2,       // convolution of `in` with `weight` (O, I/groups, kh, kw), bias inside
  VF_MAXPOOL = 3,    // maximum over the window kh x kw of `in`; NaN wins
  VF_SEPARABLE = 4,  // sum over taps wy[y][i] wx[x][j] in[iy[y][i]][ix[x][j]]: resampling and average pooling
  VF_MEAN = 5,       // mean over all pixels of `in` (extent of the result 1 x 1)
  VF_TRANSPOSED = 6, // transposed convolution, `weight` (I, O/groups, kh, kw)
};

// Epilogue instructions: dst = op(a, b), element by element over the channels of a pixel, unless said otherwise.
// a and b name registers 0..3 or, from VF_ARG on, arguments. p, q are scalars.
enum { VF_ARG = 16 };
enum vf_epi_op {
  VF_COPY = 0,
  VF_ADD = 1, VF_SUB = 2, VF_MUL = 3, VF_DIV = 4, VF_MAXIMUM = 5, VF_MINIMUM = 6,   // a op b
  VF_AFFINE = 7,      // p a + q
  VF_RDIV = 8,        // p / a
  VF_CLAMP = 9,       // max(min(a, q), p), NaN stays
  VF_LEAKY = 10,      // a < 0 ? p a : a   (relu: p = 0, but NaN stays)
  VF_SIGMOID = 11, VF_TANH = 12, VF_EXP = 13, VF_LOG = 14, VF_SQRT = 15, VF_ABS = 16, VF_NEG = 17,
  VF_SILU = 18,
  VF_HARDSWISH = 19,  // a clamp(a + 3, 0, 6) / 6
  VF_HARDSIGMOID = 20,
  VF_GELU = 21,       // with erf
  VF_GELU_TANH = 22,
  VF_ELU = 23,        // a > 0 ? q a : q p (exp(a) - 1)    (alpha p, scale q)
  VF_SOFTPLUS = 24,   // log(1 + exp(p a)) / p, a where p a > q
  VF_MISH = 25,
  VF_ERF = 26,
  VF_PRELU = 27,      // a < 0 ? a b : a
  VF_SOFTMAX = 28,    // over channels
  VF_LOG_SOFTMAX = 29,
  VF_NORMALIZE = 30,  // (a - mean) / sqrt(var + p) over channels
  VF_RMS_NORMALIZE = 31,  // a / sqrt(mean(a a) + p)
  VF_LINEAR = 32,     // W a + b: argument b is W (O, I) rows contiguous, argument b + 1 the bias (O) if q != 0
  VF_POW = 33,        // a ^ p, p 0.5, 2, 3 or -0.5
};

typedef struct {
  int32_t op, dst, a, b;
  double p, q;
} vf_epi;

// A value in memory; strides in elements, 0 where the value is broadcast.
typedef struct {
  void *data;
  int64_t size;            // elements that may be touched from `data` on
  int64_t sr, sh, sw, sc;  // strides of rows, pixel rows, pixel columns, channels
  int32_t r, h, w, c;      // extent; 1 where broadcast
  int32_t dtype;
  int32_t reserved;
} vf_view;

// How pixels of a result follow from a mask.
enum vf_reach_kind {
  VF_SAME = 0,    // the same pixel
  VF_WHOLE = 1,   // any changed pixel of the row (stream) activates the whole row
  VF_WINDOW = 2,  // the window kh, kw, sy, sx, py, px, dy, dx of the op
  VF_TABLE = 3,   // the index ranges of the op's tables
  VF_SPREAD = 4,  // the transposed window of the op
};

typedef struct {
  int32_t mask;  // which mask
  int32_t kind;
} vf_reach;

enum vf_test { VF_TEST_MAX = 0, VF_TEST_L2 = 1, VF_TEST_RMS = 2 };

typedef struct {
  int32_t mask;  // whose squared magnitudes
  int32_t reserved;
  double share;
} vf_term;

// A convolution whose result is not kept: computed anew for the pixels that the next one reads.
typedef struct {
  int32_t h, w, c;         // extent of its result
  int32_t kh, kw, sy, sx, py, px, dy, dx, groups;
  int32_t nepi, reserved;
  vf_epi epi;              // one instruction over register 0, such as an activation
  const void *weight, *bias;
} vf_stage;

typedef struct {
  int32_t kind, dtype;
  int32_t mask;        // index of this op's own mask, unique in the plan
  int32_t reserved;
  vf_view out;
  vf_view in;          // the producer's input; for VF_INPUT strides are given per frame
  int32_t input;       // VF_INPUT: which frame
  // window
  int32_t kh, kw, sy, sx, py, px, dy, dx, groups;
  int32_t gate;        // VF_CONV: 1 + the argument (R, 1, 1, C) that the input's channels are multiplied with, 0: none
  const void *weight;  // contiguous, of the op's dtype (float32 or float64; bfloat16 ops have bfloat16 weights)
  const void *bias;    // (C) or null
  // tables (VF_SEPARABLE): ty taps a row, tx a column
  int32_t ty, tx;
  const int32_t *iy, *ix;  // (H, ty), (W, tx)
  const double *wy, *wx;   // the same shapes
  // epilogue
  int32_t nepi, nargs;
  vf_epi epi[VF_MAX_EPI];
  vf_view args[VF_MAX_ARGS];
  int32_t width[VF_MAX_REGS];  // widest row each register holds, 0 if unused
  // reach
  int32_t nreach;
  int32_t dense;           // 1: everything is computed whenever anything it reads changed in the stream
  vf_reach reach[VF_MAX_REACH];
  const int32_t *streams;  // (R) stream of each row; null: rows mix streams, any fresh stream makes all fresh
  // change test
  int32_t test;
  int32_t block, dilation; // VF_INPUT only
  int32_t relative;        // threshold is relative to scale[row]
  double threshold;
  float *scale;            // (R), written when a row is fresh; null: none
  // predicted changes
  int32_t magnitude;       // keep the squared magnitude of each change
  int32_t nsources, nresiduals, reserved2;
  vf_term sources[VF_MAX_TERMS];
  vf_term residuals[VF_MAX_TERMS];
  double factor;           // pi, 0: off
  float *pending;          // (R, H, W) contiguous
  const float *taps;       // (kh, kw) kappa of each tap
  double dense_share;      // compute everything when at least this share of the pixels is active; > 1: never
  // VF_CONV, VF_MAXPOOL: what comes before it. The first reads `in`, each other the one before it, the op itself the last:
  // a convolution, a depthwise one (or the op, a maximum), a 1x1 one (the op), of which the first or the last may be
  // absent. VF_WINDOW is the window of all of them.
  int32_t nbefore;
  int32_t winograd;        // VF_CONV of 3x3 in float32: 1: compute 2x2 results together, by minimal filtering
  vf_stage before[VF_MAX_STAGES];
} vf_op;

// A mask that the plan does not compute itself but is told, or that only has an extent.
typedef struct {
  int32_t r, h, w;
  int32_t magnitude;
} vf_mask;

typedef struct vf_plan vf_plan;

typedef struct {
  const void *data;
  int64_t sr, sh, sw, sc;  // strides in elements
} vf_frame;

// Instruction sets: 0 portable, 1 AVX2 with FMA, 2 AVX-512 (F, BW, DQ, VL).
VF_API int32_t vf_abi(void);
VF_API int64_t vf_sizeof(int32_t what);  // 0 vf_op, 1 vf_view, 2 vf_epi, 3 vf_mask, 4 vf_frame, 5 vf_stage
VF_API int32_t vf_best_isa(void);

// From now on all plans work on the threads of this runtime of OpenMP, given by its `GOMP_parallel`; null: on threads of
// their own. A forked child goes back to its own.
typedef void (*vf_parallel)(void (*function)(void *), void *data, unsigned threads, unsigned flags);
VF_API void vf_use_openmp(vf_parallel parallel);

// A plan of `nops` ops over `nmasks` masks. `isa` -1: the best. Copies the descriptors and packs the weights; data
// pointers of views must outlive the plan. Null on failure, with a sentence in `error`.
VF_API vf_plan *vf_plan_create(const vf_op *ops, int64_t nops, const vf_mask *masks, int64_t nmasks, int32_t isa,
                               char *error, int64_t error_size);
VF_API void vf_plan_destroy(vf_plan *plan);

// One frame. `fresh` (streams) bytes; `threads` to use; `flags`: VF_COUNT adds to the counters, VF_FINITE refuses a
// frame with NaN or infinity before anything is changed, VF_OP_BY_OP computes the whole map of an op before the next op.
// Returns 0, or VF_NOT_FINITE + the number of a frame that is not finite.
enum vf_flags { VF_COUNT = 1, VF_FINITE = 2, VF_OP_BY_OP = 4 };
enum vf_answer { VF_NOT_FINITE = 16 };
VF_API int32_t vf_plan_run(vf_plan *plan, const vf_frame *frames, int64_t nframes, const uint8_t *fresh,
                           int64_t streams, int32_t threads, int32_t flags);

// Forget everything derived from the values (sums of means): call after the buffers were written from outside.
VF_API void vf_plan_invalidate(vf_plan *plan);

// Counters: (nops, 4) active and scheduled pixels, in op order, summed over the frames counted; of a stage that is
// computed in line buffers the pixels that had changed and those that were computed.
VF_API int64_t *vf_plan_counts(vf_plan *plan);
VF_API int64_t vf_plan_row_blocks(const vf_plan *plan);  // of maps that were computed apart, over all frames
VF_API int64_t vf_plan_bytes(const vf_plan *plan, int32_t what);  // 0 packed weights, 1 masks and sums, 2 scratch

// Masks as bytes (R, H, W). `which` 0: changed, 1: active (computed), by mask index.
VF_API int32_t vf_mask_read(vf_plan *plan, int32_t mask, int32_t which, uint8_t *bytes);
VF_API int32_t vf_mask_write(vf_plan *plan, int32_t mask, const uint8_t *bytes);
VF_API int32_t vf_magnitude_read(vf_plan *plan, int32_t mask, float *squares);   // 0 where nothing changed
VF_API int32_t vf_magnitude_write(vf_plan *plan, int32_t mask, const float *squares);

// Whether all `count` elements (dtype) are finite.
VF_API int32_t vf_all_finite(const void *data, int64_t count, int32_t dtype);

// Copy `entries` dense pictures of `pixels` x `channels` elements of `item` bytes (1, 2, 4 or 8) as channels x pixels.
VF_API void vf_planes(const void *from, void *to, int64_t entries, int64_t pixels, int64_t channels, int64_t item,
                      int32_t threads);

// Nanoseconds spent per op since the last call with reset = 1, (nops); null when not compiled in.
VF_API int64_t *vf_plan_times(vf_plan *plan, int32_t reset);

#ifdef __cplusplus
}
#endif
#endif
