"""Configurations: plain dataclasses, parsed from YAML files and flags by one typed parser.

The words of a file are read by the same parser as the shell's, so `lr: 1e-3` is a number in both (YAML itself would
read it as a string) and a run's `config.yaml` is a saved command line. Tyro writes the help. No torch here.
"""

import ast
import dataclasses
import difflib
import inspect
import itertools
import os
import re
import textwrap
import types
import typing
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from operator import attrgetter
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, TypeVar

import tyro
import yaml

from etude import files
from etude.errors import UserError

C = TypeVar("C")
Scores = Mapping[str, Literal["higher", "lower"]]  # the scores of a task that can be compared: which way each is better
MAX_REPLICAS = 32  # in a stack: more are no faster, as by then the machine has enough to do
MOST_USED = ("data", "data.name", "fit.epochs", "fit.lr", "fit.batch-size", "fit.seed")  # the help begins with them
STACKED = ("fit.seed", "fit.lr", "fit.weight-decay", "fit.clip", "fit.patience")
"""beside dropout, the knobs in which the runs of one stacked program may differ"""
RENAMED = {"one-cycle": "linear"}
"""old words of a choice -> those of today: the files of old runs and studies are still read"""


def at_least(least: float, group: str, config: Any, *names: str) -> None:
    """Raises UserError for the first of these knobs of a group, such as `model`, that is below `least`, or NaN."""
    for name in names:
        if not getattr(config, name) >= least:
            raise UserError(f"{group}.{dashed(name)} must be at least {least}, not {getattr(config, name)}")


def is_path(value: str, *endings: str) -> bool:
    """Whether a text names a file or folder rather than something known: by its form, its ending, or by being there."""
    parted = os.sep in value or (os.altsep or os.sep) in value
    return parted or value.startswith(("~", ".")) or value.lower().endswith(endings) or os.path.lexists(value)


def absolute(path: str) -> str:
    """What a path means from here, to be found again wherever one stands: `~` is somebody's home, links stay links.

    Raises UserError if the current folder is gone.
    """
    parts = Path(os.path.expanduser(path)).parts
    up = max((n for n, part in enumerate(parts, 1) if part == ".."), default=0)
    try:  # behind a link `..` is not the folder before it
        return os.path.abspath(Path(os.path.realpath(Path(*parts[:up])) if up else "", *parts[up:]))
    except OSError as error:
        raise UserError(f"the folder that {path} starts from is gone ({error.strerror}): go to another") from None


def keep_path(config: Any, name: str, *endings: str, known: Sequence[str] = ()) -> None:
    """Makes a knob, if it is a path, absolute, as a run's config.yaml has to name the same file from everywhere.

    `known` are the values that are no path, though there may be a folder of that name.
    """
    value = getattr(config, name)
    if value and value not in known and is_path(value, *endings):
        object.__setattr__(config, name, absolute(value))


def keep_folder(config: Any, name: str) -> None:
    """Makes a knob absolute if it is a folder that is there, or is written as no name on the Hugging Face hub is."""
    value = getattr(config, name)
    if value.startswith(("~", ".", os.sep)) or os.path.isdir(value):
        object.__setattr__(config, name, absolute(value))


def probabilities(group: str, config: Any, *names: str) -> None:
    """Raises UserError for the first of these knobs of a group that is not in [0, 1)."""
    for name in names:
        if not 0 <= getattr(config, name) < 1:
            value = getattr(config, name)
            raise UserError(f"{group}.{dashed(name)} is a probability, from 0 to below 1, not {value}")


def dashed(name: str) -> str:
    """A field's name as its flag has it."""
    return name.replace("_", "-")


@dataclass(frozen=True)
class Fit:
    """How the model is trained; the same for every task."""

    epochs: int = 15
    """how often the training part is gone through"""
    seed: int = 0
    """everything random follows from it: initial weights, order, dropout, augmentation, split"""
    batch_size: int = 128
    """examples per optimiser step, over all processes and pieces"""
    accumulate: int = 1
    """compute each step's gradient in this many pieces, one after the other, to save memory"""
    optimizer: Literal["adamw", "sgd", "rmsprop"] = "adamw"
    """AdamW; SGD with Nesterov momentum; RMSprop"""
    lr: float = 3e-3
    """the highest learning rate of the schedule"""
    momentum: float = 0.9
    """how much of the direction of earlier steps is kept; 0: none. sgd: Nesterov's, rmsprop: plain, adamw: its beta1"""
    weight_decay: float = 0.05
    """on weight matrices and kernels only; adamw shrinks them by it times the learning rate, apart from the gradient;
    sgd and rmsprop add it times the weight to the gradient (L2), which rmsprop then divides like the rest"""
    schedule: Literal["constant", "cosine", "linear"] = "linear"
    """how the learning rate moves after the warm-up: stays; falls to 0 as a cosine; falls to 0 in a straight line"""
    warmup: float = 0.2
    """the part of all steps in which the learning rate rises to its highest value"""
    clip: float = 0.0
    """longest gradient (L2 norm over all parameters); 0 does not clip"""
    patience: int = 0
    """stop after this many epochs without a better validation score; 0 never stops early"""
    keep: Literal["best", "last"] = "best"
    """whose weights are the result: of the best epoch on validation; or of the last, if that part is too small"""
    save_every: float = 5.0
    """minutes between checkpoints within an epoch; every epoch ends with one anyway"""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """auto: a GPU if there is one, be it NVIDIA's (cuda) or Apple's (mps)"""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """auto: bf16 on GPUs from Ampere on and CPUs with AMX, fp16 on older GPUs, else fp32; kept by a resumed run"""
    compile: bool = False
    """torch.compile the model: slower to start, faster per step"""
    watch: bool = False
    """measure every layer at every step: gradient, update, dead and saturated units, for watch.npz and pictures"""

    def __post_init__(self) -> None:
        at_least(1, "fit", self, "epochs", "batch_size", "accumulate")
        at_least(0, "fit", self, "seed", "patience", "lr", "weight_decay", "clip", "save_every", "warmup")
        if not 0 <= self.momentum < 1:
            raise UserError(f"fit.momentum is a part of the step before, from 0 to below 1, not {self.momentum}")
        if self.seed >= 2**63:
            raise UserError(f"fit.seed must be below 2^63, not {self.seed}")
        if self.accumulate > self.batch_size:
            raise UserError(
                f"fit.accumulate {self.accumulate} is more pieces than fit.batch-size {self.batch_size} has examples"
            )
        if self.keep == "last" and self.patience:
            raise UserError(f"fit.patience {self.patience} waits for a better epoch: it needs fit.keep best")
        if self.watch and self.compile:
            raise UserError("fit.watch looks at what goes from layer to layer, which fit.compile merges: leave out one")
        if self.warmup > 1:
            raise UserError(f"fit.warmup is a part of the run, from 0 to 1, not {self.warmup}")


NULL = re.compile(r"(\\*)null")  # the word for "none"; with backslashes, one of which is taken away, a text


@dataclass(frozen=True)
class Setting:
    """One knob's value on its way to the parser: dotted name, the words of the value, and where they were written.

    A word is as the shell has it; None is YAML's null, which no text is.
    """

    name: str
    words: list[str | None]
    where: str

    def value(self, kind: Any) -> Any:
        """What the words say for a knob of this type. Raises UserError if they say nothing."""
        inner, optional = some(kind)
        try:
            if is_list(kind) and not (optional and self.words in (["null"], [None])):
                return tuple(read(word, typing.get_args(inner)[0]) for word in self.words)
            (word,) = self.words
            return read(word, kind)
        except ValueError:
            said = " ".join("null" if word is None else word for word in self.words)
            raise UserError(f"{self.where}: {self.name} must be {describe(kind)}, not {said!r}") from None


def some(kind: Any) -> tuple[Any, bool]:
    """X | None -> X, True; any other type -> itself, False."""
    inner = typing.get_args(kind) if typing.get_origin(kind) in (types.UnionType, typing.Union) else ()
    if type(None) not in inner:
        return kind, False
    (kind,) = (k for k in inner if k is not type(None))
    return kind, True


def is_list(kind: Any) -> bool:
    return typing.get_origin(some(kind)[0]) is tuple


def read(word: str | None, kind: Any) -> Any:
    """The value of a type that a word stands for. Raises ValueError if there is none.

    `null` is none where a knob can be none, and the text "null" then is `\\null`. Where no text can be meant, None and
    none are as good, and for a yes or no true, True, yes and false, False, no.
    """
    kind, optional = some(kind)
    if optional and word in (None, "null"):
        return None
    if word is None:
        raise ValueError(word)
    if kind is str:
        word.encode()  # a lone surrogate, as of a file name that is not UTF-8, could not be written down
        return word.removeprefix("\\") if NULL.fullmatch(word) else word
    if typing.get_origin(kind) is Literal:
        for value in typing.get_args(kind):
            if {word, RENAMED.get(word)} & {to_word(value), str(value)}:
                return value
        raise ValueError(word)
    if optional and word in ("None", "none"):
        return None
    if kind is bool:
        return bool(("no", "false", "yes", "true").index(word.lower()) // 2)
    if kind in (int, float):
        return kind(word)
    raise TypeError(f"a knob cannot be of type {kind}")


def to_word(value: Any) -> str:
    """The word that stands for a value: what `read` takes back."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return f"\\{value}" if isinstance(value, str) and NULL.fullmatch(value) else str(value)


def describe(kind: Any) -> str:
    """A type in the words of an error message."""
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin is Literal:
        return "one of " + ", ".join(map(str, inner))
    if origin is tuple:
        return f"a list, each {describe(inner[0])}"
    if origin in (types.UnionType, typing.Union):
        return " or ".join(map(describe, inner))
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "a text", type(None): "null"}
    return names.get(kind, str(kind))


def similar(name: str, known: Iterable[str]) -> str:
    """The ending of an error about an unknown name: a suggestion if one is near, else what there is."""
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"did you mean {near[0]!r}?" if near else f"there are {', '.join(known)}"


def knobs(config: type) -> dict[str, Any]:
    """The dotted flag names of a configuration and their types: {"fit.batch-size": int, ...}."""
    found: dict[str, Any] = {}
    hints = typing.get_type_hints(config)
    for field in dataclasses.fields(config):
        name, kind = dashed(field.name), hints[field.name]
        inner = knobs(typing.cast(type, kind)) if dataclasses.is_dataclass(kind) else None
        found |= {name: kind} if inner is None else {f"{name}.{knob}": of for knob, of in inner.items()}
    return found


def flatten(config: Any) -> dict[str, Any]:
    """The values of a configuration by dotted flag name: {"fit.batch-size": 128, ...}."""
    return {knob: attrgetter(knob.replace("-", "_"))(config) for knob in knobs(type(config))}


def stackable(knob: str, value: Any) -> bool:
    """Whether runs that differ in this knob may be trained as one stacked program: see `etude.stacked`."""
    return knob in STACKED or (isinstance(value, float) and knob.endswith("dropout"))


def full(name: str, known: Mapping[str, Any]) -> str:
    """The knob that was meant by a name; a group alone is its `name`: --data nerus is --data.name nerus."""
    name = dashed(name)
    return f"{name}.name" if name not in known and f"{name}.name" in known else name


def to_flags(values: Mapping[str, Any]) -> list[str]:
    """The flags that set these values: {"fit.lr": 0.1, "fit.compile": True} -> ["--fit.lr=0.1", "--fit.compile"].

    Raises UserError for what a command line cannot say: a list with a text that looks like a flag.
    """
    flags = []
    for key, value in values.items():
        name = dashed(key)
        if isinstance(value, bool):
            flags.append(switch(name, value))
        elif isinstance(value, list | tuple):
            words = [to_word(inner) for inner in value]
            if odd := next((word for word in words if word == "-h" or word.startswith("--")), None):
                raise UserError(f"{name}: a list on the command line cannot hold {odd!r}, a flag: use a YAML file")
            flags += [f"--{name}", *words]
        else:
            flags.append(f"--{name}={to_word(value)}")
    return flags


def switch(name: str, value: bool) -> str:
    """The flag of a yes-or-no knob, named as by tyro: fit.compile, False -> --fit.no-compile."""
    *group, last = name.split(".")
    return "--" + ".".join([*group, last if value else f"no-{last}"])


def parse(config: type[C], args: Sequence[str], *, package: str = "", prog: str = "", description: str = "") -> C:
    """Reads `[CONFIG ...] [--flag value ...]` into a `config`; what comes later wins, and so flags win over files.

    A CONFIG is the path of a YAML file or the name of one of the presets of `package`. `--help` prints the flags and
    exits. Raises UserError for an unknown or mistyped key or flag, naming the file and line.
    """
    if "-h" in args or "--help" in args:
        tyro.cli(listed(config), args=["--help"], prog=prog, description=description)
    known = knobs(config)
    found = settings(args, known, package)
    return build(config, {setting.name: setting.value(known[setting.name]) for setting in found})


def settings(args: Sequence[str], known: Mapping[str, Any], package: str = "") -> list[Setting]:
    """What arguments as `parse` takes them set, in their order."""
    count = next((index for index, word in enumerate(args) if word.startswith("-")), len(args))
    paths = [find_config(name, package) for name in args[:count]]
    return [setting for path in paths for setting in read_yaml(path, known)] + read_flags(args[count:], known)


def build(config: type[C], values: Mapping[str, Any], prefix: str = "", default: Any = None) -> C:
    """A configuration with these values by dotted flag name; the rest is as in `default`, or as the type has it."""
    hints, missing = typing.get_type_hints(config), dataclasses.MISSING
    given: dict[str, Any] = {}
    for field in dataclasses.fields(typing.cast(Any, config)):
        name, kind, value = prefix + dashed(field.name), hints[field.name], default_of(field, default)
        if dataclasses.is_dataclass(kind):
            value = build(typing.cast(type, kind), values, f"{name}.", None if value is missing else value)
        given[field.name] = values.get(name, value)
        if given[field.name] is missing:
            raise UserError(f"--{name} is missing: it needs a value: {describe(kind)}")
    return config(**given)


def default_of(field: dataclasses.Field[Any], whole: Any) -> Any:
    """The value of a field that nobody gives: as in the configuration `whole`, or its own; MISSING if it has none."""
    if whole is not None:
        return getattr(whole, field.name)
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


class Flag(NamedTuple):
    """A flag as it is shown: the type of its value, its default or MISSING, its help, the dataclass that it is of."""

    kind: Any
    default: Any
    about: str
    owner: type


def flags(config: type, whole: Any = None) -> dict[str, Flag]:
    """What is shown of each flag of a configuration, by dotted name; defaults are those of `whole`, if given."""
    found: dict[str, Flag] = {}
    hints, said = typing.get_type_hints(config), helps(config)
    for field in dataclasses.fields(config):
        name, kind, value = dashed(field.name), hints[field.name], default_of(field, whole)
        if dataclasses.is_dataclass(kind):
            inner = flags(typing.cast(type, kind), None if value is dataclasses.MISSING else value)
            found |= {f"{name}.{knob}": flag for knob, flag in inner.items()}
        else:
            found[name] = Flag(kind, value, said.get(field.name, ""), config)
    return found


def helps(config: type) -> dict[str, str]:
    """The help under each field of a dataclass, on one line, as words of a second line would be taken for others."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(config)))
    except (OSError, SyntaxError):  # typed at a prompt
        return {}
    found: dict[str, str] = {}
    for one, below in itertools.pairwise(typing.cast(ast.ClassDef, tree.body[0]).body):
        if isinstance(one, ast.AnnAssign) and isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant):
            found[ast.unparse(one.target)] = " ".join(str(below.value.value).split())
    return found


def as_field(name: str, flag: Flag) -> tuple[str, Any, Any]:
    """A flag as `make_dataclass` takes a field."""
    aliases = [f"--{name.removesuffix('.name')}"] if name.endswith(".name") else None
    shown = tyro.conf.arg(name=name, prefix_name=False, help=flag.about, aliases=aliases)
    return re.sub(r"\W", "_", name), Annotated[flag.kind, shown], dataclasses.field(default=flag.default)


def listed(config: type, **more: tuple[Any, str]) -> type:
    """A dataclass whose flags tyro shows in the order of use: those used most, then `more`, then group by group.

    `more` are types and help of flags that are no knobs. It is only for tyro to look at.
    """
    groups: dict[str, dict[str, Flag]] = {"": {}}
    known = flags(config)
    for name in sorted(known, key=lambda name: MOST_USED.index(name) if name in MOST_USED else len(MOST_USED)):
        group = "" if name in MOST_USED else name.rpartition(".")[0] or "other"
        groups.setdefault(group, {})[name] = known[name]
    groups[""] |= {name: Flag(kind, dataclasses.MISSING, about, config) for name, (kind, about) in more.items()}
    made: list[Any] = []
    for group, members in groups.items():
        fields = [as_field(name, flag) for name, flag in members.items()]
        if group:
            one = dataclasses.make_dataclass("Group", fields, kw_only=True)
            owners = {flag.owner for flag in members.values()} - {config}
            one.__doc__ = " ".join(str(owner.__doc__) for owner in owners)
            made.append((re.sub(r"\W", "_", group), Annotated[one, tyro.conf.arg(name=group)]))
        else:
            made += fields
    return dataclasses.make_dataclass("Flags", made, kw_only=True)


def presets(package: str) -> dict[str, Path]:
    """The configurations that install with a package, by name."""
    folder = Path(str(resources.files(package))) / "configs" if package else None
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))} if folder else {}


def find_config(name: str, package: str) -> Path:
    """The file that a CONFIG argument names: a path, or a preset. Raises UserError if there is none."""
    known = presets(package)
    found = Path(name) if os.path.isfile(name) else known.get(name.removeprefix("configs/").removesuffix(".yaml"))
    if found is None:
        has = f" or one of {', '.join(known)}" if known else ""
        raise UserError(f"there is no configuration {name!r}: give the path of a YAML file{has}")
    return found


def read_flags(words: Sequence[str], known: Mapping[str, Any]) -> list[Setting]:
    """Splits the shell's words into settings. Raises UserError for an unknown flag, with a suggestion."""
    found: list[Setting] = []
    toggles = [name for name, kind in known.items() if some(kind)[0] is bool]
    switches = {switch(name, yes): (name, yes) for name in toggles for yes in (True, False)}
    for word in words:
        name, equals, value = word[2:].partition("=")
        name = full(name, known)
        if not word.startswith("--"):
            if not found or found[-1].name in toggles:
                raise UserError(f"command line: {word!r} belongs to no flag{files_first(word)}")
            found[-1].words.append(word)
        elif f"--{name}" in switches and not equals:
            name, yes = switches[f"--{name}"]
            found.append(Setting(name, [to_word(yes)], "command line"))
        elif name in known:
            found.append(Setting(name, [value] if equals else [], "command line"))
        else:
            raise UserError(f"command line: unknown flag --{name}: {similar(name, known)}")
    for setting in found:
        kind, said = known[setting.name], " ".join(map(str, setting.words))
        if not is_list(kind) and len(setting.words) != 1:
            problem = f"takes one value, not {said!r}" if setting.words else "needs a value"
            raise UserError(f"command line: --{setting.name} {problem}: {describe(kind)}{files_first(said)}")
    return found


def files_first(words: str) -> str:
    """The remedy for a file among the flags."""
    return "; configuration files come before all flags" if words.endswith((".yaml", ".yml")) else ""


class Loader(yaml.SafeLoader):
    """Refuses a key that is given twice in one mapping, or is no word."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node: yaml.MappingNode = super().compose_mapping_node(anchor)
        found: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.value in found:
                problem = f"{key.value} is given twice" if key.id == "scalar" else "a key has to be a word"
                raise yaml.MarkedYAMLError(problem=problem, problem_mark=key.start_mark)
            found.add(key.value)
        return node


def compose(text: str, where: str) -> yaml.Node | None:
    """The nodes of a YAML text, None of an empty one; `where`, the file, is for the error.

    Raises UserError, which names the line, for what is not YAML and for a key that is given twice or is no word.
    """
    try:
        root: yaml.Node | None = yaml.compose(text, Loader=Loader)
        plain(root)  # which ends, unless an alias stands within what it names
    except (yaml.YAMLError, RecursionError) as error:
        mark, why = getattr(error, "problem_mark", None), getattr(error, "problem", None) or str(error)
        line = f", line {mark.line + 1}" if mark else ""
        raise UserError(f"{where}{line}: cannot be read as YAML: {' '.join(why.split())}") from None
    return root


def plain(node: yaml.Node | None) -> Any:
    """A YAML node as dicts and lists of scalars, which are texts as they are written; None for null and for no node."""
    if isinstance(node, yaml.MappingNode):
        return {key.value: plain(value) for key, value in node.value}
    if isinstance(node, yaml.SequenceNode):
        return [plain(value) for value in node.value]
    return None if node is None or node.tag == "tag:yaml.org,2002:null" else node.value


def read_yaml(path: Path, known: Mapping[str, Any]) -> list[Setting]:
    """The settings of a YAML file. Scalars are taken as they are written, so that only the typed parser judges them."""
    try:
        root = compose(path.read_text(encoding="utf-8-sig"), str(path))
    except (UnicodeDecodeError, OSError) as error:
        raise UserError(f"{path}: cannot be read as YAML: {error}") from None
    if root is None:
        return []
    if not isinstance(root, yaml.MappingNode):
        raise UserError(f"{path}: expected lines of the form `key: value`")
    found: dict[str, Setting] = {}
    for written, line, node in leaves(root):
        name, where = full(written, known), f"{path}, line {line}"
        if name not in known:
            raise UserError(f"{where}: unknown key {name}: {similar(name, known)}")
        if name in found:
            raise UserError(f"{where}: {name} is given twice")
        value = plain(node)
        words = value if isinstance(value, list) else [value]
        if words is value and not (is_list(known[name]) and all(isinstance(n, yaml.ScalarNode) for n in node.value)):
            raise UserError(f"{where}: {name} must be {describe(known[name])}, not a list")
        found[name] = Setting(name, [None if word is None else to_word(word) for word in words], where)
    return list(found.values())


def leaves(mapping: yaml.MappingNode, prefix: str = "") -> Iterator[tuple[str, int, yaml.Node]]:
    """The dotted keys in which a mapping ends, their lines and what stands there."""
    for key, node in mapping.value:
        if isinstance(node, yaml.MappingNode):
            yield from leaves(node, f"{prefix}{key.value}.")
        else:
            yield prefix + key.value, key.start_mark.line + 1, node


class Dumper(yaml.SafeDumper):
    """Writes floats as Python does: YAML's own form of 1e-05 or inf is not what a float parser reads."""


Dumper.add_representer(float, lambda dumper, x: dumper.represent_scalar("tag:yaml.org,2002:float", repr(x)))
Dumper.add_representer(tuple, lambda dumper, x: dumper.represent_sequence("tag:yaml.org,2002:seq", x, flow_style=True))


def dump(config: Any) -> str:
    """The YAML text that `parse` reads back equal."""
    return yaml.dump(dataclasses.asdict(config), Dumper=Dumper, sort_keys=False, allow_unicode=True)


def save(config: Any, path: Path) -> None:
    """Writes a configuration to a YAML file that `parse` reads back equal."""
    files.write(path, files.encode(dump(config)))


def differences(old: Any, new: Any) -> list[str]:
    """What differs between two configurations: ["fit.lr: 0.1 -> 0.2", ...]."""
    before = flatten(old)
    pairs = {key: (before.get(key), value) for key, value in flatten(new).items()}
    # By their looks too: NaN is not equal to itself.
    return [f"{key}: {a} -> {b}" for key, (a, b) in pairs.items() if a != b and repr(a) != repr(b)]
