"""Many runs at once: replicas of one model, trained as one stacked program.

They may differ in what `config.stackable` names. Most of the step of a small model is spent on calling many small
operations; `torch.func.vmap` calls each once for R replicas, after PyTorch's tutorial "Model ensembling". Only the step
is stacked: every run has its own task, order of data, course (`loop.course`), folder, checkpoints and result.

- *Weights share their memory* (`stack`): a run's own model and optimiser are views of rows of the stack.
- *Random numbers are those of the run alone* (`random`), and *what differs in shape is padded* (`batch`).
- *Nothing is believed* (`proof`): in every epoch the first stacked step of each kind is held against the same step of
  every replica alone. Where they differ, the runs are `Unstackable`: a study lets each go on from its last checkpoint.
"""


class Unstackable(Exception):
    """Why runs cannot be trained together; alone they can."""
