"""A store that cannot be reached, or credentials that are not there, are named within seconds."""

import socket
import time
from collections.abc import Iterator

import pytest

from pipelines.contract.errors import FailedWork
from pipelines.storage import reach
from trainers.main import main


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    reach.check_reachable.cache_clear()
    reach.has_google_credentials.cache_clear()
    for name in reach._PROXIES:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def closed_port() -> Iterator[int]:
    with socket.socket() as taken:  # bound and not listening: a connection is refused
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]


def test_a_store_without_an_answer_is_named_with_its_bucket(closed_port: int) -> None:
    began = time.monotonic()
    with pytest.raises(FailedWork, match=rf"gs://mine: expected to reach the store at 127\.0\.0\.1:{closed_port}"):
        reach.check_reachable("gs://mine", f"http://127.0.0.1:{closed_port}")
    assert time.monotonic() - began < 20


def test_a_store_that_listens_is_reachable() -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        reach.check_reachable("gs://mine", f"http://127.0.0.1:{server.getsockname()[1]}")


def test_behind_a_proxy_nothing_is_tried(monkeypatch: pytest.MonkeyPatch, closed_port: int) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy:3128")
    reach.check_reachable("gs://mine", f"http://127.0.0.1:{closed_port}")


def test_a_refusal_says_how_to_give_credentials() -> None:
    assert "aws configure" in reach.with_login_advice("s3://b/x", "403 Forbidden")
    assert "gcloud auth application-default login" in reach.with_login_advice("gs://b/x", "401")


@pytest.mark.parametrize("variable", ["STORAGE_EMULATOR_HOST", "AWS_ENDPOINT_URL"])
def test_the_command_ends_in_one_line(
    variable: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], closed_port: int
) -> None:
    monkeypatch.setenv(variable, f"http://127.0.0.1:{closed_port}")
    monkeypatch.setenv("GCE_METADATA_TIMEOUT", "1")
    monkeypatch.setattr("pipelines.storage.object_stores._shared", {})
    monkeypatch.setattr("pipelines.storage.object_stores._of_thread", type("Fresh", (), {})())
    scheme = "gs" if variable.startswith("STORAGE") else "s3"
    assert main(["check", f"{scheme}://mine/toy/1.0.0"]) == 1
    err = capfd.readouterr().err
    assert f"{scheme}://mine: expected to reach the store at 127.0.0.1:{closed_port}" in err
    assert "Traceback" not in err and err.count("\n") <= 2
