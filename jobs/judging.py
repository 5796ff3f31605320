"""Puts a registered bundle before the gate: its rows, its rival, and whether its training set was true."""

from datetime import datetime

from pyspark.sql import functions as F

from feature_repo.catalogue import EVENT_TIMESTAMP
from jobs.command import Context, log
from jobs.replay import replay
from models.bundle import Bundle
from models.evaluation import CONSTANT, OURS, constant, frequent, slice_sums
from models.gate import REGISTERED, RIVAL, Check, Verdict, judge
from models.tracking import Version
from models.training import fit_rival


def verdict_on(context: Context, candidate: Version, bundle: Bundle, champion: Bundle | None) -> Verdict:
    """The gate's answer on rows from the candidate's test slice on, those included that came after its training.

    Cost: one fit of the champion's recipe, one pass over those rows, one replay of a sample. Raises BundleError where the judged
    bundle does not verify, DataError where tables are missing.
    """
    contract, limits = context.contract, context.settings.gate
    rows = context.warehouse.read_now("training_set")
    judged = candidate.judged()
    test_from = datetime.fromisoformat(bundle.metrics["split"]["test"]["from"])
    later = rows.where(F.col(EVENT_TIMESTAMP) >= F.lit(test_from))
    found = replay(context, later, limits.replayed)
    said = ", ".join(f"{name} in {count}" for name, count in sorted(found.different.items())) or "no difference"
    parity = Check("replay", not found.different, f"{said} of {found.rows} rows", "the values that serving would have had")
    if not parity.passed:
        return Verdict([parity])  # what the figures would say is not what serving would do
    rival = None
    if champion is not None:
        log.info("promote: fitting the champion's recipe to the rows before %s", test_from)
        itself = bundle.metrics.get("recalibrated") == champion.identity  # it has not seen these rows either
        rival = champion if itself else fit_rival(rows, champion, contract, context.id_key.fingerprint, test_from)
        if rival is None:
            log.warning("promote: the champion has no recipe that can be fitted here, so the candidate has no rival")
    answers = {
        OURS: judged.probabilities, REGISTERED: bundle.probabilities, CONSTANT: constant(judged.fitted.base_rate),
        **({RIVAL: rival.probabilities} if rival is not None else {}),
    }  # fmt: skip
    cells = slice_sums(later, answers, contract, frequent(later, contract))
    return Verdict([parity, *judge(cells, limits).checks])
