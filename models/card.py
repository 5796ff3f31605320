"""The model card: what a model is for, how it was made, how true it is and where it is not; as HTML and as Markdown."""

from pathlib import Path

from conf.durations import format_duration
from models import card_quality as quality
from models import card_reasons as reasons
from models.blocks import Block, Bullets, Heading, Table, Text, Tiles, to_html, to_markdown
from models.card_facts import Facts
from models.card_quality import number, span
from models.svg import percent

HTML, MARKDOWN = "card.html", "card.md"


def write_card(folder: Path, facts: Facts) -> None:
    """card.html and card.md; the same facts give the same bytes."""
    blocks = card(facts)
    folder.joinpath(HTML).write_text(to_html(f"{facts.contract.name}: model card", blocks), encoding="utf-8")
    folder.joinpath(MARKDOWN).write_text(to_markdown(blocks), encoding="utf-8")


def card(facts: Facts) -> list[Block]:
    """All of it, in reading order."""
    sections = (
        _head, _purpose, _data, _choice, quality.against_baselines, quality.reliability, quality.gain, quality.slices,
        reasons.contributions, reasons.dependence, _limits, _recent, _origin,
    )  # fmt: skip
    return [block for section in sections for block in section(facts)]


def glance(facts: Facts) -> str:
    """This training beside the last ones, Markdown: the description of its run in MLflow."""
    return to_markdown([_trainings(facts)])


def _head(facts: Facts) -> list[Block]:
    test = facts.metrics["test"]
    tiles = [
        ("normalized entropy, NE: below 1 beats the plain click rate", number(test["ne"], 3)),
        ("calibration ratio: clicks promised for each that came", number(test["calibration_ratio"], 3)),
        ("AUC: how often a clicked one is put above one that is not", number(test["auc"], 3)),
        ("logloss, nats an impression", number(test["logloss"], 4)),
        ("impressions it was tested on", f"{test['rows']:,}"),
        ("of them clicked", f"{test['clicks']:,}"),
    ]
    begin, end = (_time(facts.metrics["split"]["test"][at]) for at in ("from", "until"))
    told = f"Tested on impressions of {begin} to {end}, all later than what it had learned from."
    return [Heading(f"Model card: {facts.contract.name}", 1), Text(told), Tiles(tiles)]


def _purpose(facts: Facts) -> list[Block]:
    contract = facts.contract
    window = format_duration(contract.label.attribution_window)
    candidate = ", ".join(contract.candidate)
    about = [Text(f"The log: {contract.about}")] if contract.about else []
    return [
        Heading("What it is for, and what not"),
        *about,
        Text(
            f"For each candidate ({candidate}) of a request it gives the probability that showing it is followed by a click "
            f"within {window}. The probabilities are meant to be true: of 1,000 impressions at 2 %, about 20 are clicked. So "
            "they can be multiplied by what a click is worth, to bid or to choose among candidates."
        ),
        Bullets(
            [
                "Not for conversions, sales or attention: a click is all that it knows.",
                "Not a measure of what an ad causes. It has seen what was shown to whom by the delivery of that time.",
                "Not for other logs or other attribution windows: train on those.",
                "Not for invoices or fraud: clicks are counted as the log has them.",
                "Not for decisions about a person beyond which ad to show.",
            ]
        ),
    ]


def _data(facts: Facts) -> list[Block]:
    earlier, test = (facts.metrics["split"][part] for part in ("earlier", "test"))
    every = {"from": earlier["from"], "until": test["until"]} | {n: earlier[n] + test[n] for n in ("rows", "clicks")}
    negatives = facts.contract.sampling.negatives
    parts = {"learned from, for the test": earlier, "tested on": test, "learned from, registered model": every}
    rows = [
        [name, _time(of["from"]), _time(of["until"]), f"{of['rows']:,}", f"{of['clicks']:,}", percent(_rate(of, negatives))]
        for name, of in parts.items()
    ]
    told = "The registered model is made by the same recipe on all rows, the tested ones too: the newest hours matter most."
    if negatives < 1:
        told += f" Of the impressions without a click {percent(negatives)} were kept; rates and figures are corrected for it."
    head = ["part", "from (UTC)", "until", "!impressions", "!clicks", "!click rate"]
    return [Heading("Data and dates"), Table(head, rows), Text(told)]


def _choice(facts: Facts) -> list[Block]:
    choice, recipe = facts.metrics.get("warm_start", facts.metrics)["choice"], facts.recipe
    preset = recipe.presets[choice["preset"]]
    ridge = f"averaged with a ridge regression on the counters (C = {choice['ridge']:g})" if choice["ridge"] else "alone"
    kind = choice["calibrator"]["kind"]
    calibrated = "no calibrator: none earned its place" if kind == "none" else f"calibrator: {kind}"
    told = "Added to the champion's trees and ridge regression: " if "warm_start" in facts.metrics else ""
    told += (
        f"Boosted trees of preset {choice['preset']} (depth {preset.depth}), {choice['rounds']} rounds, {recipe.seeds} seeds, "
        f"{ridge}; {calibrated}. "
    )
    blocks: list[Block] = [Heading("What was chosen")]
    if not choice["losses"]:
        return [*blocks, Text(told + "There were too few clicks to choose by: rounds are fixed and nothing was compared.")]
    told += f"Chosen on {choice['folds']} later parts of the rows before the test, by logloss."
    losses = sorted(choice["losses"].items(), key=lambda loss: loss[1])
    best = losses[0][1]
    rows = [[name, f"{loss:.5f}", "" if loss == best else f"+{loss - best:.5f}"] for name, loss in losses]
    return [*blocks, Text(told), Table(["candidate", "!logloss", "!behind the best"], rows)]


def _limits(facts: Facts) -> list[Block]:
    contract, recipe, split = facts.contract, facts.recipe, facts.metrics["split"]
    negatives = contract.sampling.negatives
    before, later = (_rate(split[part], negatives) for part in ("earlier", "test"))
    overall = quality.overall(facts)
    clicks = facts.metrics["test"]["clicks"]
    known = f", which puts the calibration ratio at {span(overall.ratio_interval, 2)}" if overall else ""
    lines = [
        f"The test has {clicks:,} clicks{known}. Where an interval covers 1 (a ratio) or 0 (a difference), they cannot tell.",
        "Intervals are of 95 % and tell the luck of which users came. They do not tell that next week is another week.",
        f"Drift: the click rate was {percent(before)} before the test and {percent(later)} in it. "
        "The counters follow such changes within hours, other changes wait for the next training.",
        f"Clicks later than {format_duration(contract.label.attribution_window)} after the impression are not clicks here.",
        f"Withheld while learning: in {percent(recipe.masked)} of the impressions each key's history, and in as many all "
        "histories, so that an answer without them is one that it has learned.",
        f"Values seen in fewer than {recipe.rare_below} impressions are one value, other; ids count through their history only.",
    ]
    if contract.personal:
        lines.append(f"Personal columns ({', '.join(sorted(contract.personal))}) are hashed; no value of theirs is on this card.")
    return [Heading("Limits"), Bullets(lines)]


def _recent(facts: Facts) -> list[Block]:
    told = "Each was tested on its own last rows, so small differences say little. The calibration ratio should be near 1."
    if not facts.recent:
        told = "This is the first training of the contract."
    return [Heading("This training and the last ones"), _trainings(facts), Text(told)]


def _trainings(facts: Facts) -> Table:
    names = ("test_ne", "test_calibration_ratio", "test_logloss", "test_rows")
    ours = {f"test_{name}": value for name, value in facts.metrics["test"].items()}
    listed = [("this one", "", ours), *((f"{run.at:%Y-%m-%d %H:%M}", run.version, run.figures) for run in facts.recent)]
    rows = []
    for at, version, figures in listed:
        ne, ratio, loss, tested = (figures.get(name) for name in names)
        rows.append([at, version, number(ne, 4), number(ratio, 3), number(loss, 5), number(tested, 0)])
    return Table(["trained (UTC)", "!version", "!NE", "!calibration ratio", "!logloss", "!test impressions"], rows)


def _origin(facts: Facts) -> list[Block]:
    origin = facts.origin
    named = {
        "contract": f"{facts.contract.name}, hash {origin['contract_hash']}",
        "code": f"commit {origin['commit'] or 'unknown'}",
        "packages": f"requirements.lock, sha256 {origin['lock_sha256'] or 'unknown'}",
    }
    tables = {f"table {name}": f"version {version}" for name, version in origin["tables"].items()}
    return [Heading("Where it came from"), Table(["what", "which"], list(map(list, (named | tables).items())))]


def _rate(part: dict[str, int], negatives: float) -> float:
    clicks, others = part["clicks"], (part["rows"] - part["clicks"]) / negatives
    return clicks / (clicks + others)


def _time(iso: str) -> str:
    return iso[:16].replace("T", " ")
