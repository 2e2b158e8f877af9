"""ELAN: one `<episode_id>.eaf` per episode with the tiers text, kind, arms, success and confidence.

Times are in ms, which separates steps up to 500 Hz. A tier that is missing leaves the default.
"""

import re
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from pathlib import Path

from annotation_tools.exchange.clips import Clip, Collector, EpisodeNames, Imported
from pipelines.contract.episode import Segment
from pipelines.contract.errors import FailedWork
from pipelines.storage.files import write_atomically

_TIERS = ("text", "kind", "arms", "success", "confidence")
_TYPE = "segment"
_FORBIDDEN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]")  # XML cannot encode these.


def write(directory: Path, clips: Sequence[Clip]) -> list[Path]:
    """Writes a file per episode."""
    paths = []
    for clip in clips:
        paths.append(directory / f"{clip.episode_id}.eaf")
        write_atomically(paths[-1], ET.tostring(_document(clip), encoding="utf-8", xml_declaration=True))
    return paths


def read(path: Path, names: EpisodeNames) -> Imported:
    """Reads every .eaf in a folder; its name is an episode's id, key or file. Raises FailedWork for another form."""
    found = Collector(where=str(path))
    files = sorted(path.glob("*.eaf"))
    if not files:
        raise FailedWork(f"{path}: expected files *.eaf, found none")
    for file in files:
        if (match := names.match(file.stem)) is None:
            found.absent.append(file.stem)
        else:
            segments = _segments(file, match.brief.control_hz)
            # A file named by the source's key counts the source's frames; one named by our id, our steps.
            found.add(match, segments if file.stem == match.brief.episode_id else match.place(segments))
    return found.finish()


def _document(clip: Clip) -> ET.Element:
    root = ET.Element(
        "ANNOTATION_DOCUMENT", AUTHOR="embodimix", DATE="2000-01-01T00:00:00+00:00", FORMAT="3.0", VERSION="3.0"
    )
    ET.SubElement(root, "HEADER", MEDIA_FILE="", TIME_UNITS="milliseconds")
    order = ET.SubElement(root, "TIME_ORDER")
    steps = sorted({step for segment in clip.segments for step in (segment.start, segment.end)})
    slots = {step: f"ts{number}" for number, step in enumerate(steps, start=1)}
    for step, slot in slots.items():
        ET.SubElement(order, "TIME_SLOT", TIME_SLOT_ID=slot, TIME_VALUE=str(round(step / clip.control_hz * 1000)))
    number = 0
    for tier_name in _TIERS:
        tier = ET.SubElement(root, "TIER", LINGUISTIC_TYPE_REF=_TYPE, TIER_ID=tier_name)
        for segment in clip.segments:
            number += 1
            attributes = {
                "ANNOTATION_ID": f"a{number}",
                "TIME_SLOT_REF1": slots[segment.start],
                "TIME_SLOT_REF2": slots[segment.end],
            }
            aligned = ET.SubElement(ET.SubElement(tier, "ANNOTATION"), "ALIGNABLE_ANNOTATION", attributes)
            ET.SubElement(aligned, "ANNOTATION_VALUE").text = _FORBIDDEN.sub("\ufffd", _value(segment, tier_name))
    ET.SubElement(root, "LINGUISTIC_TYPE", LINGUISTIC_TYPE_ID=_TYPE, TIME_ALIGNABLE="true", GRAPHIC_REFERENCES="false")
    return root


def _value(segment: Segment, tier_name: str) -> str:
    value = getattr(segment, tier_name)
    return " ".join(value) if tier_name == "arms" else str(value)


def _segments(file: Path, control_hz: float) -> list[Segment]:
    content = file.read_bytes()
    if b"<!DOCTYPE" in content or b"<!ENTITY" in content:
        raise FailedWork(f"{file}: expected an ELAN file, found entity definitions, which are refused")
    try:
        root = ET.fromstring(content)
        slots = {slot.attrib["TIME_SLOT_ID"]: int(slot.attrib["TIME_VALUE"]) for slot in root.iter("TIME_SLOT")}
        tiers = {tier.attrib["TIER_ID"]: _annotations(tier, slots) for tier in root.iter("TIER")}
    except (ET.ParseError, KeyError, ValueError) as error:
        raise FailedWork(f"{file}: expected an ELAN file, found {error!r}") from error
    if "text" not in tiers:
        raise FailedWork(f"{file}: expected a tier named text, found {', '.join(tiers) or 'none'}")
    segments = []
    for times, text in sorted(tiers["text"].items()):
        start_ms, end_ms = times
        values = {name: tier[times] for name, tier in tiers.items() if times in tier}
        try:
            segments.append(
                Segment(
                    start=round(start_ms / 1000 * control_hz),
                    end=round(end_ms / 1000 * control_hz),
                    text=text,
                    kind=values.get("kind", "subtask"),  # type: ignore[arg-type]
                    arms=tuple(values.get("arms", "").split()),
                    success=int(values.get("success", "-1")),
                    confidence=float(values.get("confidence", "1.0")),
                    source="source",
                )
            )
        except ValueError as error:
            raise FailedWork(f"{file}: {start_ms} ms: expected numbers in success and confidence: {error}") from error
    return segments


def _annotations(tier: ET.Element, slots: dict[str, int]) -> dict[tuple[int, int], str]:
    return {
        (slots[a.attrib["TIME_SLOT_REF1"]], slots[a.attrib["TIME_SLOT_REF2"]]): a.findtext("ANNOTATION_VALUE") or ""
        for a in tier.iter("ALIGNABLE_ANNOTATION")
    }
