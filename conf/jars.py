"""The jars that conf/spark-defaults.conf asks for, held to a list of their sha256.

`make install` checks them and `make lock` renews the list. Run by spark-submit, which has fetched them by then; nothing of them
has been loaded yet. Exit code 65 where one differs.

    spark-submit conf/jars.py --check jars.lock
"""

import argparse
import hashlib
import sys
from pathlib import Path
from urllib.parse import unquote, urlparse

from pyspark.java_gateway import launch_gateway

EXIT_REFUSED = 65  # conf.errors is not imported: this runs from conf/ itself, before the project is known to be whole


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--check", type=Path, metavar="FILE", help="refuse jars that differ from the list")
    what.add_argument("--write", type=Path, metavar="FILE", help="write the list of what is there")
    args = parser.parse_args()
    found = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in _fetched()}
    if args.write:
        args.write.write_text("".join(f"{digest}  {name}\n" for name, digest in sorted(found.items())))
        return 0
    expected = {name: digest for digest, name in (line.split() for line in args.check.read_text().splitlines())}
    faults = [f"{name}: not in {args.check}" for name in sorted(found.keys() - expected.keys())]
    faults += [f"{name}: in {args.check}, not fetched" for name in sorted(expected.keys() - found.keys())]
    for name in sorted(found.keys() & expected.keys()):
        if found[name] != expected[name]:
            faults.append(f"{name}: sha256 is {found[name][:12]}..., expected {expected[name][:12]}...")
    if faults:
        faults.append("remove them from ~/.ivy2.5.2 and fetch anew, or `make lock` if the change is meant")
        print("jars refused", *faults, sep="\n", file=sys.stderr)  # noqa: T201  # for whoever installs
        return EXIT_REFUSED
    return 0


def _fetched() -> list[Path]:
    """What spark-submit has resolved, as it tells the driver."""
    jvm = launch_gateway().jvm  # type: ignore[no-untyped-call]
    addresses = jvm.System.getProperty("spark.jars") or ""
    return sorted(Path(unquote(urlparse(address).path)) for address in addresses.split(",") if address)


if __name__ == "__main__":
    sys.exit(main())
