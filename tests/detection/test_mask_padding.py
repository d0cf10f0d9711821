"""MODEL.PCKA.MASK_PADDING: the sizes of the images reach the losses."""

import pytest
import torch
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage

from pcka.core import patch_cka

TERMS = [
    "MODEL.PCKA.TERMS",
    [{"FEATURES": ["p3"], "LOSS_ARGS": {"patch_size": 2, "grouping": "batch"}}],
]


@pytest.fixture
def losses(tiny, batch):
    """Return ``losses(size, ...)``: PCKA on p3 unmasked and masked, and the inputs of the loss."""
    models = [
        build_model(tiny(*TERMS, "MODEL.PCKA.MASK_PADDING", mask)).train() for mask in (False, True)
    ]
    models[1].load_state_dict(models[0].state_dict())

    def make(*sizes):
        inputs, found = batch(*sizes), []
        for model in models:
            given = []
            model.distill.register_forward_pre_hook(lambda _, args, g=given: g.append(args))
            with EventStorage():
                torch.manual_seed(0)
                found.append(model(inputs)["loss_pcka_p3"])
        return *found, given[0]

    return make


def test_images_of_one_size_to_the_bit(losses):
    plain, masked, _ = losses((64, 96), (64, 96))
    assert torch.equal(plain, masked)


def test_images_of_different_sizes_count_as_alone(losses):
    plain, masked, (student, teacher) = losses((64, 96), (96, 64))
    assert student["p3"].shape[-2:] == (12, 12)
    crops = [(0, slice(8), slice(12)), (1, slice(12), slice(8))]
    alone = [
        patch_cka(
            student["p3"][i : i + 1, :, h, w],
            teacher["p3"][i : i + 1, :, h, w],
            patch_size=2,
            grouping="batch",
        )
        for i, h, w in crops
    ]
    torch.testing.assert_close(masked, 1 - torch.stack(alone).mean())
    assert abs(plain - masked) > 1e-4
