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
``pcka.comparison``
    teacher and students trained over seeds, and their table; for both sides.
``pcka.errors``
    the error that both sides raise for what a user asked for and cannot have.
"""

__version__ = "0.1.0"
