"""Configurations: plain dataclasses, parsed from YAML files and flags by one typed parser.

A file is turned into flags and read by the same parser as the shell's, so `lr: 1e-3` is a number in both (YAML itself
would read it as a string) and a run's `config.yaml` is a saved command line. Nothing here imports torch.
"""

import dataclasses
import difflib
import types
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Literal, TypeVar

import tyro
import yaml

from etude.errors import UserError

C = TypeVar("C")
STACKED = (  # beside dropout, the knobs in which the runs of one stacked program may differ
    "fit.seed",
    "fit.lr",
    "fit.weight-decay",
    "fit.clip",
    "fit.patience",
)


def at_least(least: float, group: str, config: Any, *names: str) -> None:
    """Raises UserError for the first of these knobs of a group, such as `model`, that is below `least`, or NaN."""
    for name in names:
        if not getattr(config, name) >= least:
            flag = name.replace("_", "-")
            raise UserError(f"{group}.{flag} must be at least {least}, not {getattr(config, name)}")


def probabilities(group: str, config: Any, *names: str) -> None:
    """Raises UserError for the first of these knobs of a group that is not in [0, 1)."""
    for name in names:
        if not 0 <= getattr(config, name) < 1:
            flag = name.replace("_", "-")
            raise UserError(f"{group}.{flag} is a probability, from 0 to below 1, not {getattr(config, name)}")


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
    """AdamW; SGD with Nesterov momentum 0.9; RMSprop with momentum 0.9"""
    lr: float = 3e-3
    """the highest learning rate of the schedule"""
    weight_decay: float = 0.05
    """on weight matrices and kernels only, never on biases or normalisation"""
    schedule: Literal["constant", "cosine", "one-cycle"] = "one-cycle"
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
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: a GPU if there is one"""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """auto: bf16 where the hardware multiplies it natively, fp16 on older GPUs, else fp32"""
    compile: bool = False
    """torch.compile the model: slower to start, faster per step"""

    def __post_init__(self) -> None:
        at_least(1, "fit", self, "epochs", "batch_size", "accumulate")
        at_least(0, "fit", self, "seed", "patience", "lr", "weight_decay", "clip", "save_every", "warmup")
        if self.seed >= 2**63:
            raise UserError(f"fit.seed must be below 2^63, not {self.seed}")
        if self.accumulate > self.batch_size:
            raise UserError(
                f"fit.accumulate {self.accumulate} is more pieces than fit.batch-size {self.batch_size} has examples"
            )
        if self.keep == "last" and self.patience:
            raise UserError(f"fit.patience {self.patience} waits for a better epoch: it needs fit.keep best")
        if self.warmup > 1:
            raise UserError(f"fit.warmup is a part of the run, from 0 to 1, not {self.warmup}")


@dataclass(frozen=True)
class Setting:
    """One knob's value on its way to the parser: dotted name, the words of the value, and where they were written."""

    name: str
    words: list[str]
    where: str

    def flag(self, known: Mapping[str, Any]) -> list[str]:
        """The words of the command line that set it."""
        if known[self.name] is bool:
            value = {"true": True, "yes": True, "false": False, "no": False}.get(" ".join(self.words).lower())
            if value is None:
                raise self.wrong(known[self.name])
            return [switch(self.name, value)]
        if typing.get_origin(known[self.name]) is tuple and any(word.startswith("--") for word in self.words):
            raise self.wrong(known[self.name])
        if len(self.words) == 1:
            return [f"--{self.name}={self.words[0]}"]
        return [f"--{self.name}", *self.words]

    def wrong(self, kind: Any) -> UserError:
        return UserError(f"{self.where}: {self.name} must be {describe(kind)}, not {' '.join(self.words)!r}")


def knobs(config: type) -> dict[str, Any]:
    """The dotted flag names of a configuration and their types: {"fit.batch-size": int, ...}."""
    found: dict[str, Any] = {}
    hints = typing.get_type_hints(config)
    for field in dataclasses.fields(config):
        name, kind = field.name.replace("_", "-"), hints[field.name]
        if dataclasses.is_dataclass(kind):
            found |= {f"{name}.{inner}": inner_kind for inner, inner_kind in knobs(typing.cast(type, kind)).items()}
        else:
            found[name] = kind
    return found


def stackable(knob: str, value: Any) -> bool:
    """Whether runs that differ in this knob may be trained as one stacked program: see `etude.many`."""
    return knob in STACKED or (isinstance(value, float) and knob.endswith("dropout"))


def full(name: str, known: Mapping[str, Any]) -> str:
    """A group alone stands for the knob `name` in it: --data nerus is --data.name nerus."""
    return f"{name}.name" if name not in known and f"{name}.name" in known else name


def flatten(config: Any) -> dict[str, Any]:
    """The values of a configuration by dotted flag name: {"fit.batch-size": 128, ...}."""
    found: dict[str, Any] = {}
    for field in dataclasses.fields(config):
        name, value = field.name.replace("_", "-"), getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            found |= {f"{name}.{inner}": inner_value for inner, inner_value in flatten(value).items()}
        else:
            found[name] = value
    return found


def to_flags(values: Mapping[str, Any]) -> list[str]:
    """The flags that set these values: {"fit.lr": 0.1, "fit.compile": True} -> ["--fit.lr=0.1", "--fit.compile"]."""
    flags = []
    for key, value in values.items():
        name = key.replace("_", "-")
        if isinstance(value, bool):
            flags.append(switch(name, value))
        elif isinstance(value, list | tuple):
            flags += [f"--{name}", *map(str, value)]
        else:
            flags.append(f"--{name}={value}")
    return flags


def switch(name: str, value: bool) -> str:
    """tyro's flag of a yes-or-no knob: fit.compile, False -> --fit.no-compile."""
    *group, last = name.split(".")
    return "--" + ".".join([*group, last if value else f"no-{last}"])


def describe(kind: Any) -> str:
    """A type in the words of an error message."""
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin is Literal:
        return "one of " + ", ".join(map(str, inner))
    if origin is tuple:
        return f"a list, each {describe(inner[0])}"
    if origin in (types.UnionType, typing.Union):
        return " or ".join(describe(k) for k in inner)
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "a text", type(None): "none"}
    return names.get(kind, str(kind))


def similar(name: str, known: typing.Iterable[str]) -> str:
    """The ending of an error about an unknown name: a suggestion if one is near, else what there is."""
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"did you mean {near[0]!r}?" if near else f"there are {', '.join(known)}"


def parse(config: type[C], args: list[str], *, package: str = "", prog: str = "", description: str = "") -> C:
    """Reads `[CONFIG.yaml ...] [--flag value ...]` into a `config`; what comes later wins, and flags win over files.

    A CONFIG is a path or the name of a file in `package`'s folder `configs`. `--help` prints the flags and exits.
    Raises UserError for an unknown or mistyped key or flag, naming the file and line.
    """
    known = knobs(config)
    settings: list[Setting] = []
    files, rest = split_files(args, known)
    for name in files:
        settings += read_yaml(find_preset(name, package), known)
    if "-h" not in rest and "--help" not in rest:
        settings += read_flags(rest, known)
        rest = [word for setting in settings for word in setting.flag(known)]
    with_help = "-h" in rest or "--help" in rest
    try:
        return tyro.cli(config, args=rest, prog=prog, description=description, console_outputs=with_help)
    except SystemExit:
        if with_help:
            raise
    for setting in settings:
        try:
            tyro.cli(config, args=setting.flag(known), console_outputs=False)
        except SystemExit:
            raise setting.wrong(known[setting.name]) from None
        except UserError:  # alone it may not fit, it is read all the same
            continue
    raise UserError(f"these flags cannot be read together: {' '.join(rest)}")


def take(argv: list[str], flag: str) -> str | None:
    """Removes `--flag VALUE` or `--flag=VALUE` from a command line; its value, None if it is not there."""
    value = None
    for i in reversed(range(len(argv))):
        if argv[i] == flag:
            if i + 1 == len(argv) or argv[i + 1].startswith("--"):
                raise UserError(f"command line: {flag} needs a value")
            value = argv[i + 1]
            del argv[i : i + 2]
        elif argv[i].startswith(f"{flag}="):
            value = argv.pop(i)[len(flag) + 1 :]
            if not value:
                raise UserError(f"command line: {flag} needs a value")
    return value


def split_files(args: list[str], known: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """Parts the CONFIG arguments from the flags; between flags they are told by their ending .yaml."""
    files: list[str] = []
    rest: list[str] = []
    for word in args:
        flag = next((w for w in reversed(rest) if w.startswith("-")), None)
        kind = None if flag is None else known.get(full(flag[2:].replace("_", "-"), known))
        has_value = flag is None or "=" in flag or rest[-1] != flag or kind in (bool, None)
        if not word.startswith("-") and has_value and (flag is None or word.endswith((".yaml", ".yml"))):
            files.append(word)
        else:
            rest.append(word)
    return files, rest


def find_preset(name: str, package: str) -> Path:
    """The file that a CONFIG argument names: a path, or a preset that installs with the package."""
    folder = Path(str(resources.files(package))) / "configs" if package else Path("configs")
    short = name.removeprefix("configs/").removesuffix(".yaml")
    for path in (Path(name), folder / f"{short}.yaml"):
        if path.is_file() and (path == Path(name) or "/" not in short):
            return path
    presets = sorted(p.stem for p in folder.glob("*.yaml"))
    raise UserError(f"there is no configuration {name!r}: give the path of a YAML file or one of {', '.join(presets)}")


def read_flags(words: list[str], known: Mapping[str, Any]) -> list[Setting]:
    """Splits the shell's words into settings; refuses unknown flags with a suggestion."""
    settings: list[Setting] = []
    switches = {
        switch(name, value): (name, value) for name, kind in known.items() if kind is bool for value in (True, False)
    }
    for word in words:
        name, equals, value = word[2:].partition("=")
        name = full(name.replace("_", "-"), known)
        if not word.startswith("--"):
            if not settings or (known[settings[-1].name] is bool):
                raise UserError(f"command line: {word!r} belongs to no flag")
            settings[-1].words.append(word)
        elif f"--{name}" in switches and not equals:
            name, yes = switches[f"--{name}"]
            settings.append(Setting(name, [str(yes)], "command line"))
        elif name in known:
            settings.append(Setting(name, [value] if equals else [], "command line"))
        else:
            raise UserError(f"command line: unknown flag --{name}: {similar(name, known)}")
    for setting in settings:
        is_list = typing.get_origin(known[setting.name]) is tuple
        if not is_list and len(setting.words) != 1:
            problem = "needs a value" if not setting.words else f"takes one value, not {' '.join(setting.words)!r}"
            raise UserError(f"command line: --{setting.name} {problem}: {describe(known[setting.name])}")
    return settings


def read_yaml(path: Path, known: Mapping[str, Any]) -> list[Setting]:
    """The settings of a YAML file. Scalars are taken as they are written, so that only the typed parser judges them."""
    try:
        root = yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    except (yaml.YAMLError, UnicodeDecodeError, OSError, RecursionError) as error:
        raise UserError(f"{path} is no YAML file: {' '.join(str(error).split())}") from None
    if root is None:
        return []
    if not isinstance(root, yaml.MappingNode):
        raise UserError(f"{path}: expected lines of the form `key: value`")
    try:
        settings = list(read_mapping(path, root, "", known))
    except RecursionError:
        raise UserError(f"{path}: an alias stands within what it names") from None
    for index, setting in enumerate(settings):
        if setting.name in (earlier.name for earlier in settings[:index]):
            raise UserError(f"{setting.where}: {setting.name} is given twice")
    return settings


def read_mapping(path: Path, mapping: yaml.MappingNode, prefix: str, known: Mapping[str, Any]) -> Iterator[Setting]:
    for key_node, node in mapping.value:
        name = prefix + str(key_node.value).replace("_", "-")
        where = f"{path}, line {key_node.start_mark.line + 1}"
        if isinstance(node, yaml.MappingNode):
            yield from read_mapping(path, node, f"{name}.", known)
            continue
        name = full(name, known)
        if name not in known:
            raise UserError(f"{where}: unknown key {name}: {similar(name, known)}")
        if isinstance(node, yaml.ScalarNode):
            is_null = node.tag == "tag:yaml.org,2002:null"
            yield Setting(name, ["None" if is_null else node.value], where)
        elif typing.get_origin(known[name]) is tuple and all(isinstance(n, yaml.ScalarNode) for n in node.value):
            yield Setting(name, [n.value for n in node.value], where)
        else:
            raise UserError(f"{where}: {name} must be {describe(known[name])}, not a list")


class Dumper(yaml.SafeDumper):
    """Writes floats as Python does: YAML's own form of 1e-05 or inf is not what a float parser reads."""


Dumper.add_representer(float, lambda dumper, x: dumper.represent_scalar("tag:yaml.org,2002:float", repr(x)))
Dumper.add_representer(tuple, lambda dumper, x: dumper.represent_sequence("tag:yaml.org,2002:seq", x, flow_style=True))


def dump(config: Any) -> str:
    """The YAML text that `parse` reads back equal."""
    return yaml.dump(dataclasses.asdict(config), Dumper=Dumper, sort_keys=False, allow_unicode=True)


def save(config: Any, path: Path) -> None:
    """Writes a configuration to a YAML file that `parse` reads back equal."""
    path.write_text(dump(config), encoding="utf-8")


def differences(old: Any, new: Any) -> list[str]:
    """What differs between two configurations: ["fit.lr: 0.1 -> 0.2", ...]."""
    a, b = flatten(old), flatten(new)
    return [f"{key}: {a.get(key)} -> {value}" for key, value in b.items() if a.get(key) != value]
