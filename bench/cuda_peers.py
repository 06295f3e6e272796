"""`python -m bench cuda`: our kernels against PyTorch's on the GPU here.

Dense layers against `torch.nn.functional.linear` (cuBLASLt, TF32 off) and its compiled form with
`mode="max-autotune"`, in float32, float16 and bfloat16, also at batches below 64 and at 4096 cubed.
Lookups and bags against PyTorch's, FBGEMM's and the measured bandwidth of the memory. Of each there
is the time of a call and that of its kernels alone. Every result is compared before it is timed.
Written where there was no GPU: unmeasured so far.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench import cuda_cases
from bench.cases import CaseError, DenseCase
from bench.cuda_cases import Wanted

if TYPE_CHECKING:
    from bench.cuda_limits import GpuLimits
    from bench.rows import Row

PEERS = ("torch.compile", "fbgemm")


def add_arguments(sub: argparse.ArgumentParser) -> None:
    """The options of `cuda`."""
    sub.add_argument("--target", default="cuda", help="a GPU's name; the one that is here")
    sub.add_argument(
        "--kind",
        action="append",
        dest="kinds",
        choices=cuda_cases.KINDS,
        help="of case; all, if left out",
    )
    sub.add_argument(
        "--dtype",
        action="append",
        dest="dtypes",
        choices=cuda_cases.DTYPES,
        help="of dense layers; all, if left out (lookups and bags are of float32)",
    )
    sub.add_argument(
        "--shapes",
        "--cases",
        dest="cases",
        nargs="+",
        action="extend",
        metavar="CASE",
        help="as 128x768x3072:gelu; a string of three numbers is a dense layer unless --kind says "
        "otherwise; the public cases and those of halves, if left out",
    )
    sub.add_argument(
        "--peers",
        nargs="*",
        choices=PEERS,
        default=list(PEERS),
        help="beside PyTorch eager; all, if left out",
    )
    sub.add_argument(
        "--json", type=Path, metavar="FILE", help="written anew after every case that was timed"
    )
    sub.add_argument(
        "--resume", action="store_true", help="keep the rows that FILE has, and time the others"
    )
    sub.add_argument(
        "--budget", type=float, metavar="SECONDS", help="begin no further case after these seconds"
    )


def run(arguments: argparse.Namespace) -> int:
    """0; 1 where a result is wrong; 2 for bad arguments and without a GPU; 3 for a spent budget."""
    from bench import hardware
    from bench.plot import NoPlotError
    from bench.reference import activation
    from tvmlayers.errors import TvmLayersError

    try:
        wanted = cuda_cases.chosen(arguments.kinds, arguments.dtypes, _words(arguments.cases))
        for _, case in wanted:
            if isinstance(case, DenseCase):
                activation(case)
        if arguments.resume and arguments.json is None:
            raise CaseError("--resume needs the --json FILE that it goes on with")
        hardware.gpu_here(arguments.target)
        import torch

        if not torch.cuda.is_available():
            raise CaseError(f"torch {torch.__version__} sees no GPU; install a build with CUDA")
        torch.backends.cuda.matmul.allow_tf32 = False
        from bench.cuda_limits import GpuLimits

        return Run(arguments, GpuLimits()).time(wanted)
    except (CaseError, NoPlotError, TvmLayersError, ValueError, OSError) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 2


class Run:
    """Cases in turn, each a printed line, and the JSON as it stands after each."""

    def __init__(
        self, arguments: argparse.Namespace, limits: GpuLimits, device: str = "cuda"
    ) -> None:
        """NoPlotError where --resume finds a file that is no result."""
        self.arguments, self.limits, self.device = arguments, limits, device
        self.rows: list[Row] = []
        self.errors: dict[str, str] = {}
        if arguments.json is not None and arguments.resume and arguments.json.exists():
            from bench.plot import Run as Earlier

            self.rows = Earlier.read(arguments.json).rows
        self.kept = {(row.dtype, row.case) for row in self.rows}

    def time(self, wanted: Sequence[Wanted]) -> int:
        """0, 1 where a result is wrong, 3 where the budget ended before the cases did."""
        import torch

        from bench import cuda_rows, work

        begun = time.monotonic()
        left = [each for each in wanted if (each[0], each[1].spec) not in self.kept]
        budget = self.arguments.budget
        for place, (dtype, case) in enumerate(left):
            if budget is not None and time.monotonic() - begun > budget:
                print(f"the budget is spent, {len(left) - place} cases are left: --resume")
                return 3
            row = self._row(dtype, case)
            if row is not None:
                self.rows.append(row)
                print(cuda_rows.line_of(row), flush=True)
            self._write()
            work.release()
            if self.device == "cuda":
                torch.cuda.empty_cache()
        for kind, means in cuda_rows.geometric_means(self.rows).items():
            for name, found in means.items():
                kernels = f", of kernels {found['device']:.2f}" if "device" in found else ""
                print(f"{kind} against {name}: geometric mean {found['call']:.2f}{kernels}")
        return 1 if self.errors else 0

    def _row(self, dtype: str, case: Any) -> Row | None:
        """The row; None where there is none, and the reason among the errors."""
        import torch

        from bench import cuda_dense, cuda_lookups, cuda_rows
        from bench.reference import WrongResult
        from tvmlayers.errors import DeviceMemoryError

        target, peers = self.arguments.target, self.arguments.peers
        prepare: Any = cuda_dense.prepare if case.kind == "dense" else cuda_lookups.prepare
        try:
            prepared = prepare(dtype, case, target, peers, self.device)
            return cuda_rows.row(prepared, target, self.limits, self.device)
        except (WrongResult, DeviceMemoryError, torch.OutOfMemoryError) as error:
            self.errors[f"{case.spec} {dtype}"] = str(error)
            print(f"no row of {case.spec} {dtype}: {error}", file=sys.stderr)
            return None

    def _write(self) -> None:
        """The conditions, limits, rows and means so far, where a file is asked for."""
        if self.arguments.json is None:
            return
        import torch

        from bench import conditions, cuda_rows, report

        found = conditions.read(1, self.arguments.target, {"torch": torch.__version__})
        if self.device == "cuda":
            found |= {"gpu": torch.cuda.get_device_name(), "cuda": torch.version.cuda}
        limits = self.limits.summary()
        means = cuda_rows.geometric_means(self.rows)
        path = self.arguments.json
        report.write_json(path, found, limits, self.rows, self.errors, geometric_means=means)


def _words(given: Sequence[str] | None) -> list[str] | None:
    return [word for each in given for word in each.split(",") if word] if given else None
