"""The network that sees: a convolutional network of torchvision without its last layer, frozen; and its weights."""

import hashlib
import pickle
import socket
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from etude.config import similar
from etude.download import PATIENCE, reason
from etude.errors import UserError

GRID = 7  # parts of a spatial map, GRID x GRID at most: those of a ResNet's at 224 pixels

# Where the last map of features is to be had, by the beginning of a network's name, in torch.fx's names of nodes.
MAPS = {
    **dict.fromkeys(("resnet", "resnext", "wide_resnet"), "layer4"),
    **dict.fromkeys(("squeezenet", "vgg", "alexnet", "mobilenet", "efficientnet", "convnext"), "features"),
    "densenet": "relu",
    "mnasnet": "layers",
    "regnet": "trunk_output",
    "shufflenet": "conv5",
}


@dataclass(frozen=True)
class Preprocessing:
    """Resized so that the short side has `resize` pixels, the middle `crop` x `crop` cut out, channels normalised."""

    resize: int
    crop: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str

    @classmethod
    def of(cls, preset: Any) -> "Preprocessing":
        """That of torchvision's published weights."""
        return cls(
            *(preset.resize_size[0], preset.crop_size[0], tuple(preset.mean), tuple(preset.std)),
            preset.interpolation.value,
        )

    def __call__(self, picture: Image.Image) -> Tensor:
        """An RGB picture -> float32 [3, crop, crop]."""
        from torchvision.transforms import functional as T
        from torchvision.transforms.functional import InterpolationMode

        scaled = T.resize(picture, self.resize, InterpolationMode(self.interpolation), antialias=True)
        pixels = T.pil_to_tensor(T.center_crop(scaled, self.crop)).float() / 255
        return T.normalize(pixels, self.mean, self.std)

    def __str__(self) -> str:
        return f"{self.crop} pixels of {self.resize}, {self.interpolation}"


class Encoder:
    """A backbone with its weights, ready to encode pictures."""

    def __init__(self, backbone: str, weights: str, state: dict[str, Tensor] | None, where: torch.device) -> None:
        """`weights` in words: the name of published ones, "random", or a file; `state` are those of a checkpoint.

        Raises UserError for an unknown backbone or weights, and for those that cannot be had or do not fit.
        """
        self.backbone, self.weights = backbone, weights
        published = entries(backbone)
        named = {entry.name: entry for entry in published}
        entry = published[0]
        if state is None and weights in named:
            entry = named[weights]
            self.model = cut(backbone, build(backbone, download(backbone, entry), weights))
        elif state is None and weights == "random":
            self.model = cut(backbone, build(backbone, None, weights))
        elif state is None:
            loaded, known = read(Path(weights), backbone, published)
            entry = known or entry
            self.model = cut(backbone, build(backbone, loaded, weights))
        else:
            entry = named.get(weights, entry)
            self.model = cut(backbone, build(backbone, None, weights))
            self.model.load_state_dict(state)
        self.preprocess = Preprocessing.of(entry.transforms())
        self.digest = digest(self.model)
        self.reproducible = weights in named
        self.where = where
        self.model.to(where, memory_format=torch.channels_last)  # type: ignore[call-overload]
        with torch.inference_mode():
            crop = self.preprocess.crop
            shape = self.model(torch.zeros(1, 3, crop, crop, device=where))["map"].shape
        self.channels, self.grid = shape[1], (min(GRID, shape[2]), min(GRID, shape[3]))

    @torch.inference_mode()
    def __call__(self, pictures: Sequence[Tensor], spatial: bool) -> Tensor:
        """B preprocessed pictures -> float16 [B, C], the mean over the last map; or its parts [B, cells, C]."""
        seen = self.model(torch.stack(list(pictures)).to(self.where, memory_format=torch.channels_last))["map"].float()
        parts = F.adaptive_avg_pool2d(seen, self.grid if spatial else 1).flatten(2).transpose(1, 2)
        seen = parts if spatial else parts[:, 0]
        return seen.clamp(-65504, 65504).half().cpu()  # the largest number of half precision, else they are infinite

    def state(self) -> dict[str, Tensor]:
        """What a checkpoint keeps of the weights: nothing of published ones, which can be had again."""
        return {} if self.reproducible else {name: value.cpu() for name, value in self.model.state_dict().items()}

    def __str__(self) -> str:
        how = {"random": "random weights, never trained"}.get(self.weights, f"weights {self.weights}")
        return f"{self.backbone}, {how} ({self.digest[:8]}), {self.channels} features, {self.preprocess}"


def entries(backbone: str) -> list[Any]:
    """Published weights of a backbone, those of the first version first. Raises UserError if there is no such one."""
    from torchvision import models

    known = [name for name in models.list_models(models) if any(name.startswith(first) for first in MAPS)]
    if backbone not in known:
        raise UserError(f"there is no encoder.backbone {backbone!r}: {similar(backbone, known)}")
    return list(models.get_model_weights(backbone))


def build(backbone: str, state: dict[str, Tensor] | None, weights: str) -> nn.Module:
    """The network with these weights, or always the same random ones. Raises UserError if they do not fit."""
    from torchvision import models

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = models.get_model(backbone, weights=None)
    if state is not None:
        removed = last_layer(model)
        own = {name: value for name, value in model.state_dict().items() if name not in removed}
        lacks = sorted(own.keys() - state.keys())
        other = sorted(name for name in own.keys() & state.keys() if own[name].shape != state[name].shape)
        strange = sorted(state.keys() - own.keys() - removed)
        if lacks or other or strange:
            wrong = f"it lacks {lacks[0]}" if lacks else f"it has {strange[0]}" if strange else ""
            if other:
                name = other[0]
                wrong = f"its {name} is {[*state[name].shape]}, not {[*own[name].shape]}"
            raise UserError(
                f"the weights {weights} are not those of {backbone} ({wrong}): "
                "give the --encoder.backbone that they are of, or other --encoder.weights"
            )
        model.load_state_dict({name: state[name] for name in own}, strict=False)
    return model.eval().requires_grad_(False)


def last_layer(model: nn.Module) -> set[str]:
    """Names of the parameters that no map of features needs."""
    return {name for name in model.state_dict() if name.split(".")[0] in ("fc", "classifier", "head")}


def cut(backbone: str, model: nn.Module) -> nn.Module:
    """The network up to its last map of features: [B, 3, H, W] -> {"map": [B, C, h, w]}."""
    from torchvision.models.feature_extraction import create_feature_extractor

    node = next(name for first, name in MAPS.items() if backbone.startswith(first))
    cut = create_feature_extractor(model, {node: "map"}, suppress_diff_warning=True)
    return cut.eval().requires_grad_(False)


def digest(model: nn.Module) -> str:
    """Of names, shapes and values of all weights: the same wherever they were read from."""
    found = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        found.update(f"{name} {value.dtype} {[*value.shape]}".encode())
        found.update(value.detach().cpu().contiguous().numpy().tobytes())
    return found.hexdigest()


def download(backbone: str, entry: Any) -> dict[str, Tensor]:
    """Published weights, fetched and checked by torchvision if need be. Raises UserError if they cannot be had."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(PATIENCE)  # torchvision sets none: a silent server would hold us for ever
    file = Path(torch.hub.get_dir()) / "checkpoints" / Path(entry.url).name
    try:
        return entry.get_state_dict(progress=True, check_hash=True)
    except (OSError, HTTPException, RuntimeError, pickle.UnpicklingError) as error:
        if file.exists():
            raise UserError(f"{file} cannot be read ({reason(error)}): delete it, it will be fetched again") from error
        raise UserError(
            f"the weights {entry.name} of {backbone} could not be downloaded from {entry.url} ({reason(error)}): "
            f"run it again, put the file at {file} by hand, or give --encoder.weights a file, or random"
        ) from error
    finally:
        socket.setdefaulttimeout(before)


def read(file: Path, backbone: str, published: list[Any]) -> tuple[dict[str, Tensor], Any]:
    """A file's state dict, and which published weights it is, if any: torchvision's names hold the file's hash.

    Raises UserError if there is no such file or it holds something else.
    """
    if not file.exists():
        names = ", ".join(entry.name for entry in published)
        raise UserError(
            f"there are no weights {file.name!r} in {file.parent.absolute()}: give --encoder.weights a file, random, "
            f"or of {backbone} one of {names}"
        )
    try:
        with file.open("rb") as stream:
            content = hashlib.file_digest(stream, "sha256").hexdigest()
        state = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise UserError(f"{file} is refused: it holds more than tensors, or is not a file of weights") from None
    except (OSError, RuntimeError, EOFError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise UserError(f"{file} cannot be read as a file of weights ({reason(error)})") from None
    if isinstance(state, dict) and isinstance(state.get("state_dict"), dict):
        state = state["state_dict"]
    if not isinstance(state, dict) or not state or not all(isinstance(value, Tensor) for value in state.values()):
        raise UserError(f"{file} holds no state dict: give --encoder.weights a file with one")
    known = [entry for entry in published if f"-{content[:8]}." in entry.url]
    return state, known[0] if known else None
