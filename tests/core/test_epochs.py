"""The order of an epoch: all displays once, in blocks that are mixed, and in how many steps."""

from __future__ import annotations

import pytest

from pipeline.core import epochs


def read(displays: int, size: int, seed: int, skip: int = 0) -> list[list[int]]:
    """The displays of each step."""
    found = []
    for buffer in epochs.buffers(displays, size, (seed,), skip):
        held = [display for start, stop in buffer.ranges for display in range(start, stop)]
        assert len(held) == buffer.displays
        found += [[held[i] for i in step] for step in buffer.steps(size)]
    return found


@pytest.mark.parametrize("displays", [0, 1, 4, 5, 23, 24, 100])
@pytest.mark.parametrize("size", [1, 3, 7, 1000])
def test_every_display_comes_once_in_as_many_steps_as_are_told(
    displays: int, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(epochs, "BLOCK", 4)
    monkeypatch.setattr(epochs, "BUFFER_BLOCKS", 3)
    for seed in range(3):
        steps = read(displays, size, seed)
        assert sorted(display for step in steps for display in step) == list(range(displays))
        assert len(steps) == epochs.steps(displays, size)
        assert all(len({display // 4 for display in step}) <= 3 for step in steps)
        for skip in range(len(steps) + 1):
            assert read(displays, size, seed, skip) == steps[skip:]


def test_the_seed_decides_the_order() -> None:
    orders = [read(50_000, 1000, seed) for seed in (1, 1, 2)]
    assert orders[0] == orders[1] != orders[2]
    assert orders[0][0] != sorted(orders[0][0])


def test_ahead_keeps_order_and_stops() -> None:
    """Nothing runs on after the reader was left; an error comes out where its result was due."""
    begun: list[int] = []

    def call(i: int) -> int:
        begun.append(i)
        if i == 7:
            raise ValueError("seven")
        return i

    found = epochs.ahead((lambda i=i: call(i) for i in range(100)), 2)
    assert [next(found) for _ in range(5)] == [0, 1, 2, 3, 4]
    found.close()
    assert len(begun) <= 8
    with pytest.raises(ValueError, match="seven"):
        list(epochs.ahead((lambda i=i: call(i) for i in range(100)), 2))
