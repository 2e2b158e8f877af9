"""Truth values in every form that foreign files have them."""

from typing import Any

import numpy as np
import pytest

from pipelines.contract.flags import parse_flag
from pipelines.contract.native import Rejected


@pytest.mark.parametrize("value", [True, 1, 1.0, "true", "True", " yes ", "1", b"true", np.bool_(True), np.array([1])])
def test_yes(value: Any) -> None:
    assert parse_flag(value) == 1


@pytest.mark.parametrize("value", [False, 0, 0.0, "false", "False", "no", "0", b"0", np.float32(0), [[False]]])
def test_no(value: Any) -> None:
    assert parse_flag(value) == 0


@pytest.mark.parametrize("value", [None, float("nan"), np.float64("nan"), "", "nan", "unknown", -1, "-1"])
def test_unknown(value: Any) -> None:
    assert parse_flag(value) == -1


@pytest.mark.parametrize("value", [2, 0.5, "maybe", "10", [1, 0], [], {}, {"success": True}, float("inf"), b"\xff"])
def test_other_forms_are_refused(value: Any) -> None:
    with pytest.raises(Rejected, match="foreign_flag: expected a truth value"):
        parse_flag(value)
