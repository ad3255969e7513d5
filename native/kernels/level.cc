#include "native/kernels/level.h"

#include <array>
#include <atomic>
#include <stdexcept>

#include "native/base/str_cat.h"

namespace sax::kernels {
namespace {

constexpr std::array<std::string_view, kNumLevels> kNames = {"portable", "avx2", "avx512",
                                                             "avx512_bf16"};

Level Detect() {
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) return Level::kPortable;
  if (!__builtin_cpu_supports("avx512f") || !__builtin_cpu_supports("avx512bw") ||
      !__builtin_cpu_supports("avx512dq") || !__builtin_cpu_supports("avx512vl")) {
    return Level::kAvx2;
  }
  if (!__builtin_cpu_supports("avx512bf16") || !__builtin_cpu_supports("avx512vnni")) {
    return Level::kAvx512;
  }
  return Level::kAvx512Bf16;
#else
  return Level::kPortable;
#endif
}

std::atomic<Level>& Current() {
  static std::atomic<Level> level = BestLevel();
  return level;
}

}  // namespace

std::string_view Name(Level level) { return kNames[static_cast<int>(level)]; }

Level BestLevel() {
  static const Level best = Detect();
  return best;
}

Level CurrentLevel() { return Current().load(std::memory_order_relaxed); }

void SetLevel(Level level) {
  if (level > BestLevel()) {
    throw std::invalid_argument(
        StrCat("this CPU has no ", Name(level), "; its best level is ", Name(BestLevel())));
  }
  Current().store(level, std::memory_order_relaxed);
}

Level LevelOf(std::string_view name) {
  for (int i = 0; i < kNumLevels; ++i) {
    if (kNames[i] == name) return static_cast<Level>(i);
  }
  throw std::invalid_argument(StrCat("CPU level '", name, "' is none of ", kNames[0], ", ",
                                     kNames[1], ", ", kNames[2], ", ", kNames[3]));
}

}  // namespace sax::kernels
