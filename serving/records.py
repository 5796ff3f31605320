"""What is known of a candidate by its text: the layout that serving/known_candidates.py and serving/text_kernels.py share.

All of it stands together, so that a request touches one or two lines of the cache for each. A record in words of 8 bytes: hash of
the text; stamp; record of the candidate's first text, and both lengths; a row for each part; then the text, and what the answer
says of it, each from a whole word on.
"""

EMPTY = 0xFFFF_FFFF  # in the table of records: none
HEAD = 3  # words of a record before its rows
COUNTS = 1 << 16  # more than a request has candidates
