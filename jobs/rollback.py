"""Let the champion before this one serve again: its published copy, then the alias in MLflow. One command, no Spark session.

Run again once it is done it goes one further back. What was rolled back stays registered, but is no default of jobs/promote.py
any more; its `--version N` brings it back through the gate. Exit code 65: there was no champion before. 75: a promotion is at
work; or it serves, but MLflow did not take the alias: run again it tells MLflow, and goes no further back.

    spark-submit jobs/rollback.py --contract conf/contracts/demo.yaml
"""

import sys
import time

from conf.errors import ClickoddsError, UnavailableError
from conf.personal import load_id_key
from jobs.command import installation, job_parser, log, say_on_stderr
from models.promotion import PRIOR, turn
from models.published import roll_back, settle_rollback
from models.tracking import Registry


def main() -> int:
    """Exit code, see the module."""
    args = job_parser(__doc__).parse_args()
    say_on_stderr()
    start = time.monotonic()
    try:
        settings, contract = installation(args)
        fingerprint, root = load_id_key(settings).fingerprint, settings.bundles(contract.name)
        with turn(settings.state, contract):
            before, champion = roll_back(root, contract.hash, fingerprint)
            log.info("rollback: version %s is published (%.2f s)", champion.version, time.monotonic() - start)
            try:
                registry = Registry.of(settings, contract)
                registry.roll_back(before, None if champion.version == PRIOR else champion.version)
            except Exception as error:
                said = f"version {champion.version} serves, but MLflow did not take the alias: {error}; run this again"
                raise UnavailableError(said) from error
            settle_rollback(root)
    except ClickoddsError as error:
        log.error("rollback: %s", error)
        return error.exit_code
    log.info("rollback: the alias names it too (%.2f s)", time.monotonic() - start)
    return 0


if __name__ == "__main__":
    sys.exit(main())
