"""Reports of studies: every run as CSV, results as JSON, a table in Markdown, and figures."""

import csv
import os
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib import metadata

from pcka.environment import cpu_name
from pcka.errors import ConfigError
from pcka.files import read_json, replacing, write_json, write_text

from .estimates import PERCENT, Estimate, estimate, paired_differences
from .figure import difference_figure
from .kinds import ResultReader, drawing_of
from .run import Run
from .study import Candidate, Setting, Study

# One entry per label and seed: the seed and the figures of ``ResultReader.read``.
Results = Mapping[str, Sequence[Mapping[str, float]]]


def write_report(study: Study, command: str) -> str:
    """Write the report into the study's folder; return the table of the settings.

    The files are ``runs.csv``, ``results.json`` and ``table.md``, ``figure.png`` if there is more
    than the base, and ``picture.png`` if the file asks for it and its runs are finished.
    """
    output = study.output_dir
    output.mkdir(parents=True, exist_ok=True)
    with replacing(output / "runs.csv") as part, part.open("w", newline="", encoding="utf-8") as f:
        rows = list(run_rows(study))
        writer = csv.DictWriter(f, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    results = collect(study)
    write_json(output / "results.json", results)
    chosen = {s.name: _chosen(s) for s in study.settings} if study.tuning_runs else {}
    settings = markdown(results_table(results, study.kind.results, study.base.name, chosen))
    parts = [f"# {study.title}", settings, _notes(study)]
    if study.tuning_runs:
        parts += ["## Tuning", _tuning_notes(study), tuning_table(study)]
    failures = [run for _, _, _, run in _runs(study) if run.status != "done"]
    if failures:
        parts += ["## Runs without results", *(_failure(run) for run in failures)]
    write_text(output / "table.md", "\n\n".join([*parts, _provenance(command)]) + "\n")
    if len(study.settings) > 1:
        metric = study.kind.results.metrics[0]
        differences = {s.name: _differences(results, s, study.base) for s in study.settings[1:]}
        figure = difference_figure(
            differences, base=study.base.name, metric=metric, title=study.title
        )
        figure.savefig(output / "figure.png")
    if study.picture and not failures:
        drawing_of(study.kind).study_picture(study).savefig(output / "picture.png")
    return settings


def collect(study: Study) -> dict[str, list[dict[str, float]]]:
    """Return the results of the finished runs: the teacher's, then the settings'."""
    teacher = {"teacher": [study.teacher]} if study.teacher else {}
    labelled = {**teacher, **{setting.name: setting.report for setting in study.settings}}
    return {
        label: [{"seed": run.seed, **run.results} for run in runs if run.status == "done"]
        for label, runs in labelled.items()
    }


def results_table(
    results: Results, reader: ResultReader, base: str | None, chosen: Mapping[str, str]
) -> list[list[str]]:
    """Return the columns and a row per label: means, and differences from the base.

    Args:
        results: the results by label; ``teacher`` is compared with nothing.
        reader: the reader of results, which names the figures.
        base: the label that others are compared with; None for no differences.
        chosen: the value that tuning chose, by label; empty if nothing was tuned.
    """
    metrics, cost = reader.metrics, reader.cost
    columns = ["", *metrics, "n"]
    if base is not None:
        columns.append(f"difference from {base} ({metrics[0]}) [{PERCENT} interval]")
    columns += ["chosen"] if chosen else []
    rows = [[*columns, "parameters", cost]]
    for label, entries in results.items():
        cells = [estimate(e[m] for e in entries).spread(".2f") if entries else "" for m in metrics]
        cells.append(str(len(entries)))
        if base is not None:
            compared = label not in ("teacher", base)
            pairs = _pairs(results, label, base, metrics[0]) if compared else {}
            cells.append(_difference(estimate(pairs.values()), len(entries)) if pairs else "")
        cells += [chosen.get(label, "")] if chosen else []
        cells.append(f"{entries[0]['parameters'] / 1e6:.2f} M" if entries else "")
        cells.append(f"{statistics.mean(e[cost] for e in entries):.0f}" if entries else "")
        rows.append([label, *cells])
    return rows


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """Return a table in Markdown; the first row names the columns."""
    lines = [[cell.replace("|", r"\|") for cell in cells] for cells in rows]
    lines.insert(1, ["---"] * len(rows[0]))
    return "\n".join("| " + " | ".join(cells).lstrip() + " |" for cells in lines)


def run_rows(study: Study) -> Iterator[dict]:
    """Yield one row per run, all with the same columns; a cell without a value is empty."""
    axes = dict.fromkeys(axis for setting in study.settings for axis in setting.axes)
    reader = study.kind.results
    for stage, setting, candidate, run in _runs(study):
        results = run.results if run.status == "done" else {}
        yield {
            "stage": stage,
            "setting": setting.name if setting else "",
            **{axis: setting.axes.get(axis, "") if setting else "" for axis in axes},
            "tuned": candidate.value if candidate else "",
            "seed": run.seed,
            "status": run.status,
            **{key: results.get(key, "") for key in (*reader.metrics, "parameters", reader.cost)},
        }


def tuning_table(study: Study) -> str:
    """Return one line per value that was tried, with the first metric of the tuning runs."""
    metric = study.kind.results.metrics[0]
    rows = [["", "value", metric, "n", ""]]
    for setting in study.settings:
        for candidate in setting.candidates if setting.tune else ():
            done = [run for run in candidate.tuning if run.status == "done"]
            mean = estimate(r.results[metric] for r in done).spread(".2f") if done else ""
            chosen = "chosen" if candidate is setting.chosen else ""
            value = f"{setting.tune} {candidate.value}"
            rows.append([setting.name, value, mean, f"{len(done)}", chosen])
    return markdown(rows)


def _runs(study: Study) -> Iterator[tuple[str, Setting | None, Candidate | None, Run]]:
    """Yield every run with its stage, setting and candidate."""
    if study.teacher:
        yield "teacher", None, None, study.teacher
    for setting in study.settings:
        for candidate in setting.candidates:
            for run in candidate.tuning:
                yield "tuning", setting, candidate, run
        for run in setting.report:
            yield "report", setting, setting.chosen, run


def _pairs(results: Results, label: str, base: str, metric: str) -> dict[int, float]:
    """Return the differences of a label from the base by seed, for the seeds of both."""
    own, others = ({int(e["seed"]): e[metric] for e in results[key]} for key in (label, base))
    return paired_differences(own, others)


def _differences(results: Results, setting: Setting, base: Setting) -> dict[int, float]:
    runs = setting.report or base.report
    return _pairs(results, setting.name, base.name, runs[0].kind.results.metrics[0])


def _difference(difference: Estimate, done: int) -> str:
    mean = f"{difference.mean:+.2f}"
    if difference.interval is None:
        return f"{mean} (one pair: no interval)"
    low, high = difference.interval
    pairs = f" ({difference.n} pairs)" if difference.n < done else ""
    return f"{mean} [{low:+.2f}, {high:+.2f}]{pairs}"


def _chosen(setting: Setting) -> str:
    if not setting.tune:
        return ""
    values = ", ".join(candidate.value for candidate in setting.candidates)
    if not setting.chosen:
        return f"nothing: no {setting.tune} of {values} finished tuning"
    return f"{setting.tune} {setting.chosen.value} of {values}"


def _notes(study: Study) -> str:
    notes = [
        notes_on_seeds(study.seeds),
        "The teacher is one run (seed 0)." if study.teacher else "",
        "" if not study.tuning_runs else "What was tuned was chosen on other seeds and images.",
        study.kind.results.note(study.base.candidates[0].report[0].config),
    ]
    return " ".join(filter(None, notes))


def notes_on_seeds(seeds: Iterable[int]) -> str:
    """Return notes that explain the means, deviations and intervals over these seeds."""
    seeds = list(seeds)
    if len(seeds) < 2:
        return f"Seed {seeds[0]}: one seed has no standard deviation and no interval."
    return (
        f"Mean ± sample standard deviation over seeds {', '.join(map(str, seeds))}; n: how many of "
        f"them finished. Differences are paired by seed; in brackets the {PERCENT} interval of "
        "their mean by Student's t, each setting by itself: of many settings, one in twenty misses "
        "0 by chance."
    )


def _tuning_notes(study: Study) -> str:
    images = study.kind.configs.evaluated_on(study.tuning_runs[0].config)
    seeds = ", ".join(map(str, study.tuning_seeds))
    return (
        f"The value with the best mean over seeds {seeds}, evaluated on {images}, was chosen, "
        "among those that finished on all of them. None of these figures is in the table above."
    )


def _failure(run: Run) -> str:
    title, *log = run.failure_text.splitlines()
    return "\n".join([f"- {title}", *(["", *(f"      {line}" for line in log)] if log else [])])


def _provenance(command: str) -> str:
    machine = f"{os.cpu_count()} cores of {cpu_name()}"
    return f"Command: `{command}`\n\nMachine: {machine}, torch {metadata.version('torch')}."


def read_results(path: os.PathLike) -> dict[str, list[dict[str, float]]]:
    """Return the content of a ``results.json``.

    Raises:
        ConfigError: the file is damaged, or gone.
    """
    found = read_json(path)
    if not isinstance(found, dict):
        raise ConfigError(f"{path} holds no results of a study: run the study again")
    return found
