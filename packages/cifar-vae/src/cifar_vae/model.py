"""The autoencoders: what a picture is brought to, and how it comes back. Shapes: B pictures, L numbers in a latent.

Pictures are float [B, 3, 32, 32] in [-1, 1]. A code has P places of C numbers each; ae and vae have one place of L
numbers, so that everywhere below a latent is [B, P, C].
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cifar_vae.book import Codebook, Grid
from cifar_vae.config import MAPS, SIDE, VALUES, Model

PATCH = 4  # side of the patches that ae and vae see
SMALLEST = 4  # side of the smallest feature maps, which ae and vae go down to
VARIANCES = (-10.0, 4.0)  # bounds of the logarithm of a variance of q(z | x); it begins in the middle
SLOW = 0.1  # what the linear paths' learning rate is multiplied by, as their weights are divided by it
EXACT = 768  # numbers up to which principal components need no subspace iteration
MORE, ITERATIONS = 16, 6  # of which: directions beyond those asked for, and rounds


class Coded(NamedTuple):
    """What the encoder says of pictures."""

    mean: Tensor
    """[B, P, C]"""
    log_variance: Tensor | None
    """vae: of q(z | x), [B, P, C]"""


class Read(NamedTuple):
    """A latent as the decoder gets it."""

    latent: Tensor
    """[B, P, C]"""
    codes: Tensor | None
    """vq, fsq: which code stands at each place, int64 [B, P]"""
    apart: Tensor | None
    """vq: square distance of the encoder's numbers from their codes, [B]"""


def silent(layer: nn.Conv2d) -> nn.Conv2d:
    """The layer with weights and bias 0."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer


class Residual(nn.Module):
    """x + two 3 x 3 convolutions of it (He et al. 2016, "Identity mappings"); at first it changes nothing."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.second = silent(nn.Conv2d(width, width, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(F.relu(self.first(F.relu(x))))


class Patches(nn.Module):
    """A picture as the map of its 4 x 4 patches, each in its principal components, and back.

    The components are divided by the root of their deviation, which is halfway to variances that are all 1.
    """

    into: Tensor
    out: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("into", torch.eye(3 * PATCH**2))
        self.register_buffer("out", torch.eye(3 * PATCH**2))

    @torch.no_grad()
    def begin(self, pictures: Tensor) -> None:
        """Learns the components from centred pictures [N, 3, 32, 32]."""
        rows = F.pixel_unshuffle(pictures, PATCH).permute(0, 2, 3, 1).flatten(0, 2)
        directions, spread = principal(rows, rows.shape[1])
        self.into.copy_(directions / spread.sqrt()[:, None])
        self.out.copy_(directions.T * spread.sqrt())

    def forward(self, x: Tensor) -> Tensor:
        """[B, 3, 32, 32] -> [B, 48, 8, 8]."""
        maps = F.conv2d(x, self.into.view(-1, 3, PATCH, PATCH), stride=PATCH)
        return maps.contiguous(memory_format=torch.channels_last)

    def whole(self, maps: Tensor) -> Tensor:
        """The inverse of `forward`."""
        return F.conv_transpose2d(maps, self.out.T.reshape(-1, 3, PATCH, PATCH), stride=PATCH)


class Encoder(nn.Sequential):
    """[B, 3, 32, 32], or the map of its patches -> feature maps [B, W, side, side]; the last layer is a ReLU."""

    def __init__(self, config: Model, side: int, patches: bool) -> None:
        width, at = (2 * config.width, SIDE // PATCH) if patches else (config.width, SIDE // 2)
        first = nn.Conv2d(3 * PATCH**2, width, 3, padding=1) if patches else nn.Conv2d(3, width, 4, stride=2, padding=1)
        layers: list[nn.Module] = [first, *(Residual(width) for _ in range(config.depth))]
        while at > side:
            layers += [nn.ReLU(), nn.Conv2d(width, 2 * width, 2, stride=2)]
            width, at = 2 * width, at // 2
            layers += [Residual(width) for _ in range(config.depth)]
        super().__init__(*layers, nn.ReLU())
        self.width = width


class Decoder(nn.Sequential):
    """Feature maps [B, W, side, side] -> what the encoder began with: its mirror image; at first all 0."""

    def __init__(self, config: Model, side: int, width: int, patches: bool) -> None:
        layers: list[nn.Module] = []
        while side < (SIDE // PATCH if patches else SIDE // 2):
            layers += [Residual(width) for _ in range(config.depth)]
            layers += [nn.ReLU(), nn.Conv2d(width, 2 * width, 1), nn.PixelShuffle(2)]
            width, side = width // 2, 2 * side
        layers += [Residual(width) for _ in range(config.depth)]
        last = silent(nn.Conv2d(width, 3 * PATCH**2 if patches else 12, 3, padding=1))
        super().__init__(*layers, nn.ReLU(), last, *([] if patches else [nn.PixelShuffle(2)]))


class Autoencoder(nn.Module):
    """Encoder, bottleneck and decoder, each network with a linear path beside it that it is added to."""

    mean: Tensor

    def __init__(self, config: Model) -> None:
        super().__init__()
        self.kind, self.linear = config.kind, config.linear
        whole = config.kind in ("ae", "vae")
        self.side = SMALLEST if whole else MAPS[config.latent]
        self.places, self.size = (1, config.latent) if whole else (config.latent, numbers(config))
        self.register_buffer("mean", torch.zeros(3, SIDE, SIDE))
        self.patches = Patches() if whole else None
        self.encoder = Encoder(config, self.side, whole)
        width = self.encoder.width
        if whole:  # one latent for the picture: everything sees everything
            said = self.size * (2 if config.kind == "vae" else 1)
            self.to_latent: nn.Linear | nn.Conv2d = nn.Linear(width * self.side**2, said)
            self.from_latent: nn.Linear | nn.Conv2d = nn.Linear(self.size, width * self.side**2)
        else:  # a code for each place of a map
            self.to_latent, self.from_latent = nn.Conv2d(width, self.size, 1), nn.Conv2d(self.size, width, 3, padding=1)
        self.decoder = Decoder(config, self.side, width, whole)
        self.book: Codebook | Grid | None = None
        if config.kind == "vq":
            self.book = Codebook(config.codes, config.code, config.decay, config.restart)
        elif config.kind == "fsq":
            self.book = Grid(config.levels)
        self.linear_in: nn.Linear | None = None
        self.linear_out: nn.Linear | None = None
        if not whole if config.linear is None else config.linear:
            reach = VALUES if whole else 3 * (SIDE // self.side) ** 2
            self.linear_in, self.linear_out = nn.Linear(reach, self.size), nn.Linear(self.size, reach)

    # -- the two networks

    def features(self, x: Tensor) -> Tensor:
        """What the encoder has before the bottleneck, [B, W * side * side]."""
        return self.maps(x).flatten(1)

    def maps(self, x: Tensor) -> Tensor:
        """The same as feature maps, [B, W, side, side]."""
        x = x - self.mean
        return self.encoder(
            x.contiguous(memory_format=torch.channels_last) if self.patches is None else self.patches(x)
        )

    def encode(self, x: Tensor) -> Coded:
        """What the encoder says, in float32."""
        maps = self.maps(x)
        said = self.to_latent(maps.flatten(1) if self.places == 1 else maps)
        said = said[:, None] if self.places == 1 else said.flatten(2).mT
        mean, raw = said.float().split([self.size, said.shape[-1] - self.size], -1)
        if self.linear_in is not None:
            mean = mean + SLOW * self.linear_in(self.pieces(x - self.mean)).float()
        if self.kind != "vae":
            return Coded(mean, None)
        low, high = VARIANCES
        return Coded(mean, low + (high - low) * torch.sigmoid(raw))

    def read(self, coded: Coded, noise: Tensor | None = None) -> Read:
        """The latent that the decoder gets; `noise`, standard normal [B, P, C], makes it a sample of q(z | x)."""
        if coded.log_variance is not None and noise is not None:
            return Read(coded.mean + (0.5 * coded.log_variance).exp() * noise, None, None)
        if self.book is None:
            return Read(coded.mean, None, None)
        return Read(*self.book(coded.mean))

    def decode(self, latent: Tensor) -> Tensor:
        """Latents [B, P, C] -> pictures, float32, about in [-1, 1]."""
        if self.places == 1:
            maps = self.from_latent(latent[:, 0]).view(latent.shape[0], -1, self.side, self.side)
        else:
            maps = self.from_latent(latent.mT.reshape(latent.shape[0], self.size, self.side, self.side))
        maps = maps.contiguous(memory_format=torch.channels_last)
        restored = self.decoder(maps)
        said = (restored if self.patches is None else self.patches.whole(restored)).float() + self.mean
        return said if self.linear_out is None else said + SLOW * self.whole(self.linear_out(latent).float())

    def forward(self, x: Tensor) -> Tensor:
        """Pictures restored from their latents, [B, 3, 32, 32]."""
        return self.decode(self.read(self.encode(x)).latent)

    # -- the linear path

    def pieces(self, x: Tensor) -> Tensor:
        """What each place sees of pictures: [B, P, 3 * r * r]; of ae and vae all of it."""
        r = SIDE if self.places == 1 else SIDE // self.side
        cut = x.reshape(x.shape[0], 3, SIDE // r, r, SIDE // r, r)
        return cut.permute(0, 2, 4, 1, 3, 5).reshape(x.shape[0], self.places, -1)

    def whole(self, pieces: Tensor) -> Tensor:
        """The inverse of `pieces`."""
        r = SIDE if self.places == 1 else SIDE // self.side
        cut = pieces.view(pieces.shape[0], SIDE // r, SIDE // r, 3, r, r)
        return cut.permute(0, 3, 1, 4, 2, 5).reshape(pieces.shape[0], 3, SIDE, SIDE)

    @torch.no_grad()
    def begin(self, pictures: Tensor, seed: int) -> None:
        """Learns from training pictures [N, 3, 32, 32] what stands before the first step.

        The mean; the principal components, as numbers of variance 1, for the linear path; the codes, by k-means.
        """
        self.mean.copy_(pictures.mean(0))
        if self.patches is not None:
            self.patches.begin(pictures - self.mean)
        pieces = self.pieces(pictures - self.mean).flatten(0, 1)
        if self.linear_in is not None and self.linear_out is not None:
            directions, spread = principal(pieces, self.size)
            self.linear_in.weight.copy_(directions / spread[:, None] / SLOW)
            self.linear_out.weight.copy_((directions * spread[:, None]).T / SLOW)
            for layer in (self.linear_in, self.linear_out, self.to_latent):
                if layer.bias is not None:
                    layer.bias.zero_()
            self.to_latent.weight.zero_()
        said = torch.cat([self.encode(some).mean.flatten(0, 1) for some in pictures.split(500)])
        if isinstance(self.book, Codebook):
            self.book.begin(said, seed)
        elif isinstance(self.book, Grid) and self.linear_out is not None:  # whose numbers are others: least squares
            rounded = self.book(said)[0]
            again = torch.linalg.lstsq(rounded.T @ rounded + 1e-3 * torch.eye(self.size), rounded.T @ pieces)
            self.linear_out.weight.copy_(again.solution.T / SLOW)


def numbers(config: Model) -> int:
    """Numbers in a code of vq and fsq."""
    return config.code if config.kind == "vq" else len(config.levels)


def principal(rows: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The first principal components of centred rows [N, D]: directions [count, D], standard deviations [count].

    Of long rows they are found by subspace iteration (Halko, Martinsson & Tropp 2011, algorithm 4.4), which gets the
    last ones only nearly. Components that the rows do not have are 0, with deviation 1.
    """
    n, d = rows.shape
    basis = torch.eye(d)
    if d > EXACT:
        basis = torch.randn(d, min(d, n, count + MORE), generator=torch.Generator().manual_seed(0))
        for _ in range(ITERATIONS):
            basis = torch.linalg.qr(rows.T @ (rows @ basis)).Q
    inside = (rows @ basis).double()
    values, vectors = torch.linalg.eigh(inside.T @ inside / n)
    values, vectors = values.flip(0), basis.double() @ vectors.flip(1)
    found = min(count, int((values > 1e-6 * values[0].clamp(min=1e-9)).sum()))
    directions, spread = torch.zeros(count, d), torch.ones(count)
    directions[:found] = vectors.T[:found].float()
    spread[:found] = values[:found].sqrt().float()
    return directions, spread
