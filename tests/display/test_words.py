from __future__ import annotations

import pytest

from ntkdist.display import words
from ntkdist.networks.architecture import Architecture, preset_of


@pytest.mark.parametrize(
    ("value", "digits", "text"),
    [
        (1.57017, 5, "1.5702"),
        (-0.00012345, 4, "−0.0001234"),
        (4629.81, 4, "4,630"),
        (1234.56, 5, "1,234.6"),
        (-29662.4, 6, "−29,662.4"),
        (3e12, 4, "3e+12"),
        (0.0, 4, "0"),
        (float("nan"), 4, "–"),
        (None, 4, "–"),
    ],
)
def test_numbers_are_rounded_and_grouped(value: float | None, digits: int, text: str) -> None:
    assert words.number(value, digits) == text


@pytest.mark.parametrize(
    ("share", "text"),
    [(0.994, "99.4"), (1.0, "100.0"), (0.9996, "99.96"), (0.0, "0.0"), (0.99999, "99.999")],
)
def test_less_than_all_is_never_100_percent(share: float, text: str) -> None:
    assert words.percent(share) == f"{text}\u00a0%"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.041, "0.04 s"),
        (59.9, "59.9 s"),
        (59.97, "1 min 00 s"),
        (245.2, "4 min 05 s"),
        (3599.7, "1 h 00 min"),
        (7620, "2 h 07 min"),
    ],
)
def test_durations_read_well(seconds: float, text: str) -> None:
    assert words.duration(seconds).replace("\u00a0", " ") == text


def test_quality_below_a_thousandth_says_so() -> None:
    assert [words.quality(x) for x in (3e-13, 0.0126, 1.0)] == ["< 0.001", "0.013", "1.000"]


@pytest.mark.parametrize("name", ["cntk-gap-4", "cntk-v-11", "fc-2", "cnn-3", "myrtle-10"])
def test_a_preset_is_recognised(name: str) -> None:
    assert preset_of(Architecture.parse(name)) == name


def test_another_network_has_no_preset_name() -> None:
    assert preset_of(Architecture.parse("[Conv(5), Erf(), Flatten(), Dense()]")) is None


@pytest.mark.parametrize(
    ("spec", "text"),
    [
        (
            "cntk-gap-4",
            "conv 3×3 (not trained) → 2 × (ReLU → conv 3×3) → ReLU → global average pool → "
            "dense (W_std 1, not trained)",
        ),
        ("fc-3", "flatten → 3 × (dense → ReLU) → dense (W_std 1)"),
        (
            "[Conv(size=5, stride=2, padding='VALID', b_std=0.1), Residual(branch=(Relu(), "
            "Conv())), AvgPool(2), AvgPool(2), Flatten(), Dense()]",
            "conv 5×5 (stride 2, VALID, b_std 0.1) → sum of [ReLU → conv 3×3] and [identity] → "
            "2 × average pool 2×2 → flatten → dense",
        ),
        (
            "[Conv(), LayerNorm(), LeakyRelu(0.2), Conv(), Gelu(), Flatten(), Dense(), "
            "ABRelu(-1, 1), Dense(), Sin(2, c=0.5), Identity(), Dense(), Exp(), Dense()]",
            "conv 3×3 → layer norm → leaky ReLU (alpha 0.2) → conv 3×3 → GELU → flatten → dense "
            "→ ABReLU (a -1, b 1) → dense → sin (a 2, c 0.5) → identity → dense → exp → dense",
        ),
        (
            "[Dense(), Cos(), Dense(), Gaussian(b=-2), Dense(), ExpNormalized(), Dense()]",
            "dense → cos → dense → Gaussian (b -2) → dense → normalized Gaussian kernel → dense",
        ),
    ],
)
def test_architectures_in_words(spec: str, text: str) -> None:
    assert words.in_words(Architecture.parse(spec)) == text
