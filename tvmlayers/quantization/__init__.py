"""Weights in fewer bits, and what that may change: pure NumPy.

A `Form` says how one kind of weight is kept: `ROWS` the tables of Embedding and EmbeddingBag,
`COLUMNS` the kernels of Dense.
"""

from tvmlayers.quantization.columns import COLUMNS
from tvmlayers.quantization.form import Form
from tvmlayers.quantization.kinds import KINDS, Kind
from tvmlayers.quantization.rows import ROWS

__all__ = ["COLUMNS", "KINDS", "ROWS", "Form", "Kind"]
