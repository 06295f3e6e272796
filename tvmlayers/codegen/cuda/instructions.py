"""Instructions of the GPU that CUDA C++ has no word for, a function each."""

# Nothing but the instruction: `tests/cuda_source` has functions of these names in their place.
# A copy of fewer bytes than its size fills the rest with zeros.
_COPY = """\
__device__ __forceinline__
void tvmlayers_copy_async_{size}(void* to, const void* from, int bytes) {{
  unsigned address = (unsigned)__cvta_generic_to_shared(to);
  asm volatile("cp.async.{cache}.shared.global [%0], [%1], {size}, %2;"
               :: "r"(address), "l"(from), "r"(bytes) : "memory");
}}
"""
_WAIT = """\
__device__ __forceinline__ void tvmlayers_wait_{left}() {{
  asm volatile("cp.async.wait_group {left};" ::: "memory");
}}
"""
_REST = """\
// One half: `cp.async` takes four bytes at least.
__device__ __forceinline__
void tvmlayers_copy_2(void* to, int place, const void* from, int bytes) {
  ((unsigned short*)to)[place] = bytes ? *(const unsigned short*)from : (unsigned short)0;
}
__device__ __forceinline__ void tvmlayers_commit() {
  asm volatile("cp.async.commit_group;" ::: "memory");
}
__device__ __forceinline__ void tvmlayers_mma_tf32(float* sum, const float* a, const float* b) {
  asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 "
      "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
      : "r"(__float_as_uint(a[0])), "r"(__float_as_uint(a[1])), "r"(__float_as_uint(a[2])),
        "r"(__float_as_uint(a[3])), "r"(__float_as_uint(b[0])), "r"(__float_as_uint(b[1])));
}
"""

_PRODUCT = """\
__device__ __forceinline__
void tvmlayers_mma_{kind}(float* sum, const unsigned* a, const unsigned* b) {{
  asm("mma.sync.aligned.m16n8k16.row.col.f32.{kind}.{kind}.f32 "
      "{{%0, %1, %2, %3}}, {{%4, %5, %6, %7}}, {{%8, %9}}, {{%0, %1, %2, %3}};"
      : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}}
"""
_CONVERSIONS = """\
__device__ __forceinline__ float tvmlayers_from_f16(unsigned short bits) {
  float value;
  asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(bits));
  return value;
}
__device__ __forceinline__ unsigned short tvmlayers_to_f16(float value) {
  unsigned short bits;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(value));
  return bits;
}
__device__ __forceinline__ float tvmlayers_from_bf16(unsigned short bits) {
  return __uint_as_float((unsigned)bits << 16);
}
__device__ __forceinline__ unsigned short tvmlayers_to_bf16(float value) {
  unsigned short bits;
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(bits) : "f"(value));
  return bits;
}
"""
_HALF = """\
struct tvmlayers_{kind} {{
  unsigned short bits;
  tvmlayers_{kind}() = default;
  __device__ __forceinline__ explicit tvmlayers_{kind}(float value)
      : bits(tvmlayers_to_{kind}(value)) {{}}
  __device__ __forceinline__ operator float() const {{ return tvmlayers_from_{kind}(bits); }}
}};
__device__ __forceinline__
unsigned tvmlayers_pack(const tvmlayers_{kind} low, const tvmlayers_{kind} high) {{
  return low.bits | (unsigned)high.bits << 16;
}}
struct alignas(4) tvmlayers_{kind}x2 {{ tvmlayers_{kind} x, y; }};
struct alignas(8) tvmlayers_{kind}x4 {{ tvmlayers_{kind} x, y, z, w; }};
"""
_LOAD = """\
__device__ __forceinline__
void tvmlayers_load_pair(unsigned* first, unsigned* second, const unsigned* from) {
  const uint2 pair = *(const uint2*)from;
  *first = pair.x;
  *second = pair.y;
}
"""
_NAMES = """\
#define half tvmlayers_f16
#define half2 tvmlayers_f16x2
#define half4 tvmlayers_f16x4
#define make_half2(x, y) half2{x, y}
#define make_half4(x, y, z, w) half4{x, y, z, w}
#define __float2half_rn tvmlayers_f16
#define __pack_half2 tvmlayers_pack
#define nv_bfloat16 tvmlayers_bf16
#define nv_bfloat162 tvmlayers_bf16x2
#define nv_bfloat164 tvmlayers_bf16x4
#define make_nv_bfloat162(x, y) nv_bfloat162{x, y}
#define make_nv_bfloat164(x, y, z, w) nv_bfloat164{x, y, z, w}
#define __float2bfloat16_rn tvmlayers_bf16
#define __pack_nv_bfloat162 tvmlayers_pack
"""

_EXTREMES = """\
// NaN where one is NaN.
template <class T> __device__ __forceinline__ T tvmlayers_maximum(T a, T b) {
  return a > b || a != a ? a : b;
}
template <class T> __device__ __forceinline__ T tvmlayers_minimum(T a, T b) {
  return a < b || a != a ? a : b;
}
"""

COPY_BYTES = {4: "ca", 8: "ca", 16: "cg"}  # only whole vectors can pass the first-level cache by

INSTRUCTIONS = "".join(
    [
        *(_COPY.format(size=size, cache=cache) for size, cache in COPY_BYTES.items()),
        *(_WAIT.format(left=left) for left in range(5)),
        _REST,
        *(_PRODUCT.format(kind=kind) for kind in ("f16", "bf16")),
        _CONVERSIONS,
    ]
)
# Plain C++: types of halves, which NVIDIA's headers would define, and functions.
PLAIN = "".join([*(_HALF.format(kind=kind) for kind in ("f16", "bf16")), _LOAD, _NAMES, _EXTREMES])
