"""Bytes that wait to be written: what comes back is what was appended, whatever memory and files held before."""

import os
from pathlib import Path

import pytest

from pipelines.shards.spools import SpooledBytes, Spools

PIECE_BYTES = 1 << 20
KEPT = 3 * PIECE_BYTES


def blocks(seed: int, n_bytes: int) -> list[bytes]:
    """Blocks of uneven sizes."""
    made = []
    while n_bytes > 0:
        size = min(n_bytes, 100_003 + seed)
        made.append(bytes([len(made) % 251 + seed % 5]) * size)
        n_bytes -= size
    return made


def spooled(spools: Spools, seed: int, n_bytes: int) -> SpooledBytes:
    content = SpooledBytes(spools)
    for block in blocks(seed, n_bytes):
        content.append(block)
    return content


def n_open() -> int:
    return len(os.listdir("/proc/self/fd"))


SIZES = [0, 10, PIECE_BYTES, PIECE_BYTES + 1, KEPT, KEPT + 1, 3 * KEPT + 5]


@pytest.mark.parametrize("n_bytes", SIZES)
def test_what_is_read_is_what_was_appended(tmp_path: Path, n_bytes: int) -> None:
    with Spools(str(tmp_path), KEPT) as spools:
        content = spooled(spools, 1, n_bytes)
        assert content.n_bytes == n_bytes
        assert b"".join(content.chunks()) == b"".join(blocks(1, n_bytes))


def test_a_block_longer_than_all_the_memory_comes_back_whole(tmp_path: Path) -> None:
    block = os.urandom(KEPT + 3)
    with Spools(str(tmp_path), KEPT) as spools:
        content = SpooledBytes(spools)
        content.append(block[:7])
        content.append(block[7:])
        assert b"".join(content.chunks()) == block


def test_no_file_is_made_while_all_fits_in_memory(tmp_path: Path) -> None:
    before = n_open()
    with Spools(str(tmp_path), KEPT) as spools:
        held = [spooled(spools, 1, KEPT)]
        assert n_open() == before
        held.append(spooled(spools, 2, 1))
        assert n_open() == before + 1, "expected all memory to be taken"


def test_memory_and_files_that_are_used_again_give_nothing_of_what_they_held(tmp_path: Path) -> None:
    with Spools(str(tmp_path), KEPT) as spools:
        long = spooled(spools, 1, 3 * KEPT)
        before = n_open()
        long.close()
        for n_bytes in (PIECE_BYTES + 7, KEPT + 7):
            short = spooled(spools, 2, n_bytes)
            assert b"".join(short.chunks()) == b"".join(blocks(2, n_bytes))
            short.close()
        assert n_open() == before, "expected the file that was given back"


def test_two_at_a_time_have_memory_and_files_of_their_own(tmp_path: Path) -> None:
    for n_bytes in (PIECE_BYTES + 9, KEPT - PIECE_BYTES, KEPT + 9):
        with Spools(str(tmp_path), KEPT) as spools:
            both = [spooled(spools, seed, n_bytes) for seed in (1, 2)]
            for seed, content in enumerate(both, 1):
                assert b"".join(content.chunks()) == b"".join(blocks(seed, n_bytes))


def test_what_turns_to_a_file_leaves_its_memory_to_others(tmp_path: Path) -> None:
    with Spools(str(tmp_path), KEPT) as spools:
        held = [spooled(spools, 1, KEPT + 1)]
        before = n_open()
        held.append(spooled(spools, 2, KEPT))
        assert n_open() == before


def test_files_that_were_given_back_are_closed_at_the_end_and_have_no_name(tmp_path: Path) -> None:
    before = n_open()
    with Spools(str(tmp_path), KEPT) as spools:
        content = spooled(spools, 1, 2 * KEPT)
        assert not list(tmp_path.iterdir())
        content.close()
    assert n_open() == before
