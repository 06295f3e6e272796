"""Elementary functions as branch-free float expressions that vectorise.

LLVM has no vector `exp`, `tanh` or `erf` of its own: a vectorised call falls apart into scalar
calls of libm. In float32 the functions here are short polynomials instead, accurate to a few ulp
and right for infinities and NaN; in float64 they are libm's.

Sources: the range reductions and minimax coefficients of `exp`, `log` and `tanh` are those of the
Cephes library's single-precision routines (S. L. Moshier); `erf` is the rational approximation on
[-4, 4] that Eigen and TVM's `topi.fast_erf` use.
"""

from collections.abc import Callable, Sequence

from tvm import te, tirx
from tvm.ir import Expr

from tvmlayers.dtypes import wide

_EXP = (1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1)
_EXP_LAST = 5.0000001201e-1
_LOG = (
    7.0376836292e-2,
    -1.1514610310e-1,
    1.1676998740e-1,
    -1.2420140846e-1,
    1.4249322787e-1,
    -1.6668057665e-1,
    2.0000714765e-1,
    -2.4999993993e-1,
    3.3333331174e-1,
)
_TANH = (
    -5.70498872745e-3,
    2.06390887954e-2,
    -5.37397155531e-2,
    1.33314422036e-1,
    -3.33332819422e-1,
)
_ERF_ODD = (
    -2.72614225801306e-10,
    2.77068142495902e-08,
    -2.10102402082508e-06,
    -5.69250639462346e-05,
    -7.34990630326855e-04,
    -2.95459980854025e-03,
    -1.60960333262415e-02,
)
_ERF_EVEN = (
    -1.45660718464996e-05,
    -2.13374055278905e-04,
    -1.68282697438203e-03,
    -7.37332916720468e-03,
    -1.42647390514189e-02,
)
_LEAST_NORMAL = 1.17549435e-38
_LN2_HIGH, _LN2_LOW = 0.693359375, -2.12194440e-4
_LOG2_E, _SQRT_2 = 1.4426950408889634, 1.4142135623730951


def dtype_of(x: Expr) -> str:
    """The dtype of an expression, such as "float32"."""
    return str(x.ty.dtype if hasattr(x, "ty") else x.dtype)


def widened(x: Expr) -> Expr:
    """x as it is computed with: a half as float32."""
    return narrowed(x, wide(dtype_of(x)))


def narrowed(value: Expr, dtype: str) -> Expr:
    """`value`, rounded where it is to be kept in another dtype."""
    return value if dtype_of(value) == dtype else tirx.Cast(dtype, value)


def constant(value: float, like: Expr) -> Expr:
    """`value` as a constant of the dtype of `like`."""
    return tirx.const(value, dtype_of(like))


def bind(value: Expr, body: Callable[[Expr], Expr]) -> Expr:
    """`body(value)` with `value` computed once, however often the body names it."""
    if isinstance(value, te.tensor.TensorSlice):
        value = value.asobject()
    name = tirx.Var("v", dtype_of(value))
    return tirx.Let(name, value, body(name))


def select(condition: Expr, yes: Expr, no: Expr) -> Expr:
    """`yes` where `condition` holds, else `no`; both are evaluated."""
    return tirx.Select(condition, yes, no)


def clamp(x: Expr, low: float, high: float) -> Expr:
    """`x` kept within [low, high]; NaN stays NaN, unlike with `min` and `max`."""
    low_c, high_c = constant(low, x), constant(high, x)
    return select(x < low_c, low_c, select(x > high_c, high_c, x))


def polynomial(x: Expr, coefficients: Sequence[float]) -> Expr:
    """The polynomial with `coefficients`, highest power first, by Horner's rule."""
    total = constant(coefficients[0], x)
    for coefficient in coefficients[1:]:
        total = total * x + constant(coefficient, x)
    return total


def _power_of_two(n: Expr) -> Expr:
    return tirx.reinterpret("float32", (n + 127) << 23)


def _with_exp_parts(x: Expr, use: Callable[[Expr, Expr, Expr], Expr]) -> Expr:
    """use(q, s1, s2) where exp(x) = (1 + q) * s1 * s2 and both scales are powers of two."""

    def split(x: Expr) -> Expr:
        n = te.floor(x * constant(_LOG2_E, x) + constant(0.5, x))
        return bind(n, lambda n: reduced(x - n * constant(_LN2_HIGH, x), n))

    def reduced(high: Expr, n: Expr) -> Expr:
        return bind(high - n * constant(_LN2_LOW, high), lambda r: scaled(r, n))

    def scaled(r: Expr, n: Expr) -> Expr:
        q = polynomial(r, (*_EXP, _EXP_LAST)) * r * r + r
        whole = tirx.Cast("int32", n)
        return bind(
            whole,
            lambda whole: use(q, _power_of_two(whole >> 1), _power_of_two(whole - (whole >> 1))),
        )

    return bind(clamp(x, -104.0, 89.0), split)


def _libm(name: str, x: Expr) -> Expr:
    return tirx.call_pure_extern(dtype_of(x), name, x)


def exp(x: Expr) -> Expr:
    """e to the power of x."""
    if dtype_of(x) != "float32":
        return te.exp(x)
    return _with_exp_parts(x, lambda q, s1, s2: (q + constant(1.0, q)) * s1 * s2)


def expm1(x: Expr) -> Expr:
    """exp(x) - 1, exact to the last digits near zero too."""
    if dtype_of(x) != "float32":
        return _libm("expm1", x)
    return _with_exp_parts(
        x,
        lambda q, s1, s2: bind(s1 * s2, lambda s: q * s + (s - constant(1.0, s))),
    )


def log(x: Expr) -> Expr:
    """Natural logarithm; -inf for zero and below, denormal numbers count as zero."""
    if dtype_of(x) != "float32":
        return te.log(x)
    normal, infinity = constant(_LEAST_NORMAL, x), constant(float("inf"), x)

    def from_parts(mantissa: Expr, exponent: Expr) -> Expr:
        high = mantissa > constant(_SQRT_2, mantissa)
        near_one = select(high, mantissa * constant(0.5, mantissa), mantissa)
        zero, one = constant(0.0, mantissa), constant(1.0, mantissa)
        e = tirx.Cast("float32", exponent) + select(high, one, zero)
        return bind(near_one - constant(1.0, near_one), lambda r: bind(e, lambda e: series(r, e)))

    def series(r: Expr, e: Expr) -> Expr:
        z = r * r
        y = polynomial(r, _LOG) * r * z + e * constant(_LN2_LOW, r) - constant(0.5, r) * z
        return r + y + e * constant(_LN2_HIGH, r)

    bits = tirx.reinterpret("int32", x)
    mantissa = tirx.reinterpret("float32", (bits & 0x7FFFFF) | 0x3F800000)
    value = bind(mantissa, lambda mantissa: from_parts(mantissa, (bits >> 23) - 127))
    return select(x < normal, -infinity, select(x < infinity, value, x))


def log1p(x: Expr) -> Expr:
    """log(1 + x) for x in [0, 1], exact to the last digits near zero too.

    In float32 the series of 2 artanh(s), s = x / (2 + x) <= 1/3, up to s^17.
    """
    if dtype_of(x) != "float32":
        return _libm("log1p", x)

    def series(s: Expr) -> Expr:
        odd = [1.0 / n for n in range(17, 0, -2)]
        return bind(s * s, lambda z: constant(2.0, z) * s * polynomial(z, odd))

    return bind(x / (x + constant(2.0, x)), series)


def absolute(x: Expr) -> Expr:
    """|x|"""
    return select(x < constant(0, x), -x, x)


def tanh(x: Expr) -> Expr:
    """Hyperbolic tangent."""
    if dtype_of(x) != "float32":
        return _libm("tanh", x)  # TVM's own goes through exp and loses the digits near zero

    def both_ranges(magnitude: Expr) -> Expr:
        small = bind(x * x, lambda z: polynomial(z, _TANH) * z * x + x)
        one, two = constant(1.0, x), constant(2.0, x)
        large = one - two / (exp(magnitude * two) + one)
        signed = bind(large, lambda large: select(x < constant(0, x), -large, large))
        return select(magnitude < constant(0.625, x), small, signed)

    return bind(absolute(x), both_ranges)


def erf(x: Expr) -> Expr:
    """Error function."""
    if dtype_of(x) != "float32":
        return te.erf(x)
    return bind(
        clamp(x, -4.0, 4.0),
        lambda x: bind(x * x, lambda z: x * polynomial(z, _ERF_ODD) / polynomial(z, _ERF_EVEN)),
    )


def sigmoid(x: Expr) -> Expr:
    """Logistic function 1 / (1 + exp(-x))."""
    return constant(1.0, x) / (constant(1.0, x) + exp(-x))
