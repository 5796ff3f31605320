"""What can be refused, and the exit code that says so.

Codes follow sysexits.h: 0 done, 2 usage, 65 the data or the contract is refused, 75 try again later.
"""

EXIT_USAGE = 2
EXIT_REFUSED = 65
EXIT_TRY_AGAIN = 75


class ClickoddsError(Exception):
    """An error a person can act on: its text says where, what was found, what was expected."""

    exit_code = EXIT_REFUSED


class ContractError(ClickoddsError):
    """The log contract is wrong; `faults` lists every one as `file:line: ...`."""

    def __init__(self, faults: list[str]) -> None:
        super().__init__("\n".join(faults))
        self.faults = faults


class DataError(ClickoddsError):
    """The log or a table is not what the contract says."""


class BundleError(ClickoddsError):
    """A model bundle is missing, tampered with, or made for something else."""


class UnavailableError(ClickoddsError):
    """A service that is needed does not answer now."""

    exit_code = EXIT_TRY_AGAIN


class HeldError(DataError):
    """The data are stored, but held back until somebody releases them."""
