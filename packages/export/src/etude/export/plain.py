"""What a checkpoint holds, as JSON beside named tensors, and back: equal to the last bit and of the same types.

JSON has texts, numbers, lists, and dicts with texts for keys. Whatever else stands as a dict with one key, "$tensor",
"$tuple" or "$dict".
"""

from typing import Any

from torch import Tensor

from etude.errors import UserError

SIGN = "$"


def to_plain(value: Any, tensors: dict[str, Tensor], place: str) -> Any:
    """A value as JSON; the tensors in it are added to `tensors`, by their `place` in it.

    Raises UserError for what has no such form.
    """
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Tensor):
        if place in tensors:
            raise UserError(f"the checkpoint has two tensors that would both be called {place}: nothing is written")
        tensors[place] = value
        return {"$tensor": place}
    if isinstance(value, list | tuple):
        items = [to_plain(item, tensors, f"{place}.{n}") for n, item in enumerate(value)]
        return items if isinstance(value, list) else {"$tuple": items}
    if isinstance(value, dict):
        if all(isinstance(key, str) and not key.startswith(SIGN) for key in value):
            return {key: to_plain(item, tensors, f"{place}.{key}") for key, item in value.items()}
        pairs = [[key, item] for key, item in value.items()]
        return {"$dict": to_plain(pairs, tensors, place)}
    raise UserError(
        f"{place} of the checkpoint is a {type(value).__name__}, which has no form in JSON: nothing is written"
    )


def from_plain(value: Any, tensors: dict[str, Tensor]) -> Any:
    """The value that `to_plain` made this of. Raises KeyError or ValueError for what it did not make."""
    if isinstance(value, list):
        return [from_plain(item, tensors) for item in value]
    if not isinstance(value, dict):
        return value
    if not any(key.startswith(SIGN) for key in value):
        return {key: from_plain(item, tensors) for key, item in value.items()}
    ((kind, content),) = value.items()
    if kind == "$tensor":
        return tensors[content]
    made = from_plain(content, tensors)
    return {"$tuple": tuple, "$dict": dict}[kind](made)
