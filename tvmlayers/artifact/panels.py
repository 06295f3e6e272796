"""How a Dense weight lies in memory: panels of columns, each as wide as the register tile.

Pure NumPy: weights are packed at compile time and when new ones are given, and unpacked wherever
a reference needs the plain weight.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from tvmlayers.artifact.bf16x3 import parts_bytes, write_parts
from tvmlayers.dtypes import numpy_dtype

_ALIGNED = 16  # elements
PAIR, _PAIRED_STEPS = 2, 32  # steps of k side by side, of which tiles of AMX take so many


@dataclass(frozen=True)
class PanelLayout:
    """W (k, n) as full panels (k, width), row by row, then one narrower panel for the columns left.

    The last panel is tail_width >= tail columns wide, padded with zeros. A single column is kept as
    a plain vector, which a dot product reads along k. has_parts: the panels are followed by W once
    more, as `bf16x3` brings it into the tiles of AMX. depth: how many steps of k lie side by side
    for each column, 1 or PAIR; k is then padded with zeros to a whole tile of AMX.
    codes: where it is more than 1, so many codes of steps of k lie in an element, a uint32, without
    a sign (see `code_shift`); k is padded with codes of zero.
    """

    k: int
    n: int
    width: int
    tail_width: int
    dtype: str
    has_parts: bool = False
    depth: int = 1
    codes: int = 1

    @property
    def rows(self) -> int:
        """Rows of a panel, of `depth` steps each, or of `codes`."""
        if self.depth == 1:
            return -(-self.k // self.codes)
        return -(-self.k // _PAIRED_STEPS) * _PAIRED_STEPS // self.depth

    @property
    def is_vector(self) -> bool:
        """Whether W is one column, kept without padding."""
        return self.n == 1

    @property
    def full_panels(self) -> int:
        """Panels of `width` columns."""
        return 0 if self.is_vector else self.n // self.width

    @property
    def tail(self) -> int:
        """Columns of the last, narrower panel; 0 when there is none."""
        return 1 if self.is_vector else self.n % self.width

    @property
    def columns(self) -> int:
        """Columns with padding."""
        return self.full_panels * self.width + (self.tail_width if self.tail else 0)

    @property
    def parts_start(self) -> int:
        """The element at which the parts begin, a multiple of 64 bytes."""
        return -(-self.rows * self.columns // _ALIGNED) * _ALIGNED

    @property
    def size(self) -> int:
        """Elements of the packed weight."""
        if not self.has_parts:
            return self.rows * self.depth * self.columns
        return self.parts_start + parts_bytes(self.k, self.columns) // 4

    def describe(self) -> dict[str, Any]:
        """JSON-able record; `PanelLayout(**record)` takes it back. Numbers of steps go without
        saying where they are 1: older artefacts do not name them."""
        described = asdict(self)
        for name in ("depth", "codes"):
            if described[name] == 1:
                del described[name]
        return described


def panel_layout(
    k: int,
    n: int,
    *,
    width: int,
    lanes: int,
    dtype: str,
    has_parts: bool = False,
    depth: int = 1,
    codes: int = 1,
) -> PanelLayout:
    """The layout of a (k, n) weight for panels of `width` columns and vectors of `lanes`."""
    tail = n % width
    tail_width = 1 if n == 1 else -(-tail // lanes) * lanes
    return PanelLayout(k, n, width, tail_width, dtype, has_parts, depth, codes)


def code_shift(step: int, depth: int) -> int:
    """The bit at which the code of a step begins in an element of `depth` codes.

    Four bytes lie one after another. Of eight codes of four bits the first four are the low halves
    of the bytes: a mask gives four bytes, and a shift the four others.
    """
    return 8 * step if depth == 4 else 8 * (step % 4) + 4 * (step // 4)


def code_offset(depth: int) -> int:
    """How much larger a code is kept in an element of `depth`."""
    return 1 << (32 // depth - 1)


def _into_words(codes: np.ndarray, layout: PanelLayout) -> np.ndarray:
    """Codes (k, n) int8 as elements (rows, n)."""
    depth, offset = layout.codes, code_offset(layout.codes)
    padded = np.full((layout.rows * depth, layout.n), offset, np.uint32)
    padded[: layout.k] = codes.astype(np.int16) + offset
    words = np.zeros((layout.rows, layout.n), np.uint32)
    for step in range(depth):
        words |= padded[step::depth] << np.uint32(code_shift(step, depth))
    return words


def _out_of_words(words: np.ndarray, layout: PanelLayout) -> np.ndarray:
    """The other way round."""
    depth, offset = layout.codes, code_offset(layout.codes)
    shifts = np.array([code_shift(step, depth) for step in range(depth)], np.uint32)
    codes = words[:, None, :] >> shifts[:, None] & np.uint32(2 * offset - 1)
    return (codes.reshape(-1, layout.n)[: layout.k].astype(np.int16) - offset).astype(np.int8)


def pack_kernel(
    kernel: np.ndarray, layout: PanelLayout, out: np.ndarray | None = None
) -> np.ndarray:
    """`kernel` (k, n) in the order of `layout`, one flat array with layout.size elements.

    out: where to put it, zeroed; without, it is made.
    """
    packed = np.zeros(layout.size, numpy_dtype(layout.dtype)) if out is None else out
    if layout.has_parts:
        write_parts(kernel, layout.columns, packed[layout.parts_start :])
    if layout.is_vector:
        packed[:] = kernel[:, 0]
        return packed
    split = layout.full_panels * layout.width
    full, tail = _panels(packed, layout)
    if layout.codes > 1:
        kernel = _into_words(kernel, layout)
    for step in range(layout.depth):
        steps = kernel[step :: layout.depth]
        panels = steps[:, :split].reshape(len(steps), layout.full_panels, layout.width)
        full[:, : len(steps), :, step] = panels.transpose(1, 0, 2)
        tail[: len(steps), : layout.tail, step] = steps[:, split:]
    return packed


def _panels(packed: np.ndarray, layout: PanelLayout) -> tuple[np.ndarray, np.ndarray]:
    """Views of a packed weight: its full panels (panels, rows, width, depth), and its last one
    (rows, width, depth), which has no columns where all are full."""
    rows, depth = layout.rows, layout.depth
    split = rows * depth * layout.full_panels * layout.width
    full = packed[:split].reshape(layout.full_panels, rows, layout.width, depth)
    last = layout.tail_width if layout.tail else 0
    tail = packed[split : split + rows * depth * last].reshape(rows, last, depth)
    return full, tail


def unpack_kernel(packed: np.ndarray, layout: PanelLayout) -> np.ndarray:
    """The plain (k, n) weight out of `pack_kernel`'s flat array."""
    if layout.is_vector:
        return packed.reshape(layout.k, 1).copy()
    split, steps = layout.full_panels * layout.width, layout.rows * layout.depth
    full, tail = _panels(packed, layout)
    plain = np.empty((steps, layout.n), packed.dtype)
    plain[:, :split] = full.transpose(1, 3, 0, 2).reshape(steps, split)
    plain[:, split:] = tail.transpose(0, 2, 1).reshape(steps, -1)[:, : layout.tail]
    return plain[: layout.k] if layout.codes == 1 else _out_of_words(plain, layout)


def pack_columns(numbers: np.ndarray, layout: PanelLayout, out: np.ndarray) -> None:
    """Write a number for each column, (n,), into zeros of layout.columns."""
    out[: layout.n] = numbers


@dataclass(frozen=True)
class PaddedLayout:
    """W (k, n) in the corner of zeros (rows, columns), `depth` rows side by side for each column.

    That is (rows / depth, columns, depth), or (rows, columns) where depth is 1.
    """

    k: int
    n: int
    rows: int
    columns: int
    depth: int = 1

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the packed weight."""
        if self.depth == 1:
            return self.rows, self.columns
        return self.rows // self.depth, self.columns, self.depth

    def describe(self) -> dict[str, Any]:
        """JSON-able record, which `unpack` takes back."""
        return {"kind": "padded", **asdict(self)}


def pack_padded(kernel: np.ndarray, layout: PaddedLayout, out: np.ndarray) -> None:
    """Write `kernel` (k, n) into zeros of `layout.shape`."""
    if layout.depth == 1:
        out[: layout.k, : layout.n] = kernel
        return
    whole, depth = layout.k // layout.depth, layout.depth
    split = whole * depth
    full = kernel[:split].reshape(whole, depth, layout.n)
    out[:whole, : layout.n] = full.transpose(0, 2, 1)
    if split < layout.k:
        out[whole, : layout.n, : layout.k - split] = kernel[split:].T


def pack(kernel: np.ndarray, layout: Mapping[str, Any], out: np.ndarray) -> None:
    """Write `kernel` (k, n) into zeroed memory, as a manifest describes it."""
    described = _described(layout)
    if isinstance(described, PaddedLayout):
        pack_padded(kernel, described, out)
    else:
        pack_kernel(kernel, described, out)


def unpack(packed: np.ndarray, layout: Mapping[str, Any]) -> np.ndarray:
    """The plain (k, n) weight of what a manifest describes as `layout`."""
    described = _described(layout)
    if isinstance(described, PanelLayout):
        return unpack_kernel(packed, described)
    rows = packed.reshape(described.rows // described.depth, described.columns, described.depth)
    plain = rows.transpose(0, 2, 1).reshape(described.rows, described.columns)
    return plain[: described.k, : described.n]


def _described(layout: Mapping[str, Any]) -> PanelLayout | PaddedLayout:
    fields = {name: value for name, value in layout.items() if name != "kind"}
    return PaddedLayout(**fields) if layout.get("kind") == "padded" else PanelLayout(**fields)
