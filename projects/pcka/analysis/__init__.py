"""Pictures of what CKA sees of two networks and of what distillation did; for both sides.

``layer_similarity`` compares the layers of any two torch models over a data set; the functions
``*_figure`` draw matplotlib figures of arrays. ``tools/pictures.py`` does both for a finished run,
``tools/report.py`` gathers them on a page.
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
