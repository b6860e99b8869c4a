"""Pictures for people: restorations, samples, walks, single numbers, codes in use, the network, error against bits."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from cifar_vae.config import SIDE, VALUES, Model
from cifar_vae.yardsticks import TRANSFORM, distortion
from etude import draw
from etude.pictures import literal

MANY, ACROSS = 40, 10  # pictures shown, and in a row
STEPS = 10  # of a walk, and of a number that is moved
ZOOM, GAP = 2, 2
REFERENCE = 1_000  # validation pictures whose latents samples and walks are made from
POINTS = 500  # latents in the projector
ORDER = f"at most {ACROSS} pictures a row, the surest answer first; below each, its probability"
SAMPLES = -7  # the stream that samples are drawn from
COLOURS = ("#0b5fa5", "#d9580d", "#5b8c2a", "#7a4fa3", "#b3872a", "#444444")


def board(images: Tensor, across: int = ACROSS) -> Image.Image:
    """Pictures in rows: float [N, 3, 32, 32] in [-1, 1], or uint8."""
    if images.dtype != torch.uint8:
        images = ((images.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    cell, rows = SIDE * ZOOM + GAP, -(-len(images) // across)
    found = np.full((rows * cell + GAP, across * cell + GAP, 3), 255, np.uint8)
    for n, image in enumerate(images.permute(0, 2, 3, 1).numpy()):
        top, left = n // across * cell + GAP, n % across * cell + GAP
        found[top : top + cell - GAP, left : left + cell - GAP] = image.repeat(ZOOM, 0).repeat(ZOOM, 1)
    return Image.fromarray(found)


def pairs(images: Tensor, restored: Tensor) -> Image.Image:
    """Rows of pictures, uint8, each row above that of its restorations, float in [-1, 1]."""
    plain = images.float() / 127.5 - 1
    rows = [row for both in zip(plain.split(ACROSS), restored.split(ACROSS), strict=True) for row in both]
    return board(torch.cat(rows)) if len(images) % ACROSS == 0 else board(torch.cat([plain, restored]))


def samples(model: Model, latents: Tensor, seed: int) -> Tensor:
    """Latents [MANY, P, C] to be decoded: of the prior (vae), else drawn after those of pictures, [N, P, C].

    ae: normal, with their means and covariances. vq, fsq: the code at each place is that of a picture drawn for it, so
    that places are independent: what such samples lack is how codes go together.
    """
    generator = torch.Generator().manual_seed(draw.key(seed, SAMPLES) >> 1)
    n, places, size = latents.shape
    normal = torch.randn(MANY, places, size, generator=generator)
    if model.kind == "vae":
        return normal
    if model.kind == "ae":
        rows = latents[:, 0].double()
        values, vectors = torch.linalg.eigh(torch.cov(rows.T).reshape(size, size))
        factor = vectors * values.clamp(min=0).sqrt()
        return (rows.mean(0) + normal[:, 0].double() @ factor.T).float()[:, None]
    which = torch.randint(n, (MANY, places), generator=generator)
    return latents[which, torch.arange(places)]


def walks(latents: Tensor) -> Tensor:
    """Straight lines from each of the first latents to the one after it, end to end: [MANY, P, C]."""
    some = latents[: 2 * (MANY // STEPS)] if len(latents) >= 2 * (MANY // STEPS) else latents[:2]
    line = torch.linspace(0, 1, STEPS)[:, None, None]
    return torch.cat([a + line * (b - a) for a, b in zip(some[::2], some[1::2], strict=True)])


def turned(latent: Tensor, latents: Tensor) -> Tensor:
    """A latent [P, C] with one number at a time moved through what it is in pictures, [N, P, C]: [.., P, C].

    A row for each of the numbers that vary most, from two standard deviations below their mean to two above.
    """
    spread, middle = latents.std(0).flatten(), latents.mean(0).flatten()
    rows = []
    for k in spread.argsort(descending=True, stable=True)[: MANY // STEPS].tolist():
        moved = latent.flatten().repeat(STEPS, 1)
        moved[:, k] = middle[k] + spread[k] * torch.linspace(-2, 2, STEPS)
        rows.append(moved.view(STEPS, *latent.shape))
    return torch.cat(rows)


def drawn(figure: Any) -> Image.Image:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3].copy())


def usage(counts: np.ndarray) -> Image.Image:
    """How often each code is used, most used first."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 3.2), layout="constrained")
    axes = figure.add_subplot()
    parts = np.sort(counts)[::-1] / max(counts.sum(), 1)
    axes.fill_between(np.arange(len(parts)), parts * len(parts), step="mid", color=COLOURS[0], lw=0)
    axes.axhline(1, color="#888888", lw=0.8)
    axes.set(xlabel=f"code, most used first ({(counts > 0).sum()} of {len(counts)} in use)", xlim=(0, len(parts)))
    axes.set(ylabel="use, of what all alike would have", title="Codes in use, validation part", ylim=(0, None))
    return drawn(figure)


def rates(known: dict[str, Any], points: Sequence[tuple[str, float, float, float]]) -> Image.Image:
    """Error against bits: the Gaussian curve of the training part's covariance, image files, and models.

    `points`: name, bits per picture, error per value in [0, 1], and its standard error; of each 95 % are drawn.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.add_subplot()
    bits = np.geomspace(32, 8192, 60)
    variances = np.array(known["variances"])
    curve = [distortion(variances, rate) for rate in bits]
    axes.plot(bits, curve, color="#444444", label="Gaussian rate-distortion curve of the training part's covariance")
    pca = known["pca"]
    for k in (64, 128, 256):
        if k < len(pca):
            axes.axhline(pca[k], color="#999999", lw=0.7, ls=":")
            axes.text(32, pca[k], f"PCA, {k} numbers of any precision", va="bottom", fontsize=7, color="#666666")
    for kind, marker, label in (("JPEG", "s", "JPEG files"), ("WEBP", "^", "WebP files"), (TRANSFORM, ".", TRANSFORM)):
        found = sorted((p["bits"], p["mse"]) for p in known["files"] if p["format"] == kind)
        if not found:
            continue
        colour = "#444444" if kind == TRANSFORM else "#b3872a"
        axes.plot(*zip(*found, strict=True), marker=marker, ms=4, lw=0.8, color=colour, label=label)
    names = list(dict.fromkeys(name for name, *_ in points))
    for name in names:
        mine = sorted(point[1:] for point in points if point[0] == name)
        rate, error, se = (np.array(column) for column in zip(*mine, strict=True))
        colour = COLOURS[names.index(name) % len(COLOURS)]
        axes.errorbar(rate, error, 1.96 * se, fmt="o-", ms=5, lw=1, capsize=3, color=colour, label=name)
    lowest = min([p["mse"] for p in known["files"]] + [error - 1.96 * se for *_, error, se in points if error > 2 * se])
    highest = 2 * max(curve[0], *(error for *_, error, _ in points), 1e-6)
    axes.set(xscale="log", yscale="log", xlim=(30, 9000), ylim=(max(0.4 * lowest, 1e-7), highest))
    axes.set(xlabel="bits per picture")
    axes.set(ylabel="mean square error per value in [0, 1]", title="Error against bits")
    axes.legend(fontsize=8)
    return drawn(figure)


def architecture(model: Any) -> Image.Image:
    """What the network makes of a picture, layer by layer, found by passing one through it."""
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    rows: list[tuple[str, str, int]] = []
    hooks = []
    for part in ("patches", "encoder", "to_latent", "book", "from_latent", "decoder", "linear_in", "linear_out"):
        module = getattr(model, part)
        inner = list(module) if isinstance(module, nn.Sequential) else [module] if module is not None else []
        for layer in inner:

            def note(layer: nn.Module, _: Any, out: Any, part: str = part) -> None:
                shape = "x".join(map(str, (out[0] if isinstance(out, tuple) else out).shape[1:]))
                count = sum(p.numel() for p in layer.parameters())
                rows.append((f"{part}: {type(layer).__name__}", shape, count))

            hooks.append(layer.register_forward_hook(note))
    with torch.no_grad():
        model(torch.zeros(1, 3, SIDE, SIDE, device=model.mean.device))
    for hook in hooks:
        hook.remove()
    rows = [row for row in rows if not row[0].endswith(": ReLU")]
    figure = Figure(figsize=(7, 0.34 * len(rows) + 0.9), layout="constrained")
    axes = figure.add_subplot()
    for n, (name, shape, count) in enumerate(rows):
        size = np.prod([int(k) for k in shape.split("x")])
        width = 0.25 + 0.75 * np.log(1 + size) / np.log(1 + 16 * VALUES)
        colour = "#d9580d" if "latent" in name or "book" in name else "#999999" if "linear" in name else "#0b5fa5"
        axes.add_patch(Rectangle((0.5 - width / 2, -n - 0.4), width, 0.8, color=colour, alpha=0.25, lw=0))
        of = f", {count:,} weights" if count else ""
        axes.text(0.5, -n, f"{name}   {shape}{of}", ha="center", va="center", fontsize=8)
    total = sum(p.numel() for p in model.parameters())
    axes.set(xlim=(0, 1), ylim=(-len(rows) + 0.4, 0.6), title=f"{model.kind}: {total:,} weights, from the top down")
    axes.axis("off")
    return drawn(figure)


def tiles(images: Tensor, captions: Sequence[tuple[str, bool]]) -> Image.Image:
    """Pictures, uint8 [N, 3, 32, 32], each with a line below it, which is blue if it is right and orange if not."""
    from matplotlib.figure import Figure

    across = min(ACROSS, max(1, len(images)))
    rows = -(-len(images) // across)
    figure = Figure(figsize=(1.05 * across, 1.2 * rows), layout="constrained")
    for n, (image, (text, right)) in enumerate(zip(images.permute(0, 2, 3, 1).numpy(), captions, strict=True)):
        axes = figure.add_subplot(rows, across, n + 1)
        axes.imshow(image)
        axes.axis("off")
        axes.set_title(literal(text), fontsize=6.5, color=COLOURS[0] if right else COLOURS[1], y=-0.22)
    return drawn(figure)


def mistakes(worst: Mapping[str, Sequence[tuple[str, Tensor, Sequence[float]]]]) -> Image.Image:
    """Test pictures of classes, in rows: below the name of each what is said of a row, and the pictures in it.

    These are uint8 [N, 3, 32, 32], N at most ACROSS, with the probabilities of their answers, in [0, 1].
    """
    from matplotlib.figure import Figure

    inch, side = 100, SIDE * ZOOM  # pixels, in which the axes count
    left, top, heading, cell, row = 150, 62, 30, side + 8, side + 22
    width = left + ACROSS * cell + 10
    height = top + sum(heading + row * len(rows) for rows in worst.values()) + 8
    figure = Figure(figsize=(width / inch, height / inch), dpi=inch)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.axis("off")
    plain: dict[str, Any] = {"va": "center", "parse_math": False}
    axes.text(10, 22, "What the two worst classes of the test part are taken for", fontsize=11, **plain)
    axes.text(10, 46, ORDER, fontsize=8, **plain)
    for name, rows in worst.items():
        axes.text(10, top + heading / 2, name, fontsize=10, weight="bold", **plain)
        top += heading
        for said, images, sure in rows:
            axes.text(10, top + side / 2, said, fontsize=9, **plain)
            for n, (image, part) in enumerate(zip(images.permute(0, 2, 3, 1).numpy(), sure, strict=True)):
                x = left + n * cell
                axes.imshow(image, extent=(x, x + side, top + side, top), interpolation="nearest")
                axes.text(x + side / 2, top + side + 8, f"{part:.0%}", fontsize=7, ha="center", **plain)
            top += row
    axes.set(xlim=(0, width), ylim=(height, 0), aspect="auto")
    return drawn(figure)
