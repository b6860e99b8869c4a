"""Runs a script, or a module, as Python does, and notes when its optimiser has taken each step.

    python probe.py OUT.json SCRIPT.py
    python probe.py OUT.json -m MODULE [ARGUMENT ...]

What is measured must not depend on who measures it: nothing is imported before the script asks for it, and a step costs
one call of the clock more. Optimisers of torch are watched through torch's own hook for all of them; fastai and Keras
have optimisers of their own, of which the method that takes a step is wrapped. To OUT.json go `stamps`, the seconds of
the monotonic clock at the end of each step (of the optimiser that stepped last: etude tries some steps before a run),
the number of `parameters` that learn, and what torch says of the machine.
"""

import importlib.abc
import importlib.machinery
import json
import math
import os
import runpy
import sys
import time

stamps, of = [], []  # `of`: the optimiser that they are of, and its parameters


def note(optimizer, parameters):
    if not of or of[0] is not optimizer:
        stamps.clear()
        of[:] = optimizer, parameters()
    stamps.append(time.monotonic())


def watch_torch(module):
    def stepped(optimizer, args, kwargs):
        note(optimizer, lambda: [p.shape for group in optimizer.param_groups for p in group["params"]])

    module.register_optimizer_step_post_hook(stepped)


def watch_fastai(module):
    wrap(module.Optimizer, "step", lambda optimizer: [p.shape for p, *_ in optimizer.all_params()])


def watch_keras(module):
    wrap(module.BaseOptimizer, "apply", lambda optimizer, gradients, *_: [g.shape for g in gradients])


def wrap(kind, method, shapes):
    plain = getattr(kind, method)

    def stepped(optimizer, *args, **kwargs):
        result = plain(optimizer, *args, **kwargs)
        note(optimizer, lambda: shapes(optimizer, *args))
        return result

    setattr(kind, method, stepped)


WATCHED = {
    "torch.optim.optimizer": watch_torch,
    "fastai.optimizer": watch_fastai,
    "keras.src.optimizers.base_optimizer": watch_keras,
}


class Finder(importlib.abc.MetaPathFinder):
    """Finds the modules of WATCHED where Python finds them, and watches them once they are there."""

    def find_spec(self, name, path=None, target=None):
        if name not in WATCHED:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        execute = spec.loader.exec_module

        def exec_module(module):
            execute(module)
            WATCHED[name](module)

        spec.loader.exec_module = exec_module
        return spec


def main():
    sys.meta_path.insert(0, Finder())
    out, *words = sys.argv[1:]
    try:
        if words[0] == "-m":
            sys.argv = words[1:]
            runpy.run_module(words[1], run_name="__main__", alter_sys=True)
        else:
            sys.argv = words
            runpy.run_path(words[0], run_name="__main__")
    finally:
        if "torch" in sys.modules:
            with open(out, "w", encoding="utf-8") as file:
                json.dump(found(sys.modules["torch"]), file)


def found(torch):
    return {
        "stamps": stamps,
        "parameters": sum(map(math.prod, of[1])) if of else 0,
        "cpu": torch.cpu.get_capabilities().get("cpu_name") or "CPU",
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": torch.get_num_threads(),
    }


if __name__ == "__main__":
    main()
