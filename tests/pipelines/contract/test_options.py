"""Options out of range are wrong use before anything starts."""

import pytest

from trainers.main import main


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["mix", "plan", "m.yaml", "--draws", "-5"], "--draws: expected a whole number of at least 1, found -5"),
        (["mix", "preview", "m.yaml", "--samples", "0"], "--samples: expected a whole number of at least 1, found 0"),
        (["serve", "runs/a", "--port", "70000"], "--port: expected a whole number of at least 0 and at most 65535"),
        (["serve", "runs/a", "--port", "http"], "at most 65535, found 'http'"),
        (["annotate", "review", "d", "--port", "-1"], "at most 65535, found -1"),
    ],
)
def test_the_option_its_range_and_what_was_given_are_named(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(arguments)
    assert exit_.value.code == 2
    assert message in capsys.readouterr().err
