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

COPY_BYTES = {4: "ca", 8: "ca", 16: "cg"}  # only whole vectors can pass the first-level cache by

INSTRUCTIONS = "".join(
    [
        *(_COPY.format(size=size, cache=cache) for size, cache in COPY_BYTES.items()),
        *(_WAIT.format(left=left) for left in range(3)),
        _REST,
    ]
)
