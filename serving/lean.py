"""Imports XGBoost and PyArrow as if pandas and scikit-learn were not installed. The server's process imports this first.

PyArrow looks for pandas at its first array and remembers. Serving needs neither; without them it starts in two seconds instead
of seven and is 100 MB smaller. tests/serving/test_serving_process.py holds the server to it.
"""

from models.hiding import hidden

with hidden():
    import pyarrow as pa

    pa.array([0])
