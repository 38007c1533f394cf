// Workers for the ops of a frame: a region of an OpenMP runtime, and a small pool of threads of our own.
#ifndef VIDEOEFF_POOL_H
#define VIDEOEFF_POOL_H

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <thread>
#include <vector>

#include "tuning.h"

namespace vf {

// How a runtime of OpenMP runs a parallel region: function(data) on at most so many threads, until all are done.
using Parallel = void (*)(void (*function)(void *), void *data, unsigned threads, unsigned flags);

using Task = void (*)(void *context, int64_t index, int worker);

// A region of OpenMP. Each thread has a part of the indices to itself, the same part from op to op, so that it finds
// in its own cache what it left there; who is done takes from the others' parts.
struct Region {
  struct alignas(64) Part {
    std::atomic<int64_t> next;
    int64_t stop;
  };
  static constexpr int kMost = 64;

  Task task;
  void *context;
  int parts;
  std::thread::id caller = std::this_thread::get_id();
  std::atomic<int> helpers{1};
  Part part[kMost];

  Region(Task t, void *c, int64_t count, int workers) : task(t), context(c), parts(workers < kMost ? workers : kMost) {
    for (int i = 0; i < parts; i++) part[i].next.store(count * i / parts), part[i].stop = count * (i + 1) / parts;
  }
  static void work(void *data) {
    Region &region = *static_cast<Region *>(data);
    const int worker = std::this_thread::get_id() == region.caller ? 0 : region.helpers.fetch_add(1, std::memory_order_relaxed);
    for (int i = 0; i < region.parts; i++) {
      Part &part = region.part[(worker + i) % region.parts];
      for (int64_t k; (k = part.next.fetch_add(1, std::memory_order_relaxed)) < part.stop;) region.task(region.context, k, worker);
    }
  }
};

// Threads that spin for a moment between the ops and sleep between frames. One frame at a time.
class Pool {
 public:
  // Runs task(context, 0 .. n - 1, worker) on at most `workers` threads, the caller among them as worker 0.
  void run(int64_t n, int workers, Task task, void *context) {
    grow(workers - 1);
    for (int64_t first = 0; first < n; first += kMax) {
      int64_t count = n - first < kMax ? n - first : kMax;
      task_ = task, context_ = context, first_ = first;
      limit_.store(workers - 1, std::memory_order_relaxed);
      done_.store(0, std::memory_order_relaxed);
      generation_ = (generation_ + 1) & 0xffffff;
      ticket_.store(generation_ << 40 | uint64_t(count) << 20);
      if (sleeping_.load() > 0) {
        std::lock_guard<std::mutex> lock(mutex_);
        wake_.notify_all();
      }
      work(0);
      for (int spin = 0; done_.load(std::memory_order_acquire) < count; spin++) pause(spin);
    }
  }

  static void pause(int spin) {
    if (spin % kSpinsToYield == kSpinsToYield - 1) {
      std::this_thread::yield();
    } else {
#if defined(__x86_64__)
      __builtin_ia32_pause();
#endif
    }
  }

 private:
  static constexpr int64_t kMax = (1 << 20) - 1;  // indices of a ticket

  // Takes indices until none are left. A ticket is (generation, count, next index): what is taken belongs to the job whose
  // count it carries, and that job cannot end before it is done. A worker that comes late may find another job than the one
  // it was woken for, with fewer workers, and has no part in it.
  void work(int worker) {
    uint64_t ticket = ticket_.load(std::memory_order_acquire);
    while (true) {
      const uint64_t index = ticket & 0xfffff, count = ticket >> 20 & 0xfffff;
      if (index >= count || worker > limit_.load(std::memory_order_relaxed)) return;
      if (!ticket_.compare_exchange_weak(ticket, ticket + 1, std::memory_order_acq_rel, std::memory_order_acquire)) continue;
      task_(context_, first_ + int64_t(index), worker);
      done_.fetch_add(1, std::memory_order_acq_rel);
      ticket = ticket_.load(std::memory_order_acquire);
    }
  }

  void loop(int worker) {
    uint64_t seen = ticket_.load() >> 40;
    while (true) {
      int spin = 0;
      while (ticket_.load(std::memory_order_acquire) >> 40 == seen && spin < kSpins) pause(spin++);
      if (ticket_.load() >> 40 == seen) {
        std::unique_lock<std::mutex> lock(mutex_);
        sleeping_.fetch_add(1);
        wake_.wait(lock, [&] { return ticket_.load() >> 40 != seen; });
        sleeping_.fetch_sub(1);
      }
      seen = ticket_.load(std::memory_order_acquire) >> 40;
      work(worker);
    }
  }

  void grow(int wanted) {
    while (int(threads_.size()) < wanted) {
      int worker = int(threads_.size()) + 1;
      threads_.emplace_back([this, worker] { loop(worker); });
    }
  }

  std::vector<std::thread> threads_;
  std::mutex mutex_;
  std::condition_variable wake_;
  std::atomic<int> sleeping_{0}, limit_{0};
  std::atomic<uint64_t> ticket_{0};
  std::atomic<int64_t> done_{0};
  uint64_t generation_ = 0;
  Task task_ = nullptr;
  void *context_ = nullptr;
  int64_t first_ = 0;
};

}  // namespace vf
#endif
