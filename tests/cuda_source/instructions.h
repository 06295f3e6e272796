// What the GPU's own instructions do that `tvmlayers.build.cuda.instructions` has, part of
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

// mma.sync.m16n8k8 of tf32: lanes' operands lie as the PTX ISA has it for .tf32.
struct Product { float* sum; const float* a; const float* b; };
void multiply(const Product* lanes) {
  for (int row = 0; row < 16; ++row)
    for (int column = 0; column < 8; ++column) {
      float* sum = lanes[row % 8 * 4 + column / 2].sum + row / 8 * 2 + column % 2;
      double addends[9] = {*sum};
      for (int k = 0; k < 8; ++k) {
        double a = tf32(lanes[row % 8 * 4 + k % 4].a[row / 8 + k / 4 * 2]);
        double b = tf32(lanes[column * 4 + k % 4].b[k / 4]);
        addends[k + 1] = a * b;
      }
      *sum = cut_sum(addends, 9);
    }
}
