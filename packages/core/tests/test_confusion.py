import pytest
import torch

from etude import confusion


@pytest.mark.parametrize("names", [["$5_$", "$$$"], ["$", "$$"], ["C$ % A$", "$0-$50"]])
def test_names_of_classes_are_no_formulas(names):
    """Such as Yelp's price classes, of which matplotlib makes formulas, and an error of a broken one."""
    counts = torch.tensor([[3, 1], [0, 2]])
    assert confusion.picture(counts, names, "places").size[0] > 100
