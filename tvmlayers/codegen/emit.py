"""Small words for writing private functions: pointers, calls, branches."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import pairwise

from tvm import te, tirx
from tvm.ir import Call, Expr, GlobalVar, PrimType
from tvm.script.ir_builder import IRBuilder
from tvm.tirx import Buffer, PrimFunc, Var
from tvm.tirx.script.builder import ir as T

from tvmlayers.codegen.private import NOINLINE, PRIVATE, WRITTEN, pointer_type, with_text

INT32, INT64 = PrimType("int32"), PrimType("int64")


def i64(value: Expr | int) -> Expr:
    """`value` as int64."""
    return tirx.const(value, "int64") if isinstance(value, int) else tirx.Cast("int64", value)


def i32(value: Expr | int) -> Expr:
    """`value` as int32."""
    return tirx.const(value, "int32") if isinstance(value, int) else tirx.Cast("int32", value)


def argument(name: str, kind: str) -> Var:
    """A parameter of the function being written: "int64", "int32" or "*dtype" for a pointer."""
    made = Var(name, pointer_type(kind[1:]) if kind.startswith("*") else kind)
    return T.arg(name, made)


def offset(pointer: Var, elements: Expr | int) -> Expr:
    """`pointer`, a variable (see `bound`), moved on by `elements`.

    One that is an expression itself TVM's search for common ones would lose.
    """
    if isinstance(elements, int) and elements == 0:
        return pointer
    return tirx.address_of(view(pointer)[i64(elements) if isinstance(elements, int) else elements])


def call(function: GlobalVar, *arguments: Expr) -> None:
    """Call a private function as a statement."""
    T.evaluate(invoke(function, *arguments))


def invoke(function: GlobalVar, *arguments: Expr) -> Expr:
    """A call of a private function as an expression."""
    return Call(function, list(arguments), ret_ty=INT32)


def private(body: Callable[[], None]) -> PrimFunc:
    """The private int32 function that `body` writes with `T` and the words of this module."""
    with IRBuilder() as builder, T.prim_func(s_tir=True, private=True):
        T.func_attr({PRIVATE: True, WRITTEN: True})
        T.func_ret(INT32)
        body()
        T.Return(tirx.const(0, "int32"))
    return builder.get()


def entry_point(
    name: str, body: Callable[[], Expr], lines: Sequence[str] = ()
) -> dict[GlobalVar, PrimFunc]:
    """The int64 function `name` that Python can call, which `body` writes but for its result.

    lines: LLVM's own text, for functions that it or others of its module call.
    """
    with IRBuilder() as builder, T.prim_func(s_tir=True):
        T.func_name(name)
        T.func_attr({"global_symbol": name})
        T.func_ret(INT64)
        T.Return(body())
    function = builder.get()
    text = "\n".join([*lines, ""])
    return {GlobalVar(name): function.with_body(with_text(function.body, text))}


def noinline(function: PrimFunc) -> PrimFunc:
    """The private function, not inlined: LLVM's passes take longer over one large function."""
    return function.with_attr(NOINLINE, True)


def task_bounds(i: Expr, tasks: Expr, total: Expr) -> tuple[Expr, Expr]:
    """The half-open range of `total` that task i of `tasks` does; lengths differ by one at most."""
    first = quotient(i64(i) * total, i64(tasks))
    last = quotient((i64(i) + i64(1)) * total, i64(tasks))
    return first, last


def ceil_div(a: Expr, b: int) -> Expr:
    """a / b rounded up, for an `a` that is not negative."""
    return quotient(a + i64(b - 1), i64(b))


def quotient(a: Expr, b: Expr) -> Expr:
    """a / b rounded down, for numbers that are not negative.

    Of other divisors than powers of two, which are shifts, a floordiv also corrects the quotients
    of negative numbers, in ten instructions.
    """
    is_shift = isinstance(b, tirx.IntImm) and int(b).bit_count() == 1
    return te.indexdiv(a, b) if is_shift else tirx.truncdiv(a, b)


def chain(branches: Sequence[tuple[Expr | None, Callable[[], None]]]) -> None:
    """if / else if / else; the last branch's condition is None."""
    (condition, write), *rest = branches
    if condition is None:
        write()
        return
    with T.If(condition):
        with T.Then():
            write()
        with T.Else():
            chain(rest)


Bounds = Sequence[tuple[int | None, int]]


def by_bound(value: Expr, bounds: Bounds) -> Expr:
    """The number beside the first bound that `value` does not exceed; the last has no bound."""
    (found,) = _chosen(value, [(most, (number,)) for most, number in bounds])
    return found


def by_bounds(value: Expr, bounds: Sequence[tuple[int | None, tuple[int, ...]]]) -> list[Expr]:
    """The numbers beside the first bound that `value` does not exceed; the last has no bound.

    Of many bounds most have the same few numbers beside them: these numbers are compared first.
    """
    different = list(dict.fromkeys(numbers for _, numbers in bounds))
    place = by_bound(value, [(most, different.index(numbers)) for most, numbers in bounds])
    last = len(different) - 1
    numbered = enumerate(different)
    return _chosen(place, [(None if i == last else i, numbers) for i, numbers in numbered])


def _chosen(value: Expr, bounds: Sequence[tuple[int | None, tuple[int, ...]]]) -> list[Expr]:
    """As `by_bounds`, bound by bound.

    Kept in memory of their own: the compiler's passes go over a chain of selections again and again
    wherever its value is used.
    """
    ends = [here for here, after in pairwise(bounds) if here[1] != after[1]]
    if not ends:
        return [i64(number) for number in bounds[-1][1]]
    found = [T.sblock_alloc_buffer((1,), "int64", scope="local") for _ in bounds[-1][1]]

    def keep(numbers: tuple[int, ...]) -> None:
        for place, number in zip(found, numbers, strict=True):
            T.buffer_store(place, i64(number), [0])

    chain(
        [
            (None if most is None else value <= i64(most), partial(keep, numbers))
            for most, numbers in [*ends, bounds[-1]]
        ]
    )
    return [bound(place[0]) for place in found]


def kept(value: Expr) -> Expr:
    """`value` computed here and kept in memory of its own, into which no pass looks.

    What several threads read is kept before they start.
    """
    found = T.sblock_alloc_buffer((1,), "int64", scope="local")
    T.buffer_store(found, value, [0])
    return bound(found[0])


def either(condition: Expr, value: Expr, otherwise: Expr) -> Expr:
    """`value` where the condition holds, computed only there; kept as by `kept`."""
    found = T.sblock_alloc_buffer((1,), "int64", scope="local")
    stores = [partial(T.buffer_store, found, each, [0]) for each in (value, otherwise)]
    chain([(condition, stores[0]), (None, stores[1])])
    return bound(found[0])


@contextmanager
def loop(first: Expr, last: Expr) -> Iterator[Expr]:
    """A serial loop over first..last-1."""
    with T.serial(first, last) as i:
        yield i


def when(condition: Expr, write: Callable[[], None]) -> None:
    """`write` only where `condition` holds."""
    with T.If(condition), T.Then():
        write()


def bound(value: Expr) -> Expr:
    """`value` computed here and named."""
    return T.Bind(value)


def on_stack(elements: int, dtype: str) -> Expr:
    """A pointer to memory that lives as long as the function being written."""
    return T.sblock_alloc_buffer((elements,), dtype, scope="local").data


def view(pointer: Var, dtype: str | None = None) -> Buffer:
    """What `pointer` points at, to be indexed from its first element; dtype: if it is another."""
    dtype = dtype or str(pointer.ty.element_type.dtype)
    return T.decl_buffer((i64(1),), dtype, data=pointer, layout=None)


def store(pointer: Var, value: int) -> None:
    """Store a constant where `pointer` points."""
    buffer = view(pointer)
    T.buffer_store(buffer, tirx.const(value, str(buffer.dtype)), [i64(0)])


def half(value: Expr) -> Expr:
    """value / 2 for an even number."""
    return te.indexdiv(value, i64(2))
