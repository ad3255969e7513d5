// Prints how many GB/s all cores together read: read_bandwidth [MB] [PASSES].
//
// Each thread sums its part of a buffer that no cache holds; the median of the passes counts.

#include <sys/mman.h>

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <thread>
#include <vector>

namespace {

#if defined(__x86_64__)
#define SAX_CLONES __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define SAX_CLONES
#endif

SAX_CLONES uint64_t Sum(const uint64_t* data, size_t count) {
  uint64_t lanes[32] = {};
  for (size_t i = 0; i + 32 <= count; i += 32) {
    for (size_t lane = 0; lane < 32; ++lane) lanes[lane] += data[i + lane];
  }
  uint64_t sum = 0;
  for (uint64_t lane : lanes) sum += lane;
  return sum;
}

// Runs work(part) for each part in a thread of its own.
template <typename Work>
void InParallel(size_t parts, const Work& work) {
  std::vector<std::thread> threads;
  for (size_t part = 0; part < parts; ++part) threads.emplace_back(work, part);
  for (std::thread& thread : threads) thread.join();
}

}  // namespace

int main(int argc, char** argv) {
  const size_t bytes = (argc > 1 ? std::strtoull(argv[1], nullptr, 10) : 256) << 20;
  const size_t passes = argc > 2 ? std::strtoull(argv[2], nullptr, 10) : 7;
  if (bytes == 0 || passes == 0) {
    std::fprintf(stderr, "usage: read_bandwidth [MB] [PASSES], both positive\n");
    return 2;
  }
  const size_t parts = std::max(1u, std::thread::hardware_concurrency());
  const size_t count = bytes / sizeof(uint64_t) / parts;
  auto* data = static_cast<uint64_t*>(std::aligned_alloc(2 << 20, bytes));
  if (data == nullptr) {
    std::fprintf(stderr, "no memory for %zu bytes\n", bytes);
    return 1;
  }
#if defined(MADV_HUGEPAGE)
  madvise(data, bytes, MADV_HUGEPAGE);
#endif
  InParallel(parts, [&](size_t part) { std::fill_n(data + part * count, count, part + 1); });
  std::vector<double> rates;
  std::vector<uint64_t> sums(parts);
  for (size_t pass = 0; pass < passes; ++pass) {
    const auto start = std::chrono::steady_clock::now();
    InParallel(parts, [&](size_t part) { sums[part] += Sum(data + part * count, count); });
    const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
    rates.push_back(static_cast<double>(parts * count * sizeof(uint64_t)) / took.count() / 1e9);
  }
  // The sums are used, so that nobody leaves the reading out.
  const bool read = std::all_of(sums.begin(), sums.end(), [](uint64_t sum) { return sum > 0; });
  std::nth_element(rates.begin(), rates.begin() + passes / 2, rates.end());
  std::printf("%.2f\n", read ? rates[passes / 2] : 0.0);
  return read ? 0 : 1;
}
