"""The page of a policy server: what it serves, how fast, and how often it refused."""

import html
from collections.abc import Mapping
from typing import Any

CSS = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 60rem; padding: 0 1rem; color: #222 }
table { border-collapse: collapse; margin: .5rem 0 1.5rem } th, td { padding: .25rem .8rem; border-bottom: 1px solid
#ddd; text-align: left; vertical-align: top } td.number { text-align: right; font-variant-numeric: tabular-nums }
.soft { color: #666 } .bad { color: #b00020 }
"""
MEANINGS = {"infer_ms": "computing the actions", "total_ms": "from the message to the answer sent"}


def render(metadata: Mapping[str, Any], report: Mapping[str, Any]) -> str:
    """The page as HTML; it reloads itself every five seconds."""
    run = html.escape(str(metadata["run"]))
    last = f"<p class=bad>Last error: {html.escape(report['last_error'])}</p>" if report["last_error"] else ""
    unhealthy = f"<p class=bad>Not healthy: {html.escape(report['unhealthy'])}</p>" if report["unhealthy"] else ""
    cut = (
        f"<p class=bad>{report['cut_prompts']} prompts were longer than the model reads; their end was lost.</p>"
        if report["cut_prompts"]
        else ""
    )
    return (
        "<!doctype html><html lang=en><meta charset=utf-8><meta http-equiv=refresh content=5>"
        f"<title>{run}</title><style>{CSS}</style><h1>{run} at step {metadata['step']}</h1>"
        f"<p>Model {html.escape(metadata['model'])}, {metadata['flow_steps']} flow steps, chunks of "
        f"{metadata['horizon']}; up {report['uptime_s']:.0f} s, {report['connections']} connected. Answered "
        f"{report['answered']}, refused {report['refused']}, failed {report['failed']}, dropped "
        f"{report['dropped']} that did not read.</p>{unhealthy}{cut}{last}"
        f"<h2>Latency</h2>{_latency(report['latency_ms'])}<h2>Robots</h2>{_robots(metadata)}</html>"
    )


def _latency(latency: Mapping[str, Mapping[str, float]]) -> str:
    if not latency:
        return "<p class=soft>No request yet.</p>"
    heads = "".join(f"<th>{name}" for name in next(iter(latency.values())))
    rows = "".join(
        f"<tr><td>{MEANINGS[name]}" + "".join(f"<td class=number>{ms:.1f} ms" for ms in values.values())
        for name, values in latency.items()
    )
    return f"<table><tr><th>of the last thousand answers{heads}</tr>{rows}</table>"


def _robots(metadata: Mapping[str, Any]) -> str:
    rows = []
    for key, robot in metadata["robots"].items():
        mark = " <b>(of observations that name none)</b>" if key == metadata["robot"] else ""
        rows.append(
            f"<tr><td>{html.escape(key)}{mark}<td class=number>{robot['control_hz']:g} Hz"
            f"<td class=number>{robot['open_loop_steps']}<td>{_listed(robot['state'])}<td>{_listed(robot['action'])}"
        )
    head = "<tr><th>robot<th>rate<th>actions sent<th>state<th>action</tr>"
    return f"<table>{head}{''.join(rows)}</table><p>Cameras: {html.escape(', '.join(metadata['cameras']))}</p>"


def _listed(names: list[str]) -> str:
    """Slots of one part and unit together: `arm0[0-5] (rad), gripper0 (gripper)`."""
    parts: dict[tuple[str, str], list[str]] = {}
    for name in names:
        slot, _, unit = name.partition(" ")
        part, _, index = slot.partition("[")
        parts.setdefault((part, unit), []).append(index.rstrip("]"))
    listed = [f"{part}{_range(indices)} {unit}" for (part, unit), indices in parts.items()]
    return html.escape(", ".join(listed)) or "nothing"


def _range(indices: list[str]) -> str:
    if not indices[0]:
        return ""
    return f"[{indices[0]}]" if len(indices) == 1 else f"[{indices[0]}-{indices[-1]}]"
