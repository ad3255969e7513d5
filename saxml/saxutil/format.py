"""Numbers as the Go program printed them."""

import math
from collections.abc import Sequence


def _special(value: float) -> str | None:
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    return None


def format_float(value: float) -> str:
    """Eight significant digits, Go's FormatFloat(value, 'G', 8, 64): -0.023136413, 1.25E-05."""
    return _special(value) or f"{value:.8G}"


def format_shortest(value: float) -> str:
    """The fewest digits that read back as the same number, Go's %v: 0.1, 1e+06, -0."""
    if special := _special(value):
        return special
    if value == 0:
        return "-0" if math.copysign(1.0, value) < 0 else "0"
    sign = "-" if value < 0 else ""
    mantissa, _, exponent_text = f"{abs(value)!r}".partition("e")
    whole, _, fraction = mantissa.partition(".")
    exponent = int(exponent_text or 0) + len(whole) - 1
    digits = whole + fraction
    leading = len(digits) - len(digits.lstrip("0"))
    exponent -= leading
    digits = digits.strip("0")
    if exponent < -4 or exponent >= 6:
        point = "." + digits[1:] if len(digits) > 1 else ""
        return f"{sign}{digits[0]}{point}e{'-' if exponent < 0 else '+'}{abs(exponent):02d}"
    if exponent < 0:
        return f"{sign}0.{'0' * (-exponent - 1)}{digits}"
    padded = digits.ljust(exponent + 1, "0")
    tail = padded[exponent + 1 :]
    return f"{sign}{padded[: exponent + 1]}{'.' + tail if tail else ''}"


def format_floats(values: Sequence[float], limit: int | None = None) -> str:
    """Numbers joined by ", "; past `limit` of them the rest is "..."."""
    if limit is not None and len(values) > limit:
        return format_floats(values[:limit]) + ", ..."
    return ", ".join(map(format_float, values))
