"""Keep serving what the newest finished demo promoted: its Redis and its bundle, in the foreground, until Ctrl-C."""

import argparse
import json
import shlex
import sys
from pathlib import Path

from conf.errors import ClickoddsError
from conf.redis_server import redis_server
from conf.settings import ROOT, load_settings
from demo.children import Children, StepFailed
from demo.http import STEP, served
from demo.runs import newest_finished
from demo.settings import child_environment, run_settings, stop_politely


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m demo.serve", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--port", type=int, metavar="PORT", help="0 takes a free one (default: the setting `serving.port`)")
    args = parser.parse_args()
    stop_politely()
    try:
        settings = load_settings()
        port = settings.serving.port if args.port is None else args.port
        with newest_finished(settings.state / "demo") as (folder, about), redis_server(folder / "redis") as address:
            env = child_environment(run_settings(settings, folder, Path(about["contract"]), address))
            children = Children(ROOT, env, folder / "logs")
            with served(children, port) as (server, host, port):
                body = shlex.quote(json.dumps(about["request"]))
                print(f"serving at http://{host}:{port} from {folder}; Ctrl-C stops it. Try\n")
                print(f"curl -s http://{host}:{port}/v1/predict -H 'content-type: application/json' -d {body}", flush=True)
                if code := server.wait():
                    raise StepFailed(STEP, code, children.log(STEP))
    except (ClickoddsError, StepFailed) as error:
        print(error, file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("\nstopped", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
