"""XGBoost as if pandas and scikit-learn were not installed: `from models.lean import xgb`.

It looks for them once, at import, and remembers; nothing here hands it a DataFrame or wants its scikit-learn classes. Without
them every job and every training worker has it in half a second instead of three.
"""

from models.hiding import hidden

with hidden():
    import xgboost as xgb

__all__ = ["xgb"]
