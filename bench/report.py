"""docs/benchmarks.md, of which every measurement owns one section between its own two markers."""

import os
import re
from pathlib import Path

PAGE = Path(__file__).resolve().parents[1] / "docs" / "benchmarks.md"


def write_section(name: str, text: str, *, page: Path = PAGE) -> None:
    """Put `text` in the place of section `name`, at the page's end where there is none yet; other sections stay as they are."""
    begin, end = f"<!-- {name}: begin, written by bench/{name}.py -->", f"<!-- {name}: end -->"
    section = f"{begin}\n{text.strip()}\n{end}"
    old = page.read_text() if page.exists() else "# Benchmarks\n"
    new, found = re.subn(re.escape(begin) + ".*?" + re.escape(end), lambda _: section, old, flags=re.DOTALL)
    page.write_text(new if found else f"{old.rstrip()}\n\n{section}\n")


def machine() -> str:
    """What the figures were taken on, in a few words."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "processor unknown")
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{os.cpu_count()} cores ({model}), {memory:.0f} GiB"
