"""What an ablation found: every run as CSV, a table in Markdown, and a figure."""

import csv
import statistics
from collections.abc import Iterator

from .ablation import Ablation, Candidate, Setting
from .ablation_figure import difference_figure
from .estimates import PERCENT, Estimate, estimate, paired_differences
from .markdown import provenance, table
from .run import Run


def write_report(ablation: Ablation, command: str) -> str:
    """Write ``runs.csv``, ``table.md`` and ``figure.png``; return the table of the settings."""
    output = ablation.output_dir
    output.mkdir(parents=True, exist_ok=True)
    with (output / "runs.csv").open("w", newline="", encoding="utf-8") as file:
        rows = list(run_rows(ablation))
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    settings = settings_table(ablation)
    parts = [f"# {ablation.title}", settings, _notes(ablation)]
    if ablation.tuning_runs:
        parts += ["## Tuning", _tuning_notes(ablation), tuning_table(ablation)]
    if failures := [run for _, _, _, run in _runs(ablation) if run.status != "done"]:
        parts += ["## Runs without results", *(_failure(run) for run in failures)]
    parts += [provenance(command)]
    (output / "table.md").write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    differences = {s.name: differences_to_base(s, ablation.base) for s in ablation.settings[1:]}
    figure = difference_figure(
        differences,
        base=ablation.base.name,
        metric=ablation.task.metrics[0],
        title=ablation.title,
    )
    figure.savefig(output / "figure.png")
    return settings


def differences_to_base(setting: Setting, base: Setting) -> dict[int, float]:
    """In the first metric, by seed, for the seeds that both finished."""
    return paired_differences(_by_seed(setting), _by_seed(base))


def run_rows(ablation: Ablation) -> Iterator[dict]:
    """One line per run, with the same columns; empty where there is nothing to say."""
    axes = dict.fromkeys(axis for setting in ablation.settings for axis in setting.axes)
    task = ablation.task
    for stage, setting, candidate, run in _runs(ablation):
        results = run.results if run.status == "done" else {}
        yield {
            "stage": stage,
            "setting": setting.name if setting else "",
            **{axis: setting.axes.get(axis, "") if setting else "" for axis in axes},
            "tuned": candidate.value if candidate else "",
            "seed": run.seed,
            "status": run.status,
            **{key: results.get(key, "") for key in (*task.metrics, "parameters", task.cost)},
        }


def settings_table(ablation: Ablation) -> str:
    """One line per setting, the teacher and the base first: means, and differences to the base."""
    task, base = ablation.task, ablation.base
    tuned = any(setting.tune for setting in ablation.settings)
    columns = [
        "",
        *task.metrics,
        "n",
        f"difference to {base.name} ({task.metrics[0]}) [{PERCENT} interval]",
        *(["chosen"] if tuned else []),
        "parameters",
        task.cost,
    ]
    rows = []
    if ablation.teacher:
        rows.append(
            ["teacher", *_cells(ablation, [ablation.teacher], "", *([""] if tuned else []))]
        )
    for setting in ablation.settings:
        pairs = differences_to_base(setting, base)
        compared = setting is not base and pairs
        difference = _difference(estimate(pairs.values()), setting) if compared else ""
        chosen = [_chosen(setting)] if tuned else []
        rows.append([setting.name, *_cells(ablation, setting.report, difference, *chosen)])
    return table(columns, rows)


def tuning_table(ablation: Ablation) -> str:
    """One line per value that was tried, with the first metric on the tuning seeds and images."""
    rows = []
    for setting in ablation.settings:
        for candidate in setting.candidates if setting.tune else ():
            done = [run for run in candidate.tuning if run.status == "done"]
            metric = ablation.task.metrics[0]
            mean = estimate(r.results[metric] for r in done).spread(".2f") if done else ""
            chosen = "chosen" if candidate is setting.chosen else ""
            value = f"{setting.tune} {candidate.value}"
            rows.append([setting.name, value, mean, f"{len(done)}", chosen])
    return table(["", "value", ablation.task.metrics[0], "n", ""], rows)


def _runs(
    ablation: Ablation,
) -> Iterator[tuple[str, Setting | None, Candidate | None, Run]]:
    """Every run with its stage, setting and candidate."""
    if ablation.teacher:
        yield "teacher", None, None, ablation.teacher
    for setting in ablation.settings:
        for candidate in setting.candidates:
            for run in candidate.tuning:
                yield "tuning", setting, candidate, run
        for run in setting.report:
            yield "report", setting, setting.chosen, run


def _by_seed(setting: Setting) -> dict[int, float]:
    return {r.seed: r.results[r.task.metrics[0]] for r in setting.report if r.status == "done"}


def _cells(ablation: Ablation, runs: list[Run], *middle: str) -> list[str]:
    task = ablation.task
    results = [run.results for run in runs if run.status == "done"]
    if not results:
        return ["" for _ in task.metrics] + ["0", *middle, "", ""]
    return [
        *(estimate(r[metric] for r in results).spread(".2f") for metric in task.metrics),
        f"{len(results)}",
        *middle,
        f"{results[0]['parameters'] / 1e6:.2f} M",
        f"{statistics.mean(r[task.cost] for r in results):.0f}",
    ]


def _difference(difference: Estimate, setting: Setting) -> str:
    mean = f"{difference.mean:+.2f}"
    if difference.interval is None:
        return f"{mean} (one pair: no interval)"
    low, high = difference.interval
    done = sum(run.status == "done" for run in setting.report)
    pairs = f" ({difference.n} pairs)" if difference.n < done else ""
    return f"{mean} [{low:+.2f}, {high:+.2f}]{pairs}"


def _chosen(setting: Setting) -> str:
    if not setting.tune:
        return ""
    values = ", ".join(candidate.value for candidate in setting.candidates)
    if not setting.chosen:
        return f"nothing: no {setting.tune} of {values} finished tuning"
    return f"{setting.tune} {setting.chosen.value} of {values}"


def _notes(ablation: Ablation) -> str:
    seeds = ", ".join(map(str, ablation.seeds))
    notes = [
        f"Mean ± sample standard deviation over seeds {seeds}; n: how many of them finished. "
        f"Differences are paired by seed; in brackets the {PERCENT} interval of their mean by "
        "Student's t, each setting by itself: of many settings, one in twenty misses 0 by chance."
        if len(ablation.seeds) > 1
        else f"Seed {seeds}: one seed has no standard deviation and no interval.",
        "The teacher is one run (seed 0)." if ablation.teacher else "",
        "" if not ablation.tuning_runs else "What was tuned was chosen on other seeds and images.",
        ablation.task.note(ablation.base.candidates[0].report[0].config),
    ]
    return " ".join(filter(None, notes))


def _tuning_notes(ablation: Ablation) -> str:
    images = ablation.task.evaluated_on(ablation.tuning_runs[0].config)
    seeds = ", ".join(map(str, ablation.tuning_seeds))
    return (
        f"The value of the best mean over seeds {seeds}, evaluated on {images}, was chosen, among "
        "those that finished on all of them. None of these figures is in the table above."
    )


def _failure(run: Run) -> str:
    title, *log = run.failure_text.splitlines()
    return "\n".join([f"- {title}", *(["", *(f"      {line}" for line in log)] if log else [])])
