"""Label requests for segments of an episode: times, motion phrases, contact sheets, and the label before."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO

from annotation_tools.episodes import EpisodeStore
from pipelines.contract.episode import Segment
from pipelines.contract.images import decode_jpeg

PROMPT_VERSION = "1"
ANSWER_SCHEMA = {
    "type": "object",
    "additionalProperties": False,
    "required": ["segments"],
    "properties": {
        "segments": {
            "type": "array",
            "minItems": 1,
            "items": {
                "type": "object",
                "additionalProperties": False,
                "required": ["start_s", "end_s", "text", "kind", "success"],
                "properties": {
                    "start_s": {"type": "number"},
                    "end_s": {"type": "number"},
                    "text": {"type": "string"},
                    "kind": {"type": "string", "enum": ["subtask", "recovery", "idle"]},
                    "success": {"type": "integer", "enum": [-1, 0, 1]},
                },
            },
        }
    },
}
INSTRUCTIONS = (
    "You label what a robot does, for training a policy that follows language. You get one episode, or a part of it, "
    "cut into segments by its motion, and a contact sheet per segment: frames of the segment from left to right, one "
    "row per camera, the time in seconds above each. Say for each segment what the robot achieves in it, as a short "
    "imperative sentence that names objects and the arm where there are two, for example 'pick up the blue cup with "
    "the left arm'. kind is recovery where the robot repairs a failure, idle where nothing happens, otherwise subtask. "
    "success is 1 where the segment reaches its aim, 0 where it fails, -1 where that cannot be seen. You may join "
    "neighbouring segments or move a boundary if the pictures show it, but cover the whole time without gaps. Answer "
    'with JSON alone: {"segments": [{"start_s", "end_s", "text", "kind", "success"}]}.'
)


@dataclass(frozen=True, kw_only=True)
class LabelRequest:
    """One question: consecutive segments of one episode, as proposed.

    sheets: a JPEG contact sheet per segment, empty for labelers that look at no pictures. before: the label just
    before, or the proposal's text there. after: the text of the proposal just after.
    """

    episode_id: str
    task: str
    robot: str
    control_hz: float
    segments: tuple[Segment, ...]
    before: str = ""
    after: str = ""
    sheets: tuple[bytes, ...] = ()

    @property
    def start(self) -> int:
        return self.segments[0].start

    @property
    def end(self) -> int:
        return self.segments[-1].end

    def describe(self) -> str:
        """The question in words."""
        lines = [f"Task: {self.task}", f"Robot: {self.robot}"]
        if self.before:
            lines.append(f"Just before: {self.before}")
        for number, segment in enumerate(self.segments):
            start_s, end_s = segment.start / self.control_hz, segment.end / self.control_hz
            lines.append(f"Segment {number}: {start_s:.2f} s to {end_s:.2f} s, motion: {segment.text}")
        if self.after:
            lines.append(f"Just after: {self.after}")
        return "\n".join(lines)

    def to_json(self) -> dict[str, object]:
        """What a subprocess gets, without the pictures."""
        hz = self.control_hz
        segments = [
            {"start_s": s.start / hz, "end_s": s.end / hz, "text": s.text, "kind": s.kind, "arms": list(s.arms)}
            for s in self.segments
        ]
        return {
            "schema": "embodimix.label_request/v1",
            "episode_id": self.episode_id,
            "task": self.task,
            "robot": self.robot,
            "before": self.before,
            "after": self.after,
            "segments": segments,
        }

    def key(self, fingerprint: str) -> str:
        """Names question and labeler by their content: 64 hex digits; equal ones need not be asked twice."""
        digest = hashlib.sha256(f"{PROMPT_VERSION} {fingerprint}".encode())
        digest.update(json.dumps([self.to_json(), self.start, self.end], sort_keys=True).encode())
        for sheet in self.sheets:
            digest.update(hashlib.sha256(sheet).digest())
        return digest.hexdigest()


def make_requests(
    store: EpisodeStore, episode_id: str, segments: Sequence[Segment], *, with_pictures: bool, per_request: int = 8
) -> Iterator[LabelRequest]:
    """Splits an episode's segments into questions of at most `per_request` segments each."""
    brief = store.brief(episode_id)
    for first in range(0, len(segments), per_request):
        part = tuple(segments[first : first + per_request])
        after = segments[first + len(part)].text if first + len(part) < len(segments) else ""
        yield LabelRequest(
            episode_id=episode_id,
            task=brief.task,
            robot=brief.robot,
            control_hz=brief.control_hz,
            segments=part,
            before=segments[first - 1].text if first else "",
            after=after,
            sheets=tuple(contact_sheet(store, episode_id, segment) for segment in part) if with_pictures else (),
        )


def contact_sheet(store: EpisodeStore, episode_id: str, segment: Segment, columns: int = 4) -> bytes:
    """A JPEG of a segment: `columns` frames evenly over it, one row per camera, the time in s above each column."""
    from PIL import Image, ImageDraw

    side, head = 224, 18
    last = segment.end - 1
    steps = [segment.start + round((last - segment.start) * i / (columns - 1)) for i in range(columns)]
    cameras = store.cameras(episode_id)
    sheet = Image.new("RGB", (side * columns, head + side * max(1, len(cameras))))
    draw = ImageDraw.Draw(sheet)
    for column, step in enumerate(steps):
        draw.text((side * column + 4, 3), f"{step / store.brief(episode_id).control_hz:.2f} s", fill=(255, 255, 255))
        for row, camera in enumerate(cameras):
            picture = Image.fromarray(decode_jpeg(store.jpeg(episode_id, camera, step)))
            sheet.paste(picture, (side * column, head + side * row))
    encoded = BytesIO()
    sheet.save(encoded, "JPEG", quality=85)
    return encoded.getvalue()
