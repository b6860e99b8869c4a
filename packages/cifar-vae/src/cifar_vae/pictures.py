"""Pictures as they are loaded: floats in [-1, 1], each training picture a little otherwise in every epoch."""

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from cifar_vae.config import SIDE
from cifar_vae.data import Part
from etude.draw import uniform
from etude.pictures import png as encoded

REACH = 4  # pixels that a picture is moved by, at most


def plain(pictures: Tensor) -> Tensor:
    """uint8 [B, 3, 32, 32] -> float32 in [-1, 1]."""
    return pictures.float() / 127.5 - 1


def on(where: torch.device, part: Part) -> tuple[Tensor, Tensor]:
    """Pictures, as bytes, and classes, on a device: 60,000 are 184 MB there, and 737 MB as floats."""
    return torch.from_numpy(part.pictures).to(where), torch.from_numpy(part.classes).to(where)


def varied(pictures: Tensor, ids: np.ndarray, how: str, *stream: int) -> Tensor:
    """uint8 [B, 3, 32, 32] -> the same, mirrored or not, and with `shift` moved, what then lacks being mirrored.

    What becomes of a picture follows from its id and the stream (seed, epoch) alone.
    """
    if how == "none":
        return pictures
    u = uniform(ids, 3, *stream).to(pictures.device)
    mirrored = (u[:, 0] < 0.5)[:, None, None, None]
    pictures = torch.where(mirrored, pictures.flip(-1), pictures)
    if how == "mirror":
        return pictures
    moved = (u[:, 1:] * (2 * REACH + 1)).long() - REACH
    pixels = torch.arange(SIDE, device=pictures.device)
    rows, columns = (reflected(pixels - moved[:, axis, None]) for axis in (0, 1))
    source = (rows[:, :, None] * SIDE + columns[:, None, :]).flatten(1)  # [B, 1024]
    flat = pictures.flatten(2)
    return flat.gather(2, source[:, None].expand_as(flat)).view_as(pictures)


def reflected(at: Tensor) -> Tensor:
    """Places beyond the first and the last pixel as their mirror images."""
    return (SIDE - 1) - ((SIDE - 1) - at.abs()).abs()


def png(picture: Tensor) -> bytes:
    """A picture, float [3, 32, 32] in [-1, 1], as the content of a PNG file."""
    bytes_of = ((picture.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    return encoded(Image.fromarray(bytes_of.permute(1, 2, 0).contiguous().numpy()))
