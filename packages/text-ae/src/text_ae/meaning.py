"""What tokens mean, by the company they keep: a vector for each, from counts alone."""

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F


def meanings(ids: np.ndarray, lengths: np.ndarray, vocabulary: int, width: int) -> Tensor:
    """A vector of length 1 for each token, float32 [V, K]: tokens that go with the same tokens have similar ones.

    From texts of `lengths` [N], whose `ids` lie one after another.

    The K eigenvectors with the largest eigenvalues of the matrix `sqrt(c_vw / sqrt(c_v c_w))`, where c_vw counts how
    often v and w stand in the same text and c_v adds that up over w: the canonical correlations of a token and its
    company, of counts whose variance the square root evens out (Stratos, Collins & Hsu 2015, "Model-based word
    embeddings from decompositions of count matrices"; company is the whole text here). Each token's row is brought to
    length 1; that of a token without company is zero.
    """
    from scipy import sparse
    from scipy.sparse.linalg import eigsh

    starts = np.concatenate([[0], np.cumsum(lengths)])
    texts = sparse.csr_matrix((np.ones(len(ids), np.float32), ids, starts), (len(lengths), vocabulary))
    together = texts.T @ texts
    together = together - sparse.diags(together.diagonal())
    company = np.asarray(together.sum(0)).ravel()
    scale = sparse.diags(np.where(company > 0, company.clip(1e-9) ** -0.25, 0))
    known = min(width, int((company > 0).sum()) - 1)
    found = torch.zeros(vocabulary, width)
    if known > 0:
        values, vectors = eigsh(scale @ together.sqrt() @ scale, known, which="LM", v0=np.ones(vocabulary), tol=1e-4)
        found[:, :known] = torch.from_numpy(vectors[:, np.argsort(-np.abs(values))])
    return F.normalize(found, dim=1)
