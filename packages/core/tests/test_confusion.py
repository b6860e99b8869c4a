import pytest
import torch

from etude import confusion


@pytest.mark.parametrize("names", [["$5_$", "$$$"], ["$", "$$"], ["C$ % A$", "$0-$50"]])
def test_names_of_classes_are_no_formulas(names):
    """Such as Yelp's price classes, of which matplotlib makes formulas, and an error of a broken one."""
    counts = torch.tensor([[3, 1], [0, 2]])
    assert confusion.picture(counts, names, "places").size[0] > 100


def test_of_very_many_classes_those_are_drawn_that_are_confused(monkeypatch):
    """A picture of 700 would take 16 GB. What is drawn of a class is its part of the whole row."""
    monkeypatch.setattr(confusion, "MOST", 3)
    counts = torch.diag(torch.full((7,), 9))
    counts[1, 5], counts[5, 1], counts[3, 0] = 4, 2, 1
    drawn = []
    monkeypatch.setattr(confusion.pictures, "drawn", lambda canvas: drawn.append(canvas.figure))
    confusion.picture(counts, list("abcdefg"), "places")
    (figure,) = drawn
    axes = figure.axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a", "b", "f"]
    assert axes.images[0].get_array()[1].tolist() == pytest.approx([0, 9 / 13, 4 / 13])
    assert "the 3 of 7 classes that are confused most" in figure.get_suptitle()
