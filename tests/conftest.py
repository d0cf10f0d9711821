"""One thread and fixed seeds for every test, because two thread pools slow each other down."""

import random

import numpy as np
import pytest
import torch
from detector_fixtures import batch, coco, tiny, tiny_yaml

__all__ = ["batch", "coco", "tiny", "tiny_yaml"]

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def seeded():
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
