"""The formulas of `training.optimizers` on elements: how state and a weight follow a gradient.

A rule works on one element, or on a vector of them. `numbers` are what all elements of a step
share: computed once a step in float64, and rounded to the dtype of the weight.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tvm import te, tirx
from tvm.ir import Expr

from tvmlayers.expr import math as m
from tvmlayers.training.optimizers import SGD, Adagrad, Adam, AdamW, LazyAdam, Optimizer

Elements = Sequence[Expr]


@dataclass(frozen=True)
class Rule:
    """One optimiser's formula.

    slots: how many states an element has; count: how many numbers a step has. numbers(learning
    rate, step from 1 on), both float64; state(numbers, w, g, old states) -> new states;
    weight(numbers, w, g, new states) -> the new w. kept: how many states, the first ones, are read
    alone, and `state` leaves out of its result. of_row(old, mean of g^2 over a row) -> the new last
    state, where a row of a table has one number of it.
    """

    slots: int
    count: int
    numbers: Callable[[Expr, Expr], Elements]
    state: Callable[[Elements, Expr, Expr, Elements], Elements]
    weight: Callable[[Elements, Expr, Expr, Elements], Expr]
    kept: int = 0
    of_row: Callable[[Expr, Expr], Expr] | None = None


def rule_of(optimizer: Optimizer, *, of_table: bool = False) -> Rule:
    """The formula of `optimizer`; of_table: with the forms that only tables take."""
    if isinstance(optimizer, SGD):
        return _sgd(optimizer)
    if isinstance(optimizer, Adagrad):
        return _adagrad(optimizer)
    assert isinstance(optimizer, Adam)
    return _adam(optimizer, of_table and isinstance(optimizer, LazyAdam))


def _gradient(optimizer: Optimizer, w: Expr, g: Expr) -> Expr:
    """g within its limits, with the decay of w."""
    if optimizer.clipvalue is not None:
        g = m.clamp(g, -optimizer.clipvalue, optimizer.clipvalue)
    if optimizer.weight_decay and not isinstance(optimizer, AdamW):
        g = g + m.constant(optimizer.weight_decay, w) * w
    return g


def _sgd(sgd: SGD) -> Rule:
    def state(_: Elements, w: Expr, g: Expr, old: Elements) -> Elements:
        return [m.constant(sgd.momentum, v) * v + _gradient(sgd, w, g) for v in old]

    def weight(numbers: Elements, w: Expr, g: Expr, new: Elements) -> Expr:
        g = _gradient(sgd, w, g)
        if new:
            g = g + m.constant(sgd.momentum, g) * new[0] if sgd.nesterov else new[0]
        return w - numbers[0] * g

    return Rule(len(sgd.state), 1, lambda rate, _: [rate], state, weight)


def _adagrad(adagrad: Adagrad) -> Rule:
    def state(_: Elements, w: Expr, g: Expr, old: Elements) -> Elements:
        g = _gradient(adagrad, w, g)
        return [old[0] + g * g]

    def weight(numbers: Elements, w: Expr, g: Expr, new: Elements) -> Expr:
        g, epsilon = _gradient(adagrad, w, g), m.constant(adagrad.epsilon, w)
        return w - numbers[0] * g / (te.sqrt(new[0]) + epsilon)

    def of_row(old: Expr, mean: Expr) -> Expr:
        return old + mean

    return Rule(1, 1, lambda rate, _: [rate], state, weight, of_row=of_row)


def _adam(adam: Adam, is_sparse: bool) -> Rule:
    """is_sparse: epsilon is added before the correction of v, as `torch.optim.SparseAdam` does."""

    def numbers(rate: Expr, step: Expr) -> Elements:
        first, second = (
            m.constant(1.0, rate) - te.power(m.constant(beta, rate), step)
            for beta in (adam.beta_1, adam.beta_2)
        )
        root = te.sqrt(second)
        decay = m.constant(1.0, rate) - rate * m.constant(adam.weight_decay, rate)
        if is_sparse:
            return [rate / first * root, m.constant(1.0, rate), decay]
        return [rate / first, m.constant(1.0, rate) / root, decay]

    def state(_: Elements, w: Expr, g: Expr, old: Elements) -> Elements:
        g = _gradient(adam, w, g)
        averaged, squared = old
        b1, b2 = m.constant(adam.beta_1, w), m.constant(adam.beta_2, w)
        c1, c2 = m.constant(1.0 - adam.beta_1, w), m.constant(1.0 - adam.beta_2, w)
        return [b1 * averaged + c1 * g, b2 * squared + c2 * (g * g)]

    def weight(numbers: Elements, w: Expr, g: Expr, new: Elements) -> Expr:
        rate, root, decay = numbers
        averaged, squared = new
        kept = w * decay if isinstance(adam, AdamW) else w
        return kept - rate * averaged / (te.sqrt(squared) * root + m.constant(adam.epsilon, w))

    def of_row(old: Expr, mean: Expr) -> Expr:
        share = m.constant(1.0 - adam.beta_2, old)
        return m.constant(adam.beta_2, old) * old + share * mean

    return Rule(2, 3, numbers, state, weight, of_row=of_row)


def scaled(rule: Rule, place: int, count: int) -> Rule:
    """`rule` for gradients times a number, the one at `place` of `count` behind the rule's own."""
    own, at = rule.count, rule.count + place

    def state(numbers: Elements, w: Expr, g: Expr, old: Elements) -> Elements:
        return rule.state(numbers[:own], w, g * numbers[at], old)

    def weight(numbers: Elements, w: Expr, g: Expr, new: Elements) -> Expr:
        return rule.weight(numbers[:own], w, g * numbers[at], new)

    return Rule(rule.slots, own + count, rule.numbers, state, weight, rule.kept)


def square(value: Expr) -> Expr:
    """value * value, computed once."""
    return m.bind(value, lambda v: v * v)


def rounded(value: Expr, dtype: str) -> Expr:
    """A float64 number of a step in the dtype of a weight."""
    return value if dtype == "float64" else tirx.Cast(dtype, value)
