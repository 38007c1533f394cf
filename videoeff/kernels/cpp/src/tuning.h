// The numbers that decide about speed: sizes of blocks, shares of caches, from when on a faster way pays. Each has its
// unit and a word on where it comes from:
//   sized    worked out from the processor's registers and caches;
//   timed    the best of several values tried on whole layers or networks;
//   guessed  a plausible value; no measurement of it is kept.
// All were found on one processor, the Intel Xeon at 2.5 GHz of docs/cpu.md: AVX-512, 32 KB L1 and 1 MB L2 a core. None
// changes what is computed; kReduction, kChain, kMaxRest and the estimate of kRestSums change the order of sums, so last bits.
// What Python decides stands in tuning.py; `videoeff tune` measures some of that anew.
#ifndef VIDEOEFF_TUNING_H
#define VIDEOEFF_TUNING_H

#include <cstddef>
#include <cstdint>

namespace vf {

// ---- blocks of pixels ------------------------------------------------------------------------------------------------

// Pixels that no block exceeds. Sized: a panel of weights is read from L2 once a block, and the pointers of a block's
// pixels still lie in L1.
constexpr int kMaxBlock = 192;
// Bytes of a block's results. Sized: they stay in L2 beside a panel of weights.
constexpr int64_t kScratchBytes = 384 << 10;
// Pixels: the size of a block is a multiple of it, and at least so much. Sized: the heights 12, 8 and 6 of the register
// blocks divide it.
constexpr int32_t kBlockStep = 24;
// The same for matrix tiles. Sized: two tiles of 16 pixels.
constexpr int32_t kTileStep = 32;
// Bytes of a block's results, where they are numbers and the weights few. Timed: single layers by matrix tiles, 12 to 48 KB.
constexpr int64_t kNearBytes = 48 << 10;
// Bytes of weights below which that holds. Sized: they stay in L1 or L2 whatever the block.
constexpr size_t kFewWeights = size_t(48) << 10;
// Bytes of a block's inputs, where they may have to be copied together for matrix tiles. Sized: they stay in L2.
constexpr int64_t kTilesCopied = int64_t(768) << 10;
// Pixels of a block at most, where no panel of weights is shared by them. Guessed.
constexpr int32_t kMaxPlainBlock = 96;
// Elements: rows of results that lie a multiple of it apart are moved by kRowStep. Sized: they would share cache sets.
constexpr int32_t kSetElements = 256;
// Elements: rows of results are a multiple of it, and so far apart at least. Sized: a vector of AVX-512.
constexpr int32_t kRowStep = 16;

// ---- sharing among workers -------------------------------------------------------------------------------------------

// Cycles of work below which one worker does an op alone. Timed: so much is over before another thread has joined and left.
constexpr int64_t kAlone = 12000;
// Blocks for each worker below which they are cut evenly. Guessed.
constexpr int kBlocksEach = 4;
// Pixels for each worker below which a block is not cut up to give everyone some. Guessed.
constexpr int kPixelsEach = 16;
// Bytes of weights from which on the workers share weights, not pixels, and the next weights are asked for ahead. Sized:
// what lies between them and the next frame evicts these.
constexpr size_t kManyWeights = size_t(256) << 10;
// Bytes of weights of an output channel, for each pixel, from which on they are shared where tiles multiply. Sized: the bytes
// of a result.
constexpr int64_t kSharedResults = 4;
// Pixels, of the pieces that shared blocks are made of. Sized: as kBlockStep.
constexpr int32_t kSharedPiece = 24;
// Outputs of a linear layer that a worker takes at a time. Guessed.
constexpr int32_t kLinearPart = 64;
// Weights from which on the workers share a linear layer behind a mean. Guessed.
constexpr int64_t kManyLinearWeights = 1 << 17;
// Rounds that a worker of our own pool spins before it sleeps. Guessed: some 50 to 100 microseconds, more than between two
// ops and less than between frames.
constexpr int kSpins = 4000;
// Rounds of spinning after which the core is offered to others once. Guessed.
constexpr int kSpinsToYield = 64;
// Threads of OpenMP sleep if they take longer than kWakeMost microseconds for an empty region, kWakePause microseconds after
// their last one, in the quickest of some tries. Sized: GNU's spins 300,000 rounds, or 1,000 (20 to 50 microseconds) where it
// has more threads than processors; being woken then takes 30 microseconds and more, a region 1 to 5.
constexpr int kWakePause = 200;
constexpr int kWakeMost = 20;
constexpr int kWakeTries = 2;
// Milliseconds until they are asked again.
constexpr int kWakeKept = 1000;

// The cycles of a pixel, roughly, which kAlone is compared with. Sized: vector products that the processor starts in a
// cycle; guessed: cycles for each vector of results, for each of its instructions, and for the pixel.
constexpr int64_t kProductsPerCycle = 2;
constexpr int64_t kCyclesOfVector = 2;
constexpr int64_t kCyclesOfInstruction = 4;
constexpr int64_t kCyclesOfPixel = 30;

// ---- matrix products -------------------------------------------------------------------------------------------------

// Register blocks: pixels, by vectors of output channels that they are multiplied with, from the largest block to one
// pixel. Sized: accumulators, a row of weights and a broadcast fill 32 registers (AVX-512) or 16.
constexpr int kMaxVectorsOf32 = 4, kMaxVectorsOf16 = 2;
constexpr int kBlocksOf32[kMaxVectorsOf32 + 1][4] = {{}, {12, 6, 3, 1}, {12, 6, 3, 1}, {8, 4, 2, 1}, {6, 3, 2, 1}};
constexpr int kBlocksOf16[kMaxVectorsOf16 + 1][4] = {{}, {12, 6, 3, 1}, {6, 3, 2, 1}};
// Output channels after the last whole vector that may be computed along the reduction, where vectors are loaded in part
// at no cost; and pixels of their register blocks, by such channels. Sized: as above.
constexpr int kMaxRestOf32 = 8;
constexpr int kRestPixels[kMaxRestOf32 + 1] = {1, 12, 12, 8, 6, 4, 4, 3, 3};
// Products along the reduction that a sum over lanes takes the time of. Guessed.
constexpr int64_t kRestSums = 6;
// Channels are computed along the reduction where that takes less than so many quarters of the products of a vector of
// weights. Guessed.
constexpr int64_t kRestQuarters = 3;
// Elements of the longest block of the reduction, if it is split at all. Sized: its panel of 48 channels is 144 KB, and
// its inputs for a register block of 8 pixels 24 KB of L1.
constexpr int kReduction = 768;
// Products that are added one to another before their sum is added to the result. Sized: the error of a sum grows with the
// length of its chain, and adding twice every so many products costs one part in a hundred.
constexpr int64_t kChain = 128;
// Bytes of old values for each row of the reduction from which on they are asked for ahead. Timed: for fewer it does not
// pay.
constexpr int64_t kAskBytes = 20;

// ---- minimal filtering -----------------------------------------------------------------------------------------------

// Tiles of 2x2 results in a block. Sized: they are the pixels of the largest block.
constexpr int kMaxWinogradTiles = kMaxBlock / 4;
// Elements between the rows of results from which on a block has no more than its usual pixels. Sized: with more the
// results of the largest block pass L2.
constexpr int kManyOutputs = 1200;
// Bytes of transformed weights from which on workers may share them. Sized: beside a block's transformed inputs these
// leave L2.
constexpr size_t kManyWinogradWeights = size_t(640) << 10;
// Bytes of transformed weights from which on workers share them at any number of pixels. Timed.
constexpr size_t kMostWinogradWeights = size_t(8) << 20;
// Largest blocks for each worker below which the workers share the weights of one. Timed.
constexpr int64_t kSharedWinogradBlocks = 2;
// Pixels at most, of a run that may go to another worker than its neighbour. Guessed.
constexpr int32_t kSharedRun = 16;

// ---- other producers -------------------------------------------------------------------------------------------------

// Neighbouring pixels that a depthwise convolution computes together. Sized: accumulators, a row of taps and an input
// vector fit 32 registers (AVX-512) or 16.
constexpr int kDepthwisePixelsOf32 = 8, kDepthwisePixelsOf16 = 4;
// The same for kernels and strides that have no code of their own. Sized: as above.
constexpr int kDepthwisePixels = 4;
// Pixels of a run that share the sums over rows in resampling. Guessed.
constexpr int32_t kStretch = 32;
// Taps of a separable sum that are collected at a time. Guessed.
constexpr int kTaps = 64;
// Pointwise steps over few channels: vectors that hold whole pixels, and steps. Sized: three channels fill three vectors.
constexpr int kNarrowVectors = 3;
constexpr int kNarrowSteps = 4;
// Channels of an operand that are copied at a time. Sized: a copy of 2 KB stays in L1.
constexpr int kPiece = 512;
// Elements read between two looks at whether all were finite. Sized: about L1.
constexpr int64_t kFiniteChunk = 1 << 14;
// Pixels copied to planes together. Guessed: a stretch of each plane that is worth a prefetch.
constexpr int64_t kPlaneBlock = 1024;

// ---- large maps ------------------------------------------------------------------------------------------------------

// Bytes of a map from which on chains of ops go row block by row block. Sized: a smaller one is still in the
// cache when the next op reads it.
constexpr int64_t kLargeMap = int64_t(3) << 19;
// Bytes of a row block of the widest map, for each worker. Sized: half of L2.
constexpr int64_t kRowBlockBytes = int64_t(1) << 19;
// Row blocks below which a chain goes op by op. Sized: one block is the whole map.
constexpr int kFewestRowBlocks = 2;
// By how much the share of active pixels has to fall below the one from which on an op is computed whole, before it is
// not any more. Guessed.
constexpr double kHysteresis = 0.05;
// Bytes of a line buffer. Sized: it lies in L2 beside weights and a block's rows.
constexpr int64_t kLineBufferBytes = int64_t(320) << 10;
// Rows of results that a line buffer serves at a time, at most; and as many as it should have room for before it is made
// narrower. Guessed.
constexpr int32_t kLineBufferRows = 8;
constexpr int32_t kLineBufferWanted = 3;
// Columns of results that a line buffer serves at least, where the map has as many, and what others are rounded up to.
// Guessed.
constexpr int32_t kLineBufferColumns = 32;
constexpr int32_t kLineBufferStep = 16;
// Pixels of a block that reads a depthwise stage. Guessed: few rows of the stage lie
// between computing and reading one.
constexpr int32_t kStageBlock = 48;
// Rows of a part of the picture that a worker goes down, at least: each computes the fringe of its rows anew. Guessed.
constexpr int32_t kPartRows = 8;
// Parts of the picture for each worker. Guessed.
constexpr int64_t kPartsEach = 2;

}  // namespace vf
#endif
