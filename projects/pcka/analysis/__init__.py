"""CKA between the layers of two networks, and figures of it, for any torch model.

``layer_similarity`` compares the layers of two models over a data set. The functions ``*_figure``
draw matplotlib figures of arrays. ``pcka pictures`` does both for a finished run, and
``pcka report`` gathers them on a page.
"""

from .heatmap import heatmap_figure
from .layers import LayerReader
from .logit_grams import logit_gram_figure
from .patch_grams import gram_figure
from .similarity import LayerSimilarity, layer_similarity

__all__ = [
    "LayerReader",
    "LayerSimilarity",
    "gram_figure",
    "heatmap_figure",
    "layer_similarity",
    "logit_gram_figure",
]
