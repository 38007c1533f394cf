// Packed weights and biases of all plans, found by what they hold: plans of one network have them in the same memory.
#ifndef VIDEOEFF_COMMON_H
#define VIDEOEFF_COMMON_H

#include <cstdlib>
#include <cstring>
#include <mutex>
#include <unordered_map>

#include "internal.h"

namespace vf {

struct Common {
  void *data;
  size_t bytes, users;
  uint64_t hash;
};

struct AllCommon {
  std::mutex lock;
  std::unordered_multimap<uint64_t, Common *> held;
};

static AllCommon &all_common() {
  static AllCommon *const all = new AllCommon;  // never destroyed: plans may outlive static objects
  return *all;
}

static uint64_t hash_of(const Memory &memory) {
  uint64_t sum = memory.bytes;
  const char *at = static_cast<const char *>(memory.data);
  for (size_t i = 0; i + 8 <= memory.bytes; i += 8) {  // memory comes in whole cache lines
    uint64_t word;
    std::memcpy(&word, at + i, 8);
    sum = (sum ^ word) * 0x9e3779b97f4a7c15u;
    sum ^= sum >> 29;
  }
  return sum;
}

// From now on `memory` is that of all who hold the same bytes. Nobody may write to it any more.
static void share(Memory &memory) {
  if (!memory.bytes || memory.common) return;
  const uint64_t hash = hash_of(memory);
  AllCommon &all = all_common();
  const std::lock_guard<std::mutex> guard(all.lock);
  for (auto [at, last] = all.held.equal_range(hash); at != last; ++at) {
    Common *found = at->second;
    if (found->bytes != memory.bytes || std::memcmp(found->data, memory.data, memory.bytes)) continue;
    std::free(memory.data);
    found->users++;
    memory.data = found->data, memory.common = found;
    return;
  }
  Common *made = new Common{memory.data, memory.bytes, 1, hash};
  try {
    all.held.emplace(hash, made);
  } catch (...) {
    delete made;
    throw;
  }
  memory.common = made;
}

static void leave(Common *common) {
  AllCommon &all = all_common();
  const std::lock_guard<std::mutex> guard(all.lock);
  if (--common->users) return;
  for (auto [at, last] = all.held.equal_range(common->hash); at != last; ++at) {
    if (at->second != common) continue;
    all.held.erase(at);
    break;
  }
  std::free(common->data);
  delete common;
}

// Bytes that are held in common, each once.
static size_t common_bytes() {
  AllCommon &all = all_common();
  const std::lock_guard<std::mutex> guard(all.lock);
  size_t total = 0;
  for (const auto &entry : all.held) total += entry.second->bytes;
  return total;
}

}  // namespace vf

#endif
