"""The decision for people: a page for the release manager, and a model card, both from gate.json and the evidence."""

from collections.abc import Mapping, Sequence
from typing import Any

from ibidem.artifacts import Artifact
from ibidem.evaluation.evidence import Evidence
from ibidem.figures import percent
from ibidem.lineage import walk
from ibidem.page import Html, document, join, share, table, tag

Record = Mapping[str, Any]

MEANING = {
    "PASS": "shown to be good enough",
    "FAIL": "shown not to be good enough",
    "INSUFFICIENT": "not shown either way",
    "REFUSED": "the evidence does not count",
}


def page(record: Record) -> str:
    """Return the page: the decision, the reasons, and the evidence."""
    criteria = record["criteria"]
    blocking = [each for each in criteria if each["verdict"] != "PASS" and not each["exception"]]
    excepted = [each for each in criteria if each["exception"]]
    count = {verdict: sum(each["verdict"] == verdict for each in criteria) for verdict in MEANING}
    released = record["decision"] == "RELEASE"
    verdict = "This checkpoint may be released." if released else "This checkpoint must not be released."
    where = tag("p", record["checkpoint"], " ", tag("code", record["checkpoint_digest"]), cls="soft")
    policy = tag("p", "policy ", tag("code", record["policy_digest"]), cls="soft")
    figures = [tag("div", tag("dt", MEANING[v]), tag("dd", n, tag("small", v))) for v, n in count.items()]
    return document(
        f"{record['decision']}: {record['checkpoint']}",
        tag("header", tag("h1", verdict), where, policy, tag("dl", *figures, cls="figures")),
        _section("Why not", [_why(each) for each in blocking]),
        _section("Exceptions", [_exception(each) for each in excepted]),
        tag("section", tag("h2", "Criteria"), _criteria(criteria)),
        _evidence(record["evidence"]),
        tag("section", tag("h2", "How this was decided"), *(tag("p", line) for line in _method(record))),
    )


def card(record: Record, checkpoint: Artifact | None, evaluations: Mapping[str, Evidence]) -> str:
    """Return the model card as Markdown."""
    config = checkpoint.config if checkpoint else {}
    model = config.get("model", {})
    lines = [
        f"# Model card: {record['checkpoint']}",
        "",
        f"`{record['checkpoint_digest']}`",
        "",
        f"Policy: `{record['policy_digest']}`",
        "",
        f"**Release decision: {record['decision']}** ({record['decided']})",
        "",
        "## Model",
        "",
        *(f"- {key}: {value}" for key, value in model.items()),
        "",
        "## Training data",
        "",
        *_data(checkpoint),
        "",
        "## Evaluation",
        "",
        "| criterion | figure | 95 % bounds | required | verdict | evidence |",
        "|---|---|---|---|---|---|",
        *(_card_row(each) for each in record["criteria"]),
        "",
        "The bound decides the verdict, not the figure.",
        "",
        *(_card_evidence(key, each) for key, each in record["evidence"].items()),
        "",
        *_card_exceptions(record["criteria"]),
        "## Contamination",
        "",
        *(_contamination(key, each) for key, each in evaluations.items() if "contamination" in each.results),
        "",
        "## Limits",
        "",
        "- What is not in the table above was NOT MEASURED.",
        "- Removing a document from the data does not unlearn it from these weights.",
        "",
    ]
    return "\n".join(lines)


def _section(title: str, parts: Sequence[Html]) -> Html:
    return tag("section", tag("h2", title), *parts) if parts else join()


def _why(finding: Record) -> Html:
    return join(tag("h3", finding["criterion"], ": ", tag("span", finding["verdict"], cls="bad")), _reason(finding))


def _exception(finding: Record) -> Html:
    return join(
        tag("h3", finding["criterion"], ": ", finding["verdict"]), tag("p", finding["exception"]), _reason(finding)
    )


def _reason(finding: Record) -> Html:
    return tag("p", finding["reason"], ". Required: ", finding["target"], ".")


def _criteria(criteria: Sequence[Record]) -> Html:
    heads = ("Criterion", "Verdict", "Figure", "At least", "At most", "Required", "Items")
    rows = [
        (
            join(each["criterion"], tag("div", each["metric"], cls="soft")),
            tag("span", each["verdict"], cls="good" if each["verdict"] == "PASS" else "bad"),
            share(each["point"], 1, digits=2),
            share(each["lower"], 1, digits=2),
            share(each["upper"], 1, digits=2),
            each["target"],
            each["items"],
        )
        for each in criteria
    ]
    return table(heads, rows, right=(2, 3, 4, 6))


def _evidence(evidence: Mapping[str, Record]) -> Html:
    heads = ("Evidence", "Task", "Benchmark", "Answers", "Vouched for by", "Settings")
    rows = [
        (
            key,
            each["task"],
            join(each["benchmark"], tag("div", tag("code", each["benchmark_digest"][:23]), cls="soft")),
            each["answers"],
            each["made_by"],
            _settings(each["settings"]),
        )
        for key, each in evidence.items()
    ]
    return _section("What was measured", [table(heads, rows)] if rows else [])


def _settings(settings: Record) -> str:
    return ", ".join(f"{name} {_short(value)}" for name, value in sorted(settings.items()))


def _short(value: object) -> object:
    if isinstance(value, list):
        return " / ".join(map(str, value))
    return value[:23] if isinstance(value, str) else value


def _method(record: Record) -> list[str]:
    return [
        "A criterion passes if the exact one-sided 95 % bound of its figure reaches the target; the figure itself does "
        "not decide. For a baseline whose outcomes are known, the bound comes from a paired bootstrap over the items.",
        "Every figure was recomputed from the items of its evaluation, and every program was judged again. Evidence "
        "that is damaged, edited, incomplete or of another checkpoint is refused. A problem that occurs in the "
        "training data counts as failed.",
        "Apart from exceptions, decisions with the same policy digest had to show the same.",
        f"Decided {record['decided']} by ibidem gate. The same figures are in gate.json and MODEL_CARD.md.",
    ]


def _data(checkpoint: Artifact | None) -> list[str]:
    if checkpoint is None:
        return ["NOT MEASURED: this model was not trained here, so its data is unknown."]
    rows = []
    for _, state, node in walk(checkpoint.path):
        if isinstance(node, Artifact) and node.kind == "dataset":
            licenses = ", ".join(f"{name} ({n:,})" for name, n in list(node.counts.get("license", {}).items())[:8])
            rows.append(f"- `{node.path.name}` `{node.digest}`: {node.counts.get('kept', 0):,} documents; {licenses}")
        elif state == "source":
            rows.append(f"- source: {node.name}" if not isinstance(node, Artifact) else f"- source: {node.path}")
    return list(dict.fromkeys(rows)) or [
        "NOT MEASURED: the data is not where the checkpoint says, or was changed since, as by a takedown."
    ]


def _card_row(finding: Record) -> str:
    bounds = (
        "NOT MEASURED" if finding["lower"] is None else f"{percent(finding['lower'])} to {percent(finding['upper'])}"
    )
    digest = f"`{finding['evidence'][:23]}`" if finding["evidence"] else "nothing"
    cells = (
        finding["criterion"],
        percent(finding["point"]),
        bounds,
        finding["target"],
        f"{finding['verdict']}: {finding['reason']}",
        digest,
    )
    return f"| {' | '.join(str(cell).replace('|', '/') for cell in cells)} |"


def _card_evidence(key: str, each: Record) -> str:
    return (
        f"- {key}: {each['task']} of {each['benchmark']} (`{each['benchmark_digest'][:23]}`), {each['answers']}, "
        f"vouched for by {each['made_by']}; {_settings(each['settings'])}"
    )


def _card_exceptions(criteria: Sequence[Record]) -> list[str]:
    signed = [f"- {each['criterion']}: {each['exception']}" for each in criteria if each["exception"]]
    return ["## Exceptions", "", *signed, ""] if signed else []


def _contamination(key: str, evaluation: Evidence) -> str:
    hits = evaluation.results["contamination"]
    if hits is None:
        return f"- {key}: NOT MEASURED"
    return f"- {key}: {hits['problems']} of its problems occur in the {hits['documents']:,} documents of the data"
