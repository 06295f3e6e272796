"""Where the layers of a model are on this machine's roofline: `tvmlayers.explain`."""

from tvmlayers.roofline.explaining import explain
from tvmlayers.roofline.explanation import Explanation, LayerRow
from tvmlayers.roofline.roofs import Level, Roofs

__all__ = ["Explanation", "LayerRow", "Level", "Roofs", "explain"]
