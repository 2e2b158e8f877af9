"""Instructions that tools spelled as bytes, padded, or never filled in."""

import pytest

from pipelines.contract.instructions import clean_instruction, is_placeholder


@pytest.mark.parametrize(
    ("stored", "instruction"),
    [
        ("open the drawer", "open the drawer"),
        ("  Open the top drawer.\n", "Open the top drawer."),
        ("b'open the drawer'", "open the drawer"),
        ('b"open the man\'s drawer"', "open the man's drawer"),
        ("b'caf\\xc3\\xa9'", "café"),
        ("b\"b'nested'\"", "nested"),
        ("b'not closed", "b'not closed"),
        ("b'two' and b'more'", "b'two' and b'more'"),
        (b"raw bytes", "raw bytes"),
        (b"latin \xe9", "latin \ufffd"),
        ("padded\0\0\0", "padded"),
        ("lone \ud800 surrogate", "lone \ufffd surrogate"),
        ("设置", "设置"),
        ("", ""),
        ("b''", ""),
        ("None", ""),
        ("N/A", ""),
        ("<task description>", ""),
        ("task_0", ""),
        ("no_instruction.", ""),
        ("...", ""),
        ("test the switch", "test the switch"),
        ("task 3 of the board: insert the gear", "task 3 of the board: insert the gear"),
    ],
)
def test_an_instruction_is_what_a_person_wrote(stored: str | bytes, instruction: str) -> None:
    assert clean_instruction(stored) == instruction
    assert is_placeholder(instruction) == (instruction == "")
