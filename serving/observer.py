"""What follows an answer of the hot route: it is counted, and written down where the served log wants it."""

from collections.abc import Callable

from serving.hot import Served
from serving.metrics import Metrics
from serving.served_log import Record, ServedLog
from serving.served_raw import ServedRaw


def observer(metrics: Metrics, served_log: ServedLog, raw: ServedRaw) -> Callable[[Served], None]:
    """To be called with each answer."""

    def observe(served: Served) -> None:
        asked, scored = served.asked, served.scored
        stages_s = served.read - asked.decoded, served.ended - served.read, served.encoded - served.ended
        metrics.answered(stages_s, reasons=scored.reasons, feature_age_us=scored.freshness.age_us, scores=scored.probabilities)
        if served_log.wants(asked.request_id):
            values = raw.taken(served), scored.as_of_us, scored.margins, scored.probabilities
            model = asked.engine.champion.version, asked.engine.champion.bundle.identity
            served_log.offer(Record(asked.request_id, *values, *model, scored.reasons, raw.batch, len(asked.body)))

    return observe
