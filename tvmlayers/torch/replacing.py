"""`replace_layers`: the modules of a network that compiled code can take over, in place."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from tvmlayers.torch.modules import Compilable, Embedding, EmbeddingBag, Linear

REPLACED: dict[type, type] = {
    nn.Linear: Linear,
    nn.Embedding: Embedding,
    nn.EmbeddingBag: EmbeddingBag,
}


@dataclass(frozen=True)
class Replacement:
    """What `replace_layers` did. replaced: paths by class; left: why a layer stayed, by path."""

    replaced: dict[str, list[str]]
    left: dict[str, str]

    def __str__(self) -> str:
        lines = [f"{kind}: {', '.join(paths)}" for kind, paths in self.replaced.items()]
        lines += [f"left {path}: {why}" for path, why in self.left.items()]
        return "\n".join(lines) or "no layer to replace"


def replace_layers(module: nn.Module, target: str = "native") -> Replacement:
    """Make every Linear, Embedding and EmbeddingBag of a network one of `tvmlayers.torch`.

    The objects stay and only their class changes: parameters, tied ones too, hooks, names in the
    state dict and optimizers over them are as before. target: the CPU to compile for. TargetError,
    and nothing changes, where this machine cannot run its code.
    """
    Compilable()._aim(target)
    replaced: dict[str, list[str]] = {}
    left: dict[str, str] = {}
    for path, part in module.named_modules():
        kind = REPLACED.get(type(part))
        if kind is not None:
            part.__class__ = kind
            part.target = target
            replaced.setdefault(kind.__name__, []).append(path or "the module itself")
        elif isinstance(part, tuple(REPLACED)) and not isinstance(part, Compilable):
            left[path or "the module itself"] = (
                f"{type(part).__name__} is a class of its own, which may compute something else"
            )
    return Replacement(replaced, left)
