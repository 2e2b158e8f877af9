"""The demo's one page of results: a self-contained HTML file with its pictures and plots inside."""

import base64
import html
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from pipelines.contract.words import counted
from pipelines.pages.charts import legend, lines, svg
from pipelines.pages.page import cell, figure, image, page, scrolled, verdict
from pipelines.storage.files import write_atomically
from trainers.demo.ablation import HEADS, ablation_rows, cells
from trainers.demo.outcomes import RolloutOutcome
from trainers.demo.results import Results, Shown
from trainers.evaluation.success import wilson

# What this page has beyond the style of all pages: strips of pictures, and bars inside table cells.
STYLE = """<style>
.strip { display: flex; gap: 4px; margin: 6px 0; } .strip img { width: calc((100% - 20px) / 6); }
.judged { white-space: nowrap; }
.films { display: grid; grid-template-columns: repeat(auto-fill, minmax(240px, 1fr)); gap: 12px; }
.films figure { margin: 0; } .films video { width: 100%; border-radius: 6px; }
.length { display: inline-block; height: 9px; border-radius: 3px; vertical-align: middle; }
.segments text { fill: #10243f; } .segments svg { width: 100%; }
</style>"""
ASKED = {"task": "", "blank": "<div class='muted'>with black pictures</div>"}
KIND_COLOURS = {"subtask": "#7aa6d8", "recovery": "#e8a35c", "idle": "#d5d8de"}
SEGMENT_COLOURS = ("#7aa6d8", "#9cc3a5", "#c7a6d8", "#e3c27a", "#8fc7cc", "#dba0a0")
BASELINES = {"repeat_state": ("repeat the state", "#c9ccd3"), "mean_action": ("training mean", "#9aa1ad")}
POLICIES = {
    "pretrained": ("pretrained", "#5b8fd0"),
    "posttrained": ("post-trained", "#12805c"),
    "segments": ("post-trained with segments", "#8a6fc4"),
    "scratch": ("from scratch, as post-trained", "#c98a2b"),
}


def write_report(path: Path, results: Results, faults: Sequence[str]) -> Path:
    """Writes the page and returns its path."""
    sections = (
        _verdict(results, faults),
        _rollouts(results),
        _videos(results),
        _errors(results),
        _ablation(results),
        _logged(results),
        _rejects(results),
        _segments(results),
        _shares(results),
        _curves(results),
        _times(results),
    )
    kind = "quick demo" if results.quick else "demo"
    write_atomically(path, page(f"embodimix {kind}", sections, head=STYLE).encode())
    return path


def _limits(results: Results) -> str:
    """What the averages hide: groups that post-training forgot, and units in which a baseline is still ahead."""
    others = [row for row in results.errors if not row.is_task]
    lost = [row for row in others if row.policies["posttrained"] >= min(row.repeat_state, row.mean_action)]
    behind = [
        f"{row.group} ({unit})"
        for row in results.errors
        for unit, repeat_state, mean_action, policies in row.physical
        if policies["pretrained"] >= min(repeat_state, mean_action)
    ]
    forgot = (
        f"Post-training saw one robot alone: in {len(lost)} of {len(others)} other groups a baseline is ahead of it. "
        if lost
        else ""
    )
    units = f"By unit a baseline is ahead of the pretrained policy in: {', '.join(behind)}." if behind else ""
    return f'<p class="muted">{html.escape(forgot + units)}</p>' if forgot or units else ""


def _verdict(results: Results, faults: Sequence[str]) -> str:
    """What the demo claims and whether it holds, above everything else."""
    episodes, rejects = sum(k.episodes for k in results.kept), sum(len(k.rejects) for k in results.kept)
    rates = " → ".join(f"{100 * _success(results, run):.0f}" for run in ("scratch", "pretrained", "posttrained"))
    numbers = (
        (f"{rates} %", "success on the tasks: from scratch → pretrained → post-trained"),
        (len(results.kept), "datasets, from native logs"),
        (len({s.robot for s in results.shown}), "robots"),
        (episodes, "episodes kept"),
        (rejects, "rejected, by name"),
        (f"{results.cpu_s:.0f} s", "of CPU in all stages, which run two at a time"),
    )
    cards = "".join(
        f'<div class="card"><div class="big">{number}</div><div class="muted">{text}</div></div>'
        for number, text in numbers
    )
    return (
        "<h1>From native robot logs to a post-trained policy</h1>"
        f"{_judgement(results, faults)}"
        '<p class="muted">Demonstrations of five robots, drawn by a small world and written as OXE/RLDS, Bridge raw, '
        "DROID raw, in-house zarr logs and MCAP bags; converted to one 18-slot form; mixed by n<sup>0.43</sup>; a "
        "tiny pi0 pretrained on hesitant demonstrations of all robots and post-trained on fluent ones of one robot's "
        "two tasks. Things lie elsewhere in every episode and only the pictures show where.</p>"
        f'<div class="cards">{cards}</div>'
    )


def _judgement(results: Results, faults: Sequence[str]) -> str:
    rows = [
        f"<tr><td class='judged {'good' if claim.holds else 'bad'}'><b>{'holds' if claim.holds else 'fails'}</b></td>"
        f"{cell(claim.text)}"
        f"<td class='number'>{html.escape(claim.found).replace(' against ', '<br>against ')}</td></tr>"
        for claim in results.claims
    ]
    table = f"<div class='card'>{_table(('', 'claim', '#found, with 95 % interval'), rows)}</div>" if rows else ""
    known = {f"{claim.text}: found {claim.found}" for claim in results.claims}
    others = "".join(f'<li class="bad">{html.escape(fault)}</li>' for fault in faults if fault not in known)
    if faults:
        failed = sum(not claim.holds for claim in results.claims)
        first = f"{failed} of {len(rows)} claims do not hold." if failed else "not all is as it should be."
        return f"{verdict('bad', f'No: {first}')}{table}{f'<ul>{others}</ul>' if others else ''}"
    if results.quick:
        return verdict(
            "flag",
            "Every stage ran, the counts add up, and the losses fell.",
            "A quick demo trains too briefly to claim anything about success; `embodimix demo` without `--quick` does.",
        )
    return f"{verdict('good', f'Yes: all {len(rows)} claims hold.')}{table}"


def _success(results: Results, run: str) -> float:
    """The part of the trials on the post-training tasks that succeeded, asked by the task's sentence."""
    of_it = [
        one for one in results.rollouts[run] if one.condition == "task" and f"{one.task}@{one.robot}" in results.tasks
    ]
    return sum(one.successes for one in of_it) / max(1, sum(one.episodes for one in of_it))


def _errors(results: Results) -> str:
    """Open-loop error per group beside the baselines, as bars and in physical units."""
    pages = ", ".join(
        f'<a href="{html.escape(path)}">{POLICIES[run][0]}</a>' for run, path in results.evaluation_pages.items()
    )
    cases = BASELINES | {run: POLICIES[run] for run in results.evals}
    values = [
        {"repeat_state": row.repeat_state, "mean_action": row.mean_action, **row.policies} for row in results.errors
    ]
    top = max(max(of_row.values()) for of_row in values)
    rows = []
    for row, of_row in zip(results.errors, values, strict=True):
        bars = [
            f'<div title="{label}"><span class="length" style="width:{280 * of_row[name] / top:.0f}px;'
            f'background:{colour}"></span> {of_row[name]:.3f}</div>'
            for name, (label, colour) in cases.items()
        ]
        physical = "".join(
            f"<div>{unit}: {hold:.3f} / {mean:.3f} → "
            + " → ".join(f"<b{_tint(run, row.is_task)}>{error:.3f}</b>" for run, error in errors.items())
            + "</div>"
            for unit, hold, mean, errors in row.physical
            if max(hold, mean) > 0.0005
        )
        note = "post-trained for; " if row.is_task else ""
        rows.append(
            f"<tr><td>{html.escape(row.group)}<div class='muted'>{note}{counted(row.samples, 'sample')}</div></td>"
            f"<td style='white-space:nowrap'>{''.join(bars)}</td><td class='number'>{physical}</td></tr>"
        )
    order = " → ".join(POLICIES[run][0] for run in results.evals)
    drawn = scrolled(f"<table>{''.join(rows)}</table>", "errors")
    legend = " &nbsp; ".join(
        f'<span class="length" style="width:12px;background:{colour}"></span> {label}'
        for label, colour in cases.values()
    )
    return (
        "<h2>Error on held-out episodes</h2><p>Mean absolute difference between the predicted and the demonstrated "
        "chunk of actions, open loop. A lower error is no success: compare with the table above. Left: in units of the "
        "normalization. Right: in physical units, "
        f"<i>repeat the state / training mean → {order}</i>; grippers are a fraction from open to "
        f"closed. By slot and sample: {pages}.</p>{_limits(results)}"
        f"<div class='card'><p>{legend}</p>{drawn}</div>"
    )


def _tint(run: str, is_task: bool) -> str:
    return " class='good'" if run == "posttrained" and is_task else ""


def _rollouts(results: Results) -> str:
    """Success in closed loop: how often each policy lifted what the sentence meant."""
    by_run = {
        run: {(one.task, one.robot, one.condition): one for one in outcomes}
        for run, outcomes in results.rollouts.items()
    }
    cases = [case for case in dict.fromkeys(c for of_run in by_run.values() for c in of_run) if case[2] in ASKED]
    rows = []
    for case in cases:
        cells = "".join(_outcome_cell(of_run.get(case)) for of_run in by_run.values())
        rows.append(f"<tr><td>{html.escape(case[0])}@{case[1]}{ASKED[case[2]]}</td>{cells}</tr>")
    return (
        "<h2>Success in closed loop</h2><p>The generator is also a small simulator: in new scenes, the same for every "
        "policy, the policy observes, carries out a part of its chunk, and observes again, until something is lifted "
        "or time is over. With two cubes on the table, the sentence decides which one counts.</p>"
        f"<div class='card'>{_table(('task', *(f'#{POLICIES[run][0]}' for run in by_run)), rows)}</div>"
    )


def _outcome_cell(one: RolloutOutcome | None) -> str:
    if one is None:
        return "<td></td>"
    low, high = wilson(one.successes, one.episodes)
    other = f"<br>{one.lifted_other} lifted the other one" if one.lifted_other else ""
    return (
        f"<td class='number'><b>{100 * one.successes / one.episodes:.0f} %</b><br><span class='muted'>"
        f"{100 * low:.0f}-{100 * high:.0f} %, {one.successes}/{one.episodes}{other}</span></td>"
    )


def _videos(results: Results) -> str:
    """The first scenes of each task, as the post-trained policy acted in them."""
    figures = [
        f'<figure><video controls muted loop preload="metadata" src="data:video/mp4;base64,'
        f'{base64.b64encode(video.content).decode()}"></video><figcaption class="muted">{html.escape(video.caption)} '
        f'(<a href="videos/{html.escape(video.name)}">file</a>)</figcaption></figure>'
        for video in results.videos
    ]
    if not figures:
        return ""
    return (
        "<h2>Rollouts to watch</h2><p>The first new scenes of each task, whatever came of them, with the post-trained "
        "policy at the controls: what its cameras see, at its own speed.</p>"
        f"<div class='films'>{''.join(figures)}</div>"
    )


def _ablation(results: Results) -> str:
    """The ablation's table and how to read it, where the ablation was run."""
    if "segments" not in results.rollouts:
        return ""
    heads = (*HEADS[:2], *(f"#{head}" for head in HEADS[2:]))
    rows = []
    for row in ablation_rows(results):
        policy, asked_by, *numbers = map(html.escape, cells(row))
        rows.append(
            f"<tr><td>{policy}</td><td>{asked_by}</td>"
            + "".join(f"<td class=number>{number}</td>" for number in numbers)
            + "</tr>"
        )
    return (
        "<h2>What pretraining and segment language are good for</h2><p>Two cubes lie on the table, and the sentence "
        "says which one to lift. All policies but the first were trained on this robot's demonstrations for the same "
        "number of steps; all act in the same new scenes. A policy is asked by the task's sentence, or by the sentence "
        "of the next step: given by a script that knows the scene, or chosen by a high-level policy that "
        "sees joints and grippers and learned from the labelled segments.</p>"
        f"<div class='card'>{_table(heads, rows)}</div>"
    )


def _logged(results: Results) -> str:
    cards = []
    for shown in results.shown:
        strips = "".join(
            f'<div class="strip">{"".join(image(frame, camera, kind="jpeg") for frame in frames)}</div>'
            for camera, frames in shown.frames.items()
            for frames in shown.frames.values()
        )
        cards.append(
            f'<div class="card"><h3>{html.escape(shown.robot)}: “{html.escape(shown.task)}”</h3>'
            f'<div class="muted">{shown.dataset} · {shown.control_mode} · {shown.control_hz:g} Hz · {shown.n_steps} '
            f"steps · {', '.join(shown.frames)}</div>{strips}</div>"
        )
    return (
        "<h2>What the shards hold</h2><p>One kept episode of each task, as stored: 224 x 224, black bars where the "
        f"source had another shape.</p>{''.join(cards)}"
    )


def _rejects(results: Results) -> str:
    kept = [
        f"<tr><td>{k.name}</td><td>{', '.join(k.robots)}</td><td class='number'>{k.episodes}</td>"
        f"<td class='number'>{k.steps}</td><td class='number'>{len(k.rejects)}</td></tr>"
        for k in results.kept
    ]
    lost = [
        f"<tr><td>{k.name}</td><td>{html.escape(key)}</td><td>{reason}</td><td>{html.escape(detail)}</td></tr>"
        for k in results.kept
        for key, reason, detail in k.rejects
    ]
    return (
        "<h2>Kept and rejected</h2><p>The generator breaks two episodes on purpose. Nothing is dropped unseen: every "
        "native episode is in a shard or in this table.</p>"
        f"<div class='card'>{_table(('dataset', 'robots', '#episodes', '#steps', '#rejected'), kept)}</div>"
        f"<div class='card'>{_table(('dataset', 'episode', 'reason', 'what was found'), lost)}</div>"
    )


def _segments(results: Results) -> str:
    longest = max(shown.duration_s for shown in results.shown)
    lines = "".join(_timeline(shown, longest) for shown in results.shown)
    return (
        "<h2>Segments</h2><p>Proposed from motion alone: cut at gripper events and speed minima, about two seconds "
        f"each; point at one to read its text.</p><div class='card segments'>{lines}</div>"
    )


def _timeline(shown: Shown, longest_s: float) -> str:
    width, per_s = 1040, 1040 / longest_s
    boxes = []
    for k, (start, end, text, kind) in enumerate(shown.segments):
        colour = SEGMENT_COLOURS[k % len(SEGMENT_COLOURS)] if kind == "subtask" else KIND_COLOURS[kind]
        box, label = (end - start) * per_s, html.escape(text)
        short = label if len(text) * 6.2 < box else html.escape(text[: max(0, int(box / 6.2) - 1)]) + "…"
        boxes.append(
            f'<g><title>{label} ({start:.1f}-{end:.1f} s)</title><rect x="{start * per_s:.1f}" y="0" '
            f'width="{max(box - 2, 1):.1f}" height="24" rx="3" fill="{colour}"/><text x="{start * per_s + 5:.1f}" '
            f'y="16">{short if box > 24 else ""}</text></g>'
        )
    return (
        f'<div class="muted">{html.escape(shown.robot)}: “{html.escape(shown.task)}”, {shown.duration_s:.1f} s</div>'
        f"{svg(width, 30, boxes, f'segments of {shown.task}')}"
    )


def _shares(results: Results) -> str:
    """Each group's part of the data, what the rule makes of it, and what training drew."""
    rows, top = [], max(max(group.raw_share, group.share) for group in results.plan)
    for group in results.plan:
        drawn = results.drawn.get(group.name, 0.0)
        bars = "".join(
            f'<div><span class="length" style="width:{200 * share / top:.0f}px;background:{colour}"></span></div>'
            for share, colour in ((group.raw_share, "#c9ccd3"), (group.share, "#5b8fd0"), (drawn, "#12805c"))
        )
        shares = (group.raw_share, group.share, drawn)
        cells = "".join(f"<td class='number'>{100 * share:.1f} %</td>" for share in shares)
        rows.append(
            f"<tr><td>{html.escape(group.name)}</td><td class='number'>{group.n_episodes}</td>"
            f"<td class='number'>{group.n_steps}</td>{cells}<td class='number'>{group.effective_epochs:.1f}</td>"
            f"<td>{bars}</td></tr>"
        )
    heads = ("group", "#episodes", "#steps", "#part of the data", "#share by n^0.43", "#drawn", "#epochs", "")
    return (
        "<h2>Mixture</h2><p>A group is a task on a robot. Its share of the draws goes with its number of steps to the "
        "power 0.43, so that big groups do not drown small ones; the last share is what pretraining really "
        f"drew.</p><div class='card'>{_table(heads, rows)}</div>"
    )


def _curves(results: Results) -> str:
    charts = []
    for run, losses in results.losses.items():
        steps, values = losses[:, 0], losses[:, 1]
        width = max(1, len(values) // 30)
        smooth = np.convolve(values, np.ones(width) / width, mode="valid")
        # The loss falls by tenths from its first steps on: on a plain axis all that comes later is one flat line.
        series = {"running mean": (steps[width - 1 :], np.log10(smooth)), "each step": (steps, np.log10(values))}
        charts.append(figure(lines(series, "step", "log10 of the flow matching loss", width=340), run))
    names = legend(["running mean", "each step"])
    return f"<h2>Training</h2><p>{names}</p><div class='card row'>{''.join(charts)}</div>"


def _times(results: Results) -> str:
    rows = [
        f"<tr><td><a href='stages/{name}.log'>{name.replace('_', ' ')}</a></td>"
        f"<td class='number'>{seconds.cpu:.1f}</td><td class='number'>{seconds.wall:.1f}</td></tr>"
        for name, seconds in results.seconds.items()
    ]
    return (
        "<h2>Seconds per stage</h2><p>Some run two at a time; the commands are printed by <code>embodimix demo</code>, "
        "their output is behind the links.</p>"
        f"<div class='card'>{_table(('stage', '#of CPU', '#of wall time'), rows)}</div>"
    )


def _table(heads: Sequence[str], rows: Iterable[str]) -> str:
    """A table; heads that begin with # stand over numbers."""
    cells = "".join(f"<th class='number'>{h[1:]}</th>" if h.startswith("#") else f"<th>{h}</th>" for h in heads)
    return scrolled(f"<table><tr>{cells}</tr>{''.join(rows)}</table>", "table")
