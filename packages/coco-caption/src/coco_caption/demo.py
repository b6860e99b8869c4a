"""What `coco-caption demo` shows: a photo, and what the network says is on it."""

import torch
from PIL import Image

from coco_caption.images import seen
from coco_caption.task import Predictor
from etude.demo.page import NOTHING, Answer, Demo, Panel, Photo


def demo(task: Predictor) -> Demo:
    drawn = task.config.data.name == "sample"

    def answer(image: Image.Image | None) -> Answer:
        """Seen and told as `predict` does it."""
        if image is None:
            return NOTHING
        with torch.inference_mode():
            features = task.encoder([task.encoder.preprocess(seen(image))], task.spatial)
            ids = task.tell(features.to(task.model.mean.device), task.config.search.beam)
        blank = image.convert("RGB").getcolors(1) is not None
        doubt = (
            "a guess: the picture is of one colour" if blank else "it knows drawn shapes, no photos" if drawn else ""
        )
        return Answer(task.vocabulary.decode(ids[0].tolist()) or "(nothing)", detail=doubt)

    made_up = ", which show shapes of one colour" if drawn else ""
    return Demo(
        "What is on the picture?",
        "Give it a photo: the network writes a sentence about it.",
        [Panel("Photo", [Photo("image", "A photo")], answer)],
        f"The network says what pictures like those of its training{made_up} mostly had in common with this one: a "
        "fluent sentence may be about something that is not there.",
    )
