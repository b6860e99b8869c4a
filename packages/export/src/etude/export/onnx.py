"""The network of a run as ONNX, where it is a function of arrays: what its task gives as an `example` says which."""

import contextlib
import io
import re
import warnings
from collections.abc import Sequence
from typing import Any

import torch

from etude.errors import UserError


def contents(package_name: str, task: object, model: torch.nn.Module) -> bytes:
    """model.onnx, of any number of examples: the first axis of every input and output.

    `task` is what `TaskModule.restore` gives to predict. If it has `example() -> Tensor`, two examples as its model
    takes them, the model is a function of arrays; its docstring says the range behind the shape: "[2, 28, 28] in 0..1".
    Raises UserError if it has none, or if torch cannot export the model.
    """
    example = getattr(task, "example", None)
    if example is None:
        raise UserError(f"{package_name} is no function of arrays of one size, which ONNX takes: leave --onnx out")
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError:
        raise UserError("--onnx needs onnx and onnxscript: pip install onnx onnxscript") from None
    said = io.StringIO()
    with warnings.catch_warnings(), contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        warnings.simplefilter("ignore")  # of versions and deprecations that are torch's own matter
        try:
            shapes = ({0: torch.export.Dim("batch", min=1)},)
            program = torch.onnx.export(model.eval(), (example(),), dynamo=True, dynamic_shapes=shapes, verbose=False)
        except Exception as error:  # whatever torch.export makes of a model
            why = str(error).strip().splitlines()[-1][:200] if str(error).strip() else type(error).__name__
            raise UserError(f"torch cannot write this network as ONNX ({why}): leave --onnx out") from None
    assert program is not None
    return bytes(program.model_proto.SerializeToString())


def described(content: bytes, task: Any, classes: Sequence[str]) -> list[str]:
    """What a model card says of model.onnx: of each input and output name, type and shape, then range or meaning.

    `classes` are the names of the task's classes in order, if they are known. The range is what the task calls its
    `values`, or else what stands in the docstring of its `example`.
    """
    import onnx

    graph = onnx.load_from_string(content).graph
    found = re.search(r"\] in (\[[^]]*\]|[^\s:,]+)", str(task.example.__doc__))
    ranged = getattr(task, "values", None) or (found[1] if found else "a range not known")
    lines = [f"- input {of_value(one)}, values in {ranged}" for one in graph.input]
    for one in graph.output:
        said = re.split(r"[,:]? \[|\.?\n|\.$", str(type(task.model).forward.__doc__ or "").strip())[0]
        if classes and one.type.tensor_type.shape.dim[-1].dim_value == len(classes):
            names = ", ".join(f"`{name}`" for name in classes)
            said = f"{said or 'scores of the classes'}; the largest is the answer, in this order: {names}"
        lines.append(f"- output {of_value(one)}{': ' * bool(said)}{said}")
    return lines


def of_value(value: Any) -> str:
    """Name, type and shape of an input or output: `images`, float32 [batch, 28, 28]."""
    import onnx

    of = value.type.tensor_type
    shape = ", ".join(str(size.dim_param or size.dim_value) for size in of.shape.dim)
    return f"`{value.name}`, {onnx.helper.tensor_dtype_to_np_dtype(of.elem_type)} [{shape}]"
