"""XGBoost as if pandas and scikit-learn were not installed: `from models.lean import xgb`.

It looks for them once, at import, and remembers; nothing here hands it a DataFrame or wants its scikit-learn classes. Without
them every job and every training worker has it in half a second instead of three.
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


with hidden():
    import xgboost as xgb

__all__ = ["hidden", "xgb"]
