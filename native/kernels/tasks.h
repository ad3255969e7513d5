// TaskRunner runs the pieces of a kernel on several threads; the caller's thread takes part and
// comes back when all are done.
//
//   struct Sum { ... } sum;
//   runner.Run(10, [](void* context, int piece) { static_cast<Sum*>(context)->Add(piece); }, &sum);
#ifndef NATIVE_KERNELS_TASKS_H_
#define NATIVE_KERNELS_TASKS_H_

#include <cstddef>
#include <functional>

namespace sax::kernels {

using Task = void (*)(void* context, int piece);

class TaskRunner {
 public:
  virtual ~TaskRunner() = default;
  // Calls task(context, i) for each i < pieces, in any order and on any thread.
  virtual void Run(int pieces, Task task, void* context) = 0;
  virtual int threads() const = 0;
};

// All pieces one after the other.
class SerialRunner : public TaskRunner {
 public:
  void Run(int pieces, Task task, void* context) override;
  int threads() const override;
};

// On a pool of somebody else: `schedule` has a function run on one of its threads, some time. When
// the pool is busy the caller does the work itself, so this never waits for a thread.
class PoolRunner : public TaskRunner {
 public:
  using Schedule = std::function<void(std::function<void()>)>;

  PoolRunner(int threads, Schedule schedule);
  void Run(int pieces, Task task, void* context) override;
  int threads() const override { return threads_; }

 private:
  const int threads_;
  const Schedule schedule_;
};

// Memory of the calling thread, aligned to 64 bytes, with what it held before or garbage; valid
// until the thread asks for the same place again. A kernel's caller uses kCaller, its pieces
// kPiece: they may run on one thread.
enum class Place { kCaller, kPiece };
void* Scratch(Place place, size_t bytes);

}  // namespace sax::kernels

#endif  // NATIVE_KERNELS_TASKS_H_
