"""Charts for the report, as SVG: their colours are those of the page, so they can be read in the light and in the dark.

A colour never stands alone: each curve has a marker of its own too, and those past the seventh are dashed. The colours
are those of Okabe & Ito 2008, "Color universal design", less yellow, which nobody can see on white; the page defines
them as the classes c0 to c6.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from markupsafe import Markup

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
LEFT, RIGHT, TOP, BOTTOM = 70, 14, 12, 48
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
        short = (f"{tick:.{digits}g}" for digits in range(4, 17))
        return next(words for words in short if abs(float(words) - tick) < apart / 100)
    exact = max(0, -math.floor(math.log10(apart) + 1e-9))
    decimals = exact if math.isclose(apart, round(apart, exact)) else exact + 1
    return f"{tick:,.{decimals}f}"


def scale(low: float, high: float, start: float, end: float) -> Callable[[float], float]:
    """The straight line that takes low to start and high to end."""
    slope = (end - start) / (high - low)
    return lambda x: slope * x + (start - slope * low)


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
        '<svg class="swatch {}" viewBox="0 0 36 14" width="36" height="14" aria-hidden="true">{}{}</svg>'
    ).format(colour(number), path("line", "M1 7H35", dashes=dash(number)), path("mark", marker(number, 18, 7)))


def drawing(parts: Sequence[Markup], height: float, says: str) -> Markup:
    return Markup('<svg class="chart" viewBox="0 0 {} {:.0f}" role="img" aria-label="{}">\n{}\n</svg>').format(
        WIDTH, height, says, Markup("\n").join(parts)
    )


def path(look: str, route: str, title: str = "", dashes: str | None = None) -> Markup:
    dashed = "" if dashes is None else Markup(' stroke-dasharray="{}"').format(dashes)
    end = Markup("><title>{}</title></path>").format(title) if title else Markup("/>")
    return Markup('<path class="{}"{} d="{}"{}').format(look, dashed, route, end)


def text(x: float, y: float, words: str, anchor: str = "middle", turn: str = "") -> Markup:
    turned = Markup(' transform="{}"').format(turn) if turn else ""
    return Markup('<text x="{:.1f}" y="{:.1f}" text-anchor="{}"{}>{}</text>').format(x, y, anchor, turned, words)


def through(places: Iterable[tuple[float, float]]) -> str:
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in places)


def lines(curves: Sequence[Curve], across: str, up: str) -> Markup:
    """Curves over whole numbers, such as epochs, each with a band from its lowest to its highest run.

    `across` and `up` say what the axes are. Values that are no numbers are left out.
    """
    drawn = [replace(c, points=[p for p in c.points if all(map(math.isfinite, (p.y, p.low, p.high)))]) for c in curves]
    every = [p for curve in drawn for p in curve.points]
    if not every:
        return Markup('<p class="note">There are no points to draw yet.</p>')
    first, last = min(p.x for p in every), max(p.x for p in every)
    marks = ticks(min(p.low for p in every), max(p.high for p in every), 5)
    columns = sorted({round(tick) for tick in ticks(first, last, 6) if first <= round(tick) <= last} | {round(first)})
    pad = max(last - first, 1) * 0.03
    x_of = scale(first - pad, last + pad, LEFT, WIDTH - RIGHT)
    y_of = scale(marks[0], marks[-1], HEIGHT - BOTTOM, TOP)
    parts = axes([(x_of(x), f"{x:,}") for x in columns], [(y_of(y), written(y, marks)) for y in marks], across, up)
    for curve in drawn:
        if len(curve.points) > 1 and any(p.low < p.high for p in curve.points):
            edge = [(p.x, p.high) for p in curve.points] + [(p.x, p.low) for p in reversed(curve.points)]
            parts.append(path(f"band {colour(curve.number)}", through((x_of(x), y_of(y)) for x, y in edge) + "z"))
    for curve in drawn:
        if curve.points:
            parts += stroke(curve, x_of, y_of, across)
    return drawing(parts, HEIGHT, f"{up} by {across}: {', '.join(curve.name for curve in drawn)}")


def axes(columns: Sequence[tuple[float, str]], rows: Sequence[tuple[float, str]], across: str, up: str) -> list[Markup]:
    """Ticks below and lines across, each at a place of the drawing with what it says, and what the axes are."""
    middle = (TOP + HEIGHT - BOTTOM) / 2
    parts = [path("grid", f"M{LEFT} {y:.1f}H{WIDTH - RIGHT}") for y, _ in rows]
    parts += [text(LEFT - 7, y + 4, words, "end") for y, words in rows]
    parts += [path("axis", f"M{x:.1f} {HEIGHT - BOTTOM}v5") for x, _ in columns]
    parts += [text(x, HEIGHT - BOTTOM + 19, words) for x, words in columns]
    parts.append(path("axis", f"M{LEFT} {HEIGHT - BOTTOM}H{WIDTH - RIGHT}"))
    parts.append(text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 8, across))
    parts.append(text(14, middle, up, turn=f"rotate(-90 14 {middle:.1f})"))
    return parts


def dots(
    curves: Sequence[Curve], across: str, up: str, *, log: bool = False, names: Sequence[str] | None = None
) -> Markup:
    """Single points, each with the marker of its curve; `names` are those of the places 0, 1, ... along the axis."""
    drawn = [replace(curve, points=[p for p in curve.points if math.isfinite(p.y)]) for curve in curves]
    every = [p for curve in drawn for p in curve.points]
    if not every:
        return Markup('<p class="note">There are no points to draw yet.</p>')

    def along(x: float) -> float:
        return math.log10(x) if log else x

    marks = ticks(min(p.y for p in every), max(p.y for p in every), 5)
    first, last = along(min(p.x for p in every)), along(max(p.x for p in every))
    columns: list[tuple[float, str]]
    if names is not None:
        first, last, columns = 0.0, len(names) - 1.0, [(float(n), name) for n, name in enumerate(names)]
    elif log:
        tens = [(n * 10.0**e, f"{n * 10.0**e:g}") for e in range(math.floor(first), math.ceil(last)) for n in (1, 3)]
        columns = [(along(x), words) for x, words in tens if first <= along(x) <= last]
        columns = columns or [(end, f"{10**end:.3g}") for end in sorted({first, last})]
    else:
        places = ticks(first, last, 6)
        columns = [(x, written(x, places)) for x in places if first <= x <= last]
    pad = (last - first or 1.0) * 0.06
    x_of = scale(first - pad, last + pad, LEFT, WIDTH - RIGHT)
    y_of = scale(marks[0], marks[-1], HEIGHT - BOTTOM, TOP)
    below = [(x_of(x), words) for x, words in columns]
    parts = axes(below, [(y_of(y), written(y, marks)) for y in marks], across, up)
    for curve in drawn:
        for p in curve.points:
            title = f"{curve.name}, {across} {names[int(p.x)] if names else f'{p.x:g}'}: {p.y:.4g}"
            parts.append(path(f"mark {colour(curve.number)}", marker(curve.number, x_of(along(p.x)), y_of(p.y)), title))
    return drawing(parts, HEIGHT, f"{up} by {across}: {', '.join(curve.name for curve in drawn)}")


def stroke(
    curve: Curve, x_of: Callable[[float], float], y_of: Callable[[float], float], across: str
) -> Iterator[Markup]:
    """A curve with its markers, which tell their values."""
    look, number = colour(curve.number), curve.number
    yield path(f"line {look}", through((x_of(p.x), y_of(p.y)) for p in curve.points), dashes=dash(number))
    step = -(-len(curve.points) // MARKED)
    for p in curve.points[number % step :: step]:  # so that the markers of curves on one another do not lie so, too
        span = f" ({p.low:.4g} to {p.high:.4g})" if p.low < p.high else ""
        title = f"{curve.name}, {across} {p.x:g}: {p.y:.4g}{span}"
        yield path(f"mark {look}", marker(number, x_of(p.x), y_of(p.y)), title)


def spans(rows: Sequence[Span], across: str) -> Markup:
    """Means with their intervals below one another, each under its name; small dots are the single values."""
    rows = [row for row in rows if math.isfinite(row.middle)]
    if not rows:
        return Markup('<p class="note">There is no score to draw yet.</p>')
    ends = [end for row in rows for end in (row.middle, *(row.interval or ()), *row.values)]
    marks = ticks(min(ends), max(ends), 5)
    x_of, bottom = scale(marks[0], marks[-1], 24, WIDTH - 24), TOP + 44 * len(rows)
    parts = [path("grid", f"M{x_of(x):.1f} {TOP}V{bottom}") for x in marks]
    parts += [text(x_of(x), bottom + 18, written(x, marks)) for x in marks]
    parts.append(text(WIDTH / 2, bottom + 39, across))
    for place, row in enumerate(rows):
        y, look, interval = TOP + 44 * place + 30, colour(row.number), ""
        parts.append(text(8, y - 14, row.name, "start"))
        if row.interval:
            low, high = map(x_of, row.interval)
            interval = f" [{row.interval[0]:.4g}, {row.interval[1]:.4g}]"
            parts.append(path(f"line {look}", f"M{low:.1f} {y}H{high:.1f}M{low:.1f} {y - 4}v8M{high:.1f} {y - 4}v8"))
        dot = Markup('<circle class="dot {}" cx="{:.1f}" cy="{}" r="2.5"/>')
        parts += [dot.format(look, x_of(value), y) for value in row.values]
        title = f"{row.name}: {row.middle:.4g}{interval}"
        parts.append(path(f"mark {look}", marker(row.number, x_of(row.middle), y), title))
    return drawing(parts, bottom + 48, f"{across}: {', '.join(row.name for row in rows)}")
