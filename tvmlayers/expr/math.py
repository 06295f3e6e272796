"""Elementary functions as branch-free float expressions that vectorise.

LLVM has no vector `exp`, `tanh` or `erf` of its own: a vectorised call becomes scalar
calls of libm. In float32 the functions here are short polynomials instead, accurate to a few ulp
and right for infinities and NaN; in float64 they are libm's. `docs/accuracy.md` has their errors.

Sources: the range reductions of `exp` and `log` and the coefficients of `log` and `tanh` are those
of the Cephes library's single-precision routines (S. L. Moshier). The coefficients of `exp`,
`log1p` and `times_normal_cdf` are minimax fits of the relative error, by Lawson's iteration.
"""

from collections.abc import Callable, Sequence

from tvm import te, tirx
from tvm.ir import Expr

from tvmlayers.dtypes import wide

# (e^r - 1 - r) / r^2 where |r| <= log(2) / 2: e^r to 3e-9
_EXP = (1.381453789e-3, 8.36874532e-3, 4.1668390831e-2, 1.66665203968e-1, 4.99999934319e-1)
# (log(1 + x) - x) / x^2 where 0 <= x <= 1: log(1 + x) to 5e-9
_LOG1P = (
    -3.318420210619925e-3,
    2.0204349353150613e-2,
    -5.766400262862511e-2,
    1.0680510920786636e-1,
    -1.5355370115136902e-1,
    1.969539154637325e-1,
    -2.4958585704308267e-1,
    3.3330511160160603e-1,
    -4.999993275839891e-1,
)
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
_LOG2_E = 1.4426950408889634
# Phi(-t) 2^(-_TAIL_POWER(t) t), the ratio of two polynomials, where 0 <= t <= 13.3. The linear term
# of the power was fitted with them, the error weighted with 1 / (2 + t^2 / 3), as a rounding of t
# moves the result by t^2 roundings: to 7e-8 where t <= 1, 2e-7 up to 5, 1.2e-6 at the end.
_TAIL_POWER = (-0.5 * _LOG2_E, 3.74319726e-5)
_TAIL_OVER = (1.32003892e-2, 1.02384344e-1, 3.30091774e-1, 0.5)
_TAIL_UNDER = (3.31337377e-2, 2.55937546e-1, 8.68202567e-1, 1.45809126, 1.0)
# 2^f where |f| <= 1/2: to 8e-8 times a constant, which is in _TAIL_OVER
_EXP2 = (
    1.32764713e-3,
    9.67554096e-3,
    5.55071272e-2,
    2.40221173e-1,
    6.93146944e-1,
    1.0,
)
# 2^-127, which _power_of_two makes 0, is the nearest power from here on
_MOST_DEVIATIONS = 13.27
_LEAST_NORMAL = 1.17549435e-38
# A number of up to 2^22 added to it loses its fraction, and is the lowest bits of the sum.
_ROUNDING = 1.5 * 2.0**23
_BIAS = 127  # of the exponent of a float32
_LN2_HIGH, _LN2_LOW = 0.693359375, -2.12194440e-4
_SQRT_2, _SQRT_HALF = 1.4142135623730951, 0.7071067811865476


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


def largest(a: Expr, b: Expr) -> Expr:
    """The larger of `a` and `b`; NaN where one of them is NaN."""
    return bind(a, lambda a: bind(b, lambda b: select(tirx.any(b > a, tirx.isnan(b)), b, a)))


def smallest(a: Expr, b: Expr) -> Expr:
    """The smaller of `a` and `b`; NaN where one of them is NaN."""
    return bind(a, lambda a: bind(b, lambda b: select(tirx.any(b < a, tirx.isnan(b)), b, a)))


def at_most(x: Expr, high: float) -> Expr:
    """The lesser of `x` and `high`; NaN stays NaN, unlike with `min`."""
    high_c = constant(high, x)
    return select(x > high_c, high_c, x)


def clamp(x: Expr, low: float, high: float) -> Expr:
    """`x` kept within [low, high]; NaN stays NaN."""
    low_c = constant(low, x)
    return select(x < low_c, low_c, at_most(x, high))


def polynomial(x: Expr, coefficients: Sequence[float]) -> Expr:
    """The polynomial with `coefficients`, highest power first, by Horner's rule."""
    total = constant(coefficients[0], x)
    for coefficient in coefficients[1:]:
        total = total * x + constant(coefficient, x)
    return total


def _power_of_two(exponent: Expr) -> Expr:
    """2^n, n + 127 in the lowest bits of `exponent`; 0 for n = -127, inf for 128."""
    return tirx.reinterpret("float32", exponent << 23)


def _with_exp_parts(x: Expr, use: Callable[[Expr, Expr], Expr]) -> Expr:
    """use(q, e) where exp(x) = (1 + q) * 2^n, x within +-150, and e an int32 with n + 254 in its
    lowest ten bits: the biased exponents of two factors of 2^n."""
    shift = constant(_ROUNDING + 2 * _BIAS, x)

    def split(shifted: Expr) -> Expr:
        exponents = tirx.reinterpret("int32", shifted)
        return bind(shifted - shift, lambda n: reduced(n, exponents))

    def reduced(n: Expr, exponents: Expr) -> Expr:
        r = x - n * constant(_LN2_HIGH, x) - n * constant(_LN2_LOW, x)
        return bind(r, lambda r: use(polynomial(r, _EXP) * r * r + r, exponents))

    return bind(x * constant(_LOG2_E, x) + shift, split)


def _scaled(value: Expr, exponents: Expr) -> Expr:
    """value * 2^n in two steps, as 2^n may be no float32: n from -150 to 129, n + 254 given."""
    half = exponents >> 1
    return bind(half, lambda half: value * _power_of_two(half) * _power_of_two(exponents - half))


def _libm(name: str, x: Expr) -> Expr:
    return tirx.call_pure_extern(dtype_of(x), name, x)


def exp(x: Expr) -> Expr:
    """e to the power of x."""
    if dtype_of(x) != "float32":
        return te.exp(x)
    return bind(
        clamp(x, -104.0, 89.0),
        lambda x: _with_exp_parts(x, lambda q, e: _scaled(q + constant(1.0, q), e)),
    )


def expm1(x: Expr) -> Expr:
    """exp(x) - 1 for x <= 0, exact to the last digits near zero too."""
    if dtype_of(x) != "float32":
        return _libm("expm1", x)

    def of_parts(q: Expr, e: Expr) -> Expr:
        return bind(_power_of_two(e - _BIAS), lambda p: q * p + (p - constant(1.0, p)))

    return bind(clamp(x, -30.0, 0.0), lambda x: _with_exp_parts(x, of_parts))


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
    """log(1 + x) for x in [0, 1], exact to the last digits near zero too."""
    if dtype_of(x) != "float32":
        return _libm("log1p", x)
    return bind(x, lambda x: polynomial(x, _LOG1P) * x * x + x)


def absolute(x: Expr) -> Expr:
    """|x|"""
    return tirx.abs(x)


def _masked(x: Expr, bits: int) -> Expr:
    """The float32 x with the bits that are not in `bits` cleared."""
    mask = tirx.const(bits - (1 << 32 if bits >> 31 else 0), "int32")
    return tirx.reinterpret("float32", tirx.reinterpret("int32", x) & mask)


def _with_sign_of(magnitude: Expr, x: Expr) -> Expr:
    """`magnitude`, not negative, negative where x is, -0 included; float32."""
    sign = tirx.reinterpret("int32", _masked(x, 0x80000000))
    return tirx.reinterpret("float32", tirx.reinterpret("int32", magnitude) | sign)


def tanh(x: Expr) -> Expr:
    """Hyperbolic tangent."""
    if dtype_of(x) != "float32":
        return _libm("tanh", x)  # TVM's own goes through exp and loses the digits near zero

    def of_magnitude(t: Expr) -> Expr:
        small = bind(t * t, lambda z: polynomial(z, _TANH) * z * t + t)
        one, two = constant(1.0, t), constant(2.0, t)
        large = one - two / (exp(t * two) + one)
        return select(t < constant(0.625, t), small, large)

    return _with_sign_of(bind(absolute(x), of_magnitude), x)


def times_normal_cdf(x: Expr) -> Expr:
    """x Phi(x), Phi(x) the share of a standard normal distribution below x, exact in both tails.

    In float32 max(x, 0) - t Phi(-t) with t = |x|, where Phi(-t) is a ratio of polynomials times a
    power of two, of which the whole part comes last: t Phi(-t) underflows later than Phi(-t).
    """
    if dtype_of(x) != "float32":
        return x * normal_cdf(x)
    zero = constant(0.0, x)
    above = x - select(x < zero, x, zero)  # max(x, 0), but NaN for -inf as in PyTorch
    # the quotient does not wait for the power
    return _normal_tail(
        x, lambda t, over, under, root, power: above - t * over / under * root * power
    )


def normal_cdf(x: Expr) -> Expr:
    """Phi(x), the share of a standard normal distribution below x, exact in both tails."""
    if dtype_of(x) != "float32":
        return constant(0.5, x) * _libm("erfc", x * constant(-_SQRT_HALF, x))

    def of_parts(_: Expr, over: Expr, under: Expr, root: Expr, power: Expr) -> Expr:
        tail = over / under * root * power
        return bind(tail, lambda tail: select(x > constant(0.0, x), constant(1.0, x) - tail, tail))

    return _normal_tail(x, of_parts)


def _normal_tail(x: Expr, use: Callable[[Expr, Expr, Expr, Expr, Expr], Expr]) -> Expr:
    """use(t, a, b, c, p) where t = |x| and Phi(-t) = a / b * c * p, p a power of two; float32."""
    shift = constant(_ROUNDING + _BIAS, x)

    def of_distance(t: Expr) -> Expr:
        return bind(polynomial(t, _TAIL_POWER), lambda scaled: of_power(t, scaled))

    def of_power(t: Expr, scaled: Expr) -> Expr:
        return bind(
            scaled * t + shift,
            lambda shifted: bind(
                scaled * t - (shifted - shift),
                lambda f: of_parts(t, f, _power_of_two(tirx.reinterpret("int32", shifted))),
            ),
        )

    def of_parts(t: Expr, f: Expr, power: Expr) -> Expr:
        over, under = polynomial(t, _TAIL_OVER), polynomial(t, _TAIL_UNDER)
        return use(t, over, under, polynomial(f, _EXP2), power)

    return bind(at_most(absolute(x), _MOST_DEVIATIONS), of_distance)


def sigmoid(x: Expr) -> Expr:
    """Logistic function 1 / (1 + exp(-x))."""
    one = constant(1.0, x)
    if dtype_of(x) != "float32":
        return one / (one + exp(-x))

    def of_parts(q: Expr, e: Expr) -> Expr:
        """Both sides divided by 2^n, which may be larger than any float32."""
        return bind(4 * _BIAS - e, lambda e: _scaled(one / (_scaled(one, e) + (q + one)), e))

    return bind(clamp(-x, -40.0, 104.0), lambda x: _with_exp_parts(x, of_parts))
