"""Pictures for people: what the model reads in the same images, and where it errs worst."""

from PIL import Image, ImageDraw
from torch import Tensor

from cnn_emnist.sample import typeface

TILES, ACROSS = 40, 10
ZOOM, CAPTION, GAP = 3, 20, 6  # each pixel three times as large, a line of text below, a margin
RIGHT, WRONG = (0, 90, 160), (190, 60, 0)  # blue and orange-red: told apart by colour-blind readers too


def tiles(images: Tensor, labels: Tensor, probabilities: Tensor, classes: tuple[str, ...]) -> Image.Image:
    """A board of images with what the model reads in them: uint8 [N, 28, 28], int64 [N], [N, K].

    Below each stands the answer and its probability; a wrong one is followed by the truth.
    """
    width, height = 28 * ZOOM + 2 * GAP, 28 * ZOOM + GAP + CAPTION
    board = Image.new("RGB", (ACROSS * width, -(-len(images) // ACROSS) * height), "white")
    pen = ImageDraw.Draw(board)
    best, answers = probabilities.max(1)
    for n, image in enumerate(images):
        left, top = n % ACROSS * width + GAP, n // ACROSS * height + GAP
        tile = Image.fromarray(image.numpy()).resize((28 * ZOOM, 28 * ZOOM), Image.Resampling.NEAREST)
        board.paste(tile, (left, top))
        truth, answer = classes[int(labels[n])], classes[int(answers[n])]
        right = truth == answer
        text = f"{answer} {best[n]:.0%}" if right else f"{answer} {best[n]:.0%} ≠ {truth}"
        size = 12
        while size > 6 and pen.textlength(text, typeface("DejaVuSans", size)) > width - 4:
            size -= 1
        middle = (left + 14 * ZOOM, top + 28 * ZOOM + CAPTION // 2 - 2)
        pen.text(middle, text, RIGHT if right else WRONG, typeface("DejaVuSans", size), anchor="mm")
    return board
