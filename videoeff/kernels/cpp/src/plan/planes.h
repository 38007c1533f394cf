// Outputs for the caller: pixels with their channels side by side become planes.
#ifndef VIDEOEFF_PLANES_H
#define VIDEOEFF_PLANES_H

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "team.h"

namespace vf {

struct Planes {
  const void *from;
  void *to;
  int64_t pixels, channels, item, blocks;
};

typedef uint32_t vquad __attribute__((vector_size(16)));

static inline vquad load_quad(const uint32_t *p) {
  vquad v;
  std::memcpy(&v, p, 16);
  return v;
}

// Four channels of four pixels at a time, by registers. Returns the pixels done.
static int64_t copy_quads(const uint32_t *from, uint32_t *to, int64_t n, int64_t c, int64_t plane) {
  int64_t i = 0;
  for (; i + 4 <= n; i += 4) {
    const uint32_t *p = from + i * c;
    vquad a = load_quad(p), b = load_quad(p + c), d = load_quad(p + 2 * c), e = load_quad(p + 3 * c);
    vquad ab = __builtin_shuffle(a, b, vquad{0, 4, 1, 5}), AB = __builtin_shuffle(a, b, vquad{2, 6, 3, 7});
    vquad de = __builtin_shuffle(d, e, vquad{0, 4, 1, 5}), DE = __builtin_shuffle(d, e, vquad{2, 6, 3, 7});
    const vquad rows[4] = {__builtin_shuffle(ab, de, vquad{0, 1, 4, 5}), __builtin_shuffle(ab, de, vquad{2, 3, 6, 7}),
                           __builtin_shuffle(AB, DE, vquad{0, 1, 4, 5}), __builtin_shuffle(AB, DE, vquad{2, 3, 6, 7})};
    for (int k = 0; k < 4; k++) std::memcpy(to + k * plane + i, &rows[k], 16);
  }
  return i;
}

template <class E> static void copy_planes(const Planes &work, int64_t entry, int64_t first, int64_t last) {
  const E *from = static_cast<const E *>(work.from) + (entry * work.pixels + first) * work.channels;
  E *to = static_cast<E *>(work.to) + entry * work.pixels * work.channels + first;
  const int64_t n = last - first, c = work.channels, plane = work.pixels;
  int64_t j = 0;
  if constexpr (sizeof(E) == 4)
    for (; j + 4 <= c; j += 4)
      for (int64_t i = copy_quads(from + j, to + j * plane, n, c, plane); i < n; i++)
        for (int64_t k = j; k < j + 4; k++) to[k * plane + i] = from[i * c + k];
  for (; j < c; j++)
    for (int64_t i = 0; i < n; i++) to[j * plane + i] = from[i * c + j];
}

static void planes_task(void *context, int64_t index, int) {
  const Planes &work = *static_cast<Planes *>(context);
  const int64_t entry = index / work.blocks, first = index % work.blocks * kPlaneBlock;
  const int64_t last = std::min(first + kPlaneBlock, work.pixels);
  if (work.item == 8) copy_planes<uint64_t>(work, entry, first, last);
  else if (work.item == 4) copy_planes<uint32_t>(work, entry, first, last);
  else if (work.item == 2) copy_planes<uint16_t>(work, entry, first, last);
  else copy_planes<uint8_t>(work, entry, first, last);
}

static void run_planes(Planes work, int64_t entries, int threads) {
  work.blocks = (work.pixels + kPlaneBlock - 1) / kPlaneBlock;
  const Team team(entries * work.blocks > 1 ? threads : 1);
  team.run(entries * work.blocks, threads, planes_task, &work);
}

}  // namespace vf
#endif
