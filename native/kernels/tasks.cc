#include "native/kernels/tasks.h"

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <memory>
#include <new>
#include <thread>
#include <utility>

namespace sax::kernels {
namespace {

// What the threads of one Run() share. It outlives the call: a helper may be scheduled when all is
// done.
struct Shared {
  Task task;
  void* context;
  int pieces;
  std::atomic<int> next = 0;
  std::atomic<int> done = 0;

  void Work() {
    for (int i; (i = next.fetch_add(1, std::memory_order_relaxed)) < pieces;) {
      task(context, i);
      done.fetch_add(1, std::memory_order_release);
    }
  }
};

void Pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

struct Block {
  void* data = nullptr;
  size_t size = 0;
  ~Block() { std::free(data); }
};

}  // namespace

void SerialRunner::Run(int pieces, Task task, void* context) {
  for (int i = 0; i < pieces; ++i) task(context, i);
}

int SerialRunner::threads() const { return 1; }

PoolRunner::PoolRunner(int threads, Schedule schedule)
    : threads_(threads), schedule_(std::move(schedule)) {}

void PoolRunner::Run(int pieces, Task task, void* context) {
  const int helpers = std::min(threads_, pieces) - 1;
  if (helpers <= 0) {
    for (int i = 0; i < pieces; ++i) task(context, i);
    return;
  }
  const auto shared = std::make_shared<Shared>(task, context, pieces);
  for (int i = 0; i < helpers; ++i) schedule_([shared] { shared->Work(); });
  shared->Work();
  for (int spins = 0; shared->done.load(std::memory_order_acquire) < pieces; ++spins) {
    if (spins < 10000) {
      Pause();
    } else {
      std::this_thread::yield();
    }
  }
}

void* Scratch(Place place, size_t bytes) {
  thread_local Block blocks[2];
  Block& block = blocks[static_cast<int>(place)];
  if (block.size < bytes) {
    std::free(block.data);
    block.size = (bytes + bytes / 4 + 63) & ~size_t{63};
    block.data = std::aligned_alloc(64, block.size);
    if (block.data == nullptr) {
      block.size = 0;
      throw std::bad_alloc();
    }
  }
  return block.data;
}

}  // namespace sax::kernels
