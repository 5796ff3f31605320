"""A block in which pandas and scikit-learn look as if they were not installed.

PyArrow and XGBoost look for them once and remember. Nothing here hands them a DataFrame; without pandas a process starts seconds
sooner.
"""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

_ABSENT = frozenset({"pandas", "sklearn"})


class _Hide(MetaPathFinder):
    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name.partition(".")[0] in _ABSENT:
            raise ModuleNotFoundError(f"{name} is hidden from what is imported here", name=name)
        return None


@contextmanager
def hidden() -> Iterator[None]:
    """Within the block pandas and scikit-learn cannot be imported for the first time."""
    hide = _Hide()
    sys.meta_path.insert(0, hide)  # sys.modules[name] = None would not do: PyArrow's compiled import takes the None
    try:
        yield
    finally:
        sys.meta_path.remove(hide)
