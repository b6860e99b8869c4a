"""What `cnn-emnist demo` shows: a sheet to draw on, or a picture, and what the network takes it for."""

from PIL import Image

from cnn_emnist import frame
from cnn_emnist.task import Predictor
from etude.demo.page import NOTHING, Answer, Bars, Demo, Drawing, Panel, Photo, Pictures, likeliest, picture, sure

LIKELIEST = 5
WHAT = {"fashion-mnist": "garment", "mnist": "digit"}  # the others are letters


def demo(task: Predictor) -> Demo:
    what = WHAT.get(task.config.data, "letter")

    def answer(image: Image.Image | None) -> Answer:
        """Framed and answered as `predict` does it."""
        if image is None:
            return NOTHING
        framed = frame.frame(image, task.side, spread=task.spread)
        bars = likeliest(task.probabilities(framed[None])[0], task.classes, LIKELIEST)
        seen = Pictures("What the network sees", [("28 × 28 pixels", picture(Image.fromarray(framed.numpy())))])
        return Answer(bars[0][0], [Bars(f"The likeliest {len(bars)}", bars), seen], sure(bars[0][1]))

    return Demo(
        f"Which {what} is it?",
        f"Draw one {what}, large: the network answers at every stroke.",
        [
            Panel("Draw", [Drawing("image", f"Your {what}")], answer),
            Panel("Picture", [Photo("image", f"A photograph or scan of one {what}", least=frame.LEAST)], answer),
        ],
        f"The network knows {len(task.classes)} classes and always names one of them, also of a drawing that is none. "
        "A probability says how it compares them, not whether it is right.",
    )
