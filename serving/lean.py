"""Imports XGBoost and PyArrow as if pandas and scikit-learn were not installed. The server's process imports this first.

Both look for them once, XGBoost at import and PyArrow at its first array, and remember. Serving needs neither; without them it
starts in two seconds instead of seven and is 100 MB smaller. tests/serving/test_serving_process.py holds the server to it.
"""

import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

_ABSENT = frozenset({"pandas", "sklearn"})


class _Hide(MetaPathFinder):
    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name.partition(".")[0] in _ABSENT:
            raise ModuleNotFoundError(f"{name} is hidden from the serving process", name=name)
        return None


_hide = _Hide()
sys.meta_path.insert(0, _hide)  # sys.modules[name] = None would not do: PyArrow's compiled import takes the None
try:
    import pyarrow as pa
    import xgboost  # noqa: F401

    pa.array([0])
finally:
    sys.meta_path.remove(_hide)
