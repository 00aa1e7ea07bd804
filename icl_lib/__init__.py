"""In-context linear regression: tasks, transformers, estimators, training, and what heads do.

What is listed here is imported when it is first used, so that `import icl_lib` is quick.
"""

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

_PUBLIC = {  # by module; those without names are public themselves
    "tasks": ("MultiTask", "Prompts", "Task", "seeded"),
    "transformer": ("Transformer",),
    "attention_layer": ("AttentionLayer",),
    "models": ("Module",),
    "training": ("Runs", "Trained", "Training", "TrainingDiverged", "train", "trimmed_mean"),
    "store": ("trained",),
    "evaluation": ("Interval", "evaluate", "ratio_interval", "sweep", "t_interval"),
    "heads": ("importance", "prune"),
    "circuits": (),
    "constructions": (),
    "estimators": (),
}
_HOME = {name: module for module, names in _PUBLIC.items() for name in names or [module]}

# The sources as they are now: modules are imported later, and the store tells whether they were edited since.
_SOURCES = {f"icl_lib.{path.stem}": path.read_bytes() for path in Path(__file__).parent.glob("*.py")}

__all__ = [*_HOME, "__version__"]

try:
    __version__ = version("icl-lib")
except PackageNotFoundError:  # run from a folder that nothing was installed from
    __version__ = "unknown"


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"icl_lib has no {name!r}: allowed are {', '.join(__all__)}")
    module = import_module(f"icl_lib.{_HOME[name]}")
    return module if name == _HOME[name] else getattr(module, name)
