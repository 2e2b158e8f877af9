"""Instructions as people wrote them: without what programs put around them, and empty where none was written."""

import ast
import re

# What recording tools and templates store where no instruction was written; compared without case and punctuation.
_PLACEHOLDERS = frozenset(
    {
        "default",
        "default task",
        "dummy",
        "dummy instruction",
        "dummy task",
        "empty",
        "instruction",
        "language instruction",
        "missing",
        "n a",
        "na",
        "nan",
        "nil",
        "no instruction",
        "no language",
        "no language instruction",
        "no task",
        "none",
        "null",
        "placeholder",
        "task",
        "task description",
        "tbd",
        "test",
        "todo",
        "undefined",
        "unknown",
        "unknown task",
        "unnamed",
    }
)
# Templates that were never filled in (`<task description>`, `{instruction}`), and names that only count (`task_0`).
_TEMPLATE = re.compile(r"<[^<>]*>|\{[^{}]*\}|\[[^\[\]]*\]|(task|episode|demo|traj)[ _-]?\d+", re.IGNORECASE)
_SURROGATES = re.compile("[\ud800-\udfff]")
# How Python writes bytes: what a tool stores that formats an undecoded text.
_BYTES = re.compile(r"""b(?P<quote>['"]).*(?P=quote)""", re.DOTALL)


def clean_instruction(text: str | bytes) -> str:
    """Returns the instruction that a source's text holds, "" where it holds none.

    Python's spelling of bytes is undone, padding and white space around it go, code points that no UTF-8 text can
    hold become U+FFFD, and a placeholder is no instruction. The words themselves stay as they are.

    >>> clean_instruction("b'open the drawer'")
    'open the drawer'
    >>> clean_instruction(" N/A ")
    ''
    """
    if isinstance(text, bytes):
        text = text.decode("utf-8", errors="replace")
    text = _without_padding(text)
    while _BYTES.fullmatch(text):
        try:
            text = _without_padding(ast.literal_eval(text).decode("utf-8", errors="replace"))
        except (ValueError, SyntaxError):
            break
    return "" if is_placeholder(text) else text


def is_placeholder(text: str) -> bool:
    """Says whether a text stands where an instruction should, and is none.

    >>> is_placeholder("<task description>"), is_placeholder("task_0"), is_placeholder("test the drawer")
    (True, True, False)
    """
    words = " ".join(re.findall(r"\w+", text.replace("_", " ").lower()))
    return not words or words in _PLACEHOLDERS or _TEMPLATE.fullmatch(text.strip()) is not None


def _without_padding(text: str) -> str:
    """Texts of fixed width are padded with NUL; a lone surrogate cannot be stored, and would end the whole run."""
    return _SURROGATES.sub("\ufffd", text).replace("\0", "").strip()
