"""Architectures: a list of layers with presets and one canonical text form.

Images are (N, H, W, C). The layers are those of ``ntkdist.networks.layers``.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Sequence
from dataclasses import MISSING, dataclass, fields
from typing import Any, TypeAlias

from ntkdist.errors import InputError, did_you_mean, shown
from ntkdist.networks.layers import (
    LAYERS,
    AvgPool,
    CellLayer,
    Conv,
    Dense,
    Flatten,
    GlobalAvgPool,
    Layer,
    LayerNorm,
    Nonlinearity,
    Relu,
    Residual,
    as_layers,
    first_spatial,
    output_size,
    weight_depth,
)


@dataclass(frozen=True)
class Architecture:
    """A network as a sequence of layers, ending in one feature vector per image.

    ``str(architecture)`` is canonical: it names every field of every layer, equal
    architectures give equal text, and ``Architecture.parse`` reads it back.

    Attributes:
        layers: The layers in order. Networks without convolutions or pooling read
            the flattened image; others must end their pixels with Flatten or
            GlobalAvgPool.
    """

    layers: tuple[Layer, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "layers", as_layers("architecture", self.layers))
        if not self.layers:
            raise InputError("architecture: the list of layers is empty; give a preset or layers")
        ends = [i for i, x in enumerate(self.layers) if isinstance(x, (Flatten, GlobalAvgPool))]
        if self.is_spatial and not ends:
            raise InputError(
                "architecture: convolutions need a Flatten() or GlobalAvgPool() before the output"
            )
        if ends:
            for layer in self.layers[ends[0] + 1 :]:
                if not isinstance(layer, Dense | CellLayer):
                    raise InputError(
                        f"architecture: {layer!r} comes after {self.layers[ends[0]]!r}, where no "
                        "pixels are left; only Dense, nonlinearities, Identity and LayerNorm can "
                        "follow"
                    )
        if not isinstance(self.layers[-1], Dense):
            raise InputError(
                f"architecture: the last layer is {self.layers[-1]!r}; end with Dense()"
            )
        _check_norms(self.layers if self.is_spatial else _without_flatten(self.layers))

    @property
    def is_spatial(self) -> bool:
        """Whether any layer looks at pixels as pixels (False: a fully connected network)."""
        return any(isinstance(x, (Conv, AvgPool, GlobalAvgPool, Residual)) for x in self.layers)

    @property
    def pools(self) -> bool:
        """Whether any layer takes a mean over pixels, in branches too."""
        return _pools(self.layers)

    @property
    def depth(self) -> int:
        """The number of weight layers, branches counted by the longer one."""
        return weight_depth(self.layers)

    def __str__(self) -> str:
        return "[" + ", ".join(repr(layer) for layer in self.layers) + "]"

    @classmethod
    def parse(cls, spec: ArchitectureSpec) -> Architecture:
        """Read an architecture from a preset name, its canonical text, or a list.

        Args:
            spec: A preset (``cntk-gap-11``), a canonical string
                (``[Conv(size=3), Relu(), Flatten(), Dense()]``), a list whose items are
                layers, layer texts (``"Conv(size=5)"``, ``"Relu"``) or one-key
                mappings (``{"Conv": {"size": 5}}``, as YAML gives them; ``{"Conv": 5}``
                gives the first field), or an ``Architecture``.

        Returns:
            The architecture.

        Raises:
            InputError: For an unknown preset, layer or field, with the nearest known name.
        """
        if isinstance(spec, Architecture):
            return spec
        try:
            if isinstance(spec, str):
                text = spec.strip()
                return cls(_parse_text(text)) if text.startswith("[") else preset(text)
            if isinstance(spec, Sequence) and not isinstance(spec, bytes):
                return cls(_parse_items(spec))
        except RecursionError:
            raise InputError(
                "architecture: residual branches are nested too deeply; nest fewer"
            ) from None
        raise InputError(
            f"architecture: {shown(spec)} is neither a preset name, a list of layers nor an "
            "Architecture"
        )

    def check_image(self, height: int, width: int) -> None:
        """Raise ``InputError`` if a layer's window does not fit what is left of the image.

        Args:
            height: Rows of pixels.
            width: Columns of pixels.
        """
        from ntkdist.checks import check_whole  # imports NumPy, which help texts do without

        height, width = (
            check_whole(name, side, 1, "give the pixels of an image", most=10**9)
            for name, side in (("height", height), ("width", width))
        )
        output_size(self.layers, height, width, f"{height}×{width}")

    def check_features(self) -> None:
        """Raise ``InputError`` if a layer looks at pixels, which features do not have."""
        layer = first_spatial(self.layers)
        if layer is not None:
            raise InputError(
                f"architecture: {type(layer).__name__} is a layer for images, and the inputs are "
                "features, which have no pixels; take a fully connected network, such as fc-2"
            )


def _without_flatten(layers: Sequence[Layer]) -> tuple[Layer, ...]:
    return tuple(layer for layer in layers if not isinstance(layer, Flatten))


def _check_norms(layers: Sequence[Layer], *, linear: bool = False, behind: str = "") -> bool:
    """Raise ``InputError`` for a LayerNorm whose inputs are not Gaussian with mean 0.

    Its kernel is known where the channels' variance is K(x, x), which takes a mean of 0. As in
    neural-tangents, that is behind a linear layer, with pools and sums of branches between.

    Args:
        layers: In order, from the network's input or that of a branch.
        linear: Whether this input is Gaussian with mean 0.
        behind: What makes this input, for the message.

    Returns:
        Whether the output is Gaussian with mean 0.
    """
    for layer in layers:
        match layer:
            case LayerNorm() if not linear:
                raise InputError(
                    f"architecture: {layer!r} comes after {behind or 'the image'}, whose channels "
                    "have no mean of 0; put it behind Conv or Dense, in front of the nonlinearity"
                )
            case Residual():
                branches = [
                    _check_norms(inner, linear=linear, behind=behind)
                    for inner in (layer.branch, layer.shortcut)
                ]
                linear, behind = all(branches), "a Residual"
            case _ if isinstance(layer, Conv | Dense):
                linear = True
            case _ if isinstance(layer, Nonlinearity | Flatten):
                linear, behind = False, repr(layer)
    return linear


def _pools(layers: Sequence[Layer]) -> bool:
    return any(
        _pools(x.branch + x.shortcut)
        if isinstance(x, Residual)
        else isinstance(x, AvgPool | GlobalAvgPool)
        for x in layers
    )


ArchitectureSpec: TypeAlias = str | Sequence[Any] | Architecture


def preset(name: str) -> Architecture:
    """Return a preset by name.

    ``fc-L``: L hidden ReLU layers. ``cnn-1/2/3``: this package's reading of
    DeOliveira et al. 2025, who do not publish theirs in detail. ``cntk-v-D`` and
    ``cntk-gap-D``: Arora et al. 2019, depth D = convolutions + 1, equal to the
    published recursion up to one positive factor; ``v`` sums the aligned positions and
    trains every layer, ``gap`` pools globally with the first and last layer
    fixed. ``cntk-lap-D-C``: like ``cntk-gap-D`` with local average pooling in place of the global
    one (Li et al. 2019), over windows of half-width C, 2C + 1 pixels wide.
    ``myrtle-5/7/10``: Shankar et al. 2020 with NTK-parameterised layers.

    Args:
        name: The preset's name.

    Returns:
        The architecture.

    Raises:
        InputError: If there is no such preset.
    """
    key = name.strip().lower()
    match = re.fullmatch(r"(fc|cntk-v|cntk-gap)-(\d{1,4})", key)
    if match:
        family, depth = match[1], int(match[2])
        smallest = 1 if family == "fc" else 2
        if depth < smallest:
            raise InputError(
                f"architecture: {shown(name)} has depth {depth}; the least is {smallest}"
            )
        if family == "fc":
            return Architecture((Flatten(), *(Dense(), Relu()) * depth, Dense(W_std=1.0)))
        return _cntk(depth, pooled=family == "cntk-gap")
    match = re.fullmatch(r"cntk-lap-(\d{1,4})-(\d{1,3})", key)
    if match:
        depth, half_width = int(match[1]), int(match[2])
        if depth < 2:
            raise InputError(f"architecture: {shown(name)} has depth {depth}; the least is 2")
        return _cntk(depth, pooled=True, half_width=half_width)
    if key in _PRESETS:
        return Architecture(_PRESETS[key])
    known = [*_PRESETS, "fc-2", "fc-10", "cntk-v-11", *_POOLED, "cntk-gap-21"]
    raise InputError(
        f"architecture: unknown preset {shown(name)}; presets are fc-L, cntk-v-D, cntk-gap-D, "
        f"cntk-lap-D-C, {', '.join(_PRESETS)}" + did_you_mean(key, known)
    )


def _cntk(depth: int, *, pooled: bool, half_width: int | None = None) -> Architecture:
    first = Conv(trainable=not pooled)
    inner = (Relu(), Conv()) * (depth - 2)
    end: tuple[Layer, ...] = (GlobalAvgPool() if pooled else Flatten(),)
    if half_width is not None:
        end = AvgPool(2 * half_width + 1, 1, "SAME"), Flatten()
    return Architecture((first, *inner, Relu(), *end, Dense(W_std=1.0, trainable=not pooled)))


def _myrtle(counts: tuple[int, int, int]) -> tuple[Layer, ...]:
    layers: list[Layer] = []
    for count in counts:
        layers += [*(Conv(), Relu()) * count, AvgPool(2)]
    # what is left of 32×32 after three pools is 4×4, pooled on to 1×1
    return (*layers, AvgPool(2), AvgPool(2), Flatten(), Dense())


def preset_names() -> list[str]:
    """Return example names of every preset, for help texts."""
    return ["fc-2", "fc-10", "cntk-v-11", *_POOLED, *_PRESETS]


_POOLED = ("cntk-lap-6-2", "cntk-lap-11-4", "cntk-gap-4", "cntk-gap-11")

#: The network for images whose kernel finds most wrong labels at its cost (``jobs/tables``).
POOLING_PRESET = "cntk-lap-6-2"


def preset_of(architecture: Architecture) -> str | None:
    """Return the name of the preset an architecture equals, or None."""
    depth = architecture.depth
    pools = [x.size // 2 for x in architecture.layers if isinstance(x, AvgPool)]
    laps = [f"cntk-lap-{depth}-{half_width}" for half_width in pools[:1]]
    for name in (*_PRESETS, f"fc-{depth - 1}", f"cntk-v-{depth}", f"cntk-gap-{depth}", *laps):
        try:
            if preset(name) == architecture:
                return name
        except InputError:  # a depth this family does not have
            continue
    return None


def _make(name: str, positional: Sequence[Any], named: dict[str, Any]) -> Layer:
    if name not in LAYERS:
        raise InputError(
            f"architecture: unknown layer {shown(name)}; the layers are {', '.join(LAYERS)}"
            + did_you_mean(name, LAYERS)
        )
    cls = LAYERS[name]
    known = [f.name for f in fields(cls)]
    for field in named:
        if field not in known:
            raise InputError(
                f"architecture: {name} has no field {field!r}; "
                + (f"its fields are {', '.join(known)}" if known else "it has none")
                + did_you_mean(str(field), known)
            )
    if len(positional) > len(known):
        raise InputError(f"architecture: {name} takes at most {len(known)} values")
    repeated = [f for f in known[: len(positional)] if f in named]
    if repeated:
        raise InputError(f"architecture: {name} is given {repeated[0]!r} twice")
    for f in fields(cls)[len(positional) :]:
        if f.default is MISSING and f.name not in named:
            kind = "a list of layers" if cls is Residual else "a number"
            raise InputError(f"architecture: {name} needs the field {f.name!r}, {kind}")
    return cls(*positional, **named)


def _parse_items(items: Any) -> tuple[Layer, ...]:
    """Read layers: several in a list, or one alone."""
    several = isinstance(items, Sequence) and not isinstance(items, (str, bytes))
    return tuple(_parse_item(item) for item in (items if several else (items,)))


def _parse_item(item: Any) -> Layer:
    if type(item).__name__ in LAYERS:
        return item
    if isinstance(item, str):
        text = item.strip()
        layers = _parse_text(f"[{text}]" if "(" in text else f"[{text}()]")
        if len(layers) != 1:
            raise InputError(
                f"architecture: {shown(item)} is not one layer; make it items of the list"
            )
        return layers[0]
    if isinstance(item, dict) and len(item) == 1:
        ((name, value),) = item.items()
        known = [f.name for f in fields(LAYERS[name])] if name in LAYERS else []
        if isinstance(value, dict) and set(value) - set(LAYERS):
            named = dict(value)
        elif value is None or (isinstance(value, (list, dict)) and not value):
            named = {}
        elif known:
            named = {known[0]: value}
        else:
            raise InputError(
                f"architecture: {shown(item)} cannot be read: {name} has no field to "
                f"take {shown(value)}"
                if name in LAYERS
                else f"architecture: unknown layer {shown(name)}; the layers are "
                + ", ".join(LAYERS)
                + did_you_mean(str(name), LAYERS)
            )
        for branch in {"branch", "shortcut"} & set(named) & set(known):
            named[branch] = _parse_items(named[branch])
        return _make(str(name), (), named)
    raise InputError(
        f"architecture: {shown(item)} is not a layer; write Conv, Conv(size=5) or "
        "{Conv: {size: 5}}"
    )


def _parse_text(text: str) -> tuple[Layer, ...]:
    try:
        tree = ast.parse(text, mode="eval").body
    except SyntaxError as error:
        raise InputError(f"architecture: {shown(text)} cannot be read: {error.msg}") from None
    if not isinstance(tree, ast.List):
        raise InputError(f"architecture: {shown(text)} is not a list of layers")
    return tuple(_from_call(node) for node in tree.elts)


def _from_call(node: ast.expr) -> Layer:
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name):
        raise InputError(f"architecture: {ast.unparse(node)!r} is not a layer such as Conv(size=3)")
    positional = [_from_value(arg) for arg in node.args]
    return _make(
        node.func.id, positional, {k.arg or "**": _from_value(k.value) for k in node.keywords}
    )


def _from_value(node: ast.expr) -> Any:
    if isinstance(node, (ast.Tuple, ast.List)):
        return tuple(_from_call(item) for item in node.elts)
    try:
        return ast.literal_eval(node)
    except ValueError:
        raise InputError(f"architecture: {ast.unparse(node)!r} is not a plain value") from None


_PRESETS: dict[str, tuple[Layer, ...]] = {
    "cnn-1": (Conv(), Relu(), Flatten(), Dense(W_std=1.0)),
    "cnn-2": (*(Conv(), Relu()) * 2, Flatten(), Dense(W_std=1.0)),
    "cnn-3": (
        *(Conv(), Relu(), AvgPool(2)) * 2,
        *(Conv(), Relu(), GlobalAvgPool(), Dense(W_std=1.0)),
    ),
    "myrtle-5": _myrtle((2, 1, 1)),
    "myrtle-7": _myrtle((2, 2, 2)),
    "myrtle-10": _myrtle((3, 3, 3)),
}
