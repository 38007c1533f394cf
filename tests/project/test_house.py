"""The rules of the house: layering, module sizes, names of passes, light imports, a clean tree.

The checks are functions over a folder or a source text, so that the second half of this file can show, on
small made-up examples, that each of them does catch what it is there for.
"""

from __future__ import annotations

import ast
import dataclasses
import importlib
import importlib.metadata
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "videoeff"

# ---------------------------------------------------------------- who may import whom

# Parts above the compiler: they use it, nothing in it uses them.
TOP = frozenset({"inspect", "cli", "bench", "demo", "serve"})

# `cli` starts them all; `__main__` is `cli` under the name that `python -m` looks for.
MAY_IMPORT_TOP = frozenset({"cli", "__main__"})

# What each part of the compiler may import beside itself. The parts above it may import all of these.
MAY_IMPORT: dict[str, frozenset[str]] = {
    part: frozenset(allowed.split())
    for part, allowed in {
        "errors": "",
        "version": "",
        "ir": "errors",
        "ops": "errors ir",
        "analysis": "errors ir ops",
        "capture": "errors ir ops analysis",
        "passes": "errors ir ops analysis",
        "kernels": "errors ir ops",
        "lowering": "errors ir ops analysis kernels",
        "runtime": "errors ir analysis passes kernels lowering serialize video",
        "serialize": "errors version ir analysis capture passes lowering runtime",
        "conversion": "errors ir analysis capture passes lowering runtime",
        "video": "errors",
        "calibration": (
            "errors ir ops analysis capture passes kernels lowering runtime serialize conversion video "
            "testing"
        ),
        "fleet": "errors ir calibration runtime serialize conversion video",
        "testing": "runtime",
        "rounding": "errors testing",
    }.items()
}

# A streaming module shows itself in a notebook through these methods alone. Reports are `inspect`'s, so the
# runtime imports it there, inside the method: a frame's path never loads it.
DISPLAY_METHOD = re.compile(r"_(repr_\w+|ipython_display)_")


@dataclasses.dataclass(frozen=True)
class Import:
    """One import of a videoeff module: its part, its line, the functions around it from the outermost in."""

    part: str
    line: int
    functions: tuple[str, ...]
    typing_only: bool


def part_of(name: str) -> str | None:
    """`videoeff.passes.base` -> `passes`; `videoeff` -> `__init__`; other packages -> None."""
    first, *rest = name.split(".")
    if first != "videoeff":
        return None
    return rest[0] if rest else "__init__"


def _named_modules(node: ast.AST) -> list[str]:
    """Modules that a statement or call imports. Relative imports are refused by ruff (TID252)."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom) and not node.level:
        if node.module == "videoeff":
            return [f"videoeff.{alias.name}" for alias in node.names]
        return [node.module or ""]
    if isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
        called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        if called in {"import_module", "__import__"} and isinstance(node.args[0].value, str):
            return [node.args[0].value]
    return []


def imports(source: str) -> Iterator[Import]:
    """Every import of videoeff in a source text, those inside functions included."""

    def walk(node: ast.AST, functions: tuple[str, ...], typing_only: bool) -> Iterator[Import]:
        for name in _named_modules(node):
            part = part_of(name)
            if part is not None:
                yield Import(part, getattr(node, "lineno", 0), functions, typing_only)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            functions = (*functions, node.name)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            for statement in node.body:
                yield from walk(statement, functions, True)
            for statement in node.orelse:
                yield from walk(statement, functions, typing_only)
            return
        for child in ast.iter_child_nodes(node):
            yield from walk(child, functions, typing_only)

    yield from walk(ast.parse(source), (), False)


def imported_tests(source: str) -> list[str]:
    """The test modules that a source text imports."""
    names = []
    for node in ast.walk(ast.parse(source)):
        names += _named_modules(node)
        if isinstance(node, ast.ImportFrom):
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    return [name for name in names if re.fullmatch(r"tests\.(.*\.)?test_\w+", name)]


def _may_import_top(own: str, found: Import) -> bool:
    if own in MAY_IMPORT_TOP or own == found.part:
        return True
    if own == "__init__":  # lazily, and for the type checker, which has to know the lazy names
        return found.functions == ("__getattr__",) or found.typing_only
    return (
        own == "runtime"
        and found.part == "inspect"
        and any(DISPLAY_METHOD.fullmatch(name) for name in found.functions)
    )


def layering(path: Path, source: str) -> list[str]:
    """What in a module breaks the layering. `path` is relative to the package, as in `passes/base.py`."""
    own = path.with_suffix("").parts[0]
    allowed = MAY_IMPORT.get(own)
    if allowed is None and own not in TOP | {"__init__", "__main__"}:
        return [f"{path}: {own} is no part of the house; give it a place in MAY_IMPORT"]
    broken = []
    for found in imports(source):
        if found.part in TOP:
            wrong = not _may_import_top(own, found)
        else:
            wrong = allowed is not None and found.part not in allowed | {own}
        if wrong:
            broken.append(f"{path}:{found.line}: {own} must not import {found.part}")
    return broken


def module_graph(package: Path) -> dict[str, set[str]]:
    """The modules of a package and what each imports, also inside functions and for the type checker."""
    modules = {
        ".".join(path.relative_to(package.parent).with_suffix("").parts).removesuffix(".__init__"): path
        for path in sorted(package.rglob("*.py"))
    }
    graph: dict[str, set[str]] = {}
    for name, path in modules.items():
        named: set[str] = set()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module:
                whole = [f"{node.module}.{alias.name}" for alias in node.names]
                named |= {module if module in modules else node.module for module in whole}
            else:
                named |= set(_named_modules(node))
        graph[name] = {module for module in named if module in modules and module != name}
    return graph


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Modules that import one another, each circle once, from its first module round to it again."""
    found: dict[frozenset[str], list[str]] = {}
    done: set[str] = set()

    def walk(name: str, path: list[str]) -> None:
        if name in path:
            circle = path[path.index(name) :]
            found.setdefault(frozenset(circle), [*circle, name])
        elif name not in done:
            for module in sorted(graph.get(name, ())):
                walk(module, [*path, name])
            done.add(name)

    for name in sorted(graph):
        walk(name, [])
    return list(found.values())


def absent_parts(package: Path, parts: Iterable[str]) -> list[str]:
    """Names of ``parts`` that are neither a folder nor a module of the package."""
    return [p for p in sorted(parts) if not ((package / p).is_dir() or (package / f"{p}.py").is_file())]


# ---------------------------------------------------------------- where tests stand

# Folders of tests that mirror no code: laws hold for the compiler as a whole, `project` looks at the tree
# itself, `support` is what tests share.
NO_MIRROR = frozenset({"laws", "project", "support"})

# Below a mirrored folder: what decides how its tests are run.
RUNS = frozenset({"gpu", "interpreted", "sanitized", "data"})


def mirror(root: Path) -> list[str]:
    """Folders of tests that mirror no folder of code, and folders of code that no folder of tests mirrors."""
    package, tests = root / "videoeff", root / "tests"
    wrong = []
    for folder in sorted(p for p in tests.rglob("*") if p.is_dir()):
        parts = folder.relative_to(tests).parts
        if parts[0] in NO_MIRROR or folder.name == "__pycache__" or not any(folder.glob("*.py")):
            continue
        code = Path(*(parts[:-1] if parts[-1] in RUNS else parts))
        if not (package / code).is_dir() and code != Path("benchmarks"):
            wrong.append(f"tests/{'/'.join(parts)} mirrors no folder of videoeff")
    for folder in sorted(p for p in package.iterdir() if any(p.glob("*.py"))):
        if not any((tests / folder.name).rglob("test_*.py")):
            wrong.append(f"videoeff/{folder.name} has no tests/{folder.name}")
    for path in sorted(tests.glob("test_*.py")):
        if not (package / path.name.removeprefix("test_")).is_file():
            wrong.append(f"tests/{path.name} mirrors no module of videoeff")
    return wrong


# ---------------------------------------------------------------- what is shipped

# What users import, or start.
PUBLIC = ("videoeff", "videoeff.cli.main", "videoeff.testing", "videoeff.fleet.decoded")

# Modules that are started as a process of their own, by name.
STARTED = frozenset({"videoeff.__main__", "videoeff.bench.worker", "videoeff.calibration.quantise"})


def unreached(graph: dict[str, set[str]], public: Iterable[str]) -> list[str]:
    """Modules that are reached neither from ``public`` modules nor from those that are started."""
    waiting, seen = [*public, *STARTED], set[str]()
    while waiting:
        name = waiting.pop()
        if name in seen or name not in graph:
            continue
        seen.add(name)
        waiting += graph[name]
        waiting.append(name.rpartition(".")[0])
    return sorted(set(graph) - seen)


# ---------------------------------------------------------------- sizes, names, the tree

SOURCE_LINES = 500
SOURCE_SUFFIXES = frozenset({".py", ".cpp", ".hpp", ".h"})
TRACKED_BYTES = 2 * 1024 * 1024
NOT_A_PASS = frozenset({"__init__", "base", "options", "pipeline", "recipes"})

# What stands at the top of the repository.
TOP_LEVEL = frozenset(
    ".ci .gitignore .pre-commit-config.yaml CHANGELOG.md CONTRIBUTING.md LICENSE Makefile README.md "
    "constraints.txt hatch_build.py pyproject.toml benchmarks docs examples tests videoeff".split()
)

# Pictures, clips, tensors and models, and where they may stand.
MEDIA_SUFFIXES = frozenset(
    ".avi .gif .jpeg .jpg .m4v .mkv .mov .mp4 .mpg .ogv .png .tif .tiff .ts .webm .webp "
    ".bin .ckpt .gz .npy .npz .onnx .pkl .pt .pt2 .pth .safetensors .tar .veff .zip".split()
)
MEDIA_PLACES = (
    "docs/pictures/",
    "benchmarks/results/",
    "tests/serialize/data/",
    "videoeff/demo/segmenter.safetensors",
)

HOMES = r"/(?:home|Users|root|work)/|[A-Z]:\\+Users\\+"


def too_long(folder: Path) -> list[str]:
    """Sources of more than 500 lines."""
    found = []
    for path in sorted(folder.rglob("*")):
        if path.suffix in SOURCE_SUFFIXES and path.is_file():
            lines = len(path.read_text(encoding="utf-8").splitlines())
            if lines > SOURCE_LINES:
                found.append(f"{path.relative_to(folder)}: {lines} lines; split it ({SOURCE_LINES} at most)")
    return found


def misnamed_pass(stem: str, module: object, tests: Path) -> list[str]:
    """What is wrong with the pass in `passes/<stem>.py`: its class, `name` or test file."""
    where = f"passes/{stem}.py"
    wanted = stem.replace("_", "")
    classes = [
        value
        for key, value in vars(module).items()
        if isinstance(value, type) and key.lower() == wanted and re.fullmatch(r"([A-Z][a-z0-9]*)+", key)
    ]
    if len(classes) != 1:
        return [f"{where}: no class of its name in CamelCase, such as {stem.title().replace('_', '')}"]
    (cls,) = classes
    wrong = []
    name, word = getattr(cls, "name", None), stem.replace("_", "-")
    if name != word:
        wrong.append(f"{where}: {cls.__name__}.name is {name!r}; it should be {word!r}")
    parameters = getattr(cls, "__dataclass_params__", None)
    if parameters is None or not parameters.frozen:
        wrong.append(f"{where}: {cls.__name__} is no frozen dataclass")
    if not (tests / f"test_{stem}.py").is_file():
        wrong.append(f"{where}: no tests/passes/test_{stem}.py")
    return wrong


def machine_paths(name: str, data: bytes, places: tuple[str, ...] = ()) -> list[str]:
    """Lines of a file with an absolute path into a home or into one of `places`. Binary files have none."""
    if b"\0" in data:
        return []
    folders = "|".join([HOMES, *(re.escape(place) for place in places)])
    path = re.compile(rf"(?<![\w.:/~-])(?:{folders})\w")
    lines = data.decode("utf-8", "replace").splitlines()
    return [
        f"{name}:{number}: {line.strip()[:100]}"
        for number, line in enumerate(lines, start=1)
        if path.search(line)
    ]


def strays(names: Iterable[str]) -> list[str]:
    """Files, by their paths in the repository, that are unknown at its top or media where none belong."""
    wrong = []
    for name in sorted(names):
        top = name.split("/")[0]
        if top not in TOP_LEVEL:
            wrong.append(f"{name}: what is {top!r}? A new name at the top is added to TOP_LEVEL")
        elif Path(name).suffix.lower() in MEDIA_SUFFIXES and not name.startswith(MEDIA_PLACES):
            wrong.append(f"{name}: pictures, clips and tensors stand in {', '.join(MEDIA_PLACES)} alone")
    return wrong


def tracked() -> list[Path]:
    """Files of the repository as git lists them; skips where this is no checkout."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("this is not a git checkout, so nothing is tracked")
    files = [ROOT / name for name in listed.stdout.split("\0") if name]
    return [path for path in files if path.is_file() and not path.is_symlink()]


def python(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run this interpreter in the repository; the test fails with its stderr where it does."""
    done = subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done


# ---------------------------------------------------------------- the rules, on this tree


def test_layering() -> None:
    modules = sorted(PACKAGE.rglob("*.py"))
    assert PACKAGE / "errors.py" in modules
    broken = [
        line
        for path in modules
        for line in layering(path.relative_to(PACKAGE), path.read_text(encoding="utf-8"))
    ]
    assert not broken, "\n".join(broken)


def test_every_named_part_is_there() -> None:
    named = TOP | MAY_IMPORT_TOP | set(MAY_IMPORT)
    assert not absent_parts(PACKAGE, named | {part for parts in MAY_IMPORT.values() for part in parts})
    assert not [stem for stem in NOT_A_PASS if not (PACKAGE / "passes" / f"{stem}.py").is_file()]
    assert not [name for name in NO_MIRROR if not (ROOT / "tests" / name).is_dir()]


def test_tests_mirror_the_tree() -> None:
    wrong = mirror(ROOT)
    assert not wrong, "\n".join(wrong)


def test_no_module_is_shipped_that_only_the_repository_uses() -> None:
    graph = module_graph(PACKAGE)
    assert {"videoeff.cli.main", *STARTED} <= set(graph)
    assert not unreached(graph, PUBLIC)


def test_no_import_circle() -> None:
    graph = module_graph(PACKAGE)
    assert "videoeff.ir.program" in graph["videoeff.ir.parser"]
    found = circles(graph)
    assert not found, "\n".join(" -> ".join(circle) for circle in found)


def test_no_test_module_is_imported() -> None:
    """What several test modules share stands in tests/support."""
    found = [
        line
        for path in sorted((ROOT / "tests").rglob("*.py"))
        for line in imported_tests(path.read_text(encoding="utf-8"))
    ]
    assert not found, "\n".join(found)


def test_module_sizes() -> None:
    found = too_long(PACKAGE)
    assert not found, "\n".join(found)


def test_pass_names() -> None:
    wrong = []
    for path in sorted((PACKAGE / "passes").glob("*.py")):
        if path.stem not in NOT_A_PASS:
            module = importlib.import_module(f"videoeff.passes.{path.stem}")
            wrong += misnamed_pass(path.stem, module, ROOT / "tests" / "passes")
    assert not wrong, "\n".join(wrong)


def test_import_is_light() -> None:
    loaded = python("-c", "import sys, videoeff; print(*sorted(sys.modules))").stdout.split()
    assert "videoeff" in loaded
    assert not {"torch", "numpy", "av", "triton"} & set(loaded)


def test_help_imports_no_torch() -> None:
    for start in (["-m", "videoeff"], [str(Path(sys.executable).parent / "videoeff")]):
        done = python("-X", "importtime", *start, "--help")
        assert "demo" in done.stdout
        loaded = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
        assert "videoeff.cli.main" in loaded
        assert "torch" not in loaded


def test_version_is_written_once() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    assert importlib.metadata.version("videoeff") == version, "stale install: run `make setup`"
    again = [
        path.name for path in PACKAGE.rglob("*.py") if f'"{version}"' in path.read_text(encoding="utf-8")
    ]
    assert not again, "use importlib.metadata.version('videoeff')"


def test_make_and_pre_commit_run_the_same_checks() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    hooks = re.findall(
        r"^ +entry: \.venv/bin/(.+)$",
        (ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"),
        re.MULTILINE,
    )
    recipe = makefile.partition("\ncheck:")[2].partition("\ntest:")[0]
    steps = re.findall(r"^\t\$\(BIN\)/(.+?)(?: \$\(SOURCES\))?$", recipe, re.MULTILINE)
    assert len(steps) == 4
    assert steps == hooks


def test_no_large_tracked_file() -> None:
    large = [
        f"{path.relative_to(ROOT)}: {path.stat().st_size} bytes"
        for path in tracked()
        if path.stat().st_size > TRACKED_BYTES
    ]
    assert not large, "\n".join(large)


def test_no_stray_file_is_tracked() -> None:
    wrong = strays(path.relative_to(ROOT).as_posix() for path in tracked())
    assert not wrong, "\n".join(wrong)


def test_no_machine_path_in_tracked_files() -> None:
    places = tuple(f"{place}/" for place in (Path.home(), ROOT.parent) if len(place.parts) > 1)
    found = [
        line
        for path in tracked()
        for line in machine_paths(str(path.relative_to(ROOT)), path.read_bytes(), places)
    ]
    assert not found, "\n".join(found)


# ---------------------------------------------------------------- the rules catch what they are there for


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("passes/fold_batchnorm.py", "import videoeff.kernels.registry"),
        ("passes/fold_batchnorm.py", "from videoeff import lowering"),
        (
            "passes/fold_batchnorm.py",
            "def run():\n    from videoeff.runtime.streaming_module import StreamingModule",
        ),
        ("analysis/cost.py", "from videoeff.passes.base import Pass"),
        ("ops/conv2d.py", "import importlib\nimportlib.import_module('videoeff.lowering.lower')"),
        ("kernels/cpp/conv2d.py", "from videoeff.analysis import annotate"),
        ("kernels/cpp/conv2d.py", "import videoeff"),
        ("lowering/lower.py", "from videoeff.inspect.report import Report"),
        ("conversion.py", "class A:\n    def f(self):\n        import videoeff.bench"),
        ("__init__.py", "from videoeff.inspect import show"),
        ("__init__.py", "def helper():\n    from videoeff.cli.main import main"),
        ("runtime/engine.py", "from videoeff.inspect import show"),
        ("runtime/engine.py", "def forward():\n    from videoeff.inspect import show"),
        ("runtime/engine.py", "def _repr_html_(self):\n    from videoeff.bench import run"),
        ("ir/program.py", "if TYPE_CHECKING:\n    from videoeff.inspect import Report"),
        ("demo/__init__.py", "from videoeff.bench import measure"),
        ("runtime/engine.py", "def forward():\n    from videoeff.cli.commands.run import run"),
    ],
)
def test_layering_catches(path: str, source: str) -> None:
    assert len(layering(Path(path), source)) == 1


def test_an_unknown_part_has_no_place() -> None:
    assert "no part of the house" in layering(Path("helpers/misc.py"), "import os")[0]


def test_an_absent_part_is_found(tmp_path: Path) -> None:
    (tmp_path / "ir").mkdir()
    (tmp_path / "errors.py").touch()
    assert absent_parts(tmp_path, {"ir", "errors", "distill"}) == ["distill"]


def test_tests_that_mirror_nothing_are_found(tmp_path: Path) -> None:
    for name in (
        "videoeff/ir/edit.py",
        "videoeff/ops/base.py",
        "videoeff/kernels/cpp/plan.py",
        "tests/ir/test_edit.py",
        "tests/laws/test_laws.py",
        "tests/native/test_plan.py",
        "tests/kernels/cpp/sanitized/test_plan.py",
        "tests/test_conversion.py",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "videoeff/kernels/call.py").touch()
    assert mirror(tmp_path) == [
        "tests/native mirrors no folder of videoeff",
        "videoeff/ops has no tests/ops",
        "tests/test_conversion.py mirrors no module of videoeff",
    ]


def test_a_module_that_nothing_reaches_is_found() -> None:
    graph = {
        "videoeff": set[str](),
        "videoeff.cli": set[str](),
        "videoeff.cli.main": {"videoeff.bench.measure"},
        "videoeff.bench": set[str](),
        "videoeff.bench.measure": set[str](),
        "videoeff.bench.suite": {"videoeff.bench.measure"},
    }
    assert unreached(graph, ["videoeff.cli.main"]) == ["videoeff.bench.suite"]


def test_circles_are_found(tmp_path: Path) -> None:
    package = tmp_path / "videoeff"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "a.py").write_text("def f():\n    from videoeff.b import g\n")
    (package / "b.py").write_text("if TYPE_CHECKING:\n    from videoeff import c\n")
    (package / "c.py").write_text("import videoeff.a\nimport os\n")
    assert circles(module_graph(package)) == [["videoeff.a", "videoeff.b", "videoeff.c", "videoeff.a"]]
    (package / "c.py").write_text("import os\n")
    assert circles(module_graph(package)) == []


@pytest.mark.parametrize(
    ("path", "source"),
    [
        (
            "passes/fold_batchnorm.py",
            "from videoeff.passes.base import Pass\nfrom videoeff.ops import conv2d",
        ),
        (
            "kernels/cpp/conv2d.py",
            "from videoeff.errors import BackendError\nimport videoeff.kernels.registry",
        ),
        ("lowering/lower.py", "from videoeff import analysis, kernels"),
        ("cli/main.py", "from videoeff.inspect import show\nimport videoeff.bench"),
        ("__main__.py", "from videoeff.cli.main import main"),
        ("cli/commands/inspect.py", "def inspect():\n    from videoeff.inspect import show"),
        ("__init__.py", "def __getattr__(name):\n    from videoeff.inspect import show"),
        ("__init__.py", "if TYPE_CHECKING:\n    from videoeff.inspect import show"),
        (
            "runtime/streaming_module.py",
            "class M:\n    def _repr_html_(self):\n        from videoeff.inspect import show",
        ),
        ("inspect/html.py", "import inspect\nfrom videoeff.inspect.report import Report"),
    ],
)
def test_layering_allows(path: str, source: str) -> None:
    assert layering(Path(path), source) == []


def test_imported_tests_are_found() -> None:
    assert imported_tests("from tests.ops.test_reach import check") == ["tests.ops.test_reach"]
    assert imported_tests("from tests.ops import test_reach") == ["tests.ops.test_reach"]
    assert imported_tests("def f():\n    import tests.test_laws") == ["tests.test_laws"]
    assert imported_tests("from tests.support.reach import check\nfrom videoeff.testing import poison") == []


def test_size_catches(tmp_path: Path) -> None:
    (tmp_path / "fits.py").write_text("x = 1\n" * 500)
    (tmp_path / "kernel.cpp").write_text("int x;\n" * 501)
    assert too_long(tmp_path) == ["kernel.cpp: 501 lines; split it (500 at most)"]


def test_pass_names_catch(tmp_path: Path) -> None:
    def named(word: str, frozen: bool = True) -> type:
        return dataclasses.dataclass(frozen=frozen)(type("FoldBatchNorm", (), {"name": word}))

    def wrong(**members: type) -> list[str]:
        return misnamed_pass("fold_batchnorm", type("module", (), members), tmp_path)

    assert "no class of its name" in wrong(Fold=named("fold-batchnorm"))[0]
    assert len(wrong(FoldBatchNorm=named("fold_batchnorm", frozen=False))) == 3
    assert wrong(FoldBatchNorm=named("fold-batchnorm")) == [
        "passes/fold_batchnorm.py: no tests/passes/test_fold_batchnorm.py"
    ]
    (tmp_path / "test_fold_batchnorm.py").touch()
    assert wrong(FoldBatchNorm=named("fold-batchnorm")) == []


def test_strays_are_found() -> None:
    fine = ["README.md", ".gitignore", ".ci/run", "docs/pictures/a.png", "tests/serialize/data/a.veff"]
    assert strays(fine) == []
    wrong = [".env", "a.gif", "e.mp4", "notes.txt", "scratch/try.py", "tests/video/clip.MP4", "docs/a.npz"]
    assert [line.split(":")[0] for line in strays([*fine, *wrong])] == sorted(wrong)


def test_machine_paths_catch() -> None:
    home = "/".join(("", "home", "somebody", "clip.avi"))
    assert machine_paths("a.md", f"see {home}".encode()) == [f"a.md:1: see {home}"]
    assert machine_paths("a.ipynb", f'"{home}"'.encode())
    assert machine_paths("a.md", b"in /srv/x/y", ("/srv/x/",))
    assert machine_paths("a.bin", b"\0" + home.encode()) == []
    assert machine_paths("a.md", f"https://example.org{home} and a/home/b, /usr/bin".encode()) == []


def test_no_module_hides_a_public_function() -> None:
    """A module of that name would, once imported by anyone, take the function's place."""
    import videoeff

    modules = {p.stem for p in (ROOT / "videoeff").glob("*.py")} | {
        p.name for p in (ROOT / "videoeff").iterdir() if p.is_dir()
    }
    assert not modules & set(videoeff.__all__)
