"""Names of the contract (conf/contract.py) for those who need no more of it: Spark's workers, whom pydantic costs a second."""

ALL_KEY = "all"  # the empty key: everything, counted like any other; its rate is the prior of the others
SCOPE = "scope"  # the one entity of the views `all` and `clock`, whose value is ALL_KEY
