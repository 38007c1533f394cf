// Workers for the ops of a frame: the threads of the OpenMP runtime that the process has, where it is told, else a
// small pool of threads whose workers spin for a moment between the ops and sleep between frames.
#ifndef VIDEOEFF_POOL_H
#define VIDEOEFF_POOL_H

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include <unistd.h>

#include "tuning.h"

namespace vf {

// How a runtime of OpenMP runs a parallel region: function(data) on at most so many threads, until all are done.
using Parallel = void (*)(void (*function)(void *), void *data, unsigned threads, unsigned flags);

// Whose threads run next to the caller's anyway, spinning after an operator of PyTorch: other threads would have to
// push them from their cores first. Null: there is none. A forked child has lost them.
inline std::atomic<Parallel> &openmp() {
  static std::atomic<Parallel> parallel{nullptr};
  return parallel;
}

class Pool {
 public:
  using Task = void (*)(void *context, int64_t index, int worker);

  ~Pool() {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      stop_.store(true);
    }
    wake_.notify_all();
    for (auto &t : threads_) t.join();
  }

  // Whether this process started the workers. A forked child has no copy of them, and neither they nor what they
  // slept on can be taken down there.
  bool owned() const { return getpid() == owner_; }

  // Runs task(context, 0 .. n - 1, worker) on at most `workers` threads, the caller among them as worker 0.
  void run(int64_t n, int workers, Task task, void *context) {
    if (workers <= 1 || n <= 1) {
      for (int64_t i = 0; i < n; i++) task(context, i, 0);
      return;
    }
    if (Parallel parallel = openmp().load(std::memory_order_acquire)) {
      Job job(task, context, n, workers);
      parallel(Job::work, &job, unsigned(workers), 0);
      return;
    }
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

 private:
  // A region of OpenMP. Each thread has a part of the indices to itself, the same part from op to op, so that it finds
  // in its own cache what it left there; who is done takes from the others' parts.
  struct Job {
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

    Job(Task t, void *c, int64_t count, int workers) : task(t), context(c), parts(workers < kMost ? workers : kMost) {
      for (int i = 0; i < parts; i++) part[i].next.store(count * i / parts), part[i].stop = count * (i + 1) / parts;
    }
    static void work(void *data) {
      Job &job = *static_cast<Job *>(data);
      const int worker = std::this_thread::get_id() == job.caller ? 0 : job.helpers.fetch_add(1, std::memory_order_relaxed);
      for (int i = 0; i < job.parts; i++) {
        Part &part = job.part[(worker + i) % job.parts];
        for (int64_t k; (k = part.next.fetch_add(1, std::memory_order_relaxed)) < part.stop;) job.task(job.context, k, worker);
      }
    }
  };

  static constexpr int64_t kMax = (1 << 20) - 4096;  // indices of a ticket; workers may count a little beyond

  static void pause(int spin) {
    if (spin % kSpinsToYield == kSpinsToYield - 1) {
      std::this_thread::yield();
    } else {
#if defined(__x86_64__)
      __builtin_ia32_pause();
#endif
    }
  }

  // Takes indices until none are left. A ticket is (generation, count, next index): what is taken belongs to the
  // job whose count it carries, and that job cannot end before it is done.
  void work(int worker) {
    while (true) {
      uint64_t ticket = ticket_.load(std::memory_order_acquire);
      if ((ticket & 0xfffff) >= (ticket >> 20 & 0xfffff)) return;
      ticket = ticket_.fetch_add(1, std::memory_order_acq_rel);
      uint64_t index = ticket & 0xfffff, count = ticket >> 20 & 0xfffff;
      if (index >= count) return;
      task_(context_, first_ + int64_t(index), worker);
      done_.fetch_add(1, std::memory_order_acq_rel);
    }
  }

  void loop(int worker) {
    uint64_t seen = ticket_.load() >> 40;
    while (true) {
      int spin = 0;
      while (ticket_.load(std::memory_order_acquire) >> 40 == seen && spin < kSpins && !stop_.load()) pause(spin++);
      if (ticket_.load() >> 40 == seen) {
        std::unique_lock<std::mutex> lock(mutex_);
        sleeping_.fetch_add(1);
        wake_.wait(lock, [&] { return stop_.load() || ticket_.load() >> 40 != seen; });
        sleeping_.fetch_sub(1);
      }
      if (stop_.load()) return;
      seen = ticket_.load(std::memory_order_acquire) >> 40;
      if (worker <= limit_.load(std::memory_order_relaxed)) work(worker);
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
  std::atomic<bool> stop_{false};
  std::atomic<int> sleeping_{0}, limit_{0};
  std::atomic<uint64_t> ticket_{0};
  std::atomic<int64_t> done_{0};
  uint64_t generation_ = 0;
  Task task_ = nullptr;
  void *context_ = nullptr;
  int64_t first_ = 0;
  const pid_t owner_ = getpid();
};

}  // namespace vf
#endif
