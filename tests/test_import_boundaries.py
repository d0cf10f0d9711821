"""Who may import whom: the core needs torch alone, and nothing above it."""

import ast
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
CORE = ROOT / "projects" / "pcka" / "core"


def output_of(code):
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert run.returncode == 0, run.stderr
    return run.stdout


def test_core_imports_torch_alone():
    allowed = {"torch", *sys.stdlib_module_names}
    for path in CORE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                names = [node.module]
            else:
                continue
            for name in names:
                inside = name == "pcka.core" or name.startswith("pcka.core.")
                assert inside or name.split(".")[0] in allowed, f"{path} imports {name}"


def test_core_works_without_detectron2():
    code = (
        "import sys; sys.modules['detectron2'] = None; sys.modules['torchvision'] = None\n"
        "import torch, pcka.core\n"
        "print(pcka.core.patch_cka(torch.ones(1, 2, 8, 8), torch.ones(1, 2, 8, 8), patch_size=2,"
        " center=False).item())"
    )
    assert float(output_of(code)) == 1.0


def test_classification_works_without_detectron2():
    code = (
        "import sys; sys.modules['detectron2'] = None\n"
        "import importlib, pkgutil, pcka.classification as c\n"
        "for m in pkgutil.walk_packages(c.__path__, 'pcka.classification.'):\n"
        "    if not m.name.endswith('__main__'): importlib.import_module(m.name)\n"
        "assert not any(name.startswith('pcka.detection') for name in sys.modules)"
    )
    output_of(code)


def test_analysis_needs_no_task():
    code = (
        "import sys\n"
        "for name in ('detectron2', 'torchvision', 'pcka.classification'):\n"
        "    sys.modules[name] = None\n"
        "import pcka.analysis\n"
        "assert not any(name.startswith('pcka.detection') for name in sys.modules)"
    )
    output_of(code)


def test_nothing_imports_tools_or_tests():
    for path in [*(ROOT / "projects").rglob("*.py"), *(ROOT / "tools").glob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            module = getattr(node, "module", None) if isinstance(node, ast.ImportFrom) else None
            names = [module] if module else [a.name for a in getattr(node, "names", [])]
            if isinstance(node, ast.Import | ast.ImportFrom):
                assert not any((n or "").split(".")[0] in ("tools", "tests") for n in names), path
