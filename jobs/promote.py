"""Let a trained bundle serve: the alias `champion` in MLflow, and its copy where serving reads it.

The bundle is verified first. Refused, with exit code 65 and the alias left where it is: a bundle that was changed after it was
made, one of another contract or id key, and one whose logloss on the test slice is worse than the constant training rate beyond
its 95 % interval. Where nothing that may serve was published yet, a bundle of prior rates is published then, so that there is
always an answer; the exit code is still 65. Promoting the champion again changes nothing.

    spark-submit jobs/promote.py --contract conf/contracts/demo.yaml
"""

import argparse
import sys
from collections.abc import Mapping

from conf.errors import BundleError, ClickoddsError
from jobs.command import Context, job_parser, log, run_job
from models.promotion import checked, crown, publish_prior, servable
from models.tracking import Registry
from models.training import prior_bundle


def promote(context: Context, args: argparse.Namespace) -> Mapping[str, int]:
    """Move the alias and publish; the version. Raises BundleError with the reason of a refusal."""
    contract, settings, fingerprint = context.contract, context.settings, context.id_key.fingerprint
    try:
        registry = Registry(str(settings.mlflow), settings.state / "mlartifacts", contract.name)
        candidate = registry.version(getattr(args, "version", None))
        checked(candidate, contract, fingerprint)
    except BundleError as refusal:
        _let_prior_serve(context, refusal)
        raise
    crown(registry, candidate, settings.bundles(contract.name))
    return {"version": int(candidate.number)}


def _let_prior_serve(context: Context, refusal: BundleError) -> None:
    contract, fingerprint = context.contract, context.id_key.fingerprint
    root = context.settings.bundles(contract.name)
    try:
        if not servable(root, contract, fingerprint):
            rows = context.warehouse.read("training_set")
            publish_prior(prior_bundle(rows, contract, context.settings.train, fingerprint), root)
            log.warning("promote: no champion yet, so prior rates serve")
    except ClickoddsError as error:
        raise BundleError(f"{refusal}\nand nothing serves: {error}") from None


def parser() -> argparse.ArgumentParser:
    made = job_parser(__doc__)
    made.add_argument("--version", metavar="N", help="the registered version to promote (default: the newest)")
    return made


if __name__ == "__main__":
    sys.exit(run_job("promote", promote, parser()))
