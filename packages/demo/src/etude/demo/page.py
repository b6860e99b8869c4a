"""What a task shows on its page: questions with fields to play with, and the parts of an answer.

A task has a module `demo` with one function, `demo(task) -> Demo`, where `task` is what its `predict` takes. A `Demo`
has panels; a panel has inputs, and a function that is called with what stands in them, by name, and gives an `Answer`.
All of it is plain data for page.html, which shows every text as text.
"""

import base64
import binascii
import io
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from PIL import Image, UnidentifiedImageError

from etude import images
from etude.errors import UserError

FORMATS = ("PNG", "JPEG", "GIF", "WEBP", "BMP")  # no others are opened: a decoder that is not called cannot be attacked
PIXELS = 50_000_000  # of a picture: more than a telephone's camera has
BYTES = 16 << 20  # of a picture's file


class Refused(Exception):
    """What the page itself never sends; the message is for the log of whoever does."""


class Input(Protocol):
    """A field of the page. `read` gives the answer's function what stands in it, whatever has been sent.

    It raises Refused for what the page cannot send, and UserError for what a person can mend.
    """

    @property
    def name(self) -> str: ...

    @property
    def value(self) -> Any:
        """What stands in it at first; None where nothing does, as in a drawing."""
        ...

    def read(self, sent: Any) -> Any: ...


@dataclass(frozen=True)
class Text:
    """A line of text, or several lines, of at most `longest` characters."""

    name: str
    label: str
    value: str = ""
    longest: int = 200
    lines: int = 1
    examples: tuple[str, ...] = ()
    """texts to try, each behind a button"""

    def read(self, sent: Any) -> str:
        if not isinstance(sent, str):
            raise Refused(f"{self.name} is not a text")
        if len(sent) > self.longest:
            raise UserError(f"the text has {len(sent):,} characters, at most {self.longest:,} are read: shorten it")
        return sent


@dataclass(frozen=True)
class Photo:
    """A picture from a file, dropped, pasted or chosen."""

    name: str
    label: str
    value: None = None
    least: int | None = None
    """how many pixels of its shorter side `predict` asks `images.load` for"""

    def read(self, sent: Any) -> Image.Image | None:
        """The picture as `predict` sees one; None while there is none."""
        return None if sent is None else opened(sent, self.least)


@dataclass(frozen=True)
class Drawing(Photo):
    """A square of paper to draw on, black on white; it comes as a PNG."""


@dataclass(frozen=True)
class Slider:
    """A number between two others."""

    name: str
    label: str
    low: float
    high: float
    step: float
    value: float = 0.0

    def read(self, sent: Any) -> float:
        if isinstance(sent, bool) or not isinstance(sent, int | float) or not self.low <= sent <= self.high:
            raise Refused(f"{self.name} is not a number from {self.low} to {self.high}")
        return float(sent)


@dataclass(frozen=True)
class Choice:
    """One of several words."""

    name: str
    label: str
    options: tuple[str, ...]
    value: str

    def read(self, sent: Any) -> str:
        if sent not in self.options:
            raise Refused(f"{self.name} is none of its options")
        return str(sent)


@dataclass(frozen=True)
class Plane:
    """A point of a plane, over a picture of it: ((left, right), (bottom, top)), the picture `image` as a data URL."""

    name: str
    label: str
    span: tuple[tuple[float, float], tuple[float, float]]
    image: str
    value: tuple[float, float] = (0.0, 0.0)

    def read(self, sent: Any) -> tuple[float, float]:
        if not isinstance(sent, list) or len(sent) != 2:
            raise Refused(f"{self.name} is no point")
        x, y = (
            Slider(self.name, "", low, high, 0.0).read(one) for one, (low, high) in zip(sent, self.span, strict=True)
        )
        return x, y


def opened(sent: Any, least: int | None) -> Image.Image:
    """A picture that came as base64. Raises Refused, and UserError for a file that is none or is too large."""
    if not isinstance(sent, str):
        raise Refused("a picture is not base64")
    try:
        content = base64.b64decode(sent, validate=True)
    except (binascii.Error, ValueError):
        raise Refused("a picture is not base64") from None
    if len(content) > BYTES:
        raise UserError(f"the file has more than {BYTES >> 20} MB: give a smaller picture")
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as picture:  # reads the header alone
            size = picture.size
    except Image.DecompressionBombError:
        size = (PIXELS, 2)
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError):
        raise UserError(f"this is not a picture that can be read: give a {', '.join(FORMATS)} file") from None
    if math.prod(size) > PIXELS:
        raise UserError(f"the picture has more than {PIXELS // 10**6} million pixels: scale it down")
    try:
        return images.load(io.BytesIO(content), least)
    except images.Broken as error:
        raise UserError(f"the picture cannot be read: {error}") from None


# ------------------------------------------------------------------------------------------------- parts of an answer


@dataclass(frozen=True)
class Bars:
    """Probabilities of several names, as bars; in the order given."""

    title: str
    bars: Sequence[tuple[str, float]]
    note: str = ""


@dataclass(frozen=True)
class Influence:
    """Pieces of a text, each with how much it speaks for (> 0) or against (< 0) what is answered."""

    title: str
    pieces: Sequence[tuple[str, float]]
    of: str
    """what they speak for"""
    note: str = ""
    joined: bool = False
    """whether the pieces stand without spaces, as the letters of a word"""
    unknown: Sequence[int] = ()
    """which pieces, by number from 0, the model does not know: to it they are all the same"""


@dataclass(frozen=True)
class Tagged:
    """Words with a tag each."""

    title: str
    words: Sequence[tuple[str, str]]
    meanings: Mapping[str, str]
    """of each tag, in the order of the legend"""


@dataclass(frozen=True)
class Lines:
    """Texts below one another, each with a label before it, which may be empty."""

    title: str
    lines: Sequence[tuple[str, str]]
    note: str = ""


@dataclass(frozen=True)
class Pictures:
    """Pictures side by side, as data URLs (`picture`), each with a caption."""

    title: str
    pictures: Sequence[tuple[str, str]]
    note: str = ""


@dataclass(frozen=True)
class Curve:
    """Points (x, y) that belong together, as a line, dots, or a line of dashes."""

    name: str
    points: Sequence[tuple[float, float]]
    style: str = "line"
    """line, dashes, dots or crosses"""


@dataclass(frozen=True)
class Chart:
    """Curves over common axes; `log`: that of y is logarithmic, `equal`: a unit is as long on both.

    `span`: ((left, right), (bottom, top)) that the axes have at least, whatever the curves.
    """

    title: str
    x: str
    y: str
    curves: Sequence[Curve]
    log: bool = False
    equal: bool = False
    span: tuple[tuple[float, float], tuple[float, float]] | None = None
    note: str = ""


Shown = Bars | Influence | Tagged | Lines | Pictures | Chart


@dataclass(frozen=True)
class Answer:
    """What the model says: a few words, which screen readers read out, and what is shown below them."""

    headline: str
    shown: Sequence[Shown] = ()
    detail: str = ""
    later: Callable[[], Sequence[Shown]] | None = None
    """what takes longer: asked for once the rest is on its way to the page, and shown below it"""

    def plain(self) -> dict[str, Any]:
        """As JSON that page.html reads, without what comes later."""
        return {"headline": self.headline, "detail": self.detail, "shown": plain(self.shown)}


def plain(shown: Sequence[Shown]) -> list[dict[str, Any]]:
    """Parts of an answer as JSON that page.html reads."""
    return [{"kind": type(part).__name__.lower(), **asdict(part)} for part in shown]


NOTHING = Answer("")  # as long as nothing is drawn or written


@dataclass(frozen=True)
class Panel:
    """One thing to play with. `answer` takes what stands in the inputs by name."""

    name: str
    inputs: Sequence[Input]
    answer: Callable[..., Answer]
    about: str = ""

    def plain(self) -> dict[str, Any]:
        inputs = [{"kind": type(one).__name__.lower(), **asdict(one)} for one in self.inputs]  # type: ignore[call-overload]
        return {"name": self.name, "about": self.about, "inputs": inputs}

    def answered(self, sent: Any) -> Answer:
        """The answer to what the page has sent, by name. Raises Refused and UserError."""
        if not isinstance(sent, dict) or sent.keys() != {one.name for one in self.inputs}:
            raise Refused("these are not the fields of the panel")
        return self.answer(**{one.name: one.read(sent[one.name]) for one in self.inputs})


@dataclass(frozen=True)
class Demo:
    """The page of a task: the question, in one sentence what to do, panels, and what to `know` of the answers."""

    question: str
    about: str
    panels: Sequence[Panel]
    know: str

    def panel(self, name: Any) -> Panel:
        """Raises Refused if there is none of this name."""
        found = next((panel for panel in self.panels if panel.name == name), None)
        if found is None:
            raise Refused("there is no such panel")
        return found


def likeliest(said: Any, names: Sequence[str], most: int) -> list[tuple[str, float]]:
    """The names of the largest probabilities, a tensor [K], and these, from the largest on; at most so many."""
    best, which = said.topk(min(most, len(names)))
    return [(names[k], p) for k, p in zip(which.tolist(), best.tolist(), strict=True)]


def percent(part: float) -> str:
    """As the page writes it: what is not certain is never called so."""
    if 0 < part < 0.0005:
        return "< 0.1 %"
    return "> 99.9 %" if 0.9995 < part < 1 else f"{100 * part:.1f} %"


def sure(part: float, blind: bool = False) -> str:
    """The probability of what is answered, and a word of doubt; `blind`: it knows none of the words."""
    if blind:
        return f"{percent(part)}, a guess: the model knows none of these words"
    return percent(part) + ("" if part >= 0.5 else ", by its own account more likely wrong than right")


def picture(image: Image.Image) -> str:
    """A picture as a data URL, as PNG."""
    content = io.BytesIO()
    image.save(content, "PNG", compress_level=1)  # it travels within the machine
    return f"data:image/png;base64,{base64.b64encode(content.getvalue()).decode()}"
