import math
import re

import numpy as np
import pytest
from hypothesis import given, strategies as st

import ntkdist
from ntkdist import (
    ABRelu,
    Architecture,
    AvgPool,
    Conv,
    Cos,
    Dense,
    Erf,
    Exp,
    ExpNormalized,
    Flatten,
    Gaussian,
    Gelu,
    GlobalAvgPool,
    Identity,
    LayerNorm,
    LeakyRelu,
    Relu,
    Residual,
    Sin,
)
from ntkdist.errors import InputError
from ntkdist.networks.architecture import POOLING_PRESET, preset_names

weights = st.floats(0.01, 10)
convs = st.builds(
    Conv,
    size=st.integers(1, 9),
    W_std=weights,
    b_std=st.floats(0, 10),
    trainable=st.booleans(),
    stride=st.integers(1, 3),
    padding=st.sampled_from(["SAME", "VALID", "CIRCULAR"]),
)
sizes = st.floats(0.01, 10) | st.floats(-10, -0.01)
functions = st.one_of(
    st.sampled_from([Relu(), Erf(), Gelu()]),
    st.builds(LeakyRelu, st.floats(-10, 10)),
    st.builds(ABRelu, sizes, sizes),
    st.builds(Sin, sizes, sizes, sizes),
    st.builds(Cos, sizes, sizes, sizes),
    st.builds(Exp, sizes, sizes),
    st.builds(Gaussian, sizes, st.floats(-10, -0.01)),
    st.builds(ExpNormalized, weights, sizes),
)
others = st.one_of(st.just(Identity()), st.builds(AvgPool, st.integers(1, 4)))
# where its inputs are Gaussian
normed = st.tuples(convs, others, st.builds(LayerNorm, weights), functions)
inner = st.one_of(convs, functions, others)
branches = st.builds(Residual, st.lists(inner, max_size=3).map(tuple) | normed)


@given(
    st.lists(
        st.one_of(inner.map(lambda layer: (layer,)), normed, branches.map(lambda layer: (layer,))),
        max_size=6,
    ),
    st.sampled_from([Flatten(), GlobalAvgPool()]),
    st.lists(functions, max_size=2),
    st.builds(Dense, W_std=weights, trainable=st.booleans()),
)
def test_canonical_text_round_trips(parts, end, tail, last):
    arch = Architecture((*(layer for part in parts for layer in part), end, *tail, last))
    assert Architecture.parse(str(arch)) == arch
    assert str(Architecture.parse(str(arch))) == str(arch)


@pytest.mark.parametrize("name", preset_names())
def test_presets_parse_and_round_trip(name):
    arch = Architecture.parse(name)
    assert Architecture.parse(str(arch)) == arch


def test_cntk_depth_counts_convolutions_plus_one():
    arch = Architecture.parse("cntk-gap-11")
    convs = [x for x in arch.layers if isinstance(x, Conv)]
    assert len(convs) == 10
    assert [x.trainable for x in convs] == [False] + [True] * 9
    assert arch.layers[-1] == Dense(W_std=1.0, trainable=False)
    assert all(
        x.trainable for x in Architecture.parse("cntk-v-11").layers if hasattr(x, "trainable")
    )


def test_myrtle_counts_convolutions_between_pools():
    for name, counts in (("myrtle-5", [2, 1, 1]), ("myrtle-10", [3, 3, 3])):
        text = "".join(type(x).__name__[0] for x in Architecture.parse(name).layers)
        assert [part.count("C") for part in text.split("A")[:3]] == counts
        assert text.endswith("AAAFD")


def test_yaml_lists_and_layers_mean_the_same():
    expected = Architecture((Conv(5, b_std=0.1), Relu(), GlobalAvgPool(), Dense()))
    for spec in (
        ["Conv(size=5, b_std=0.1)", "Relu", "GlobalAvgPool()", "Dense"],
        [{"Conv": {"size": 5, "b_std": 0.1}}, {"Relu": None}, "GlobalAvgPool", Dense()],
        expected,
    ):
        assert Architecture.parse(spec) == expected


@pytest.mark.parametrize(
    ("item", "layer"),
    [
        ({"AvgPool": 3}, AvgPool(3)),
        ({"Conv": 5}, Conv(5)),
        ({"Dense": 0.5}, Dense(0.5)),
        ({"Conv": []}, Conv()),
        ({"Residual": ["Conv", "Relu"]}, Residual((Conv(), Relu()))),
        ({"Residual": {"Conv": 5}}, Residual((Conv(5),))),
        (
            {"Residual": {"branch": "Conv", "shortcut": {"Conv": 1}}},
            Residual((Conv(),), (Conv(1),)),
        ),
        ({"Conv": {"size": np.int64(5), "W_std": np.float32(0.5)}}, Conv(5, 0.5)),
        ({"Conv": {"b_std": -0.0}}, Conv(b_std=0.0)),
        ({"LeakyRelu": 1}, LeakyRelu(1.0)),
        ({"Sin": {"b": 2, "c": -0.0}}, Sin(1.0, 2.0, 0.0)),
        ("ABRelu(-1, b=1)", ABRelu(-1.0, 1.0)),
        ("ExpNormalized(2, shift=0)", ExpNormalized(2.0, 0.0)),
    ],
    ids=str,
)
def test_a_value_alone_is_the_first_field(item, layer):
    found = Architecture.parse([item, "Flatten", "Dense"])
    assert str(found) == str(Architecture((layer, Flatten(), Dense())))


@pytest.mark.parametrize("layers", [3, None, "Dense", [3]], ids=str)
def test_what_is_no_sequence_of_layers_is_named(layers):
    with pytest.raises(InputError, match="is not a"):
        Architecture(layers)
    with pytest.raises(InputError, match=r"Residual: shortcut: .* is not a"):
        Residual((), layers)


def test_integers_and_floats_give_one_canonical_text():
    assert str(Architecture((Dense(W_std=1),))) == str(Architecture((Dense(W_std=1.0),)))


def test_depth_takes_the_longer_branch():
    block = Residual((Conv(), Relu(), Conv()))
    assert Architecture((Conv(), block, Flatten(), Dense())).depth == 4


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("cntk-gp-4", "unknown preset 'cntk-gp-4'.*did you mean 'cntk-gap-4'"),
        ("mirtle-5", "did you mean 'myrtle-5'"),
        ("cntk-gap-1", "depth 1; the least is 2"),
        ([], "empty"),
        (["Conv", "Relu", "Dense"], r"need a Flatten\(\) or GlobalAvgPool\(\)"),
        (["Conv", "Flatten", "Conv", "Dense"], "no pixels are left"),
        (["Dense", "Relu"], r"end with Dense\(\)"),
        (["Convv(3)", "Flatten", "Dense"], "unknown layer 'Convv'.*did you mean 'Conv'"),
        (["Conv(siez=3)", "Flatten", "Dense"], "no field 'siez'.*did you mean 'size'"),
        (["Relu(3)", "Dense"], "takes at most 0"),
        (["Conv(3, size=3)", "Flatten", "Dense"], "given 'size' twice"),
        (["Conv(0)", "Flatten", "Dense"], "size=0 must be a whole number from 1 to 1000"),
        (["Conv(3, W_std=0)", "Flatten", "Dense"], "W_std=0 must be a number from 1e-150 to"),
        (["Dense(b_std=-1)"], "b_std=-1 must be a number from 0 to"),
        ([{"Dense": {"W_std": 1e200}}], r"W_std=1e\+200 must be a number from .* to 1e\+150"),
        ([{"Dense": {"W_std": 10**400}}], "W_std=1000.* must be a number from"),
        ([{"Dense": {"b_std": True}}], "b_std=True must be a number from 0 to"),
        ([{"Residual": {}}, "Flatten", "Dense"], "Residual needs the field 'branch'"),
        (["Residual()", "Flatten", "Dense"], "Residual needs the field 'branch'"),
        ("[Residual(branch=3), Flatten(), Dense()]", "branch: 3 is not a list of layers"),
        ([{"Residual": 3}, "Flatten", "Dense"], "3 is not a layer"),
        ([{"Conv": {"padding": [1]}}, "Flatten", "Dense"], r"padding=\[1\] is not one of SAME"),
        ([{"Conv": {1: 2}}, "Flatten", "Dense"], "Conv has no field 1"),
        ([{"Conv": [5, 1]}, "Flatten", "Dense"], r"size=\[5, 1\] must be a whole number"),
        ([{"Conv": True}, "Flatten", "Dense"], "size=True must be a whole number"),
        (["Conv(1000001)", "Flatten", "Dense"], "size=1000001 must be a whole number from 1 to"),
        ([{"Relu": 3}, "Dense"], "Relu has no field to take 3"),
        ([{"Rellu": 3}, "Dense"], "unknown layer 'Rellu'.*did you mean 'Relu'"),
        ([{7: 3}, "Dense"], "unknown layer 7"),
        (["Dense(), Relu()", "Dense"], "is not one layer; make it items of the list"),
        (b"fc-2", "neither a preset name"),
        ([[{"Dense": {}}]], "is not a layer"),
        (["Dense(trainable=3)"], "trainable=3"),
        (["Conv(padding='same')", "Flatten", "Dense"], "did you mean 'SAME'"),
        ("[Conv(3]", "cannot be read"),
        ("[Conv(__import__('os'))]", "not a plain value"),
        ("[3]", "not a layer"),
        (3, "neither a preset name"),
        ([{"Conv": {}, "Relu": {}}], "is not a layer"),
        (["Residual(branch=(Flatten(),))", "Flatten", "Dense"], "cannot be part of a branch"),
        (["Dense", "ABRelu", "Dense"], "ABRelu needs the field 'a', a number"),
        (
            ["Dense", "ABRelu(0, 0)", "Dense"],
            "a=0.0 and b=0.0; the absolute value of one must be at least",
        ),
        (
            ["Dense", "LeakyRelu('a')", "Dense"],
            "alpha='a' must be a number with an absolute value up to 1e.150",
        ),
        (["Dense", {"LeakyRelu": True}, "Dense"], "alpha=True must be a number"),
        (
            ["Dense", "Sin(0)", "Dense"],
            r"Sin: a=0 must be a number with an absolute value from 1e-150 to 1e\+150",
        ),
        (["Dense", "Cos(b=0)", "Dense"], "Cos: b=0 must be a number"),
        (
            ["Dense", "Sin(c=1e999)", "Dense"],
            "Sin: c=inf must be a number with an absolute value up to",
        ),
        (["Dense", "Exp(b=0)", "Dense"], "Exp: b=0 must be a number"),
        (["Dense", "Gaussian(b=1)", "Dense"], "Gaussian: b=1.0 must be below 0"),
        (["Dense", "ExpNormalized(-1)", "Dense"], "gamma=-1.0 must be above 0"),
        (
            ["Dense", "LayerNorm(0)", "Dense"],
            "LayerNorm: eps=0 must be a number with an absolute value from 1e-150",
        ),
        (["Dense", "LayerNorm(-1)", "Dense"], "LayerNorm: eps=-1.0 must be above 0"),
        (["Conv", "Flatten", "AvgPool", "Dense"], "Identity and LayerNorm can follow"),
        (["LayerNorm", "Dense"], "LayerNorm.* comes after the image, whose channels"),
        (["Flatten", "Dense", "Gelu", "LayerNorm", "Dense"], r"after Gelu\(\), whose channels"),
        (["Conv", "Flatten", "LayerNorm", "Dense"], r"comes after Flatten\(\)"),
        (
            ["Conv", "Relu", "Residual(branch=(Conv(),))", "LayerNorm", "Flatten", "Dense"],
            r"LayerNorm.* comes after a Residual.* behind Conv or Dense",
        ),
        (
            ["Conv", "Relu", "Residual((LayerNorm(), Conv()))", "Flatten", "Dense"],
            r"comes after Relu\(\)",
        ),
    ],
    ids=lambda value: str(value)[:80],
)
def test_bad_specifications_are_named(spec, message):
    with pytest.raises(InputError, match=message) as caught:
        Architecture.parse(spec)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "spec",
    [
        ["Dense", "Flatten", "LayerNorm", "Gelu", "Dense"],
        ["Conv", "AvgPool", "Identity", "LayerNorm", "LayerNorm", "Relu", "Flatten", "Dense"],
        ["Conv", "Relu", "Conv", "GlobalAvgPool", "LayerNorm", "Dense"],
        ["Conv", "Residual((LayerNorm(), Relu(), Conv()))", "LayerNorm", "Flatten", "Dense"],
        ["Conv", "Relu", "Residual((Conv(),), (Dense(),))", "LayerNorm", "Flatten", "Dense"],
        ["Conv", "Gelu", "Flatten", "Dense", "LayerNorm", "Cos", "Identity", "Dense"],
    ],
    ids=str,
)
def test_layer_norm_stands_behind_linear_layers(spec):
    assert Architecture.parse(spec).layers


def test_branches_inside_each_other_have_a_limit():
    item = "Conv"
    for _ in range(2000):
        item = {"Residual": item}
    with pytest.raises(InputError, match="nested too deeply"):
        Architecture.parse([item, "Flatten", "Dense"])


def test_defaults_are_the_field_s():
    assert Conv() == Conv(3, math.sqrt(2), 0.0, True, 1, "SAME")
    assert re.match(r"\[Flatten\(\), Dense\(W_std=1.414", str(Architecture.parse("fc-2")))


def test_public_names_are_there():
    for name in ntkdist.__all__:
        assert getattr(ntkdist, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        ntkdist.nothing  # noqa: B018


@pytest.mark.parametrize(
    ("spec", "edge", "message"),
    [
        ("myrtle-5", 28, r"AvgPool\(size=2\) does not fit into the 1×1 pixels .* of 28×28 images"),
        (["Conv(5, padding='VALID')", "Flatten", "Dense"], 4, r"Conv.*does not fit into the 4×4"),
        (
            ["Conv", "Residual(branch=(Conv(stride=2),))", "Flatten", "Dense"],
            6,
            "the branch leaves 3×3 pixels and the shortcut 6×6",
        ),
    ],
)
def test_windows_that_do_not_fit_are_named(spec, edge, message):
    with pytest.raises(InputError, match=message):
        Architecture.parse(spec).check_image(edge, edge)


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_fits_cifar_images(name):
    Architecture.parse(name).check_image(32, 32)


@pytest.mark.parametrize(
    ("spec", "pools"),
    [
        ("cnn-2", False),
        ("cntk-v-4", False),
        ("fc-2", False),
        ("cntk-gap-4", True),
        ("cntk-lap-4-2", True),
        ("myrtle-5", True),
        (["Conv", "Residual([AvgPool(2)], [AvgPool(2)])", "Flatten", "Dense"], True),
        (["Conv", "Residual([Conv()])", "Flatten", "Dense"], False),
    ],
    ids=str,
)
def test_means_over_pixels_are_found_in_branches_too(spec, pools):
    assert Architecture.parse(spec).pools == pools


def test_the_preset_that_pools_pools():
    assert Architecture.parse(POOLING_PRESET).pools
    assert POOLING_PRESET in preset_names()
