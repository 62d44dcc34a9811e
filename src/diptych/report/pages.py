"""Templates and the writing of finished pages."""

from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined


def render(template: str, **values: Any) -> str:
    """Fill a packaged template; everything is escaped unless it is marked as safe there."""
    environment = Environment(
        loader=PackageLoader("diptych.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(percent=percent, number=number, seconds=seconds, flops=flops)
    return environment.get_template(template).render(**values)


def write_page(text: str, out: Path) -> Path:
    """Write a page aside and rename it, so that a reader never sees half of it."""
    out.parent.mkdir(parents=True, exist_ok=True)
    aside = out.with_name(f".{out.name}.tmp")
    aside.write_text(text, encoding="utf-8")
    aside.replace(out)
    return out


def percent(value: float | None, digits: int = 1) -> str:
    """Return 0.2345 as '23.5 %' with a space that does not break, keeping two digits of small shares."""
    if value is None:
        return "–"
    if 0 < value < 0.01:
        return f"{100 * value:.2f}\u00a0%"
    return f"{100 * value:.{digits}f}\u00a0%"


def number(value: Any) -> str:
    """Return a number with narrow spaces between thousands, and at most four significant digits.

    A line does not break within it.
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    if isinstance(value, int):
        return f"{value:,}".replace(",", "\u202f")
    return f"{value:.4g}"


def flops(value: float | None) -> str:
    """Return operations a second as '312 TFLOP/s' or '4.1 GFLOP/s'."""
    if value is None:
        return "–"
    for scale, unit in ((1e12, "TFLOP/s"), (1e9, "GFLOP/s")):
        if value >= scale:
            return f"{value / scale:.3g} {unit}"
    return f"{value / 1e6:.3g} MFLOP/s"


def seconds(value: float | None) -> str:
    """Return a duration as '2 min 05 s' or '41 s'."""
    if value is None:
        return "–"
    minutes, rest = divmod(round(value), 60)
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
