"""Candidates that were asked for before, known by their very text: what was checked, decoded, looked up and encoded once is
not done again. Most requests name only such candidates; others go the long way, and are known afterwards.

Nothing is accepted here that was not accepted before: a candidate's text must equal, byte for byte, one that the request schema
took, and what is left of the body is decoded with a number in the candidates' place that no caller can know (hot_schema.MARK).
So whether that place is the field "candidates" of the body, and the last of them, is the decoder's word.
"""

from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from serving.hot_schema import MARK
from serving.native import functions
from serving.records import COUNTS, EMPTY, HEAD

_MARK = b"%d" % MARK
_BEFORE = (b'"candidates": [', b'"candidates":[')
_ROOM = 1 << 16  # candidates
_WORDS = 16 * _ROOM  # of what is known of them: 8 MB, taken as it is used
_TABLE = 2 * _ROOM
_WORD = 1 << 64
_LONGEST = 1024  # bytes of a text, and of what the answer says

Rows = npt.NDArray[np.intp]
Records = npt.NDArray[np.uint32]


class _Texts(msgspec.Struct):
    candidates: list[msgspec.Raw]


_decode_texts = msgspec.json.Decoder(_Texts).decode


class Store:
    """Records (serving/records.py) that stay what they are: who holds the store may go on using them."""

    def __init__(self, parts: int, most: int) -> None:
        self.parts, self._most = parts, most
        kernels = functions()
        self._hash, self._find_place = kernels["hash_text"], kernels["find_place"]
        self._find, self._write = kernels["find_records"], kernels["write_predictions"]
        self.table = np.full(_TABLE, EMPTY, dtype=np.uint32)
        self.words = np.empty(_WORDS, dtype=np.uint64)
        self.data = self.words.view(np.uint8)
        self.stamp = 0
        self.longest = 0  # of what the answer says of a candidate
        self.texts = set[bytes]()  # of all records: to look here costs a tenth of the compiled way
        self._first: dict[Any, int] = {}
        self._count, self._end = 0, 0
        # what the kernels work in, and where it is: asking NumPy for an address takes longer than many a step
        self._records, self._rows = np.empty(most, dtype=np.uint32), np.empty((parts, most), dtype=np.int64)
        self._out = np.empty(0, dtype=np.uint8)
        self._work = np.empty((2, most), dtype=np.int64)
        arrays = self._records, self._rows, self.words, self._work
        self._records_at, self._rows_at, self._words_at, self._work_at = (array.ctypes.data for array in arrays)
        self._table_at, self._out_at = self.table.ctypes.data, 0

    @property
    def share_used(self) -> float:
        """Of the room; 1 where another record may find none."""
        largest = HEAD + self.parts + 2 * -(-_LONGEST // 8)
        return max(self._count / _ROOM, self._end / (_WORDS - largest))

    def add(self, text: bytes, named: Any, answer: bytes, rows: Sequence[int]) -> None:
        """named: what names the candidate. answer: what stands before its number in the answer. There must be room."""
        text_words, answer_words = -(-len(text) // 8), -(-len(answer) // 8)
        record, end = self._end, self._end + HEAD + self.parts + text_words + answer_words
        value = self._hash(text, len(text))
        place = self._place(text, value)
        if place < 0 or self.table[place] != EMPTY:  # too many of nearly this hash; or here already
            return
        first = self._first.setdefault(named, record)
        self.words[record], self.words[record + 1] = value % _WORD, 0
        self.words[record + 2] = first << 32 | len(text) << 16 | len(answer)
        self.words[record + HEAD : record + HEAD + self.parts] = rows
        self.words[end - text_words - answer_words : end] = 0  # what pads a text is part of its last word
        at = 8 * (record + HEAD + self.parts)
        self.data[at : at + len(text)] = np.frombuffer(text, dtype=np.uint8)
        at += 8 * text_words
        self.data[at : at + len(answer)] = np.frombuffer(answer, dtype=np.uint8)
        self.table[place] = record
        self.texts.add(text)
        self._count, self._end, self.longest = self._count + 1, end, max(self.longest, len(answer))

    def find(self, body: bytes, start: int) -> tuple[Records, Rows, int] | None:
        """Records and rows (parts, candidates) of the array that begins behind body[start - 1], and where it ends; None: see
        text_kernels.find_records."""
        self.stamp += 1
        found = self._find(
            body, start, len(body), self._table_at, len(self.table), self._words_at, _WORDS, self.stamp, self.parts,
            self._records_at, self._rows_at, self._work_at, self._most,
        )  # fmt: skip
        if not found:
            return None
        count = found % COUNTS
        return self._records[:count].copy(), self._rows[:, :count].copy(), found // COUNTS

    def predictions(self, records: Records, numbers: bytes) -> bytes:
        """What the answer says of each, with its number. numbers: all of them, as a JSON array."""
        count = len(records)
        if (size := len(numbers) + count * (self.longest + 2) + 8) > len(self._out):
            self._out = np.empty(2 * size, dtype=np.uint8)
            self._out_at = self._out.ctypes.data
        self._records[:count] = records
        end = self._write(
            self._records_at, count, self.parts, self._words_at, _WORDS, numbers, len(numbers), self._out_at, len(self._out)
        )
        return self._out[:end].tobytes()

    def _place(self, text: bytes, value: int) -> int:
        """Where in the table the record of a text with this hash stands, or may be put; -1 where there is no room for it."""
        return self._find_place(text, len(text), value, self.parts, self._table_at, len(self.table), self._words_at, _WORDS)


class Asked(msgspec.Struct, gc=False):
    """The candidates of one request, all known. rows: (parts, candidates). rest: the body with MARK in their place."""

    store: Store
    records: Records
    rows: Rows
    rest: bytes

    @property
    def count(self) -> int:
        return len(self.records)

    def predictions(self, numbers: bytes) -> bytes:
        """The answer's text: each candidate with its number. numbers: all of them, as a JSON array."""
        return self.store.predictions(self.records, numbers)


class KnownCandidates:
    """parts: rows of the scorer that a candidate has. most: candidates of a request. Used by one thread, between awaits."""

    def __init__(self, *, parts: int, most: int) -> None:
        self._parts, self._most = parts, most
        self._store: Store | None = None  # its memory is taken when there is something to know
        functions()  # where there are none, nothing is known

    def find(self, body: bytes) -> Asked | None:
        """Of a request's body; None where one of its candidates is not known, or the body is not written as simply as most."""
        if (store := self._store) is None:
            return None
        for before in _BEFORE:
            if (at := body.find(before)) >= 0:
                break
        else:
            return None
        start = at + len(before)
        if (found := store.find(body, start)) is None:
            return None
        records, rows, end = found
        return Asked(store, records, rows, b"%b%b%b" % (body[: start - 1], _MARK, body[end + 1 :]))

    @property
    def full(self) -> bool:
        """Whether there is nothing more to learn."""
        return self._store is not None and self._store.share_used >= 1

    def learn(self, body: bytes, named: Sequence[Any], answers: Sequence[bytes], rows: Rows, new: Sequence[bool]) -> None:
        """Keep the candidates of a body that was answered, as far as there is room. rows: (parts, candidates).

        new: which of them Redis knows nothing of. They get half of the room: anybody can think of as many as they like.
        """
        if self._store is None:
            self._store = Store(self._parts, self._most)
        store = self._store
        texts = map(bytes, _decode_texts(body).candidates)
        for text, name, answer, row, is_new in zip(texts, named, answers, rows.T.tolist(), new, strict=True):
            if text not in store.texts and _is_plain(text, answer) and store.share_used < (0.5 if is_new else 1):
                store.add(text, name, answer, row)

    def forget(self) -> None:
        """All of them: rows are other ones now."""
        self._store = None


def _is_plain(text: bytes, answer: bytes) -> bool:
    """Whether text_kernels.find_records would see this object's end, and a record holds it."""
    return text.count(b"}") == 1 and max(len(text), len(answer)) <= _LONGEST
