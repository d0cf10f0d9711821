"""The sections of ``benchmarks/gpu.py``, each a module with ``measure(quick, toy) -> dict``."""
