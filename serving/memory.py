"""Memory of a process that lives long: what is large goes back to the system when it is freed."""

import ctypes
from contextlib import suppress

_M_MMAP_THRESHOLD = -3  # of glibc's mallopt
_LARGE = 1 << 20  # bytes


def give_back_what_is_large() -> None:
    """glibc moves its bound of what is large up to 32 MiB as such memory is freed; what lies below it stays in the heap for good.

    The candidates' rows are made anew each hour: with that bound a server grew by some megabytes a time.
    """
    with suppress(AttributeError, OSError):  # another C library
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, _LARGE)
