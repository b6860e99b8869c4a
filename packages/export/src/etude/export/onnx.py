"""The network of a run as ONNX, where it is a function of arrays: what its task gives as an `example` says which."""

import contextlib
import io
import warnings

import torch

from etude.errors import UserError


def contents(package_name: str, task: object, model: torch.nn.Module) -> bytes:
    """model.onnx, of any number of examples: the first axis of every input and output.

    `task` is what `TaskModule.restore` gives to predict. If it has `example() -> Tensor`, two examples as its model
    takes them, the model is a function of arrays. Raises UserError if it has not, or if torch cannot export the model.
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
