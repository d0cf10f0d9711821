"""Runs over seeds, as processes, and what they show: comparisons and ablations.

Every run is a process with an output folder of its own; a finished run is not repeated, so an
interrupted comparison goes on where it stopped. What the runs are is the matter of a ``Task``,
which detection and classification each have.

Map of the package (nothing is imported here):

``task``, ``run``, ``run_factory``
    what has to be known of one kind of runs; one run; entries of a YAML file -> runs.
``training``
    runs -> processes, several at a time, with failures recorded.
``comparison_file``, ``comparison_report``
    ``tools/compare.py``: named students; ``folders`` reads what it and single runs left.
``choices``, ``ablation_file``, ``ablation``, ``ablation_report``, ``ablation_figure``
    ``tools/ablate.py``: grids of settings, each tuned first.
``estimates``, ``markdown``, ``command_line``
    means with intervals, tables, and what the two commands share.
"""
