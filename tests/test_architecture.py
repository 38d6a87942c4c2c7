"""Laws of the code itself: files of one thought, imports one way, foreign libraries at home."""

import ast
from collections.abc import Iterator
from pathlib import Path

import aobatch

PACKAGE = Path(aobatch.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))
TREES = {path: ast.parse(path.read_text(encoding="utf-8")) for path in FILES}
MAX_FILE_LINES, MAX_FUNCTION_LINES, MAX_FILES = 500, 40, 140
NEW_ROOMS = {
    "kernels": 2,
    "shapes": 5,
    "chats and tables": 8,
    "serve": 9,
    "families": 5,
    "gguf": 2,
    "experts": 2,  # where their weights lie, and the graph that reads those in use alone
    "adapters": 1,  # what their files say, apart from how it is merged
}
"""How many files each room that came after the house was redrawn may add to it."""
MAX_LONELY = 34
"""How many modules may be read by a single other one."""

HOMES = {
    "click": ("cli",),
    "tqdm": ("cli", "frames"),
    "pyarrow": ("formats",),
    "onnxruntime": ("runners",),
    "onnx": ("models",),
    "onnx_ir": ("models", "runners", "bench"),
    "google": ("models",),
    "gguf": ("models",),
    "llguidance": ("shapes",),
    "safetensors": ("models",),
    "tokenizers": ("models",),
    "huggingface_hub": ("models",),
    "sqlite3": ("job",),
    "jinja2": ("job",),
    "prometheus_client": ("job",),
    "ray": ("executors/ray",),
    "msgspec": ("api", "cli", "bench", "job", "serve", "executors", "formats", "models"),
    "starlette": ("serve",),
    "uvicorn": ("serve",),
}
"""The folders in which a library may be imported."""


def module_of(path: Path) -> str:
    """Give the dotted name of a file of the package."""
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_of(path): path for path in FILES}


def imports_of(path: Path) -> Iterator[str]:
    """Yield what a file imports, lazily or not, modules of the package by their full names."""
    for node in ast.walk(TREES[path]):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                yield full if full in MODULES else node.module


def graph() -> dict[str, set[str]]:
    """Give for each module the modules of the package that it imports."""
    return {
        name: {found for found in imports_of(path) if found in MODULES} - {name}
        for name, path in MODULES.items()
        if name != "aobatch"
    }


def test_files_and_functions_are_small() -> None:
    """A file has at most 500 lines, a function at most 40, the package few files."""
    long = {
        f"{module_of(path)}.{node.name}": node.end_lineno - node.lineno + 1
        for path, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.end_lineno is not None
        and node.end_lineno - node.lineno + 1 > MAX_FUNCTION_LINES
    }
    sizes = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in FILES}

    assert long == {}
    assert {path.name: size for path, size in sizes.items() if size > MAX_FILE_LINES} == {}
    assert len(FILES) <= MAX_FILES + sum(NEW_ROOMS.values())


def test_every_module_says_what_it_is_for() -> None:
    """A module begins with a docstring whose first line is a sentence."""
    first_lines = {
        module_of(path): (ast.get_docstring(tree) or "").partition("\n")[0]
        for path, tree in TREES.items()
    }

    assert {name for name, line in first_lines.items() if not line.endswith((".", ":", ","))} == (
        set()
    )


def test_foreign_libraries_have_a_home() -> None:
    """A library is imported in its folders alone, so that it can be replaced there."""
    strangers = {
        (module_of(path), name)
        for path in FILES
        for name in imports_of(path)
        if (homes := HOMES.get(name.partition(".")[0]))
        and not path.relative_to(PACKAGE).as_posix().startswith(homes)
    }

    assert strangers == set()


def test_no_modules_import_each_other_in_a_circle() -> None:
    """Following imports, also lazy ones and those for types, never leads back."""
    edges, done, circles = graph(), set[str](), list[list[str]]()

    def walk(name: str, way: list[str]) -> None:
        if name in way:
            circles.append([*way[way.index(name) :], name])
        elif name not in done:
            for found in sorted(edges[name] - {"aobatch"}):
                walk(found, [*way, name])
            done.add(name)

    for name in edges:
        walk(name, [])

    assert circles == []


def test_few_modules_have_a_single_reader() -> None:
    """Two files that are only read together are one; what is left has reasons of size."""
    readers: dict[str, set[str]] = {}
    for name, found in graph().items():
        for module in found:
            readers.setdefault(module, set()).add(name)
    lonely = sorted(name for name, names in readers.items() if len(names) == 1)

    assert len(lonely) <= MAX_LONELY, lonely


def test_only_the_command_line_talks_to_people() -> None:
    """Nothing prints, and click's echo stays in cli."""
    callers = {
        path.parent.name
        for path, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name | ast.Attribute)
        and (node.func.id if isinstance(node.func, ast.Name) else node.func.attr)
        in ("print", "echo")
    }

    assert callers == {"cli"}


def test_public_names_are_few_and_real() -> None:
    """`aobatch.__all__` is sorted, short, and every name in it can be imported."""
    assert sorted(aobatch.__all__) == list(aobatch.__all__)
    assert len(aobatch.__all__) <= 11
    assert all(hasattr(aobatch, name) for name in aobatch.__all__)
