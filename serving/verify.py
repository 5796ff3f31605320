"""Verify a published bundle in a process of its own: every sha256, the golden rows. Exit code 0, or 65 with the reason on stderr.

    python -m serving.verify FOLDER IDENTITY

A file that crashes or stalls what reads it takes this process with it, not one that answers requests.
"""

import os
import sys
from pathlib import Path

from conf.errors import EXIT_REFUSED, BundleError


def main() -> int:
    folder, identity = sys.argv[1:]
    os.nice(10)  # requests come first; from here on, as imports are most of the work
    import serving.lean  # noqa: F401  # before anything that imports xgboost or pyarrow
    from models.bundle import load_bundle

    try:
        load_bundle(Path(folder), identity=identity)
    except BundleError as error:
        print(error, file=sys.stderr)  # noqa: T201
        return EXIT_REFUSED
    return 0


if __name__ == "__main__":
    sys.exit(main())
