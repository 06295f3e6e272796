"""The quantised modules of torch.ao that take floats and give floats.

torch.export follows none of them. While a network is exported, modules of torch.nn with the numbers
that the codes stand for are in their places; the codes themselves become the layers' weights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from tvmlayers.errors import ModelImportError
from tvmlayers.interop.codes import Codes, Held, unpacked
from tvmlayers.quantization.rows import fused

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module

Fewer: TypeAlias = tuple[str, "list[Tensor]"]
"""The kind of a weight, and the tensors that it is kept as."""

_QUANTISED = ("torch.ao.nn.quantized.", "torch.ao.nn.intrinsic.quantized.")


@contextmanager
def float_modules(module: Module) -> Iterator[tuple[Module, Mapping[str, Fewer]]]:
    """(the module with modules of floats in the place of quantised ones, how their weights are
    kept, by name). The module is given back as it was.

    ModelImportError for other quantised modules, as those that round inputs in fixed steps.
    """
    made: dict[Module, tuple[Module, str, Fewer]] = {}
    fewer: dict[str, Fewer] = {}
    whole, places = module, []
    for path, part in list(module.named_modules(remove_duplicate=False)):
        reader = _readers().get(type(part))
        if reader is None:
            continue
        if part not in made:
            made[part] = reader(part)
        twin, weight, kept = made[part]
        fewer[f"{path}.{weight}" if path else weight] = kept
        owner, _, name = path.rpartition(".")
        if path:
            places.append((module.get_submodule(owner), name, part, twin))
        else:
            whole = twin
    try:
        for parent, name, _, twin in places:
            parent._modules[name] = twin
        _need_no_more(whole)
        yield whole, fewer
    finally:
        for parent, name, part, _ in places:
            parent._modules[name] = part


def _need_no_more(module: Module) -> None:
    """ModelImportError for quantised modules that have no stand-in."""
    for path, part in module.named_modules():
        if type(part).__module__.startswith(_QUANTISED):
            raise ModelImportError(
                f"{path or 'the module'} is a {type(part).__module__}.{type(part).__name__}, which "
                "no layer here computes: import the float model, and tl.quantize it"
            )


def _readers() -> dict[type, Callable[[Any], tuple[Module, str, Fewer]]]:
    """For each class, what gives the float module, its weight's name and how that is kept."""
    from torch.ao.nn import quantized
    from torch.ao.nn.intrinsic.quantized import dynamic as fused_dynamic
    from torch.ao.nn.quantized import dynamic

    return {
        dynamic.Linear: _linear,
        fused_dynamic.LinearReLU: _linear_relu,
        quantized.Embedding: _embedding,
        quantized.EmbeddingBag: _bag,
    }


def _linear(module: Any) -> tuple[Module, str, Fewer]:
    import torch

    weight, bias = module.weight(), module.bias()
    made = torch.nn.Linear(module.in_features, module.out_features, bias is not None, "meta")
    _fill(made, weight, bias)
    return made, "weight", _tensors(_kernel(weight))


def _linear_relu(module: Any) -> tuple[Module, str, Fewer]:
    import torch

    linear, name, kept = _linear(module)
    return torch.nn.Sequential(linear, torch.nn.ReLU()), f"0.{name}", kept


def _kernel(weight: Tensor) -> Held:
    """A Linear's weight (out, in) as a Dense keeps it: codes, or halves that came as float32."""
    import torch

    if not weight.is_quantized:
        floats = weight.detach().numpy().T
        with np.errstate(over="ignore"):
            halves = floats.astype(np.float16)
        is_half = np.array_equal(halves.astype(np.float32), floats, equal_nan=True)
        return ("float16", [halves]) if is_half else ("float32", [floats])
    if weight.qscheme() == torch.per_tensor_affine:
        scales, zeros = np.array([weight.q_scale()]), np.array([weight.q_zero_point()])
    else:
        scales = weight.q_per_channel_scales().numpy()
        zeros = weight.q_per_channel_zero_points().numpy()
    codes = weight.int_repr().numpy().astype(np.int64) - zeros[:, None]
    # PyTorch's packed weights keep scales as float32.
    columns = np.broadcast_to(scales.astype(np.float32), (1, len(codes)))
    return Codes("int8", codes.T, np.ascontiguousarray(columns)).held()


def _embedding(module: Any) -> tuple[Module, str, Fewer]:
    import torch

    made = torch.nn.Embedding(module.num_embeddings, module.embedding_dim, device="meta")
    return _table(module, made)


def _bag(module: Any) -> tuple[Module, str, Fewer]:
    import torch

    if module.pruned_weights:
        raise ModelImportError(
            "a quantised EmbeddingBag with pruned rows is not read: quantise one with all of them"
        )
    # The class sums, whatever its mode says.
    made = torch.nn.EmbeddingBag(
        module.num_embeddings,
        module.embedding_dim,
        mode="sum",
        include_last_offset=module.include_last_offset,
        device="meta",
    )
    return _table(module, made)


def _table(module: Any, made: Module) -> tuple[Module, str, Fewer]:
    """The rows as PyTorch's packed weight has them, which its own unpacking takes apart."""
    import torch

    weight = module.weight()
    _fill(made, weight, None)
    codes = weight.int_repr().numpy()
    kind = "int8" if weight.dtype == torch.quint8 else "int4"
    if kind == "int4":
        codes = unpacked(codes, 4).astype(np.uint8)
    scales = weight.q_per_channel_scales().numpy()
    offsets = -(weight.q_per_channel_zero_points().numpy() * scales)
    rows = fused(codes.reshape(weight.shape), scales, offsets, kind)
    return made, "weight", _tensors((kind, [rows]))


def _fill(made: Any, weight: Tensor, bias: Tensor | None) -> None:
    """Give a module on the meta device its numbers."""
    import torch

    floats = weight.dequantize() if weight.is_quantized else weight
    made.weight = torch.nn.Parameter(floats.detach(), requires_grad=False)
    if bias is not None:
        made.bias = torch.nn.Parameter(bias.detach(), requires_grad=False)


def _tensors(held: Held) -> Fewer:
    import torch

    kind, arrays = held
    return kind, [torch.from_numpy(np.ascontiguousarray(array)) for array in arrays]
