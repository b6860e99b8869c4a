"""How much the latent says of what nobody told the autoencoder: the tag of a message."""

from collections.abc import Callable, Sequence

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
    """Accuracy on the numbers `test` of a logistic regression that learnt from the first of `train`.

    Once on the latents, and once on as many principal components of bags of words (counts of words in lower case, less
    their means); both are standardised, and both regularised the same (scikit-learn's default).
    """
    from sklearn.decomposition import PCA
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    train = train[:EXAMPLES]

    def accuracy(known: np.ndarray, asked: np.ndarray) -> float:
        model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)).fit(known, labels[train])
        return float(model.score(asked, labels[test]))

    known, asked = (encode([rows[n] for n in part]).numpy() for part in (train, test))
    count = CountVectorizer(max_features=WORDS, token_pattern=r"(?u)\b\w+\b", dtype=np.float32)
    bags = count.fit_transform([texts[n] for n in train])
    width = min(known.shape[1], min(bags.shape) - 1)
    pca = PCA(width, svd_solver="arpack", random_state=0).fit(bags)
    return {
        "tag_latent": accuracy(known, asked),
        "tag_pca": accuracy(pca.transform(bags), pca.transform(count.transform([texts[n] for n in test]))),
        "tag_width": width,
        "tag_majority": float((labels[test] == np.bincount(labels[train]).argmax()).mean()),
    }
