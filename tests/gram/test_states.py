from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ntkdist.gram.worker import StateCache, state_bytes


@dataclass
class State:
    a: np.ndarray
    more: dict


def test_bytes_of_nested_arrays_count_once() -> None:
    x = np.zeros(10)
    assert state_bytes(State(x, {"b": [np.zeros(5, "f4"), x], "n": 3, "s": "text"})) == 100


def test_least_recently_used_goes_first_and_two_stay() -> None:
    made: list[str] = []
    cache = StateCache(limit=250)

    def get(name: str) -> np.ndarray:
        return cache.get(name, lambda: made.append(name) or np.zeros(100, "u1"))

    for name in "abacaba":  # a stays in use, b is pushed out by c
        get(name)
    assert made == ["a", "b", "c", "b"]
    assert len(cache) == 2
    cache = StateCache(limit=0)
    for name in "abab":
        get(name)
    assert made[-2:] == ["a", "b"]
