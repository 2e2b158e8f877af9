"""The labeler that asks a vision model over HTTP: any endpoint with the chat-completions protocol of OpenAI."""

import base64
import http.client
import ipaddress
import json
import math
import os
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass
from typing import Any

from annotation_tools.labels.labelers import LabelerAnswer, QuestionRefused, Unavailable, Usage
from annotation_tools.labels.request import ANSWER_SCHEMA, INSTRUCTIONS, LabelRequest
from pipelines.contract.episode import SegmentSource
from pipelines.contract.errors import FailedWork, UsageError

_MAX_ANSWER_BYTES = 4 << 20
_TOKENS_PER_SEGMENT = 45


@dataclass(frozen=True, kw_only=True)
class HttpLabeler:
    """Asks `model` at `url`, for example http://localhost:8000/v1.

    key_variable: the environment variable that holds the key, so that no key is stored anywhere; without it none is
    sent. is_plain_allowed: send the key over plain http to another machine, too. usd_in, usd_out: prices per million
    tokens.
    """

    url: str
    model: str
    key_variable: str = ""
    is_plain_allowed: bool = False
    name: str = ""
    timeout_s: float = 120.0
    usd_in: float = 0.0
    usd_out: float = 0.0
    wants_pictures: bool = True
    source: SegmentSource = "model"

    def __post_init__(self) -> None:
        parts = urllib.parse.urlsplit(self.url)
        if parts.scheme not in ("http", "https"):
            raise UsageError(f"--url: expected http:// or https://, found {self.url!r}")
        if "@" in parts.netloc:
            raise UsageError("--url: expected no name or password in it; name the key with --key-variable")
        is_readable = parts.scheme == "http" and not _is_this_machine(parts.hostname or "")
        if self.key_variable and is_readable and not self.is_plain_allowed:
            raise UsageError(
                f"--url {self.url}: expected https:// where a key is sent to another machine, found http://, which "
                "anyone on the way can read. Use https, or --plain-http-key if the network is your own."
            )
        if not self.name:
            object.__setattr__(self, "name", self.model.rsplit("/", 1)[-1])

    @property
    def fingerprint(self) -> str:
        return f"chat {self.model}"

    def answer(self, request: LabelRequest, complaint: str) -> LabelerAnswer:
        body = json.dumps(self._body(request, complaint)).encode()
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if self.key_variable:
            headers["Authorization"] = f"Bearer {self._key()}"
        question = urllib.request.Request(f"{self.url.rstrip('/')}/chat/completions", body, headers)
        try:
            with _OPENER.open(question, timeout=self.timeout_s) as reply:
                return self._read(reply.read(_MAX_ANSWER_BYTES))
        except urllib.error.HTTPError as error:
            raise _failure(self.url, error) from error
        except (urllib.error.URLError, http.client.HTTPException, OSError) as error:
            raise Unavailable(f"{self.url}: expected an answer, found {error}") from error

    def _key(self) -> str:
        if key := os.environ.get(self.key_variable, ""):
            return key
        raise FailedWork(f"--key-variable: expected a key in {self.key_variable}, found no such environment variable")

    def estimate(self, request: LabelRequest) -> Usage:
        """Four letters a token; a picture by the tiles of 512 x 512 that cover a contact sheet of three cameras."""
        words = math.ceil((len(INSTRUCTIONS) + len(request.describe())) / 4)
        pictures = (85 + 170 * 2 * 2) * len(request.sheets)
        return self._priced(words + pictures, _TOKENS_PER_SEGMENT * len(request.segments) + 10)

    def _priced(self, tokens_in: int, tokens_out: int) -> Usage:
        usd = (tokens_in * self.usd_in + tokens_out * self.usd_out) / 1e6
        return Usage(tokens_in=tokens_in, tokens_out=tokens_out, usd=usd)

    def _body(self, request: LabelRequest, complaint: str) -> dict[str, Any]:
        content: list[dict[str, Any]] = [{"type": "text", "text": request.describe()}]
        for number, sheet in enumerate(request.sheets):
            picture = "data:image/jpeg;base64," + base64.b64encode(sheet).decode()
            content.append({"type": "text", "text": f"Contact sheet of segment {number}:"})
            content.append({"type": "image_url", "image_url": {"url": picture}})
        if complaint:
            content.append({"type": "text", "text": f"Your last answer could not be used: {complaint}"})
        answer_form = {"name": "segments", "strict": True, "schema": ANSWER_SCHEMA}
        return {
            "model": self.model,
            "temperature": 0,
            "max_tokens": 200 + 2 * _TOKENS_PER_SEGMENT * len(request.segments),
            "messages": [{"role": "system", "content": INSTRUCTIONS}, {"role": "user", "content": content}],
            "response_format": {"type": "json_schema", "json_schema": answer_form},
        }

    def _read(self, payload: bytes) -> LabelerAnswer:
        try:
            reply = json.loads(payload)
            text = reply["choices"][0]["message"]["content"]
            usage = reply.get("usage") or {}
            spent = self._priced(int(usage.get("prompt_tokens", 0)), int(usage.get("completion_tokens", 0)))
        except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
            shown = payload[:80].decode(errors="replace")
            raise Unavailable(f"{self.url}: expected a chat completion, found {shown!r}") from error
        return LabelerAnswer(text=text if isinstance(text, str) else "", usage=spent)


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """Lets a redirect stand as the answer: followed, it would carry the key to whatever host it names."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        return None


_OPENER = urllib.request.build_opener(_NoRedirects)


def _is_this_machine(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _failure(url: str, error: urllib.error.HTTPError) -> FailedWork:
    body = error.read(300).decode(errors="replace")
    message = f"{url}: HTTP {error.code}: {body}"
    if 300 <= error.code < 400:
        target = error.headers.get("Location", "")
        return FailedWork(f"{url}: expected an answer, found a redirect to {target!r}, which is not followed")
    if error.code == 429 or error.code >= 500:
        wait = error.headers.get("Retry-After", "")
        return Unavailable(message, float(wait) if wait.isdecimal() else 0.0)
    if error.code in (401, 403, 404):  # No question will do better.
        return FailedWork(f"{message}. Look at --url, --model and the key.")
    return QuestionRefused(message)
