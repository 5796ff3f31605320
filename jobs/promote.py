"""Let a trained bundle serve, if it passes the gate: the alias `champion` in MLflow, and its copy where serving reads it.

Verified first: hashes, contract, id key, golden rows. Then the gate (docs/gate.md): a replay of its features, NE against the
constant and the champion's recipe at the same cut, calibration overall and by slice. Every answer is logged and kept with the
version. A refusal leaves the alias where it is, exit code 65; where nothing that may serve was published yet, a bundle of prior
rates is published then, so that there is always an answer. `--force REASON` promotes what the gate refuses, and keeps the reason;
what does not verify cannot be forced. Promoting the champion again changes nothing.

Cost: one fit of the champion's recipe, one pass over the test rows, one as-of join of a sample.

    spark-submit jobs/promote.py --contract conf/contracts/demo.yaml
"""

import argparse
import sys
from collections.abc import Mapping

from conf.errors import BundleError, ClickoddsError
from jobs.command import Context, job_parser, log, run_job
from jobs.judging import verdict_on
from models.bundle import Bundle
from models.promotion import checked, crown, publish_prior, servable, turn
from models.published import load_champion
from models.tracking import GATE, Registry, Version
from models.training import prior_bundle

FORCED = "forced"


def promote(context: Context, args: argparse.Namespace) -> Mapping[str, int]:
    """Move the alias and publish; the version. Raises BundleError with the reasons of a refusal."""
    with turn(context.settings.state, context.contract):
        return _promote(context, args)


def _promote(context: Context, args: argparse.Namespace) -> Mapping[str, int]:
    contract, settings, fingerprint = context.contract, context.settings, context.id_key.fingerprint
    root = settings.bundles(contract.name)
    try:
        registry = Registry.of(settings, contract)
        candidate = registry.version(getattr(args, "version", None))
        bundle = checked(candidate, contract, fingerprint)
        champion = _champion(context)
        if champion is None or champion.identity != bundle.identity:
            _pass_gate(context, registry, candidate, bundle, champion, getattr(args, "force", None))
    except BundleError as refusal:
        _let_prior_serve(context, refusal)
        raise
    crown(registry, candidate, root)
    return {"version": int(candidate.number)}


def _champion(context: Context) -> Bundle | None:
    try:
        champion = load_champion(context.settings.bundles(context.contract.name))
    except BundleError as broken:
        log.warning("promote: %s; the candidate has no rival", broken)
        return None
    return champion.bundle if champion else None


def _pass_gate(
    context: Context, registry: Registry, candidate: Version, bundle: Bundle, champion: Bundle | None, force: str | None
) -> None:
    verdict = verdict_on(context, candidate, bundle, champion)
    for check in verdict.checks:
        log.info("promote: %s", check)
    reasons = "\n".join(str(check) for check in verdict.refusals)
    registry.note(candidate, GATE, reasons or "passed", verdict.to_dict())
    if verdict.passed:
        return
    if force is None:
        raise BundleError(f"{context.contract.name} version {candidate.number}: not promoted\n{reasons}")
    log.warning("promote: forced: %s", force)
    registry.note(candidate, FORCED, force, {"reason": force, **verdict.to_dict()})


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


def _reason(text: str) -> str:
    if not text.strip():
        raise argparse.ArgumentTypeError("expected a reason")
    return text.strip()


def parser() -> argparse.ArgumentParser:
    made = job_parser(__doc__)
    made.add_argument("--version", metavar="N", help="the registered version to promote (default: the newest)")
    made.add_argument("--force", type=_reason, metavar="REASON", help="promote what the gate refuses; the reason is kept")
    return made


if __name__ == "__main__":
    sys.exit(run_job("promote", promote, parser()))
