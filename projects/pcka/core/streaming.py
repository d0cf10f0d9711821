"""PCKA's value and gradients chunk by chunk, so that only the gradients take a map's memory.

Chunks hold whole groups. With the grouping ``batch`` an image is one group, and its Gram matrix is
the sum of those of its channels. The channels are then taken some at a time: once to add up the
Gram matrices, and once more, when these are complete, to form the gradient.

Shapes: B images, C channels, (H, W) map; G groups, N patches, D features of a patch.
"""

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from . import kernels
from .autograd import Slope
from .closed_form import (
    Needs,
    ValueAndGradients,
    cka_with_gradients,
    samples_pay,
    uncentred_both_ways,
)
from .collectives import all_sum_, world_size
from .grams import GramPair, Side, gram_matrix, scale_for, standardize, working_dtype
from .patches import PatchOptions, from_patches, grid_shape, to_patches

# The bytes of a map that a CPU works on at a time, so that they stay in the cache. On a GPU,
# options without a kernel work on whole maps, because a launch costs more than memory.
WORKSPACE_BYTES = 2 << 20

Maps = Sequence[Tensor]  # the student's (B, C, H, W) and the teacher's (B, C', H, W)
Chunk = tuple[slice, ...]  # an index of a map


def patch_cka_with_gradients(
    student: Tensor, teacher: Tensor, needs: Needs, options: PatchOptions
) -> tuple[Tensor, float, Slope | None, Slope | None]:
    """Compute PCKA and its gradients: the ``compute`` of :func:`.with_gradients`.

    This is the one place that chooses by device how to compute.

    Args:
        student, teacher: ``(B, C, H, W)``, ``(B, C', H, W)``, checked, of any floating type.
        needs: whether to form the gradient of the student and of the teacher.
        options: see :class:`PatchOptions`.

    Returns:
        The mean CKA over the groups, ``()``, in float32 (float64 if a map is); a factor; and for
        each map a slope, or None where it is not needed. A slope is a tensor of the map's shape in
        that type, or on a GPU an object that becomes one in backward. A gradient is the factor
        times the slope; backward overwrites the slopes.
    """
    if kernels.covers_maps(student, teacher, options):
        return kernels.patch_cka_with_gradients(student, teacher, needs, options)
    maps, dtype = (student, teacher), working_dtype(student, teacher)
    gradients = [
        torch.empty(m.shape, dtype=dtype, device=m.device) if need else None
        for m, need in zip(maps, needs, strict=True)
    ]
    # Written in place, because small results kept between the chunks would fragment the heap.
    values = torch.empty(options.groups(student), dtype=dtype, device=student.device)
    done = 0
    for chunk in _chunks(student, options.grouping):
        inputs = [m[chunk] for m in maps]
        outputs = [g if g is None else g[chunk] for g in gradients]
        work = _cka_by_channels if _has_parts(inputs, needs, options) else _cka_of_chunk
        value = work(inputs, outputs, needs, dtype, options)
        values[done : done + len(value)] = value
        done += len(value)
    factor = 1 / len(values)
    value = values.mean()
    if options.gather and options.grouping == "batch":
        # Each image has a Gram matrix of its own: processes share the groups, not the features.
        value = all_sum_(value) / world_size()
    elif options.gather:
        factor *= world_size()  # for DDP's mean
    return value, factor, gradients[0], gradients[1]


def _chunks(x: Tensor, grouping: str) -> Iterator[Chunk]:
    """Yield indices of parts of a map ``(B, C, H, W)`` that hold whole groups."""
    # A group of ``position`` reads every channel of every image, so there is one chunk.
    if grouping == "position" or x.device.type != "cpu":
        yield (slice(None),)
        return
    axis = 0 if grouping == "batch" else 1
    count = max(1, WORKSPACE_BYTES * x.shape[axis] // (x.numel() * max(x.element_size(), 4)))
    for start in range(0, x.shape[axis], count):
        yield (*[slice(None)] * axis, slice(start, start + count))


def _cka_of_chunk(
    maps: Maps,
    gradients: Sequence[Tensor | None],
    needs: Needs,
    dtype: torch.dtype,
    options: PatchOptions,
) -> Tensor:
    """Return the CKA ``(G,)`` of maps that hold whole groups, and fill their gradients."""
    x, y = (to_patches(m.to(dtype), options) for m in maps)
    spread = options.gather and options.grouping != "batch" and world_size() > 1
    share = options.share
    if share == 0:
        value, *slopes = cka_with_gradients(
            x,
            y,
            center=options.center,
            debiased=options.debiased,
            needs=needs,
            spread="features" if spread else None,
        )
    else:
        value, *slopes = _with_inter(x, y, needs, spread, options)
    for gradient, slope in zip(gradients, slopes, strict=True):
        if gradient is not None and slope is not None:
            from_patches(slope, gradient, options)
    return value


def _with_inter(
    x: Tensor, y: Tensor, needs: Needs, spread: bool, options: PatchOptions
) -> ValueAndGradients:
    """Compute a mixture of the CKA over the patches and over their features, ``(G, N, D)``."""
    share = options.share
    features, samples = ("features", "samples") if spread else (None, None)
    shared_pays = samples_pay(x.shape[-2], x.shape[-1], y.shape[-1], needs)
    if share < 1 and not options.center and shared_pays:
        return uncentred_both_ways(x, y, share=share, needs=needs, spread=features)
    center, debiased = options.center, options.debiased
    value, *slopes = cka_with_gradients(
        x.mT, y.mT, center=center, debiased=debiased, needs=needs, spread=samples
    )
    inter = value, *(s if s is None else s.mT for s in slopes)
    if share == 1:
        return value, inter[1], inter[2]
    intra = cka_with_gradients(x, y, center=center, debiased=debiased, needs=needs, spread=features)
    slopes = [
        None if a is None or b is None else (1 - share) * a + share * b
        for a, b in zip(intra[1:], inter[1:], strict=True)
    ]
    return (1 - share) * intra[0] + share * value, slopes[0], slopes[1]


class _Image:
    """One image ``(1, C, H, W)`` of the grouping ``batch``, cut some channels at a time."""

    def __init__(self, x: Tensor, dtype: torch.dtype, options: PatchOptions):
        lowest, highest = torch.aminmax(x)  # resizing does not enlarge it
        size = torch.maximum(highest, -lowest).to(dtype)
        self.pixels, self.dtype, self.options = x, dtype, options
        self.scale = scale_for(size).view(1, 1, 1)  # one scale, since the parts are added up

    def chunks(self) -> Iterator[Chunk]:
        """Yield indices of channels that are worked on at a time."""
        return _chunks(self.pixels, "channel")

    def side(self, chunk: Chunk) -> Side:
        """Return the patches ``(1, N, D)`` of some channels, centred on request."""
        return standardize(
            to_patches(self.pixels[chunk].to(self.dtype), self.options),
            self.options.center,
            scale=self.scale,
        )

    def gram(self) -> Side:
        """Add up the Gram matrices ``(1, N, N)`` of the channels."""
        grams = (gram_matrix(self.side(chunk)) for chunk in self.chunks())
        matrix, scale, noise = next(grams)
        for gram in grams:
            matrix += gram.values
            noise = noise + gram.noise
        return Side(matrix, scale, noise)


def _has_parts(maps: Maps, needs: Needs, options: PatchOptions) -> bool:
    """Return whether maps are of one image that is better taken some channels at a time."""
    if options.grouping != "batch" or options.share or len(maps[0]) > 1:
        return False
    if all(len(list(_chunks(m, "channel"))) == 1 for m in maps):
        return False
    height, width = maps[0].shape[2:]
    patches = math.prod(grid_shape(height, width, options.patch_shape))
    cells = math.prod(options.patch_shape)
    student, teacher = (m.shape[1] * cells for m in maps)
    return samples_pay(patches, student, teacher, needs)


def _cka_by_channels(
    maps: Maps,
    gradients: Sequence[Tensor | None],
    needs: Needs,
    dtype: torch.dtype,
    options: PatchOptions,
) -> Tensor:
    """Do the work of :func:`_cka_of_chunk` for one image, some channels at a time."""
    images = [_Image(m, dtype, options) for m in maps]
    pair = GramPair(images[0].gram(), images[1].gram(), options.debiased)
    for i, (image, gradient) in enumerate(zip(images, gradients, strict=True)):
        if gradient is not None:
            operator = pair.gradient_operator(i)
            for chunk in image.chunks():
                # Giving the chunk a name would keep it alive while the next one is computed.
                from_patches(
                    torch.bmm(operator, image.side(chunk).values), gradient[chunk], options
                )
    return pair.value.flatten()
