"""The status page of a policy server: whether it is healthy, the last hour, and what it serves."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from pipelines.contract.words import counted
from pipelines.pages.charts import legend, lines
from pipelines.pages.page import page, table, verdict

MEANINGS = {"infer_ms": "computing the actions", "total_ms": "from the message to the answer sent"}
RELOAD = '<meta http-equiv="refresh" content="5">'


def render(metadata: Mapping[str, Any], report: Mapping[str, Any]) -> str:
    """The page as HTML; it reloads itself every five seconds."""
    about = (
        f"Model {metadata['model']}, {metadata['flow_steps']} flow steps, chunks of {metadata['horizon']}; up "
        f"{report['uptime_s']:.0f} s, {report['connections']} connected. Answered {report['answered']}, refused "
        f"{report['refused']}, failed {report['failed']}, dropped {report['dropped']} that did not read."
    )
    title = f"{metadata['run']} at step {metadata['step']}"
    sections = [
        f"<h1>{escape(title)}</h1>{_verdict(metadata, report)}<p>{escape(about)}</p>",
        _over_time(report["series"]),
        _outside(report),
        f"<h2>Latency</h2>{_latency(report['latency_ms'])}",
        f"<h2>Robots</h2>{_robots(metadata)}",
    ]
    return page(title, sections, head=RELOAD)


def _verdict(metadata: Mapping[str, Any], report: Mapping[str, Any]) -> str:
    """Whether the server is healthy, and what a person should look at."""
    outside, states = report["states_outside"], report["states"]
    faults = [
        f"{outside} of {states} states lie outside the range of the training data: the policy has to guess there."
        if outside
        else "",
        f"{report['cut_prompts']} prompts were longer than the model reads; their end was lost."
        if report["cut_prompts"]
        else "",
        f"Last error: {report['last_error']}" if report["last_error"] else "",
        _model_fault(metadata, report),
    ]
    found = [fault for fault in faults if fault]
    if report["unhealthy"]:
        return verdict("bad", f"Not healthy: {report['unhealthy']}.", *found)
    if found:
        return verdict("flag", "Healthy: robots get answers. Look at this:", *found)
    return verdict("good", "Healthy: robots get answers, and nothing was refused.")


def _over_time(series: Sequence[Mapping[str, Any]]) -> str:
    """The last hour in spans of ten seconds."""
    if len(series) < 2:
        return ""
    minutes = [span["start_s"] / 60 for span in series]
    nan = float("nan")
    latency = {
        name: (minutes, [nan if span[key] is None else span[key] for span in series])
        for name, key in (("median", "median_ms"), ("slowest", "slowest_ms"))
    }
    names = ("answered", "refused", "failed", "outside")
    counts = {name: (minutes, [span[name] for span in series]) for name in names}
    charts = (
        ("milliseconds from message to answer", latency, "ms"),
        ("requests in ten seconds; outside: states beyond the training range", counts, "requests"),
    )
    drawn = "".join(
        f"<figure style='width:480px'>{lines(of, 'minutes since the start', unit)}"
        f"<figcaption>{legend(list(of))}<br>{caption}</figcaption></figure>"
        for caption, of, unit in charts
        if any(value == value for _, values in of.values() for value in values)
    )
    return f"<h2>The last hour</h2><div class='row'>{drawn}</div>"


def _outside(report: Mapping[str, Any]) -> str:
    if not report["outside"]:
        return ""
    rows = [[row["robot"], row["slot"], f"{row['states']:,}"] for row in report["outside"]]
    return f"<h2>States outside the training range</h2>{table(('robot', 'slot', 'states'), rows)}"


def _model_fault(metadata: Mapping[str, Any], report: Mapping[str, Any]) -> str:
    """What went wrong with the high-level model, "" for nothing."""
    counts = report["high_level_answers"]
    if not counts or not counts["fell_back"]:
        return ""
    return (
        f"The high-level model {metadata['high_level']} gave no usable answer to {counts['fell_back']} of "
        f"{counted(counts['asked'], 'question')}; robots went on with the sentence before. The last: "
        f"{counts['last_fault']}"
    )


def _latency(latency: Mapping[str, Mapping[str, float]]) -> str:
    if not latency:
        return '<p class="muted">No request yet.</p>'
    heads = ("of the last thousand answers", *next(iter(latency.values())))
    return table(heads, [[MEANINGS[name], *(f"{ms:.1f} ms" for ms in of.values())] for name, of in latency.items()])


def _robots(metadata: Mapping[str, Any]) -> str:
    rows = [
        [
            f"{key} (of observations that name none)" if key == metadata["robot"] else key,
            f"{robot['control_hz']:g} Hz",
            str(robot["open_loop_steps"]),
            _listed(robot["state"]),
            _listed(robot["action"]),
        ]
        for key, robot in metadata["robots"].items()
    ]
    cameras = escape(", ".join(metadata["cameras"]))
    return f"{table(('robot', 'rate', 'actions sent', 'state', 'action'), rows)}<p>Cameras: {cameras}</p>"


def _listed(names: list[str]) -> str:
    """Slots of one part and unit together: `arm0[0-5] (rad), gripper0 (gripper)`."""
    parts: dict[tuple[str, str], list[str]] = {}
    for name in names:
        slot, _, unit = name.partition(" ")
        part, _, index = slot.partition("[")
        parts.setdefault((part, unit), []).append(index.rstrip("]"))
    listed = [f"{part}{_range(indices)} {unit}" for (part, unit), indices in parts.items()]
    return ", ".join(listed) or "nothing"


def _range(indices: list[str]) -> str:
    if not indices[0]:
        return ""
    return f"[{indices[0]}]" if len(indices) == 1 else f"[{indices[0]}-{indices[-1]}]"
