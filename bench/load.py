"""How a running server on this machine bears a load: Poisson arrivals, latency from when a request was due.

    python -m bench.load --port 8080 --rate 500 --seconds 10
    python -m bench.load --port 8080 --rate 500 --requests requests.jsonl       # a body a line, in turn

Without a file it asks the example of the server's own OpenAPI page. Prints a line of JSON; `failed`: was not answered 200.
"""

import argparse
import json
import sys
from pathlib import Path

from bench.serving_load import PATH, Client, as_post, open_loop


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=8080, help="(%(default)s)")
    parser.add_argument("--rate", type=float, default=100, help="requests a second (%(default)s)")
    parser.add_argument("--seconds", type=float, default=10, help="(%(default)s)")
    parser.add_argument("--requests", type=Path, metavar="FILE", help="bodies to ask in turn, one a line (default: the example)")
    args = parser.parse_args()
    bodies = args.requests.read_bytes().splitlines() if args.requests else [_example(args.port)]
    print(json.dumps({"bench": "load"} | open_loop(args.port, [as_post(body) for body in bodies], args.rate, args.seconds)))
    return 0


def _example(port: int) -> bytes:
    client = Client(port)
    page = json.loads(client.ask(b"GET /openapi.json HTTP/1.1\r\nhost: load\r\n\r\n"))
    client.close()
    (example,) = page["paths"][PATH]["post"]["requestBody"]["content"]["application/json"]["examples"].values()
    return json.dumps(example["value"]).encode()


if __name__ == "__main__":
    sys.exit(main())
