"""AArch64: cores, the flags that their code may use, and how Linux reports them."""

from functools import partial

from tvmlayers.targets.fitted import ARM
from tvmlayers.targets.target import KiB, MiB, Target

TRIPLE = "aarch64-unknown-linux-gnu"
GENERIC = "generic"  # LLVM's name of what every AArch64 core can do

# Flags that the compiler may use by itself for that core. AES and SHA are optional, and the board
# that most people have with a Cortex-A72, the Raspberry Pi 4, is without: code never needs them.
ARMV8_FLAGS = ("fp", "asimd")
A72_FLAGS = (*ARMV8_FLAGS, "crc32")
N1_FLAGS = (
    *A72_FLAGS,
    *("atomics", "fphp", "asimdhp", "asimdrdm", "lrcpc", "dcpop", "asimddp"),
)
V1_FLAGS = (
    *N1_FLAGS,
    *("jscvt", "fcma", "asimdfhm", "ilrcpc", "flagm", "sve", "i8mm", "bf16"),
)

# Flags by their bit in the two words with which the kernel tells a program what the CPU can do
# (asm/hwcap.h): the same that it lists in /proc/cpuinfo.
HWCAP = {
    0: "fp",
    1: "asimd",
    3: "aes",
    4: "pmull",
    5: "sha1",
    6: "sha2",
    7: "crc32",
    8: "atomics",
    9: "fphp",
    10: "asimdhp",
    12: "asimdrdm",
    13: "jscvt",
    14: "fcma",
    15: "lrcpc",
    16: "dcpop",
    17: "sha3",
    18: "sm3",
    19: "sm4",
    20: "asimddp",
    21: "sha512",
    22: "sve",
    23: "asimdfhm",
    24: "dit",
    25: "uscat",
    26: "ilrcpc",
    27: "flagm",
    28: "ssbs",
    29: "sb",
}
HWCAP2 = {
    0: "dcpodp",
    1: "sve2",
    2: "sveaes",
    4: "svebitperm",
    5: "svesha3",
    6: "svesm4",
    7: "flagm2",
    8: "frint",
    9: "svei8mm",
    10: "svef32mm",
    11: "svef64mm",
    12: "svebf16",
    13: "i8mm",
    14: "bf16",
    15: "dgh",
    16: "rng",
    17: "bti",
    18: "mte",
    23: "sme",
}

# Without those that LLVM uses only where a program asks for them by name, such as AES.
LLVM_NAMES = {
    "fp": "fp-armv8",
    "asimd": "neon",
    "crc32": "crc",
    "atomics": "lse",
    "fphp": "fullfp16",
    "asimdhp": "fullfp16",
    "asimdrdm": "rdm",
    "lrcpc": "rcpc",
    "dcpop": "ccpp",
    "asimddp": "dotprod",
    "jscvt": "jsconv",
    "fcma": "complxnum",
    "asimdfhm": "fp16fml",
    "ilrcpc": "rcpc-immo",
    "frint": "fptoint",
    **{name: name for name in ("flagm", "sve", "sve2", "i8mm", "bf16")},
}

# Registers are those of NEON, which all have; a register tile of V1's 256-bit SVE would be compiled
# for one length only.
_core = partial(
    Target, vector_bytes=16, vector_registers=32, triple=TRIPLE, family="arm", fitted=ARM
)

# Best first: `native` is the first row whose flags this CPU has.
ROWS = (
    _core(
        name="neoverse-v1",
        mcpu="neoverse-v1",
        cpu_flags=V1_FLAGS,
        l1d=64 * KiB,
        l2=1 * MiB,
        l3=32 * MiB,
        cores=64,
        features=("-aes", "-sha2", "-sha3", "-sm4"),
    ),
    _core(
        name="neoverse-n1",
        mcpu="neoverse-n1",
        cpu_flags=N1_FLAGS,
        l1d=64 * KiB,
        l2=1 * MiB,
        l3=32 * MiB,
        cores=64,
        features=("-aes", "-sha2"),
    ),
    _core(
        name="cortex-a72",
        mcpu="cortex-a72",
        cpu_flags=A72_FLAGS,
        l1d=32 * KiB,
        l2=1 * MiB,
        l3=1 * MiB,  # there is none behind the second level
        cores=4,
        features=("-aes", "-sha2"),
    ),
    _core(
        name="armv8-a",
        mcpu=GENERIC,
        cpu_flags=ARMV8_FLAGS,
        l1d=32 * KiB,
        l2=512 * KiB,
        l3=1 * MiB,
        cores=4,
    ),
)
