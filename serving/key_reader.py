"""How the counters of one key are asked for and read: the bytes of its HMGET, and a row of doubles from the reply."""

from functools import lru_cache
from typing import Any

from conf.contract import LAST_SEEN, Contract
from feature_repo.redis_layout import KeyWriter, LayoutError, decode_int64, encode_int64, hash_field, redis_key
from serving.redis_link import command

_NULL = float("nan")
_SMALL = 4096


# nearly all counters of a request's keys are small: a look-up instead of a decoder's loop
_KNOWN: dict[bytes | None, float] = {None: _NULL, b"": _NULL} | {encode_int64(n): float(n) for n in range(_SMALL)}


def used_counters(contract: Contract) -> tuple[str, ...]:
    """The counters that features are made of, in the order of contract.counter_columns: all but the last-seen times."""
    return tuple(name for name in contract.counter_columns if name not in LAST_SEEN)


class KeyReader:
    """Of one key of a contract. Rows hold `used_counters`, NaN where a value is null."""

    def __init__(self, contract: Contract, key: str) -> None:
        self.columns = contract.counted_keys[key]
        self.redis_key = KeyWriter(contract.name, self.columns)
        counters = used_counters(contract)
        fields = [hash_field(key, name) for name in counters]
        self._head = b"*%d\r\n$5\r\nHMGET\r\n$" % (2 + len(fields))
        self._tail = command(*fields).split(b"\r\n", 1)[1]
        self._absent = [None] * len(fields)
        self.new = [0.0] * len(fields)
        self.unavailable = [_NULL] * len(fields)

    def hmget(self, redis_key: bytes) -> bytes:
        """The command that reads an entity's counters."""
        return b"%b%d\r\n%b\r\n%b" % (self._head, len(redis_key), redis_key, self._tail)

    def is_absent(self, reply: Any) -> bool:
        """Whether Redis holds no counter of the entity: it is new."""
        return bool(reply == self._absent)

    def row(self, reply: Any) -> list[float]:
        """The counters of an entity. Raises LayoutError."""
        if reply == self._absent:
            return self.new
        if type(reply) is not list:
            raise LayoutError(f"found {reply}, expected a hash")
        try:
            return [_KNOWN[field] for field in reply]
        except KeyError:
            return [_double(field) for field in reply]


def _double(field: bytes | None) -> float:
    number = decode_int64(field)
    return _NULL if number is None else float(number)


def clock_command(project: str, view: str, feature: str) -> bytes:
    """HMGET of one feature of the entity that has no columns."""
    return command("HMGET", redis_key(project, {}), hash_field(view, feature))


def decode_clock(reply: Any) -> int | None:
    """The clock of a reply to `clock_command`. Raises LayoutError."""
    if type(reply) is not list:
        raise LayoutError(f"found {reply}, expected a hash")
    return _clock_us(reply[0])


@lru_cache(maxsize=4)
def _clock_us(field: bytes | None) -> int | None:
    """It moves once an hour and is read with every request."""
    return decode_int64(field)
