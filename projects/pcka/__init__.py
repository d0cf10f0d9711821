"""pcka: knowledge distillation by Centered Kernel Alignment (arXiv 2401.11824).

Nothing is imported here. ``docs/architecture.md`` is the map of the package; read
``pcka.core.reference`` first.
"""

__version__ = "0.2.0.dev0"
