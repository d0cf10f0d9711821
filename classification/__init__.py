"""Knowledge distillation between image classifiers, on the losses of :mod:`pcka.core`.

Map of the package (nothing is imported here):

``pcka.classification.models``
    the networks of the field's CIFAR-100 and ImageNet tables by name, with the parameter names
    that published checkpoints use, and their intermediate maps by name.
``pcka.classification.checkpoints``
    reads trained weights in the layouts that people have, safely and strictly.
``pcka.classification.config``, ``pcka.classification.data``
    what a run is, and its images.
``pcka.classification.distiller``, ``pcka.classification.engine``, ``pcka.classification.train``
    student, teacher and terms; the training loop, with ``schedule``, ``meter``, ``evaluate``,
    ``snapshot`` (to resume from), ``records`` (a run's folder) and ``processes``; the command.
``pcka.classification.comparison``, ``pcka.classification.report``, ``pcka.classification.figures``
    what ``pcka study``, ``pcka study`` and ``tools/report.py`` need to know of such
    runs; their pictures.
"""
