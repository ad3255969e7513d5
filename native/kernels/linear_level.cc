// The product at one level: activations are packed like the weights, in blocks of up to twelve
// rows, and each block runs over panels of 32 columns with all its sums in registers.
#include "native/kernels/linear_impl.h"
#include "native/kernels/linear_multiply.h"
#include "native/kernels/pack.h"
#include "native/kernels/simd.h"

namespace sax::kernels {
namespace SAX_LEVEL {
namespace {

// Units of depth taken at a time where there are several blocks, so that a piece of activations
// and one of weights stay in the cache.
constexpr int kDepthChunk = 512;
static_assert(kDepthChunk % kGroupUnits == 0 && kGroupUnits == kLanes);
// Bytes of weights of a piece of work, and blocks of rows.
constexpr size_t kPieceBytes = 128 * 1024;
constexpr int kPieceBlocks = 12;

struct RowBlock {
  int first;
  int rows;
};

// Block i of `count` into which `rows` are cut as evenly as may be.
SAX_INLINE RowBlock BlockAt(int rows, int count, int i) {
  const int first = static_cast<int>(static_cast<int64_t>(rows) * i / count);
  const int end = static_cast<int>(static_cast<int64_t>(rows) * (i + 1) / count);
  return {first, end - first};
}

// --- activations ---

// Adds the inputs of one row, side by side, and zeros up to `padded`.
void Gather(const Linear& linear, int row, float* values, int padded) {
  int at = 0;
  for (int i = 0; i < linear.num_inputs; ++i) {
    const Input& input = linear.inputs[i];
    const size_t first = static_cast<size_t>(row) * input.width;
    int k = 0;
    if (input.format == Format::kF32) {
      __builtin_memcpy(values + at, static_cast<const float*>(input.data) + first,
                       input.width * sizeof(float));
    } else {
      const uint16_t* const from = static_cast<const uint16_t*>(input.data) + first;
      for (; k + kLanes <= input.width; k += kLanes) Store(values + at + k, FromBf16(from + k));
      for (; k < input.width; ++k) {
        const uint32_t bits = uint32_t{from[k]} << 16;
        __builtin_memcpy(values + at + k, &bits, 4);
      }
    }
    at += input.width;
  }
  for (; at < padded; ++at) values[at] = 0;
}

// In place, of the first `width` values; those behind stay zero.
void Normalise(const Linear& linear, float* values, int width) {
  float mean = 0;
  if (linear.norm == Norm::kLayer) {
    F32 sum = {};
    int k = 0;
    for (; k + kLanes <= width; k += kLanes) sum += Load(values + k);
    mean = ReduceAdd(sum);
    for (; k < width; ++k) mean += values[k];
    mean /= static_cast<float>(width);
  }
  F32 squares = {};
  float rest = 0;
  int k = 0;
  for (; k + kLanes <= width; k += kLanes) {
    const F32 centred = Load(values + k) - mean;
    squares += centred * centred;
  }
  for (; k < width; ++k) rest += (values[k] - mean) * (values[k] - mean);
  const float variance = (ReduceAdd(squares) + rest) / static_cast<float>(width);
  const float factor = 1.0f / __builtin_sqrtf(variance + linear.norm_eps);
  k = 0;
  for (; k + kLanes <= width; k += kLanes) {
    F32 v = (Load(values + k) - mean) * factor * Load(linear.norm_scale + k);
    if (linear.norm_bias != nullptr) v += Load(linear.norm_bias + k);
    Store(values + k, v);
  }
  for (; k < width; ++k) {
    values[k] = (values[k] - mean) * factor * linear.norm_scale[k];
    if (linear.norm_bias != nullptr) values[k] += linear.norm_bias[k];
  }
}

// A group's scale and start.
struct Group {
  float scale;
  int32_t start;
};

// Sixteen units of a row's values.
SAX_INLINE U32 PackUnits(F32Unit, const float* values, Group*) { return LoadAs<U32>(values); }
SAX_INLINE U32 PackUnits(Bf16Unit, const float* values, Group*) {
  U32 units;
  const U16 low = ToBf16(Load(values)), high = ToBf16(Load(values + kLanes));
  __builtin_memcpy(&units, &low, 32);
  __builtin_memcpy(reinterpret_cast<char*>(&units) + 32, &high, 32);
  return units;
}
SAX_INLINE U32 PackUnits(Int8Unit, const float* values, Group* group) {
  F32 most = {};
  // A NaN must not be lost in a comparison: the scale is to become one.
  F32 all = {};
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    const F32 v = Load(values + i * kLanes);
    most = VMax(most, VMax(v, -v));
    all += v * 0.0f;
  }
  const float largest = ReduceMax(most) + ReduceAdd(all);
  const float inverse = largest > 0 ? 127 / largest : 0;
  U32 units;
  I32 sum = {};
  const F32 magic = Splat(12582912.0f);  // rounds to an integer, which the low bits then hold
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    const I32 bits = (I32)(Load(values + i * kLanes) * inverse + magic);
    sum += bits << 24 >> 24;
    typedef uint8_t U8 __attribute__((vector_size(16)));
    const U8 bytes = __builtin_convertvector(bits & 255, U8);
    __builtin_memcpy(reinterpret_cast<char*>(&units) + 16 * i, &bytes, 16);
  }
  int32_t total = 0;
#pragma GCC unroll 16
  for (int i = 0; i < kLanes; ++i) total += sum[i];
  *group = {largest / 127, -128 * total};
  return units;
}

struct PackContext {
  const LinearJob* job;
  int blocks;
};

template <class Unit>
void PackBlock(void* context, int index) {
  const auto& [job, blocks] = *static_cast<PackContext*>(context);
  const Linear& linear = *job->linear;
  const int width = linear.weights.depth, depth = job->unit_depth;
  // Units come sixteen at a time.
  const int padded = CeilDiv(depth, kLanes) * kLanes * Unit::kCount;
  float* const values = static_cast<float*>(Scratch(Place::kPiece, padded * sizeof(float)));
  const RowBlock block = BlockAt(linear.rows, blocks, index);
  uint32_t* const to = job->packed + static_cast<size_t>(block.first) * depth;
  for (int r = 0; r < block.rows; ++r) {
    Gather(linear, block.first + r, values, padded);
    if (linear.norm != Norm::kNone) Normalise(linear, values, width);
    for (int unit = 0; unit < depth; unit += kLanes) {
      Group group;
      const U32 units = PackUnits(Unit{}, values + unit * Unit::kCount, &group);
      if (Unit::kCount == 4) {
        const size_t row = block.first + r, place = row * job->groups + unit / kGroupUnits;
        job->scale[place] = group.scale;
        job->start[place] = group.start;
      }
      if (block.rows == 1 && unit + kLanes <= depth) {
        StoreAs(to + unit, units);
      } else {
        for (int i = 0; i < Min(kLanes, depth - unit); ++i) {
          to[static_cast<size_t>(unit + i) * block.rows + r] = units[i];
        }
      }
    }
  }
}

// --- results ---

SAX_INLINE F32 Activate(Activation activation, F32 v) {
  return activation == Activation::kGelu ? Gelu(v) : v;
}

// Writes `count` values to column `at` of an output row that has `width` columns.
SAX_INLINE void Put(const Output& output, size_t row, int width, int at, F32 v, int count) {
  const size_t place = row * width + at;
  if (count >= kLanes) {
    if (output.residual != nullptr) v += Load(output.residual + place);
    if (output.format == Format::kF32) {
      Store(static_cast<float*>(output.data) + place, v);
    } else {
      StoreBf16(static_cast<uint16_t*>(output.data) + place, v);
    }
    return;
  }
  const U16 rounded = ToBf16(v);
  for (int i = 0; i < count; ++i) {
    if (output.format == Format::kF32) {
      const float rest = output.residual != nullptr ? output.residual[place + i] : 0;
      static_cast<float*>(output.data)[place + i] = v[i] + rest;
    } else if (output.residual == nullptr) {
      static_cast<uint16_t*>(output.data)[place + i] = rounded[i];
    } else {
      const U16 sum = ToBf16(v + output.residual[place + i]);
      static_cast<uint16_t*>(output.data)[place + i] = sum[i];
    }
  }
}

// Bias, activation, residual and store of a block's 32 columns from `column` on.
template <class Unit>
void Finish(const LinearJob& job, RowBlock block, int column, const float* sums) {
  const Linear& linear = *job.linear;
  int output_first = 0, which = 0;
  while (which + 1 < linear.num_outputs && column >= output_first + linear.outputs[which].columns) {
    output_first += linear.outputs[which++].columns;
  }
  const Output& output = linear.outputs[which];
  const int at = column - output_first, left = output.columns - at;
  F32 bias[2] = {};
  if (linear.bias != nullptr) {
    if (left >= kPanel) {
      bias[0] = Load(linear.bias + column);
      bias[1] = Load(linear.bias + column + kLanes);
    } else {
      for (int i = 0; i < left; ++i) bias[i / kLanes][i % kLanes] = linear.bias[column + i];
    }
  }
  for (int r = 0; r < block.rows; ++r) {
    const size_t row = block.first + r;
    F32 v[2] = {Load(sums + r * kPanel), Load(sums + r * kPanel + kLanes)};
    if (Unit::kCount == 4) {
      const Weights& w = linear.weights;
      for (int half = 0; half < 2; ++half) v[half] *= Load(w.scale + column + half * kLanes);
    }
    v[0] += bias[0];
    v[1] += bias[1];
    if (output.activation == Activation::kSiluGated) {
      Put(output, row, output.columns / 2, at / 2, Silu(v[0]) * v[1], kLanes);
    } else {
      Put(output, row, output.columns, at, Activate(output.activation, v[0]), left);
      if (left > kLanes) {
        Put(output, row, output.columns, at + kLanes, Activate(output.activation, v[1]),
            left - kLanes);
      }
    }
  }
}

// --- the product ---

struct ProductContext {
  const LinearJob* job;
  int blocks;
  int panels;
  int panels_a_piece;
  int blocks_a_piece;
};

template <class Unit>
void ProductPiece(void* context, int index) {
  const ProductContext& c = *static_cast<ProductContext*>(context);
  const LinearJob& job = *c.job;
  const Linear& linear = *job.linear;
  const int groups = CeilDiv(c.blocks, c.blocks_a_piece);
  const int first_block = index % groups * c.blocks_a_piece;
  const int end_block = Min(first_block + c.blocks_a_piece, c.blocks);
  const int first_panel = index / groups * c.panels_a_piece;
  const int end_panel = Min(first_panel + c.panels_a_piece, c.panels);
  const int first_row = BlockAt(linear.rows, c.blocks, first_block).first;
  const RowBlock last = BlockAt(linear.rows, c.blocks, end_block - 1);
  const int rows = last.first + last.rows - first_row;
  const int depth = job.unit_depth, chunk = c.blocks == 1 ? depth : kDepthChunk;
  const uint32_t* const weights = static_cast<const uint32_t*>(linear.weights.data);
  float* const sums =
      static_cast<float*>(Scratch(Place::kPiece, sizeof(float) * rows * kPanel * c.panels_a_piece));
  for (int k = 0; k < depth; k += chunk) {
    const int taken = Min(chunk, depth - k);
    for (int panel = first_panel; panel < end_panel; ++panel) {
      for (int b = first_block; b < end_block; ++b) {
        const RowBlock block = BlockAt(linear.rows, c.blocks, b);
        const int row = (panel - first_panel) * rows + block.first - first_row;
        float* const own = sums + static_cast<size_t>(row) * kPanel;
        const size_t group = static_cast<size_t>(block.first) * job.groups + k / kGroupUnits;
        Multiply<Unit>(block.rows,
                       job.packed + static_cast<size_t>(block.first) * depth +
                           static_cast<size_t>(k) * block.rows,
                       weights + (static_cast<size_t>(panel) * depth + k) * kPanel, taken,
                       {job.scale + group, job.start + group, job.groups}, own, k == 0);
        if (k + taken == depth) Finish<Unit>(job, block, panel * kPanel, own);
      }
    }
  }
}

template <class Unit>
void RunUnits(const LinearJob& job, TaskRunner* runner) {
  const Linear& linear = *job.linear;
  const int blocks = CeilDiv(linear.rows, kMaxRows);
  PackContext pack = {&job, blocks};
  if (linear.rows <= 4) {
    for (int i = 0; i < blocks; ++i) PackBlock<Unit>(&pack, i);
  } else {
    runner->Run(blocks, PackBlock<Unit>, &pack);
  }
  const int panels = CeilDiv(linear.weights.columns, kPanel);
  const size_t panel_bytes = static_cast<size_t>(job.unit_depth) * kPanel * sizeof(uint32_t);
  int panels_a_piece = 4;
  if (blocks == 1) {
    panels_a_piece = Max(1, static_cast<int>(kPieceBytes / panel_bytes));
  } else if (linear.rows < 48) {
    panels_a_piece = 1;
  }
  const int groups = CeilDiv(blocks, kPieceBlocks);
  ProductContext product = {&job, blocks, panels, panels_a_piece, CeilDiv(blocks, groups)};
  runner->Run(CeilDiv(blocks, product.blocks_a_piece) * CeilDiv(panels, panels_a_piece),
              ProductPiece<Unit>, &product);
}

}  // namespace

void RunLinear(const LinearJob& job, TaskRunner* runner) {
  switch (job.linear->weights.element) {
    case Element::kF32:
      return RunUnits<F32Unit>(job, runner);
    case Element::kBf16:
      return RunUnits<Bf16Unit>(job, runner);
    case Element::kInt8:
      return RunUnits<Int8Unit>(job, runner);
  }
}

}  // namespace SAX_LEVEL
}  // namespace sax::kernels
