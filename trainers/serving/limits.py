"""What one client may ask of a policy server, so that no client takes the others' time or memory."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Limits:
    """message_bytes: of one message; three raw pictures of 1080p are 18.7 MB. pixels: of one picture; a camera of 4K
    has 8.3 million. prompt_chars: of a sentence. name_chars: of a key or a robot's name. error_chars: of an answer that
    says what was wrong. connections: at a time. send_s: for a client to take an answer. busy_s: a computation that
    takes longer counts as stuck. close_s: for pending answers when the server stops.

    The websocket layer holds up to two messages of each client, so that memory is bounded by
    2 x connections x message_bytes, 2 GiB as it is here.
    """

    message_bytes: int = 32 * 2**20
    pixels: int = 2**24
    prompt_chars: int = 4096
    name_chars: int = 200
    error_chars: int = 1000
    connections: int = 32
    send_s: float = 5.0
    busy_s: float = 60.0
    close_s: float = 20.0


DEFAULT = Limits()


def cut(text: str, length: int = DEFAULT.error_chars) -> str:
    """The text, or its beginning and how much was left out.

    >>> cut("observation: expected a prompt", 12)
    'observation:... (18 more characters)'
    """
    return text if len(text) <= length else f"{text[:length]}... ({len(text) - length} more characters)"
