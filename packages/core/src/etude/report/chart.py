"""Charts for the report, as SVG: their colours are those of the page, so they can be read in the light and in the dark.

A colour never stands alone: each curve has a marker of its own too, and those past the seventh are dashed. The colours
are those of Okabe & Ito 2008, "Color universal design", less yellow, which nobody can see on white; the page defines
them as the classes c0 to c6.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

COLOURS = 7
DASHES = ("", "7 3", "2 3")
# Half-sizes of about 4: circle, square, triangle, diamond, triangle on its head, plus, cross.
MARKERS = (
    "M{x1} {y}a4 4 0 1 0 8 0a4 4 0 1 0 -8 0z",
    "M{x1} {y1}h8v8h-8z",
    "M{x} {y1}l4.5 8h-9z",
    "M{x} {y1}l4 4l-4 4l-4 -4z",
    "M{x} {y2}l4.5 -8h-9z",
    "M{x1} {y}h8M{x} {y1}v8",
    "M{x1} {y1}l8 8M{x1} {y2}l8 -8",
)
WIDTH, HEIGHT = 480, 300  # units of the drawing; narrow, so that its letters are not tiny on a phone
LEFT, RIGHT, TOP, BOTTOM = 62, 14, 12, 48
MARKED = 9  # so many points of a curve have markers at most


@dataclass(frozen=True)
class Point:
    """One point of a curve: the middle of `low` and `high`, of a few runs."""

    x: float
    y: float
    low: float
    high: float


@dataclass(frozen=True)
class Curve:
    """A named curve; it keeps its `number`, which gives colour and marker, in every chart of a page."""

    name: str
    number: int
    points: list[Point]


@dataclass(frozen=True)
class Span:
    """A mean with its interval, if there is one, and the single values behind it."""

    name: str
    number: int
    middle: float
    interval: tuple[float, float] | None
    values: list[float]


def ticks(low: float, high: float, most: int) -> list[float]:
    """Round numbers from at most `low` to at least `high`, evenly apart; around values that are all but equal, too."""
    from matplotlib.ticker import MaxNLocator

    least = 1e-3 * max(abs(low), abs(high)) or 1.0
    if high - low < least:
        low, high = low - least, high + least
    return [float(tick) for tick in MaxNLocator(nbins=most, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high)]


def written(tick: float, marks: Sequence[float]) -> str:
    """A tick with as many digits as its neighbours need to differ."""
    apart = abs(marks[1] - marks[0]) if len(marks) > 1 else 1
    if not 1e-4 <= apart < 1e6:
        return f"{tick:.4g}"
    exact = max(0, -math.floor(math.log10(apart) + 1e-9))
    decimals = exact if math.isclose(apart, round(apart, exact)) else exact + 1
    return f"{tick:,.{decimals}f}"


def scale(low: float, high: float, start: float, end: float) -> tuple[float, float]:
    """Slope and intercept of the straight line that takes low to start and high to end."""
    slope = (end - start) / (high - low)
    return slope, start - slope * low


def marker(number: int, x: float, y: float) -> str:
    places = {"x": x, "y": y, "x1": x - 4, "y1": y - 4, "y2": y + 4}
    return MARKERS[number % len(MARKERS)].format(**{key: f"{value:.1f}" for key, value in places.items()})


def dash(number: int) -> str:
    return DASHES[number // COLOURS % len(DASHES)]


def colour(number: int) -> str:
    return f"c{number % COLOURS}"


def swatch(number: int) -> Markup:
    """The piece of line and the marker that stand for a curve in a legend."""
    return Markup(
        '<svg class="swatch {}" viewBox="0 0 36 14" width="36" height="14" aria-hidden="true">'
        '<path class="line" stroke-dasharray="{}" d="M1 7H35"/><path class="mark" d="{}"/></svg>'
    ).format(colour(number), dash(number), marker(number, 18, 7))


def drawing(parts: Sequence[Markup], height: float, says: str) -> Markup:
    return Markup('<svg class="chart" viewBox="0 0 {} {:.0f}" role="img" aria-label="{}">\n{}\n</svg>').format(
        WIDTH, height, says, Markup("\n").join(parts)
    )


def text(x: float, y: float, words: str, anchor: str = "middle", more: str = "") -> Markup:
    return Markup('<text x="{:.1f}" y="{:.1f}" text-anchor="{}"{}>{}</text>').format(
        x, y, anchor, Markup(more), escape(words)
    )


def lines(curves: Sequence[Curve], across: str, up: str) -> Markup:
    """Curves over whole numbers, such as epochs, each with a band from its lowest to its highest run.

    `across` and `up` say what the axes are. Values that are no numbers are left out.
    """
    drawn = [(curve, [p for p in curve.points if all(map(math.isfinite, (p.y, p.low, p.high)))]) for curve in curves]
    every = [p for _, points in drawn for p in points]
    if not every:
        return Markup('<p class="note">There is no point to draw yet.</p>')
    first, last = min(p.x for p in every), max(p.x for p in every)
    low, high = min(p.low for p in every), max(p.high for p in every)
    marks = ticks(low, high, 5)
    columns = sorted({round(tick) for tick in ticks(first, last, 6) if first <= round(tick) <= last} | {round(first)})
    pad = max(last - first, 1) * 0.03
    ax, bx = scale(first - pad, last + pad, LEFT, WIDTH - RIGHT)
    ay, by = scale(marks[0], marks[-1], HEIGHT - BOTTOM, TOP)
    parts = [Markup('<path class="grid" d="M{} {:.1f}H{}"/>').format(LEFT, ay * y + by, WIDTH - RIGHT) for y in marks]
    parts += [text(LEFT - 7, ay * y + by + 4, written(y, marks), "end") for y in marks]
    parts += [Markup('<path class="axis" d="M{0:.1f} {1}v5"/>').format(ax * x + bx, HEIGHT - BOTTOM) for x in columns]
    parts += [text(ax * x + bx, HEIGHT - BOTTOM + 19, f"{x:,}") for x in columns]
    parts.append(Markup('<path class="axis" d="M{} {}H{}"/>').format(LEFT, HEIGHT - BOTTOM, WIDTH - RIGHT))
    parts.append(text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 8, across))
    middle = (TOP + HEIGHT - BOTTOM) / 2
    parts.append(text(14, middle, up, more=f' transform="rotate(-90 14 {middle:.1f})"'))
    bands, strokes = [], []
    for curve, points in drawn:
        if not points:
            continue
        places = [(ax * p.x + bx, ay * p.y + by) for p in points]
        if len(points) > 1 and any(p.low < p.high for p in points):
            edge = [(ax * p.x + bx, ay * p.high + by) for p in points]
            edge += [(ax * p.x + bx, ay * p.low + by) for p in reversed(points)]
            bands.append(Markup('<path class="band {}" d="M{}z"/>').format(colour(curve.number), route(edge)))
        strokes.append(
            Markup('<path class="line {}" stroke-dasharray="{}" d="M{}"/>').format(
                colour(curve.number), dash(curve.number), route(places)
            )
        )
        step = -(-len(points) // MARKED)
        shift = curve.number % step  # so that the markers of curves that lie on one another do not
        for (x, y), p in list(zip(places, points, strict=True))[shift::step]:
            span = f" ({p.low:.4g} to {p.high:.4g})" if p.low < p.high else ""
            strokes.append(
                Markup('<path class="mark {}" d="{}"><title>{}</title></path>').format(
                    colour(curve.number), marker(curve.number, x, y), f"{curve.name}, {across} {p.x:g}: {p.y:.4g}{span}"
                )
            )
    return drawing([*parts, *bands, *strokes], HEIGHT, f"{up} by {across}: {', '.join(c.name for c, _ in drawn)}")


def route(places: Sequence[tuple[float, float]]) -> str:
    return "L".join(f"{x:.1f} {y:.1f}" for x, y in places)


def spans(rows: Sequence[Span], across: str) -> Markup:
    """Means with their intervals below one another, each under its name; small dots are the single values."""
    rows = [row for row in rows if math.isfinite(row.middle)]
    if not rows:
        return Markup('<p class="note">There is no score to draw yet.</p>')
    ends = [end for row in rows for end in (row.middle, *(row.interval or ()), *row.values)]
    marks = ticks(min(ends), max(ends), 5)
    a, b = scale(marks[0], marks[-1], 24, WIDTH - 24)
    bottom = TOP + 44 * len(rows)
    parts = [Markup('<path class="grid" d="M{:.1f} {}V{}"/>').format(a * x + b, TOP, bottom) for x in marks]
    parts += [text(a * x + b, bottom + 18, written(x, marks)) for x in marks]
    parts.append(text(WIDTH / 2, bottom + 39, across))
    for place, row in enumerate(rows):
        y = TOP + 44 * place + 30
        parts.append(text(8, y - 14, row.name, "start"))
        kind = colour(row.number)
        if row.interval:
            low, high = (a * end + b for end in row.interval)
            parts.append(
                Markup('<path class="line {}" d="M{:.1f} {}H{:.1f}M{:.1f} {}v8M{:.1f} {}v8"/>').format(
                    kind, low, y, high, low, y - 4, high, y - 4
                )
            )
        parts += [
            Markup('<circle class="dot {}" cx="{:.1f}" cy="{}" r="2.5"/>').format(kind, a * value + b, y)
            for value in row.values
        ]
        interval = f" [{row.interval[0]:.4g}, {row.interval[1]:.4g}]" if row.interval else ""
        parts.append(
            Markup('<path class="mark {}" d="{}"><title>{}</title></path>').format(
                kind, marker(row.number, a * row.middle + b, y), f"{row.name}: {row.middle:.4g}{interval}"
            )
        )
    return drawing(parts, bottom + 48, f"{across}: {', '.join(row.name for row in rows)}")
