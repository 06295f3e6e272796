// What the GPU's own instructions do that `tvmlayers.codegen.cuda.instructions` has, part of
// device.cpp: asynchronous copies and products on tensor cores.
#pragma once

// What unset memory of a block holds, 1.3e7 as a float. No NaN: sums that are not finite are computed
// again from what was given, which would hide a wrong one.
constexpr int kSpoilt = 0x4b;

// A copy that is asked for spoils its place at once and lands when its group is waited for, never
// before: a missing wait reads what is spoilt, and so does one whom a missing barrier lets be late.
struct Copy { char* to; int size; char data[16]; };
struct Copies {
  std::vector<Copy> asked;                   // not in a group yet
  std::vector<std::vector<Copy>> committed;  // groups, oldest first
  void clear() { asked.clear(); committed.clear(); }
};

bool ask(Copies& copies, const Module& module, char* to, const char* from, int size, int bytes) {
  bool aligned = (uintptr_t)to % size == 0 && (uintptr_t)from % size == 0;
  bool shared = to >= module.shared_begin && to + size <= module.shared_end;
  if (!aligned || !shared || bytes < 0 || bytes > size) return false;
  Copy copy{to, size, {}};
  memcpy(copy.data, from, bytes);
  memset(to, kSpoilt, size);
  copies.asked.push_back(copy);
  return true;
}

void land(Copies& copies, size_t left) {
  while (copies.committed.size() > left) {
    for (const Copy& copy : copies.committed.front()) memcpy(copy.to, copy.data, copy.size);
    copies.committed.erase(copies.committed.begin());
  }
}

// A tf32 operand: the low 13 bits of a float32 are not looked at.
double tf32(float value) {
  uint32_t bits;
  memcpy(&bits, &value, 4);
  bits &= 0xffffe000u;
  memcpy(&value, &bits, 4);
  return value;
}

// The sum as a tensor core has it at its coarsest: all addends are cut off, not rounded, at the last
// place that a float32 as large as the largest of them has, and so is their sum.
float cut_sum(const double* addends, int count) {
  int highest = -1000;
  double plain = 0;
  for (int i = 0; i < count; ++i) {
    plain += addends[i];
    if (addends[i] != 0) highest = std::max(highest, ilogb(addends[i]));
  }
  if (!std::isfinite(plain)) return (float)plain;
  int place = std::max(highest - 23, -149);
  int64_t total = 0;
  for (int i = 0; i < count; ++i) total += (int64_t)ldexp(addends[i], -place);
  while (std::abs(total) >> 24) total /= 2, ++place;
  double sum = ldexp((double)total, place);
  return std::fabs(sum) > 3.4028234663852886e38 ? (float)std::copysign(INFINITY, sum) : (float)sum;
}

// mma.sync of a warp: m16n8k8 of tf32, m16n8k16 of halves.
enum Kind { kTf32, kF16, kBf16 };
struct Product { int kind; float* sum; const void* a; const void* b; };

double half(int kind, const void* operand, int place) {
  uint16_t bits = ((const uint16_t*)operand)[place];
  return kind == kF16 ? tvmlayers_from_f16(bits) : tvmlayers_from_bf16(bits);
}

// Element (row, k) of A and (k, column) of B, where the PTX ISA has lanes keep them: for .tf32 four
// columns apart, for halves two neighbours in a register and eight apart.
double of_a(const Product* lanes, int row, int k) {
  if (lanes->kind == kTf32) {
    const Product& lane = lanes[row % 8 * 4 + k % 4];
    return tf32(((const float*)lane.a)[row / 8 + k / 4 * 2]);
  }
  int i = (row >= 8 ? 2 : 0) + (k >= 8 ? 4 : 0) + k % 2;
  return half(lanes->kind, lanes[row % 8 * 4 + k % 8 / 2].a, i);
}
double of_b(const Product* lanes, int k, int column) {
  if (lanes->kind == kTf32) return tf32(((const float*)lanes[column * 4 + k % 4].b)[k / 4]);
  return half(lanes->kind, lanes[column * 4 + k % 8 / 2].b, (k >= 8 ? 2 : 0) + k % 2);
}

void multiply(const Product* lanes) {
  int depth = lanes->kind == kTf32 ? 8 : 16;
  for (int row = 0; row < 16; ++row)
    for (int column = 0; column < 8; ++column) {
      float* sum = lanes[row % 8 * 4 + column / 2].sum + row / 8 * 2 + column % 2;
      double addends[17] = {*sum};
      for (int k = 0; k < depth; ++k) addends[k + 1] = of_a(lanes, row, k) * of_b(lanes, k, column);
      *sum = cut_sum(addends, depth + 1);
    }
}
