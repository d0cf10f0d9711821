"""Training on two processes (CPU, gloo): it equals one process, ends with a death, and resumes."""

import json
import os
import shutil
import subprocess
import sys
import time
from argparse import Namespace
from pathlib import Path

import pytest
import torch
from detector_runs import train
from detectron2.modeling import build_model
from torch.multiprocessing import ProcessExitedException
from two_processes import ONE_STAGE, losses_and_gradients, work

from pcka.detection import ConfigError, Trainer
from pcka.detection.engine.hooks import UnusedParametersHook
from pcka.detection.engine.processes import check_processes, run_processes

ROOT = Path(__file__).parents[2]
TRAINING = (
    "SOLVER.MAX_ITER",
    6,
    "SOLVER.CHECKPOINT_PERIOD",
    2,
    "SOLVER.IMS_PER_BATCH",
    4,
    "MODEL.ROI_HEADS.SCORE_THRESH_TEST",
    0.0,
    "MODEL.PCKA.GRADIENT_PERIOD",
    2,
    "MODEL.PCKA.TERMS",
    [{"FEATURES": ["p3"], "ADAPTER": "conv1x1", "LOSS_ARGS": {"patch_size": 2, "gather": True}}],
)


def arguments(**changes):
    common = {"num_gpus": 1, "num_machines": 1, "machine_rank": 0, "dist_url": "auto"}
    return Namespace(**{**common, "eval_only": False, **changes})


@pytest.fixture(scope="module")
def two(tiny_yaml, tmp_path_factory):
    """Return the findings of two processes, and the folder of the run that they trained."""
    folder = tmp_path_factory.mktemp("two")
    opts = (*TRAINING, "OUTPUT_DIR", str(folder / "run"))
    args = arguments(num_gpus=2, folder=folder, config_file=str(tiny_yaml), opts=opts)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CUDA_VISIBLE_DEVICES", "")
        # Process 1 is killed at the very end, while process 0 waits for it.
        with pytest.raises(ProcessExitedException, match=r"process 1 .* signal SIGKILL"):
            run_processes(work, args, "cpu")
    return [torch.load(folder / f"found{rank}.pth") for rank in (0, 1)], folder / "run"


@pytest.mark.slow
def test_losses_and_gradients_are_those_of_one_process(tiny, two):
    wanted, _, wanted_gradients = losses_and_gradients(tiny(*ONE_STAGE))
    (found, each, gradients), (_, _, others) = (process["equal"] for process in two[0])
    assert {"loss_cls", "loss_box_reg", "loss_channel_p3", "loss_batch_p3"} < wanted.keys()
    assert found == pytest.approx(wanted, rel=1e-6)  # detectron2's focal loss is in float32
    # A gathered loss is that of the whole batch in every process.
    assert each[0]["loss_channel_p3"] == pytest.approx(each[1]["loss_channel_p3"], rel=1e-12)
    assert each[0]["loss_mimic_p4"] != pytest.approx(each[1]["loss_mimic_p4"], rel=1e-3)
    assert gradients.keys() == wanted_gradients.keys()
    for name, gradient in wanted_gradients.items():
        scale = gradient.abs().max().item()
        assert torch.allclose(gradients[name], gradient, rtol=1e-5, atol=1e-6 * scale), name
        assert torch.equal(gradients[name], others[name]), name


@pytest.mark.slow
def test_sync_bn_on_cpu_names_the_remedy(two):
    for process in two[0]:
        assert "bottom_up.stem.conv1.norm" in process["SyncBN"]
        assert "naiveSyncBN" in process["SyncBN"]


@pytest.mark.slow
def test_evaluation_counts_every_image_once(tiny, two, tmp_path):
    def boxes(folder):
        text = (folder / "inference" / "tiny" / "coco_instances_results.json").read_text()
        return sorted(json.loads(text), key=lambda b: (b["image_id"], -b["score"], b["bbox"]))

    cfg = tiny(*TRAINING, "OUTPUT_DIR", str(tmp_path))
    model = build_model(cfg)
    model.student.load_state_dict(torch.load(two[1] / "model_final.pth")["model"])
    results = Trainer.test(cfg, model)
    wanted, found = boxes(tmp_path), boxes(two[1])
    assert len(found) == len(wanted) and {b["image_id"] for b in found} == set(range(1, 10))
    for a, b in zip(found, wanted, strict=True):
        assert a["image_id"] == b["image_id"]
        assert a["score"] == pytest.approx(b["score"], abs=1e-5)
    summary = json.loads((two[1] / "summary.json").read_text())["results"]["bbox"]
    assert summary["AP"] == pytest.approx(results["bbox"]["AP"], abs=1e-6)


@pytest.mark.slow
def test_process_0_alone_writes(two):
    names = {p.name for p in two[1].iterdir()}
    (events,) = (n for n in names if n.startswith("events."))  # of TensorBoard
    checkpoints = {f"model_{n:07}.pth" for n in (1, 3, 5)} | {"model_final.pth", "last_checkpoint"}
    checkpoints |= {"model_best.pth", "best.json"}
    records = {"config.yaml", "student.yaml", "metrics.json", "summary.json", "environment.json"}
    assert names == {events, "log.txt", "log.txt.rank1", "inference", *checkpoints, *records}
    lines = [json.loads(line) for line in (two[1] / "metrics.json").read_text().splitlines()]
    assert len({line["iteration"] for line in lines}) == len(lines)
    pulls = [line["gradient/pcka_p3"] for line in lines if "gradient/pcka_p3" in line]
    assert pulls and min(pulls) > 0  # of its own images


@pytest.mark.slow
def test_a_death_ends_the_run_and_resume_goes_on(tiny_yaml, two, tmp_path):
    """A run killed under torchrun and resumed under --num-gpus ends in the same weights."""
    opts = [str(opt) for opt in (*TRAINING, "OUTPUT_DIR", tmp_path / "run")]
    common = ["--config-file", str(tiny_yaml)]
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    start = time.monotonic()
    died = subprocess.run(
        [sys.executable, *torchrun, ROOT / "tests/detection/dying_train_net.py", *common, *opts],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert died.returncode != 0 and "SIGKILL" in died.stderr.upper(), died.stderr[-3000:]
    assert time.monotonic() - start < 60
    assert (tmp_path / "run" / "last_checkpoint").read_text() == "model_0000003.pth"
    resumed = subprocess.run(
        [
            sys.executable,
            ROOT / "tools/train_net.py",
            *common,
            "--num-gpus",
            "2",
            "--resume",
            "--dist-url",
            "auto",
            *opts,
        ],
        capture_output=True,
        text=True,
        timeout=120,
        env={
            **os.environ,
            "OMP_NUM_THREADS": "1",
        },  # torchrun's default; otherwise sums round differently
    )
    assert resumed.returncode == 0, resumed.stderr[-3000:]
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["first_iteration"] == 4
    contents = [torch.load(f / "model_final.pth") for f in (two[1], tmp_path / "run")]
    for part in ("model", "distill"):
        torch.testing.assert_close(*(dict(c[part]) for c in contents), rtol=0, atol=0)


@pytest.mark.slow
def test_one_process_resumes_a_run_of_two(tiny, two, tmp_path, caplog):
    shutil.copytree(two[1], tmp_path / "run")
    opts = (*TRAINING, "SOLVER.MAX_ITER", 7)
    trainer = train(tiny(*opts, "OUTPUT_DIR", str(tmp_path / "run")), resume=True)
    assert trainer.start_iter == 6 and trainer.iter == 7
    assert "the checkpoint is of 2 process(es), this run has 1" in caplog.text


def test_parameters_without_a_loss_are_named():
    model = torch.nn.ModuleDict({"used": torch.nn.Linear(1, 1), "spare": torch.nn.Linear(1, 1)})
    model["used"](torch.ones(1)).backward()
    hook = UnusedParametersHook()
    hook.trainer = Namespace(iter=3, start_iter=3, model=model)
    with pytest.raises(ConfigError, match=r"reaches 2 parameters.*: spare\.weight, spare\.bias\."):
        hook.after_step()
    hook.trainer.iter = 4
    hook.after_step()


def test_gather_refuses_what_pads_by_itself(tiny, monkeypatch):
    options = (*TRAINING, "MODEL.PCKA.STUDENT_META_ARCHITECTURE", "PanopticFPN")
    build_model(tiny(*options))
    monkeypatch.setattr("pcka.detection.modeling.distilled_detector.world_size", lambda: 2)
    with pytest.raises(ConfigError, match=r"PanopticFPN pads .* set gather False"):
        build_model(tiny(*options))


def test_processes_without_a_common_folder_do_not_start(tiny, monkeypatch):
    cfg = tiny()
    os.makedirs(cfg.OUTPUT_DIR)
    trainer = Trainer(cfg)
    monkeypatch.setattr("detectron2.utils.comm.all_gather", lambda start: [4, start])
    with pytest.raises(ConfigError, match=r"from the iterations \[4, 0\].*one folder"):
        trainer.resume_or_load(resume=True)


def test_a_batch_that_does_not_divide(tiny):
    cfg = tiny("SOLVER.IMS_PER_BATCH", 6)
    check_processes(cfg, arguments(num_gpus=3))
    with pytest.raises(ConfigError, match=r"IMS_PER_BATCH 6 .* among 4: take a multiple of 4"):
        check_processes(cfg, arguments(num_gpus=2, num_machines=2))
    check_processes(cfg, arguments(num_gpus=4, eval_only=True))
    # detectron2 scales the config to the number of processes.
    check_processes(
        tiny("SOLVER.IMS_PER_BATCH", 6, "SOLVER.REFERENCE_WORLD_SIZE", 3), arguments(num_gpus=4)
    )


def test_processes_per_gpu(tiny, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(ConfigError, match=r"4 processes .* sees 2 GPU"):
        check_processes(
            tiny("MODEL.DEVICE", "cuda", "SOLVER.IMS_PER_BATCH", 4), arguments(num_gpus=4)
        )
    with pytest.raises(ConfigError, match="cuda:1 is one GPU for 2 processes"):
        check_processes(tiny("MODEL.DEVICE", "cuda:1"), arguments(num_gpus=2))


def test_torchrun_takes_no_arguments_of_launch(tiny, monkeypatch):
    for key in ("TORCHELASTIC_RUN_ID", "LOCAL_WORLD_SIZE", "WORLD_SIZE"):
        monkeypatch.setenv(key, "2")
    check_processes(tiny(), arguments())
    with pytest.raises(ConfigError, match="leave out --num-gpus"):
        check_processes(tiny(), arguments(num_gpus=2))
