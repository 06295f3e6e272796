// CUDA C++ as C++: what the kernels' source needs to be compiled for the CPU, one thread of a block
// after the other. The words that wait for other threads are in device.cpp.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>

#define __global__
#define __device__
#define __forceinline__ inline
#define __launch_bounds__(...)
// Memory of a block. Blocks run one after the other; device.cpp spoils it before each of them.
#define __shared__ static __attribute__((section("block_shared")))

struct Dim { unsigned x, y, z; };
extern "C" {
extern Dim threadIdx, blockIdx, blockDim, gridDim;
void __syncthreads();
unsigned __activemask();
// The 64 bits that lane `from` of the caller's warp brought to the same call.
uint64_t emulated_exchange(uint64_t bits, int from);
int emulated_lane();
void emulated_copy(void* to, const void* from, int size, int bytes);
void emulated_commit();
void emulated_wait(int left);
// kind: as device.cpp's.
void emulated_product(int kind, float* sum, const void* a, const void* b);
// A launch's dynamic memory of the block.
char* emulated_dynamic();
// A sum as tensor cores have it.
float emulated_sum(const double* addends, int count);
// Ends the thread; the launch fails.
void emulated_fault();
}

using std::isinf;
using std::isnan;
using std::max;
using std::min;

struct uint1 { unsigned x; };
struct alignas(8) uint2 { unsigned x, y; };
struct alignas(16) uint4 { unsigned x, y, z, w; };
struct alignas(4) ushort2 { uint16_t x, y; };
struct alignas(8) ushort4 { uint16_t x, y, z, w; };
struct alignas(8) float2 { float x, y; };
struct alignas(16) float4 { float x, y, z, w; };
struct alignas(16) double2 { double x, y; };
struct alignas(8) int2 { int x, y; };
struct alignas(16) int4 { int x, y, z, w; };
struct ushort3 { uint16_t x, y, z; };
struct uint3 { unsigned x, y, z; };
struct int3 { int x, y, z; };
struct float3 { float x, y, z; };
struct alignas(16) longlong2 { long long x, y; };
struct alignas(16) longlong4 { long long x, y, z, w; };
inline uint1 make_uint1(unsigned x) { return {x}; }
inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }
inline uint3 make_uint3(unsigned x, unsigned y, unsigned z) { return {x, y, z}; }
inline int3 make_int3(int x, int y, int z) { return {x, y, z}; }
inline float3 make_float3(float x, float y, float z) { return {x, y, z}; }
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
inline double2 make_double2(double x, double y) { return {x, y}; }
inline int2 make_int2(int x, int y) { return {x, y}; }
inline int4 make_int4(int x, int y, int z, int w) { return {x, y, z, w}; }

inline float __int_as_float(int bits) { float f; memcpy(&f, &bits, 4); return f; }
inline double __longlong_as_double(long long bits) { double d; memcpy(&d, &bits, 8); return d; }

template <class T> T emulated_shuffle(T value, int from) {
  static_assert(sizeof(T) <= 8);
  uint64_t bits = 0;
  memcpy(&bits, &value, sizeof(T));
  bits = emulated_exchange(bits, from);
  memcpy(&value, &bits, sizeof(T));
  return value;
}
// A lane beyond the width keeps its own value, as the CUDA programming guide has it.
template <class T> T __shfl_down_sync(unsigned, T value, int delta, int width = 32) {
  int lane = emulated_lane(), from = lane + delta;
  return emulated_shuffle(value, (lane % width) + delta < width ? from : lane);
}
template <class T> T __shfl_xor_sync(unsigned, T value, int mask, int width = 32) {
  int lane = emulated_lane(), from = lane ^ mask;
  return emulated_shuffle(value, from / width == lane / width ? from : lane);
}
template <class T> T __shfl_sync(unsigned, T value, int from, int width = 32) {
  int lane = emulated_lane();
  return emulated_shuffle(value, lane / width * width + from % width);
}

// The instructions of `tvmlayers.codegen.cuda.instructions`.
inline void tvmlayers_copy_async_4(void* to, const void* from, int n) { emulated_copy(to, from, 4, n); }
inline void tvmlayers_copy_async_8(void* to, const void* from, int n) { emulated_copy(to, from, 8, n); }
inline void tvmlayers_copy_async_16(void* to, const void* from, int n) { emulated_copy(to, from, 16, n); }
inline void tvmlayers_copy_2(void* to, int place, const void* from, int n) {
  ((uint16_t*)to)[place] = n ? *(const uint16_t*)from : 0;
}
inline void tvmlayers_commit() { emulated_commit(); }
inline void tvmlayers_wait_0() { emulated_wait(0); }
inline void tvmlayers_wait_1() { emulated_wait(1); }
inline void tvmlayers_wait_2() { emulated_wait(2); }
inline void tvmlayers_wait_3() { emulated_wait(3); }
inline void tvmlayers_wait_4() { emulated_wait(4); }
inline void tvmlayers_mma_tf32(float* sum, const float* a, const float* b) { emulated_product(0, sum, a, b); }
inline void tvmlayers_mma_f16(float* sum, const unsigned* a, const unsigned* b) { emulated_product(1, sum, a, b); }
inline void tvmlayers_mma_bf16(float* sum, const unsigned* a, const unsigned* b) { emulated_product(2, sum, a, b); }
#include "halves.h"
#include "wmma.h"

// A launch's argument that is a pointer, whatever it points at.
struct Pointer {
  void* at;
  template <class T> operator T*() const { return *(T**)at; }
};

// g++ takes `__shared__ alignas(64) float x[1]` with the attribute of old only.
#define alignas(bytes) __attribute__((aligned(bytes)))
