// float16 and bfloat16 as the GPU converts them, by their bits: to the nearest, ties to even.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>

inline float tvmlayers_from_bf16(uint16_t bits) {
  uint32_t wide = (uint32_t)bits << 16;
  float value;
  memcpy(&value, &wide, 4);
  return value;
}
inline uint16_t tvmlayers_to_bf16(float value) {
  uint32_t wide;
  memcpy(&wide, &value, 4);
  if (value != value) return 0x7fff;
  return (uint16_t)((wide + 0x7fff + (wide >> 16 & 1)) >> 16);
}

inline float tvmlayers_from_f16(uint16_t bits) {
  int exponent = bits >> 10 & 31, rest = bits & 1023;
  float value = exponent == 31 ? (rest ? NAN : INFINITY)
                : exponent ? std::ldexp(1024.f + rest, exponent - 25) : std::ldexp((float)rest, -24);
  return bits >> 15 ? -value : value;
}
inline uint16_t tvmlayers_to_f16(float value) {
  uint16_t sign = std::signbit(value) ? 0x8000 : 0;
  if (value != value) return 0x7fff;
  double size = std::fabs((double)value);
  if (size >= 65520) return sign | 0x7c00;
  int exponent = size < std::ldexp(1.0, -14) ? -14 : std::ilogb(size);
  // In units of the last place; a carry goes over into the exponent.
  int units = (int)std::nearbyint(std::ldexp(size, 10 - exponent));
  return sign | (uint16_t)(units + (exponent + 14) * 1024);
}
