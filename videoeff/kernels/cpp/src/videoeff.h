// The C interface of the native kernels: a frame plan is a list of ops over buffers; one call runs a frame.
//
// A value is a map (R, H, W, C): rows (streams), pixels, channels. Every op fills one value: it works out which
// pixels a change reaches (bit masks), computes those (`kind`), passes them through an epilogue (`epi`), tests
// them against the value kept, stores what moved and leaves a mask.
#ifndef VIDEOEFF_H
#define VIDEOEFF_H

#include <stdint.h>

#include "numbers.h"  // made by build.py: enums and limits, as Python has them in region_spec/codes.py and cpp/numbers.py

#ifdef __cplusplus
extern "C" {
#endif

// Exported: everything else is compiled with hidden visibility.
#if defined(__GNUC__)
#define VF_API __attribute__((visibility("default")))
#else
#define VF_API
#endif

// An instruction of an epilogue: dst = op(a, b), element by element over the channels of a pixel, unless EpiOp says
// otherwise. a and b name registers or, from VF_ARG on, arguments. p, q are scalars. The result of what is computed before
// the epilogue lies in register 0.
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
  const float *grid;       // VF_U8: what its numbers stand for, (VF_GRID_ROWS, C rounded up to 16, and 16 more); else null
} vf_view;

// How pixels of a result follow from a mask.
typedef struct {
  int32_t mask;  // which mask
  int32_t kind;  // ReachKind
} vf_reach;

typedef struct {
  int32_t mask;  // whose squared magnitudes
  int32_t reserved;
  double share;
} vf_term;

// A convolution whose result is not kept: computed anew for the pixels that the next one reads.
typedef struct {
  int32_t h, w, c;         // extent of its result
  int32_t kh, kw, sy, sx, py, px, dy, dx, groups;
  int32_t nepi;
  int32_t integer;         // as that of vf_op
  vf_epi epi;              // one instruction over register 0, such as an activation
  const void *weight, *bias;
  const float *factors;    // as those of vf_op
  const float *grid;       // of an op of VF_U8: what the numbers of its result stand for, as that of a vf_view; else null
} vf_stage;

// Where changes come from, and which of its pixels are near each pixel of a map. Null tables: all of it is.
typedef struct {
  int32_t mask;  // whose changes
  int32_t reserved;
  const int32_t *top, *bottom;  // (H of the map): the first and the last row of the mask that are near
  const int32_t *first, *last;  // (W of the mask): the first and the last column of the map that it is near to; first >
                                // last: none
} vf_near;

typedef struct {
  int32_t kind, dtype; // Kind, Dtype
  int32_t mask;        // index of this op's own mask, unique in the plan
  int32_t integer;     // VF_CONV that reads VF_U8 with one scale: `weight` holds int8_t
  vf_view out;
  vf_view in;          // the producer's input; for VF_INPUT strides are given per frame
  int32_t input;       // VF_INPUT: which frame
  // window
  int32_t kh, kw, sy, sx, py, px, dy, dx, groups;
  int32_t gate;        // VF_CONV: 1 + the argument (R, 1, 1, C) that the input's channels are multiplied with, 0: none
  const void *weight;  // contiguous, of the op's dtype (float32 or float64; bfloat16 ops have bfloat16 weights)
  const void *bias;    // (C) or null
  const float *factors;    // VF_CONV that reads VF_U8: (C) what a weight of 1 stands for; null: 1
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
  int32_t test;            // ChangeTest
  int32_t block, dilation; // VF_INPUT only
  int32_t relative;        // threshold is relative to scale[row]
  double threshold;
  float *scale;            // (R), written when a row is fresh; null: none
  int32_t grow, reserved3; // VF_INPUT: how often hits grow to neighbours that exceed weak * threshold
  double weak;
  const float *noise;      // VF_TEST_NOISE: (C, 3) gain, floor, black; null: none
  const uint64_t *watched; // VF_INPUT: (R, H, (W + 63) / 64): a bit for each pixel that may count as changed; null: all may
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
  // bounded reach: pixels that are not near what changed are put off
  int32_t vicinity;        // 1 + the number of the set of near pixels, which ops with the same bound share; 0: no bound
  int32_t nnear;
  const vf_near *near;
  uint64_t *deferred;      // (R, H, (W + 63) / 64): a bit for each pixel put off
  int32_t nsweep;          // frames of a sweep, 0: none
  int32_t reserved4;
  const int32_t *sweep;    // (nsweep + 1): in frame p pixels put off of rows sweep[p] .. sweep[p + 1] - 1 are computed
  const int32_t *phase;    // (streams): frames since the first; negative: no refresh
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

VF_API int32_t vf_abi(void);
// Bytes of a structure ("vf_op"), or where a field of it lies ("vf_op.kind"); -1 of what is not there.
VF_API int64_t vf_layout(const char *what);
VF_API int32_t vf_best_isa(void);  // Isa

// From now on all plans work on the threads of this runtime of OpenMP, given by its `GOMP_parallel`; null: on threads of
// their own. A forked child goes back to its own.
typedef void (*vf_parallel)(void (*function)(void *), void *data, unsigned threads, unsigned flags);
VF_API void vf_use_openmp(vf_parallel parallel);

// How plans made from now on compute products of 8-bit numbers and of bfloat16 at best (Products), to compare with; negative:
// as it was. Returns the best that the processor has, at most what was asked for. The best of all serves if nothing is said.
VF_API int32_t vf_use_products(int32_t best);

// A plan of `nops` ops over `nmasks` masks. `isa` -1: the best. Copies the descriptors and packs the weights; data
// pointers of views must outlive the plan. Null on failure, with a sentence in `error`.
VF_API vf_plan *vf_plan_create(const vf_op *ops, int64_t nops, const vf_mask *masks, int64_t nmasks, int32_t isa,
                               char *error, int64_t error_size);
VF_API void vf_plan_destroy(vf_plan *plan);

// One frame. `fresh` (streams) bytes; `threads` to use; `flags`: bits of Flag. Returns an Answer.
VF_API int32_t vf_plan_run(vf_plan *plan, const vf_frame *frames, int64_t nframes, const uint8_t *fresh,
                           int64_t streams, int32_t threads, int32_t flags);

// Forget everything derived from the values (sums of means): call after the buffers were written from outside.
VF_API void vf_plan_invalidate(vf_plan *plan);

// Counters: (nops, VF_COUNTS) active and scheduled pixels, in op order, summed over the frames counted; of a stage that is
// computed in line buffers the pixels that had changed and those that were computed.
VF_API int64_t *vf_plan_counts(vf_plan *plan);
VF_API int64_t vf_plan_row_blocks(const vf_plan *plan);  // of maps that were computed apart, over all frames
VF_API int64_t vf_common_bytes(void);  // of packed weights: plans have equal ones in the same memory, counted here once
VF_API int64_t vf_plan_bytes(const vf_plan *plan, int32_t what);  // Held

// What the test of an input saw in the last frame, by op, as (R, VF_SEEN): share of its blocks that moved; share that newly
// moved a little, of the blocks with a watched pixel; and, where at least half moved (else NaN), how alike frame and value were (their correlation) and the
// share of their squared difference that another light explains (frame = gain value + offset). All are NaN in the first
// frame of a stream. Null: nothing was tested.
VF_API const float *vf_plan_seen(const vf_plan *plan, int64_t op);

// Masks as bytes (R, H, W), by mask index. `which`: MaskPart.
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
