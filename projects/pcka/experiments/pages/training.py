"""The section of a page on the terms during training."""

from collections.abc import Mapping

from .curves import Curve, curves_figure
from .html import Picture, Section


def training_section(
    runs: Mapping[str, Mapping[str, Curve]], *, x_label: str, own: str, option: str
) -> Section:
    """Draw one figure for every run that has scalars of terms.

    Args:
        runs: the scalars of each run, by label and full name.
        x_label: iteration or epoch.
        own: the losses that the gradients are compared with, in words.
        option: the key of the config that measures gradients.
    """
    pictures = []
    for label, scalars in runs.items():
        try:
            figure = curves_figure(scalars, x_label=x_label, title=label)
        except ValueError:  # no teacher, or losses that are not similarities
            continue
        if any(name.startswith("gradient/") for name in scalars):
            caption = f"Gradients are norms at the student's features; 1 is that of {own}."
        else:
            caption = f"The gradients of the terms were not measured ({option})."
        alt = f"{label}: CKA to the teacher, share of the loss and gradient of every term over time"
        pictures.append(Picture(figure, alt, caption))
    text = [] if pictures else ["No run here has records of terms: none was taught."]
    return Section("During training", text, pictures)
