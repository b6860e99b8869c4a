"""Every name of torch and TensorBoard that they do not document, in one place; a test finds any that stand elsewhere.

Such names change without notice, so torch is capped in each pyproject.toml to the minor version that was tested, and
`nox -s latest` tries the newest. A name is imported when it is first asked for: `--help` answers without torch.
"""

import inspect
from functools import reduce
from importlib import import_module
from typing import Any

FUNCTORCH = "torch._C._functorch"
NAMES = {
    # torch.func.vmap from inside: the tensors of all replicas behind one of them. Replaced by writing out the rule of
    # each function as a torch.library.custom_op with register_vmap, once random functions can be given one.
    "is_batched": (FUNCTORCH, "is_batchedtensor"),
    "is_wrapped": (FUNCTORCH, "is_functorch_wrapped_tensor"),
    "level_of": (FUNCTORCH, "maybe_get_level"),
    "current_level": (FUNCTORCH, "maybe_current_level"),
    "unwrapped": (FUNCTORCH, "get_unwrapped"),
    "batch_dim": (FUNCTORCH, "maybe_get_bdim"),
    "add_batch_dim": (FUNCTORCH, "_add_batch_dim"),
    # Leaving vmap for a moment, as it has no generator for each replica: none yet (pytorch/functorch issue 996).
    "vmap_interpreter": ("torch._functorch.pyfunctorch", "retrieve_current_functorch_interpreter"),
    # Nested batches as a list and back: torch.utils.pytree, once it is documented, or the package optree.
    "tree_flatten": ("torch.utils._pytree", "tree_flatten"),
    "tree_unflatten": ("torch.utils._pytree", "tree_unflatten"),
    # What torch.optim's AdamW, SGD and RMSprop call, for stacks in which each replica has its own learning rate: an
    # optimizer of torch's for each replica, at a call of Python's per replica and step.
    "fused_adamw": ("torch", "_fused_adamw_"),
    "sgd": ("torch.optim.sgd", "sgd"),
    "rmsprop": ("torch.optim.rmsprop", "rmsprop"),
    # All gradients times a number in one call: a loop with Tensor.mul_.
    "foreach_mul": ("torch", "_foreach_mul_"),
    # The like for what `fit.watch` measures of all weights: loops with torch.linalg.vector_norm, Tensor.sub_ and copy_.
    "foreach_norm": ("torch", "_foreach_norm"),
    "foreach_sub": ("torch", "_foreach_sub_"),
    "foreach_copy": ("torch", "_foreach_copy_"),
    # d, y -> d * y * (1 - y)  and  d, y -> d * (1 - y * y), each in one operation and with `grad_input=`: the formulas.
    "sigmoid_backward": ("torch", "ops.aten.sigmoid_backward.grad_input"),
    "tanh_backward": ("torch", "ops.aten.tanh_backward.grad_input"),
    # TensorBoard's messages and files: the package tensorboardX, or these protos compiled here.
    "Event": ("tensorboard.compat.proto.event_pb2", "Event"),
    "SessionLog": ("tensorboard.compat.proto.event_pb2", "SessionLog"),
    "Summary": ("tensorboard.compat.proto.summary_pb2", "Summary"),
    "RecordWriter": ("tensorboard.summary.writer.record_writer", "RecordWriter"),
    # Event by event, and as written (EventFileLoader converts them): a loop over the records, 20 lines.
    "EventLoader": ("tensorboard.backend.event_processing.event_file_loader", "LegacyEventFileLoader"),
    # What SummaryWriter puts into an event, for files of our own (`etude.events`): a parameter of its for its file.
    "hparams": ("torch.utils.tensorboard.summary", "hparams"),
    "text": ("torch.utils.tensorboard.summary", "text"),
    "graph": ("torch.utils.tensorboard._pytorch_graph", "graph"),
}


def __getattr__(name: str) -> Any:
    if name not in NAMES:
        raise AttributeError(name)
    module, path = NAMES[name]
    found = globals()[name] = reduce(getattr, path.split("."), import_module(module))
    return found


def uncompiled(model: Any) -> None:
    """Takes `model.compile()` back, in place, since a compiled model cannot be traced. There is no public way yet."""
    model._compiled_call_impl = None


def without_compiler(kind: Any) -> Any:
    """An optimizer of torch's that does not import the compiler, which takes as long as importing all the rest.

    Its methods are wrapped so that a compiler leaves them alone; here nothing compiles them.
    """
    import torch

    methods = ("add_param_group", "zero_grad", "state_dict", "load_state_dict")
    plain = {name: inspect.unwrap(getattr(kind, name)) for name in methods}
    return type(kind.__name__, (kind,), {**plain, "step": torch.no_grad()(inspect.unwrap(kind.step))})


def of_compiler(error: Exception) -> bool:
    """Whether torch.compile raised it: `torch.compiler.CompileError` or the like, once there is one."""
    return type(error).__module__.startswith(("torch._dynamo", "torch._inductor"))
