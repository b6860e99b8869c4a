"""How much the latent says of what nobody told the autoencoder: the tag of a message."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from torch import Tensor

EXAMPLES = 40_000  # of training, at most
WORDS = 10_000  # the most frequent ones, in the bag


def probe(
    encode: Callable[[Sequence[Sequence[int]]], Tensor],
    rows: Sequence[Sequence[int]],
    texts: Sequence[str],
    labels: np.ndarray,
    train: np.ndarray,
    test: np.ndarray,
) -> dict[str, float]:
    """Accuracy on the numbers `test` of a logistic regression that learnt from the first of `train`; parts of 1.

    From the latents; and from as many principal components of bags (counts, less their means): of the tokens that the
    encoder reads, and of words in lower case, which know more: none is cut, and "SAD" is "sad". All are standardised,
    and regularised the same (scikit-learn's default). `tag_gain_...` is the lead of the latents, with the
    standard error of the mean of the differences, text by text.
    """
    from sklearn.decomposition import PCA
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    train = train[:EXAMPLES]

    def right(known: np.ndarray, asked: np.ndarray) -> np.ndarray:
        """Of each text of the test, whether its tag was guessed."""
        model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)).fit(known, labels[train])
        return model.predict(asked) == labels[test]

    def components(analyzer: Callable[..., Any] | str, texts: Sequence[Any]) -> np.ndarray | None:
        """None where the texts differ in too little to have components."""
        count = CountVectorizer(
            max_features=WORDS, analyzer=analyzer, token_pattern=r"(?u)\b\w+\b" if analyzer == "word" else None
        )
        try:
            bags = count.fit_transform([texts[n] for n in train]).astype(np.float32)
        except ValueError:  # there is no word in them
            return None
        width = min(known.shape[1], min(bags.shape) - 1)
        try:
            pca = PCA(width, svd_solver="arpack", random_state=0).fit(bags)
        except (ValueError, RuntimeError):  # one column; all the same (ArpackError)
            return None
        return right(pca.transform(bags), pca.transform(count.transform([texts[n] for n in test]).astype(np.float32)))

    known, asked = (encode([rows[n] for n in part]).numpy() for part in (train, test))
    latent = right(known, asked)
    found = {
        "tag_latent": float(latent.mean()),
        "tag_majority": float((labels[test] == np.bincount(labels[train]).argmax()).mean()),
    }
    for name, other in (("tokens", components(list, rows)), ("words", components("word", texts))):
        if other is not None:
            lead = latent.astype(float) - other
            found[f"tag_{name}"] = float(other.mean())
            found[f"tag_gain_{name}"] = float(lead.mean())
            found[f"tag_gain_{name}_se"] = float(lead.std() / len(lead) ** 0.5)
    return found
