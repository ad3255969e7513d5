// Level is what a CPU can do. Kernels are compiled once for each, and chosen when they run, so that
// one binary runs everywhere and uses what it finds.
//
//   if (BestLevel() >= Level::kAvx512) ...
//   SetLevel(Level::kPortable);  // tests run every kernel at every level that this CPU has
#ifndef NATIVE_KERNELS_LEVEL_H_
#define NATIVE_KERNELS_LEVEL_H_

#include <span>
#include <string_view>

namespace sax::kernels {

enum class Level {
  kPortable,
  kAvx2,        // with FMA
  kAvx512,      // F, BW, DQ, VL
  kAvx512Bf16,  // with BF16 and VNNI
};

inline constexpr int kNumLevels = 4;

std::string_view Name(Level level);

// The highest level of this CPU.
Level BestLevel();

// The level in use: that of SetLevel, at first BestLevel(). Any thread.
Level CurrentLevel();

// Throws std::invalid_argument for a level that this CPU has not.
void SetLevel(Level level);

// Throws std::invalid_argument for a name that is none; it lists those that are.
Level LevelOf(std::string_view name);

}  // namespace sax::kernels

#endif  // NATIVE_KERNELS_LEVEL_H_
