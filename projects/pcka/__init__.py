"""pcka: knowledge distillation by Centered Kernel Alignment (arXiv 2401.11824).

Map of the package (nothing is imported here):

``pcka.core``
    torch alone. CKA, patches, losses, adapters, taps, terms: what turns two dictionaries of
    features into a dictionary of losses. Shared by detection and classification.
``pcka.detection``
    the Detectron2 side. Importing it registers the meta-architecture ``DistilledDetector``,
    the backbones and the data sets that the configs name.
``pcka.analysis``
    CKA between all layers of two networks, and pictures of it and of Gram matrices; for any torch
    models.
``pcka.experiments``
    runs over seeds, and what they show: comparisons and ablations, for both sides.
``pcka.analysis``
    pictures of what distillation did, and the page that gathers them; for both sides.
``pcka.errors``, ``pcka.keys``, ``pcka.environment``, ``pcka.analysis.plotting``
    what both sides share beside it: the error for what a user asked for and cannot have, dotted
    keys into configs, what a run ran on, and the looks of figures.
"""

__version__ = "0.1.0"
