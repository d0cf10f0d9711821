#!/usr/bin/env python3
"""Train settings of a config over several seeds, tuned on others; write a table and a figure.

tools/ablate.py configs/ablations/digits_grouping.yaml [--jobs 2] [--output DIR]
                [--retry-failed] [KEY VALUE ...]

The file says by TASK whether these are detectors or classifiers. Finished runs are kept: called
again, it trains what is missing. Runs that failed are skipped until --retry-failed.
"""

import sys
import warnings

warnings.filterwarnings("ignore", message=".*torch.jit.script.*", category=FutureWarning)
warnings.filterwarnings("ignore", message=".*pkg_resources.*")

from pcka.experiments.ablation import run_ablation  # noqa: E402
from pcka.experiments.ablation_file import load_ablation  # noqa: E402
from pcka.experiments.ablation_report import write_report  # noqa: E402
from pcka.experiments.command_line import argument_parser, command, stopping  # noqa: E402

if __name__ == "__main__":
    parser = argument_parser(__doc__, "YAML file that names base, settings and seeds")
    parser.add_argument("--retry-failed", action="store_true", help="run again what has failed")
    args = parser.parse_intermixed_args()
    with stopping():
        ablation = load_ablation(args.file, opts=args.opts, output_dir=args.output)
        missing = run_ablation(ablation, jobs=args.jobs, retry_failed=args.retry_failed)
        print(write_report(ablation, command()))
        print(f"\nIn {ablation.output_dir}: table.md, runs.csv, figure.png and the runs")
    if missing:
        sys.exit(f"{len(missing)} runs have no results, see table.md; --retry-failed tries again")
