"""Patterns are compiled once a process, and matched by several threads at a time."""

from concurrent.futures import ThreadPoolExecutor

import hyperscan

from ibidem.data import patterns

TEXT = b"a word, two words, " * 200_000


def ends(_number: int) -> int:
    found: list[int] = []
    patterns.database(["words", "two"], hyperscan.HS_FLAG_CASELESS).scan(
        TEXT, match_event_handler=lambda _id, _start, end, *_: found.append(end)
    )
    return len(found)


def test_threads_match_the_same_patterns_at_the_same_time() -> None:
    patterns._compiled.cache_clear()
    with ThreadPoolExecutor(4) as pool:
        assert set(pool.map(ends, range(8))) == {400_000}
    assert patterns._compiled.cache_info().currsize == 1


def test_flags_and_patterns_tell_databases_apart() -> None:
    found: list[tuple[int, int]] = []
    note = lambda number, _start, end, *_: found.append((number, end))  # noqa: E731
    for names, flags in ((["A"], 0), (["A"], hyperscan.HS_FLAG_CASELESS), (["b", "A"], 0)):
        patterns.database(names, flags).scan(b"aAb", match_event_handler=note)
        found.append((-1, -1))
    assert found == [(0, 2), (-1, -1), (0, 1), (0, 2), (-1, -1), (1, 2), (0, 3), (-1, -1)]
