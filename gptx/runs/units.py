"""Numbers with decimal prefixes: the only place that decides how bytes and counts are shown. 1 MB is 10^6 bytes."""

import math

_SCALES = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def human(value: float, unit: str = "", scale_of: float | None = None, digits: int = 3) -> str:
    """A number with a prefix: 1234567 -> "1.23M", with unit "B" -> "1.23 MB".

    Args:
        scale_of: use the prefix of this number, so that a deviation has the prefix of its mean.
        digits: significant digits.
    """
    if math.isnan(value):
        return "-"
    like = abs(value if scale_of is None else scale_of)
    like = float(f"{like:.{digits - 1}e}") if like >= 1e3 else like
    scale, prefix = next((s for s in _SCALES if like >= 0.9995 * s[0]), (1.0, ""))
    size = like / scale
    exponent = max(0, int(f"{size:.{digits - 1}e}".partition("e")[2]))
    places = 0 if scale == 1 and like == int(like) else max(0, digits - 1 - exponent)
    shown = value if scale_of is not None else float(f"{value:.{digits - 1}e}") if scale > 1 else value
    return f"{shown / scale:.{places}f}{' ' if unit else ''}{prefix}{unit}"


def memory_text(size: float) -> str:
    """An amount of memory in bytes with two digits, such as "1.2 GB": no estimate is more precise."""
    return human(size, "B", digits=2)
