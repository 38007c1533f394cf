// Who computes a frame: the threads of the OpenMP runtime that the process has, where they answer at once, else a pool of
// our own from a stock that all plans share.
#ifndef VIDEOEFF_TEAM_H
#define VIDEOEFF_TEAM_H

#include <algorithm>
#include <atomic>
#include <chrono>
#include <memory>
#include <mutex>
#include <vector>

#include <pthread.h>
#if defined(__linux__)
#include <sys/syscall.h>
#endif
#include <unistd.h>

#include "pool.h"
#include "tuning.h"

namespace vf {

// How the runtime of OpenMP runs a region, as told by vf_use_openmp. Null: there is none.
inline std::atomic<Parallel> &openmp() {
  static std::atomic<Parallel> parallel{nullptr};
  return parallel;
}

inline bool is_main_thread() {
#if defined(__linux__)
  return syscall(SYS_gettid) == getpid();
#elif defined(__APPLE__)
  return pthread_main_np() != 0;
#else
  return true;
#endif
}

// Pools that nobody uses at the moment. There are as many as frames were ever computed at once, not as many as plans, and
// they live as long as the process. A forked child has none of its parent's threads and begins with an empty stock.
class Stock {
 public:
  static Pool *take() {
    Stock &stock = current();
    std::lock_guard<std::mutex> lock(stock.mutex_);
    if (stock.idle_.empty()) return new Pool;
    Pool *found = stock.idle_.back();
    stock.idle_.pop_back();
    return found;
  }
  static void give_back(Pool *pool) {
    Stock &stock = current();
    std::lock_guard<std::mutex> lock(stock.mutex_);
    stock.idle_.push_back(pool);
  }

 private:
  static std::atomic<Stock *> &place() {
    static std::atomic<Stock *> stock{new Stock};
    static const int registered = pthread_atfork(nullptr, nullptr, [] { place().store(new Stock), openmp().store(nullptr); });
    (void)registered;
    return stock;
  }
  static Stock &current() { return *place().load(std::memory_order_acquire); }

  std::mutex mutex_;
  std::vector<Pool *> idle_;
};

// Whether the calling thread's threads of OpenMP still wait for work a moment after they had some. GNU's runtime lets them
// sleep at once where the threads of all its teams are more than the processors, and each thread that computes with PyTorch
// has a team: every layer would begin with waking them. Asked anew once in a while.
inline bool openmp_is_awake(Parallel parallel, int workers) {
  using Clock = std::chrono::steady_clock;
  static thread_local Clock::time_point next{};
  static thread_local bool awake = false;
  if (Clock::now() < next) return awake;
  const auto nothing = [](void *) {};
  auto quickest = Clock::duration::max();
  parallel(nothing, nullptr, unsigned(workers), 0);
  for (int i = 0; i < kWakeTries; i++) {
    const auto idle = Clock::now() + std::chrono::microseconds(kWakePause);
    while (Clock::now() < idle) Pool::pause(0);
    const auto begin = Clock::now();
    parallel(nothing, nullptr, unsigned(workers), 0);
    quickest = std::min(quickest, Clock::now() - begin);
  }
  awake = quickest < std::chrono::microseconds(kWakeMost);
  next = Clock::now() + std::chrono::milliseconds(kWakeKept);
  return awake;
}

// The threads of one frame. Only the main thread uses OpenMP: a team of another one would make all teams sleep, its own
// among them.
class Team {
 public:
  explicit Team(int workers) {
    if (workers <= 1) return;
    Parallel found = openmp().load(std::memory_order_acquire);
    static thread_local const bool main = is_main_thread();
    if (found && main && openmp_is_awake(found, workers)) parallel_ = found;
    else pool_ = Stock::take();
  }
  ~Team() {
    if (pool_) Stock::give_back(pool_);
  }
  Team(const Team &) = delete;
  Team &operator=(const Team &) = delete;

  // Runs task(context, 0 .. n - 1, worker) on at most `workers` threads, the caller among them as worker 0.
  void run(int64_t n, int workers, Task task, void *context) const {
    if (workers > 1 && n > 1 && parallel_) {
      Region region(task, context, n, workers);
      parallel_(Region::work, &region, unsigned(workers), 0);
    } else if (workers > 1 && n > 1 && pool_) {
      pool_->run(n, workers, task, context);
    } else {
      for (int64_t i = 0; i < n; i++) task(context, i, 0);
    }
  }

  bool openmp_is_used() const { return parallel_ != nullptr; }

 private:
  Parallel parallel_ = nullptr;
  Pool *pool_ = nullptr;
};

}  // namespace vf
#endif
