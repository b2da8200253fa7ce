"""The rules of the house, read from its sources: floors, names, docstrings, cost of an import."""

import ast
import importlib
import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

import minidl

ROOT = Path(minidl.__file__).parent.parent
TESTS = Path(__file__).parent

# What each room of the engine may import, besides itself. A name is a module or a package, and
# the stairs lead down only. Whatever is not named here is an application, on the top floor.
ROOMS = {
    "geometry": set(),
    "random": set(),
    "function": set(),
    "kernels": {"geometry"},
    "arithmetic": {"kernels", "function"},
    "tensor": {"function", "arithmetic"},
    "functional": {"kernels", "geometry", "random", "function", "arithmetic", "tensor"},
    "gradcheck": {"function", "tensor"},
    "optim": {"kernels", "tensor"},
    "nn": {"geometry", "random", "tensor", "functional"},
    "models": {"minidl", "functional", "nn", "tensor"},
    "metrics": {"kernels"},
    "checkpoint": set(),
    "data": {"kernels", "random", "checkpoint"},
}
# Applications that may know the models.
KNOW_MODELS = {"architecture", "cli", "demo", "pretrained"}
FUNCTIONAL_SHARED = {"minidl.functional.check"}


def _sources():
    """Module name and path of every source of the package."""
    for path in sorted((ROOT / "minidl").rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        yield ".".join(parts).removesuffix(".__init__"), path
    for path in sorted((ROOT / "models").rglob("*.py")):
        parts = path.relative_to(ROOT / "models").with_suffix("").parts
        yield ".".join(("minidl.models", *parts)).removesuffix(".__init__"), path


SOURCES = dict(_sources())
TREES = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in SOURCES.items()}
each_module = pytest.mark.parametrize("module", SOURCES)


def _for_type_checkers(tree):
    """All nodes under ``if TYPE_CHECKING``."""
    return {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for part in node.body
        for inner in ast.walk(part)
    }


def _imports(module, top_only=False):
    """Full names of what a module imports; of attributes, the module they are imported from."""
    tree = TREES[module]
    skipped = _for_type_checkers(tree)
    nodes = tree.body if top_only else ast.walk(tree)
    package = SOURCES[module].name == "__init__.py"
    for node in nodes:
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = module.split(".")
                parts = parts[: len(parts) - node.level + package]
                base = ".".join([*parts, base] if base else parts)
            for alias in node.names:
                full = f"{base}.{alias.name}"
                yield full if full in SOURCES else base


def _room(module):
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else parts[0]


def _ours(module, top_only=False):
    return {name for name in _imports(module, top_only) if name.split(".")[0] == "minidl"}


@each_module
def test_stairs_lead_down(module):
    room = _room(module)
    rooms = {_room(name) for name in _ours(module)} - {room}
    if room in ROOMS:
        assert rooms <= ROOMS[room], f"{module} may import {sorted(ROOMS[room])}"
    elif room not in KNOW_MODELS | {"minidl"}:
        assert "models" not in rooms, f"{module} must not know the models"


@pytest.mark.parametrize("module", [m for m in SOURCES if m.startswith("minidl.functional.")])
def test_families_of_functions_do_not_know_each_other(module):
    """A family is a module, or a package and what is in it."""
    siblings = {name for name in _ours(module) if name.startswith("minidl.functional")}
    family = ".".join(module.split(".")[:3])
    assert {s for s in siblings if not s.startswith(f"{family}.")} <= FUNCTIONAL_SHARED


@pytest.mark.parametrize("module", [m for m in SOURCES if m.startswith("minidl.models.")])
def test_models_share_blocks_and_backbones_only(module):
    others = {name for name in _ours(module) if name.startswith("minidl.models")}
    shared = "network", "vgg", "resnet", "multiscale"
    assert others <= {f"minidl.models.{name}" for name in shared}


def test_no_circles():
    """Among imports at the top of modules; those inside of functions run later."""
    graph = {module: _ours(module, top_only=True) & set(SOURCES) for module in SOURCES}
    for module, imported in graph.items():
        if SOURCES[module].name == "__init__.py":
            continue
        # Importing a submodule runs its packages first; they must not lead back.
        imported.discard(module)
    finished, path = set(), []

    def visit(module):
        assert module not in path, " -> ".join([*path[path.index(module) :], module])
        if module in finished:
            return
        path.append(module)
        for name in sorted(graph[module]):
            visit(name)
        finished.add(path.pop())

    for module in graph:
        visit(module)


@each_module
def test_compilers_stay_in_the_kernels(module):
    heavy = {name.split(".")[0] for name in _imports(module)} & {"numba", "llvmlite"}
    assert not heavy or module.startswith("minidl.kernels.")


@each_module
def test_heavy_libraries_are_imported_when_used(module):
    top = {name.split(".")[0] for name in _imports(module, top_only=True)}
    assert not top & {"matplotlib", "torch", "PIL", "tifffile"} or module in {
        "minidl.data.raster",
        "minidl.data.tiff",
        "minidl.data.files",
    }
    assert "torch" not in {name.split(".")[0] for name in _imports(module)}


def test_importing_minidl_is_light():
    script = "import minidl, sys; print(*sys.modules)"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    loaded = {name.split(".")[0] for name in result.stdout.split()}
    assert not loaded & {"numba", "llvmlite", "matplotlib", "torch", "tifffile", "PIL"}


@each_module
def test_users_never_meet_an_assert(module):
    """``assert x is not None`` is a note for type checkers, and the only one."""
    lines = [
        node.lineno
        for node in ast.walk(TREES[module])
        if isinstance(node, ast.Assert) and not ast.unparse(node.test).endswith("is not None")
    ]
    assert lines == []


def test_kernels_are_made_by_one_decorator():
    """All compile flags stand in kernels/jit.py."""
    for module, tree in TREES.items():
        if module == "minidl.kernels.jit":
            continue
        names = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
        names |= {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
        assert not names & {"njit", "jit", "prange", "guvectorize", "vectorize"}, module


def test_threads_are_started_in_known_places():
    starters = {"minidl.kernels.parallel", "minidl.prefetch", "minidl.progress"}
    for module, tree in TREES.items():
        calls = [n for n in ast.walk(tree) if isinstance(n, ast.Call)]
        if any(ast.unparse(call.func).endswith("threading.Thread") for call in calls):
            assert module in starters


def test_there_is_no_drawer_for_everything():
    names = {module.rsplit(".", 1)[-1] for module in SOURCES}
    assert not names & {"utils", "util", "helpers", "common", "misc", "config"}


# ---- names and docstrings ------------------------------------------------------------------


def _import(module):
    return importlib.import_module(module)


IMPORTABLE = [module for module in SOURCES if not module.endswith("__main__")]


@pytest.mark.parametrize("module", IMPORTABLE)
def test_public_names_exist_and_are_documented(module):
    loaded = _import(module)
    assert loaded.__doc__ or not SOURCES[module].read_text().strip(), "the module itself"
    for name in getattr(loaded, "__all__", ()):
        value = getattr(loaded, name)
        if callable(value) or inspect.ismodule(value):
            assert inspect.getdoc(value), name
    names = list(getattr(loaded, "__all__", ()))
    assert len(names) == len(set(names))


def _documented(docstring):
    """Names in the section Parameters, or None where there is none."""
    match = re.search(r"^Parameters\n-{10}\n(.*?)(?=^\S[^\n]*\n-{3,}\n|\Z)", docstring, re.M | re.S)
    if not match:
        return None
    entries = re.findall(r"^(\S[^:\n]*?)(?: : .*)?$", match[1], re.M)
    return [name.strip().lstrip("*") for entry in entries for name in entry.split(",")]


def _arguments(function):
    args = function.args
    named = [*args.posonlyargs, *args.args, args.vararg, *args.kwonlyargs, args.kwarg]
    return [arg.arg for arg in named if arg is not None and arg.arg not in ("self", "cls")]


def _documented_things():
    """(name, documented, real arguments) of every function, method and class with the section."""
    functions = ast.FunctionDef | ast.AsyncFunctionDef
    for module, tree in TREES.items():
        for node in ast.walk(tree):
            if not isinstance(node, functions | ast.ClassDef):
                continue
            documented = _documented(ast.get_docstring(node) or "")
            made = node
            if isinstance(node, ast.ClassDef):
                inits = [n for n in node.body if getattr(n, "name", "") == "__init__"]
                made = inits[0] if inits else None
            if documented is not None and made is not None:
                yield f"{module}.{node.name}", documented, _arguments(made)


@pytest.mark.parametrize("name, documented, real", list(_documented_things()))
def test_documented_arguments_are_the_real_ones(name, documented, real):
    if name.startswith("minidl.kernels."):  # what is obvious there may be left out
        assert set(documented) <= set(real)
    else:
        assert documented == real


@pytest.mark.parametrize("name", minidl.functional.__all__)
def test_functions_document_their_arguments(name):
    function = getattr(minidl.functional, name)
    arguments = list(inspect.signature(function).parameters)
    if other := re.search(r"See `(\w+)`\.", inspect.getdoc(function)):
        function = getattr(minidl.functional, other[1])
        assert arguments == list(inspect.signature(function).parameters)
    assert _documented(inspect.getdoc(function)) == arguments
    assert re.search(r"^Returns\n-{7}$", inspect.getdoc(function), re.M)


@pytest.mark.parametrize("name", minidl.functional.__all__)
def test_functions_have_types(name):
    signature = inspect.signature(getattr(minidl.functional, name))
    assert signature.return_annotation is not inspect.Signature.empty
    for parameter in signature.parameters.values():
        assert parameter.annotation is not inspect.Parameter.empty, parameter


def test_documented_names_are_found():
    """The reader of docstrings above, on one."""
    text = inspect.cleandoc("""One line.

        Parameters
        ----------
        x : (N, C) Tensor
            Text: with a colon.

            And more.
        stride, padding : int
        *inputs
            Any number.

        Returns
        -------
        y : Tensor
    """)
    assert _documented(text) == ["x", "stride", "padding", "inputs"]
    assert _documented("Nothing.") is None


# ---- tests ---------------------------------------------------------------------------------

TEST_FILES = sorted(TESTS.rglob("test_*.py"))
each_test_file = pytest.mark.parametrize(
    "path", TEST_FILES, ids=lambda path: str(path.relative_to(TESTS))
)


@each_test_file
def test_every_function_of_a_test_file_is_a_test_or_used(path):
    """A misspelt test never runs, and nobody notices."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    used = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    used |= {node.arg for node in ast.walk(tree) if isinstance(node, ast.arg)}  # fixtures
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("test_"):
            fixture = any("fixture" in ast.unparse(mark) for mark in node.decorator_list)
            assert node.name in used or fixture, f"{node.name} is never called"
            assert not re.match(r"_?(tset|tests?|tes)_?", node.name), node.name


@each_test_file
def test_no_test_is_defined_twice(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for body in [tree.body, *(n.body for n in tree.body if isinstance(n, ast.ClassDef))]:
        names = [n.name for n in body if isinstance(n, ast.FunctionDef | ast.ClassDef)]
        assert len(names) == len(set(names))


def test_references_share_no_code_with_what_they_check():
    for name in ("reference.py", "numeric.py"):
        tree = ast.parse((TESTS / name).read_text())
        imported = {
            name
            for node in ast.walk(tree)
            if isinstance(node, ast.Import | ast.ImportFrom)
            for name in (
                [node.module] if isinstance(node, ast.ImportFrom) else [a.name for a in node.names]
            )
        }
        assert imported <= {"math", "numpy"}


TEXTS = [
    path
    for pattern in ("*.py", "*.md", "*.cfg", "*.toml", "*.txt", "*.yml")
    for path in sorted(ROOT.rglob(pattern))
    if not any(
        part.startswith((".", "build", "runs")) or part.endswith("egg-info")
        for part in path.relative_to(ROOT).parts
    )
]


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_paths_of_one_machine(path):
    places = "|".join(("work", "home", "Users", "root", "mnt"))
    found = re.findall(
        rf"""(?:^|[\s"'`(=])(/(?:{places})/[^\s"'`]*|[A-Z]:\\Users)""", path.read_text()
    )
    assert found == []
