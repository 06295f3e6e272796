"""x86-64: psABI levels and cores, and the flags that their code may use."""

from functools import partial

from tvmlayers.targets.fitted import ZEN4
from tvmlayers.targets.target import KiB, MiB, Target

# Flags that the compiler may use by itself at that level (psABI of x86-64; LLVM's core tables).
V3_FLAGS = ("avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "abm", "movbe")
V4_FLAGS = (*V3_FLAGS, "avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl")
_NEWER_FLAGS = (  # what Intel's and AMD's cores of 2022 and later have in common
    *V4_FLAGS,
    *("avx512ifma", "avx512vbmi", "avx512_vbmi2", "avx512_vnni", "avx512_bitalg"),
    *("avx512_vpopcntdq", "avx512_bf16", "gfni", "vaes", "vpclmulqdq", "sha_ni", "adx"),
)
SAPPHIRERAPIDS_FLAGS = (
    *_NEWER_FLAGS,
    *("avx512_fp16", "avx_vnni", "amx_tile", "amx_int8", "amx_bf16"),
)
ZNVER4_FLAGS = (*_NEWER_FLAGS, "sse4a")
ZNVER5_FLAGS = (*ZNVER4_FLAGS, "avx_vnni")

# Flags of cores that have no row here.
OTHER_FLAGS = ("avx512_vp2intersect", "avx_ifma", "avx_vnni_int8", "xop", "fma4", "tbm")
_FLAGS = dict.fromkeys((*SAPPHIRERAPIDS_FLAGS, *ZNVER5_FLAGS, *OTHER_FLAGS))
LLVM_NAMES = {flag: flag.replace("_", "") for flag in _FLAGS} | {
    "bmi1": "bmi",
    "abm": "lzcnt",
    "sha_ni": "sha",
    "amx_tile": "amx-tile",
    "amx_int8": "amx-int8",
    "amx_bf16": "amx-bf16",
}

_avx512 = partial(Target, vector_bytes=64, vector_registers=32)

# LLVM keeps to 256 bits in the loops it vectorises itself, as older cores slowed down at 512.
# Best first: `native` is the first row whose flags this CPU has.
ROWS = (
    _avx512(
        name="sapphirerapids",
        mcpu="sapphirerapids",
        cpu_flags=SAPPHIRERAPIDS_FLAGS,
        l1d=48 * KiB,
        l2=2 * MiB,
        l3=60 * MiB,
        cores=16,
        features=("-prefer-256-bit",),
    ),
    _avx512(
        name="znver5",
        mcpu="znver5",
        cpu_flags=ZNVER5_FLAGS,
        l1d=48 * KiB,
        l2=1 * MiB,
        l3=32 * MiB,
        cores=8,
    ),
    _avx512(
        name="znver4",
        mcpu="znver4",
        cpu_flags=ZNVER4_FLAGS,
        l1d=32 * KiB,
        l2=1 * MiB,
        l3=32 * MiB,
        cores=8,
        vector_fmas=1,  # of 512 bits, in two halves
        fitted=ZEN4,
    ),
    _avx512(
        name="x86-64-v4",
        mcpu="x86-64-v4",
        cpu_flags=V4_FLAGS,
        l1d=32 * KiB,
        l2=1 * MiB,
        l3=16 * MiB,
        cores=8,
        features=("-prefer-256-bit",),
    ),
    Target(
        name="x86-64-v3",
        mcpu="x86-64-v3",
        cpu_flags=V3_FLAGS,
        vector_bytes=32,
        vector_registers=16,
        l1d=32 * KiB,
        l2=512 * KiB,
        l3=8 * MiB,
        cores=4,
    ),
)
