"""Batch normalisation of batches that may be a single row."""

from torch import Tensor, nn
from torch.nn import functional as F


class BatchNorm(nn.BatchNorm1d):
    """Batch norm of rows [B, width] that does not fail on a single one, such as a small piece of a batch may be.

    A row alone has no variance: the running statistics stand in for its own, and it does not enter them. With several
    processes this does not matter: the loop counts the rows of all.
    """

    def forward(self, x: Tensor) -> Tensor:
        if self.training and len(x) == 1:
            return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)
        return super().forward(x)
