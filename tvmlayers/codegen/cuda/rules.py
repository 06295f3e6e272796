"""What schedules of MetaSchedule's rules call, so that no header of NVIDIA's or TVM's is needed.

Asynchronous copies under TVM's names, and of `nvcuda::wmma` the fragments of 16 x 16 x 16: products
of float16, sums in float32, matrices in shared memory only.
"""

import re

# Which elements each of a warp's 32 threads holds is defined by the instructions.
_TYPES = """\
namespace nvcuda {
namespace wmma {
struct matrix_a;
struct matrix_b;
struct accumulator;
struct row_major;
struct col_major;
enum layout_t { mem_row_major };
template <class Use, int m, int n, int k, class Type, class Layout = void> struct fragment;
template <class Layout> struct fragment<matrix_a, 16, 16, 16, half, Layout> { unsigned x[8]; };
template <class Layout> struct fragment<matrix_b, 16, 16, 16, half, Layout> { unsigned x[8]; };
template <> struct fragment<accumulator, 16, 16, 16, float> { float x[8]; };
typedef fragment<accumulator, 16, 16, 16, float> sums;

__device__ __forceinline__ void fill_fragment(sums& to, float value) {
  for (int i = 0; i < 8; ++i) to.x[i] = value;
}
__device__ __forceinline__
void store_matrix_sync(float* to, const sums& from, unsigned row, layout_t) {
  asm volatile("wmma.store.d.sync.aligned.row.m16n16k16.shared.f32 "
               "[%0], {%1, %2, %3, %4, %5, %6, %7, %8}, %9;"
               :: "r"((unsigned)__cvta_generic_to_shared(to)), "f"(from.x[0]), "f"(from.x[1]),
                  "f"(from.x[2]), "f"(from.x[3]), "f"(from.x[4]), "f"(from.x[5]),
                  "f"(from.x[6]), "f"(from.x[7]), "r"(row) : "memory");
}
"""
_LOAD = """\
__device__ __forceinline__
void load_matrix_sync(fragment<matrix_{use}, 16, 16, 16, half, {layout}_major>& to,
                      const half* from, unsigned {layout}) {{
  asm volatile("wmma.load.{use}.sync.aligned.{layout}.m16n16k16.shared.f16 "
               "{{%0, %1, %2, %3, %4, %5, %6, %7}}, [%8], %9;"
               : "=r"(to.x[0]), "=r"(to.x[1]), "=r"(to.x[2]), "=r"(to.x[3]),
                 "=r"(to.x[4]), "=r"(to.x[5]), "=r"(to.x[6]), "=r"(to.x[7])
               : "r"((unsigned)__cvta_generic_to_shared(from)), "r"({layout}) : "memory");
}}
"""
_MULTIPLY = """\
__device__ __forceinline__
void mma_sync(sums& to, const fragment<matrix_a, 16, 16, 16, half, {of_a}_major>& a,
              const fragment<matrix_b, 16, 16, 16, half, {of_b}_major>& b, const sums& c) {{
  asm volatile("wmma.mma.sync.aligned.{of_a}.{of_b}.m16n16k16.f32.f32 "
               "{{%0, %1, %2, %3, %4, %5, %6, %7}}, {{%8, %9, %10, %11, %12, %13, %14, %15}}, "
               "{{%16, %17, %18, %19, %20, %21, %22, %23}}, "
               "{{%24, %25, %26, %27, %28, %29, %30, %31}};"
               : "=f"(to.x[0]), "=f"(to.x[1]), "=f"(to.x[2]), "=f"(to.x[3]),
                 "=f"(to.x[4]), "=f"(to.x[5]), "=f"(to.x[6]), "=f"(to.x[7])
               : "r"(a.x[0]), "r"(a.x[1]), "r"(a.x[2]), "r"(a.x[3]),
                 "r"(a.x[4]), "r"(a.x[5]), "r"(a.x[6]), "r"(a.x[7]),
                 "r"(b.x[0]), "r"(b.x[1]), "r"(b.x[2]), "r"(b.x[3]),
                 "r"(b.x[4]), "r"(b.x[5]), "r"(b.x[6]), "r"(b.x[7]),
                 "f"(c.x[0]), "f"(c.x[1]), "f"(c.x[2]), "f"(c.x[3]),
                 "f"(c.x[4]), "f"(c.x[5]), "f"(c.x[6]), "f"(c.x[7]));
}}
"""
_LAYOUTS = ("row", "col")

WMMA = "".join(
    [
        _TYPES,
        *(_LOAD.format(use=use, layout=layout) for use in "ab" for layout in _LAYOUTS),
        *(_MULTIPLY.format(of_a=of_a, of_b=of_b) for of_a in _LAYOUTS for of_b in _LAYOUTS),
        "}  // namespace wmma\n}  // namespace nvcuda\n",
    ]
)


_COPY = re.compile(r"ptx_cp_async_legacy_c[ag]_(\d+)_(\d+)_(\d+)\b")
_WAIT = re.compile(r"tvm_builtin_ptx_cp_async_wait_group_async_wait_group_(\d+)\b")
_COMMIT = "tvm_builtin_ptx_cp_async_commit_group_async_commit_group"


def uses_wmma(source: str) -> bool:
    """Whether the source needs `WMMA` before its kernels."""
    return "nvcuda::wmma::" in source


def copies(source: str) -> str:
    """TVM's asynchronous copies that the source calls, by the functions of `instructions`.

    ptx_cp_async_legacy_ca_BYTES_TO_FROM: so many bytes, places in units of so many.
    """
    lines = [f"#define {found[0]} tvmlayers_wait_{found[1]}\n" for found in _unique(_WAIT, source)]
    if _COMMIT in source:
        lines.append(f"#define {_COMMIT} tvmlayers_commit\n")
    for found in _unique(_COPY, source):
        size, of_to, of_from = found.groups()
        lines.append(
            f"__device__ __forceinline__\n"
            f"void {found[0]}(void* to, int to_place, const void* from, int from_place) {{\n"
            f"  tvmlayers_copy_async_{size}((char*)to + to_place * {of_to},\n"
            f"      (const char*)from + from_place * {of_from}, {size});\n}}\n"
        )
    return "".join(lines)


def _unique(pattern: re.Pattern[str], source: str) -> list[re.Match[str]]:
    return list({found[0]: found for found in pattern.finditer(source)}.values())
