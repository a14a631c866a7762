from __future__ import annotations

import base64
import io

import numpy as np
import pytest
from PIL import Image

from ntkdist.display.html import data_uris


def decode(uri: str) -> np.ndarray:
    head, _, body = uri.partition(",")
    assert head == "data:image/png;base64"
    with Image.open(io.BytesIO(base64.b64decode(body))) as image:
        return np.asarray(image)


def random_pictures(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


@pytest.mark.parametrize("channels", [1, 2, 3, 5])
def test_small_pictures_keep_every_pixel(channels: int) -> None:
    pictures = random_pictures(4, 9, 7, channels)
    shown = [decode(uri) for uri in data_uris(pictures)]
    expected = pictures if channels == 3 else pictures[..., 0]
    np.testing.assert_array_equal(shown, expected)


def test_large_pictures_are_made_smaller_in_proportion() -> None:
    (uri,) = data_uris(random_pictures(1, 100, 200, 3))
    assert decode(uri).shape == (48, 96, 3)


def test_many_pictures_shrink_to_the_budget() -> None:
    pictures = random_pictures(20, 96, 96, 3)
    uris = data_uris(pictures, budget=300_000)
    assert len(uris) == 20
    assert 100_000 < sum(map(len, uris)) <= 300_000
    assert decode(uris[0]).shape == decode(uris[-1]).shape == (48, 48, 3)


def test_the_smallest_size_is_kept_above_the_budget() -> None:
    uris = data_uris(random_pictures(3, 64, 64, 1), budget=10)
    assert [decode(uri).shape for uri in uris] == [(16, 16)] * 3
