"""Seconds of each step of the demo, as one line of JSON. Arguments go to the demo: `python bench/demo.py --impressions 50000`."""

import json
import subprocess
import sys


def main() -> int:
    run = subprocess.run([sys.executable, "-m", "demo", *sys.argv[1:]], stdout=subprocess.PIPE, text=True, check=False)
    if run.returncode:
        return run.returncode
    result = json.loads(run.stdout.splitlines()[-1])
    print(json.dumps({"bench": "demo", **{name: result[name] for name in ("contract", "rows", "seconds")}}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
