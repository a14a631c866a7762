"""What a kernel entry takes, counted: cells, float32 operations, device memory.

The state of a pair of P × Q images has (P·Q)² cells, a class of displacements (p, q) being P·Q of
them and there being P·Q classes; without any pooling only displacement 0 counts, P·Q cells. A
layer is a convolution (or dense layer) with the ReLU behind it. A cell's operations in
one layer, NTK and NNGP together, as ``ntkdist/kernels/_cuda_cells.py`` and ``_cuda_fused.py`` write
them, where each of the following issues one slot of the fp32 pipe:

* ReLU: 5 multiplications (ab, y, y², e·y, Θ·slope), 1 addition (a − b) and 15 fused
  multiply-adds (e, e·ab + tiny, polynomials of degree 5 and 4, two results made of them, 2ab − e,
  the trained summand);
* 3 × 3 filter by rows and columns: 8 additions, 2 for each of Δ and Θ in both directions.

29 slots, or 44 floating point operations (a multiply-add counts two), and one special
function, 1/√, in a pipe of its own. Not counted, though they take slots too: the masks and half
variances where a link is cut, a minimum, addresses, loads and shuffles. The bound beside a result
is slots over the measured rate of multiply-adds; at 29 slots of 44 operations a kernel that
kept the pipe full would reach 76 % of the measured peak, the "share of peak" is of operations.
"""

from __future__ import annotations

from dataclasses import dataclass

from ntkdist import Architecture, AvgPool, Conv, Dense, Flatten, GlobalAvgPool, Relu

RELU_MULTIPLICATIONS, RELU_ADDITIONS, RELU_FMAS = 5, 1, 15
BOX_ADDITIONS = 8  # of 3 × 3; none in a dense layer
RELU_SLOTS = RELU_MULTIPLICATIONS + RELU_ADDITIONS + RELU_FMAS
RELU_FLOPS = RELU_SLOTS + RELU_FMAS
PIXEL_SLOTS, PIXEL_FLOPS = 2, 3  # (x − y)² of a channel, added up: an addition, a multiply-add
POOL_SLOTS = 2  # additions of Δ and Θ to a window's or the image's sum

CELL_LAYER = {
    "slots": RELU_SLOTS + BOX_ADDITIONS,
    "flops": RELU_FLOPS + BOX_ADDITIONS,
    "special_functions": 1,
}
FLOAT = 4  # bytes


@dataclass(frozen=True)
class Work:
    """What one entry takes, NTK and NNGP together.

    Attributes:
        layers: ReLUs, each with the weight layer in front of it.
        cell_layers: Cells summed over these layers.
        slots: Issue slots of the fp32 pipe.
        flops: Floating point operations.
        exchanged: Bytes that pools write to and read from device memory, Δ and Θ.
        pooled: Whether cells of all displacements count.
    """

    layers: int
    cell_layers: int
    slots: int
    flops: int
    exchanged: int
    pooled: bool


def work_of(arch: Architecture, shape: tuple[int, int, int]) -> Work:
    """Count what one entry takes.

    Args:
        arch: 3 × 3 SAME convolutions, Dense, ReLUs and pools that, where there are any, leave
            one window or end in GlobalAvgPool, so that all displacements count.
        shape: (H, W, C) of the images.

    Returns:
        The counts.

    Raises:
        ValueError: For another network.
    """
    pooled = any(isinstance(x, (AvgPool, GlobalAvgPool)) for x in arch.layers)
    H, W, channels = shape if arch.is_spatial else (1, 1, shape[0] * shape[1] * shape[2])

    def cells() -> int:
        return (H * W) ** 2 if pooled else H * W

    slots, flops = cells() * channels * PIXEL_SLOTS, cells() * channels * PIXEL_FLOPS
    layers = cell_layers = exchanged = 0
    for layer in arch.layers:
        if isinstance(layer, Conv):
            if (layer.size, layer.stride, layer.padding) != (3, 1, "SAME"):
                raise ValueError(f"operations are not counted for {layer}")
            slots, flops = slots + cells() * BOX_ADDITIONS, flops + cells() * BOX_ADDITIONS
        elif isinstance(layer, Relu):
            layers, cell_layers = layers + 1, cell_layers + cells()
            slots, flops = slots + cells() * RELU_SLOTS, flops + cells() * RELU_FLOPS
        elif isinstance(layer, (AvgPool, GlobalAvgPool, Flatten)):
            slots, flops = slots + cells() * POOL_SLOTS, flops + cells() * POOL_SLOTS
            before = cells()
            if isinstance(layer, AvgPool):
                H, W = H // layer.size, W // layer.size
                exchanged += 2 * 2 * FLOAT * (before + cells())  # Δ and Θ, written and read
            else:
                if isinstance(layer, Flatten) and pooled and H * W > 1:
                    raise ValueError(
                        "operations are not counted for Flatten behind several windows"
                    )
                H, W = 1, 1
        elif not isinstance(layer, Dense):
            raise ValueError(f"operations are not counted for {layer}")
    return Work(layers, cell_layers, slots, flops, exchanged, pooled)
