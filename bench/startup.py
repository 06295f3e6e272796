"""`python -m bench.startup`: what comes before the first call, each time in a process of its own.

Compiling the seed model, from Python objects to a callable, after the imports; loading it from its
artefact, beyond `import tvmlayers`, in CPU time; and the peak of memory while a large layer is
compiled and loaded, in weights: 1 is the packed weights alone.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

SEED = """
seed = tl.Sequential([tl.Embedding(5000, 64, input_length=10), tl.Flatten(),
                      tl.Dense(128, activation="relu"), tl.Dense(10, activation="softmax")])
seed.build()
"""
COMPILE = f"""
import sys, time
import numpy as np
import tvmlayers as tl
tl.compile  # imports the compiler
{SEED}
begin = time.perf_counter()
compiled = tl.compile(seed)
print(time.perf_counter() - begin)
compiled.save(sys.argv[1] + "/seed.tvml")
"""
LOAD = """
import sys, time
import tvmlayers as tl
begin = time.process_time()
tl.load(sys.argv[1] + "/seed.tvml")
print(time.process_time() - begin)
"""
# The layer is of 172 MiB, so that what Python and the compiler take besides does not count.
K, N = 4096, 11008
PEAK = """
import sys
import numpy as np
import tvmlayers as tl
def status(what):
    (line,) = [line for line in open("/proc/self/status") if line.startswith(what + ":")]
    return int(line.split()[1]) << 10
"""
COMPILE_LARGE = f"""{PEAK}
tl.compile(tl.Dense(8, input_dim=8))(np.ones((1, 8), np.float32))
model = tl.Sequential([tl.Dense({N}, input_dim={K}, kernel_initializer="zeros")])
model.build()
model.set_weights([np.ones(({K}, {N}), np.float32), np.ones({N}, np.float32)])
model.save(sys.argv[1] + "/large.safetensors")
before = status("VmRSS")
compiled = tl.compile(model)
del model
compiled(np.ones((16, {K}), np.float32))
weights = sum(array.nbytes for array in compiled.packed_weights().values())
print((status("VmHWM") - before) / weights, (status("VmRSS") - before) / weights + 1)
compiled.save(sys.argv[1] + "/large.tvml")
"""
LOAD_LARGE = f"""{PEAK}
before = status("VmRSS")
compiled = tl.load(sys.argv[1] + "/large.tvml")
compiled(np.ones((16, {K}), np.float32))
weights = sum(array.nbytes for array in compiled.packed_weights().values())
print((status("VmHWM") - before) / weights, (status("VmRSS") - before) / weights)
"""


def main(argv: Sequence[str] | None = None) -> int:
    """0; what was measured is printed, and written where --json says."""
    parser = argparse.ArgumentParser(prog="python -m bench.startup", description=__doc__)
    parser.add_argument("--runs", type=int, default=9, help="of what takes time; %(default)s")
    parser.add_argument("--json", type=Path, metavar="FILE")
    arguments = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        found: dict[str, Any] = {
            "compile seed, s": _times(COMPILE, folder, arguments.runs),
            "load seed, CPU s": _times(LOAD, folder, arguments.runs),
        }
        for name, program in (("compile", COMPILE_LARGE), ("load", LOAD_LARGE)):
            peak, left = _run(program, folder)
            found[f"{name} a large layer, in weights"] = {"peak": peak, "left": left}
    for name, numbers in found.items():
        said = ", ".join(f"{what} {number:.3f}" for what, number in numbers.items())
        print(f"{name}: {said}")
    if arguments.json:
        from bench import conditions

        said = {"conditions": conditions.read(2, "native", {}), **found}
        arguments.json.write_text(json.dumps(said, indent=1) + "\n")
    return 0


def _times(program: str, folder: str, runs: int) -> dict[str, float]:
    """Of so many processes, after one that writes bytecode."""
    _run(program, folder)
    times = [_run(program, folder)[0] for _ in range(runs)]
    return {"median": median(times), "least": min(times), "most": max(times)}


def _run(program: str, folder: str) -> list[float]:
    done = subprocess.run(
        [sys.executable, "-c", program, folder], capture_output=True, text=True, check=True
    )
    return [float(word) for word in done.stdout.split()]


if __name__ == "__main__":
    sys.exit(main())
