"""What `coco-caption demo` shows: a photo, and what the network says is on it."""

import torch
from PIL import Image

from coco_caption.images import seen
from coco_caption.task import Predictor
from etude.demo.page import NOTHING, Answer, Demo, Panel, Photo


def demo(task: Predictor) -> Demo:
    def answer(image: Image.Image | None) -> Answer:
        """Seen and told as `predict` does it."""
        if image is None:
            return NOTHING
        with torch.inference_mode():
            features = task.encoder([task.encoder.preprocess(seen(image))], task.spatial)
            ids = task.tell(features.to(task.model.mean.device), task.config.search.beam)
        return Answer(task.vocabulary.decode(ids[0].tolist()) or "(nothing)")

    made_up = ", which show circles and squares of one colour" if task.config.data.name == "sample" else ""
    return Demo(
        "What is on the picture?",
        "Give it a photo: the network writes a sentence about it.",
        [Panel("Photo", [Photo("image", "A photo")], answer)],
        f"The network says what pictures like those of its training{made_up} mostly had in common with this one: a "
        "fluent sentence may be about something that is not there.",
    )
