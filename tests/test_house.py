"""The walls of the house, read from the sources. Each rule is a function of (path, source), shown able to fail."""

import ast
import re
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "consistency_lens"
MOST_FILES = 14  # about a dozen
Rule = Callable[[str, str], list[str]]

# A room may import rooms of a smaller floor, itself, and nothing else of ours: siblings never meet.
FLOORS = {
    **dict.fromkeys(["answers", "errors", "files", "vocabulary", "leaks", "version"], 0),
    **dict.fromkeys(["objectives", "schedules", "schema", "card", "options", "hub"], 1),
    "frozen": 2,
    "activations": 3,
    "base": 4,
    "evaluation": 5,
    **dict.fromkeys(["text", "sparse", "soft"], 6),
    **dict.fromkeys(["demo", "crossing"], 7),
    "finding": 8,
    "auto": 9,
    "cli": 10,
    "__main__": 11,
}
BLOCK_PARTS = {
    *["layers", "h", "blocks", "gpt_neox", "embed_in", "embed_tokens", "wte", "wpe", "self_attn", "attn", "attention"],
    *["mlp", "input_layernorm", "post_attention_layernorm", "pre_feedforward_layernorm", "ln_1", "ln_2"],
}
BLOCK_PATH = re.compile(r"\b(model\.layers|transformer\.h|gpt_neox|embed_tokens|self_attn|wte|input_layernorm)\b")


def room(path: str) -> str:
    """`consistency_lens/frozen/sites.py` is in the room `frozen`, `consistency_lens/card.py` is the room `card`."""
    parts = Path(path).with_suffix("").parts
    return parts[1] if parts[0] == PACKAGE else ""


@cache
def nodes(source: str) -> tuple[ast.AST, ...]:
    return tuple(ast.walk(ast.parse(source)))


def docstrings(source: str) -> set[ast.AST]:
    """Strings that stand alone as a statement: words for people, no code."""
    return {
        node.value for node in nodes(source) if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }


def imports(path: str, source: str) -> Iterator[tuple[int, str]]:
    """Line and full dotted name of everything imported, relative imports resolved, `from a import b` as `a.b`."""
    for node in nodes(source):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            package = Path(path).parent.parts
            prefix = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            module = ".".join(part for part in (prefix, node.module) if part)
            yield from ((node.lineno, f"{module}.{alias.name}") for alias in node.names)


@cache
def loaded_with(family: str) -> frozenset[str]:
    """The files of a family that loading a lens imports: its configuration, its model, and what these import of it
    at the top. What a function imports comes when it is called."""
    waiting = [f"{PACKAGE}/{family}/{name}.py" for name in ("configuration", "modeling")]
    found: set[str] = set()
    while waiting:
        path = waiting.pop()
        if path in found or not (ROOT / path).is_file():
            continue
        found.add(path)
        tree = ast.parse((ROOT / path).read_text("utf-8"))
        for _, name in imports(path, "\n".join(map(ast.unparse, at_the_top(tree)))):
            parts = name.split(".")
            waiting += ["/".join(parts[:end]) + ".py" for end in range(3, len(parts) + 1) if parts[1] == family]
    return frozenset(found)


def imports_point_downwards(path: str, source: str) -> list[str]:
    here, found = room(path), []
    if here in ("", "__init__"):  # the outermost layer: it may name every room
        return []
    if here not in FLOORS:
        return [f"{path}: the room {here!r} has no floor yet; give it one in tests/test_house.py"]
    for line, name in imports(path, source):
        parts = name.split(".")
        if parts[0] != PACKAGE:
            continue
        there = parts[1]
        if there == here:
            continue
        if there not in FLOORS:
            found.append(f"{path}:{line}: imports {name}, which is no room; name the room, not the package")
        elif FLOORS[there] >= FLOORS[here]:
            found.append(f"{path}:{line}: {here} imports {there}, which is not below it")
        elif there == "activations" and (here == "base" or path in loaded_with(here)):
            found.append(f"{path}:{line}: imports activations, and loading a lens needs no data set")
    return found


def files_are_short(path: str, source: str) -> list[str]:
    limit, length = (140 if path == "run_lens.py" else 400), len(source.splitlines())
    return [f"{path}: {length} lines, more than {limit}: a file holds one idea"] if length > limit else []


def only_hooks_registers_hooks(path: str, source: str) -> list[str]:
    if path == f"{PACKAGE}/frozen/hooks.py":
        return []
    pattern = re.compile(r"register_\w*hook")
    used = [(node.lineno, node.attr) for node in nodes(source) if isinstance(node, ast.Attribute)]
    used += [(line, name.rpartition(".")[2]) for line, name in imports(path, source)]
    return [f"{path}:{line}: {name}; hooks are frozen/hooks.py's" for line, name in used if pattern.fullmatch(name)]


def of_no_block(node: ast.Attribute) -> bool:
    """`cache.layers` and `self._cache.layers` are the layers of a key-value cache, `lm.attention` is what a `FrozenLM`
    says of its implementation."""
    owner = ast.unparse(node.value).rpartition(".")[2]
    return owner.endswith("cache") or (node.attr == "attention" and owner == "lm")


def only_anatomy_knows_blocks(path: str, source: str) -> list[str]:
    if path in (f"{PACKAGE}/frozen/anatomy/parts.py", f"{PACKAGE}/demo/pages/model.py"):  # the latter is a model
        return []
    found, words = [], docstrings(source)
    for node in nodes(source):
        if isinstance(node, ast.Attribute) and node.attr in BLOCK_PARTS and not of_no_block(node):
            found.append(f"{path}:{node.lineno}: .{node.attr}; the insides of a model are frozen/anatomy/parts.py's")
        elif isinstance(node, ast.Constant) and node not in words and BLOCK_PATH.search(str(node.value)):
            found.append(f"{path}:{node.lineno}: {node.value!r}; the insides of a model are frozen/anatomy/parts.py's")
    return found


def _imported_only_in(package: str, home: str | None) -> Rule:
    def rule(path: str, source: str) -> list[str]:
        lines = [line for line, name in imports(path, source) if name.split(".")[0] == package and path != home]
        return [f"{path}:{line}: imports {package}, which belongs to {home or 'spaces_demo'}" for line in lines]

    return rule


only_adapters_imports_peft = _imported_only_in("peft", f"{PACKAGE}/base/adapters.py")
nothing_imports_gradio = _imported_only_in("gradio", None)


def only_frozen_loads(path: str, source: str) -> list[str]:
    """How a model is loaded is settled in two files; the command line has a field of that name and hands it down."""
    if path in (f"{PACKAGE}/frozen/loading/load.py", f"{PACKAGE}/frozen/frozen_lm.py"):
        return []
    words = docstrings(source)
    names = {"BitsAndBytesConfig"} | (
        set() if path == f"{PACKAGE}/cli/parsing/arguments.py" else {"attn_implementation"}
    )
    found = [(line, name.rpartition(".")[2]) for line, name in imports(path, source)]
    for node in nodes(source):
        match node:
            case ast.Name(id=name) | ast.Attribute(attr=name) | ast.arg(arg=name) | ast.keyword(arg=name):
                found.append((node.lineno, name))
            case ast.Constant(value=str(name)) if node not in words:
                found.append((node.lineno, name))
    return [f"{path}:{line}: {name} belongs to frozen/loading/load.py" for line, name in found if name in names]


def nothing_probes(path: str, source: str) -> list[str]:
    calls = [node for node in nodes(source) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)]
    return [f"{path}:{c.lineno}: {c.func.id}()" for c in calls if c.func.id in ("getattr", "hasattr")]


def nothing_swallows(path: str, source: str) -> list[str]:
    found = []
    for node in nodes(source):
        if not isinstance(node, ast.ExceptHandler):
            continue
        kinds = node.type.elts if isinstance(node.type, ast.Tuple) else [node.type]
        names = {kind.id if isinstance(kind, ast.Name) else "" if kind is None else "named" for kind in kinds}
        if names & {"", "Exception", "BaseException"}:
            found.append(f"{path}:{node.lineno}: a blanket except; name the error, or clean up with `finally`")
    return found


def nothing_is_postponed(path: str, source: str) -> list[str]:
    lines = enumerate(source.splitlines(), 1)
    return [f"{path}:{i}: {line.strip()}" for i, line in lines if re.search(r"\b(TO" r"DO|FIX" r"ME)\b", line)]


PUBLIC_HOSTS = {
    *["github.com", "huggingface.co", "hf.co", "arxiv.org", "doi.org", "pytorch.org", "docs.pytorch.org"],
    *["www.apache.org", "localhost", "127.0.0.1", "transformer-circuits.pub", "developer.nvidia.com"],
    "www.w3.org",  # the name of SVG
    *["www.deepspeed.ai", "json.schemastore.org", "raw.githubusercontent.com", "aclanthology.org", "openreview.net"],
}
MACHINE_PATH = re.compile(r"(?<![\w./~:}$*-])(?:/(?:home|root|Users|work|workspace|mnt|srv|scratch)/\w|[A-Z]:\\Users)")
INDEX_SETTING = re.compile(
    r"--(?:extra-)?index-url|--find[-]links|(?:PIP|UV)_(?:EXTRA_)?(?:INDEX|FIND_LINKS)|file[:]//"
)


def nothing_names_a_machine(path: str, source: str) -> list[str]:
    """No address outside the well-known ones, no setting that names a package index, no path of somebody's disk."""
    found = []
    for i, line in enumerate(source.splitlines(), 1):
        hosts = {host.lower() for host in re.findall(r"https?://([\w.-]*\w)", line)} - PUBLIC_HOSTS
        found += [f"{path}:{i}: unknown host {host}" for host in sorted(hosts) if not host.startswith("example.")]
        found += [f"{path}:{i}: {hit.group()}" for p in (MACHINE_PATH, INDEX_SETTING) for hit in p.finditer(line)]
    return found


def folders_mirror(test_folders: list[str], folders: set[str]) -> list[str]:
    """`tests/frozen` mirrors `consistency_lens/frozen`, `tests/benchmarks` mirrors `benchmarks`. A family of tests'
    own mirrors nothing, and attacks and the matrix of families go across all rooms."""
    return [
        f"tests/{name} mirrors no folder of the project"
        for name in test_folders
        if f"{PACKAGE}/{name}" not in folders and name not in (*folders, "toy", "hostile", "families")
    ]


CODE_RULES: list[Rule] = [
    imports_point_downwards,
    files_are_short,
    only_hooks_registers_hooks,
    only_anatomy_knows_blocks,
    only_adapters_imports_peft,
    nothing_imports_gradio,
    only_frozen_loads,
    nothing_probes,
    nothing_swallows,
]
TEXT_RULES: list[Rule] = [nothing_is_postponed, nothing_names_a_machine]


def named(rule: Rule) -> str:
    return next(name for name, value in globals().items() if value is rule)


@cache
def project_files() -> tuple[Path, ...]:
    """What git tracks or would track; in a copy without git, everything but what a build leaves behind."""
    git = subprocess.run(
        ["git", "-C", ROOT, "ls-files", "-z", "--cached", "--others", "--exclude-standard"], capture_output=True
    )
    if git.returncode == 0:
        found = [ROOT / name for name in git.stdout.decode().split("\0") if name]
    else:
        built = re.compile(r"^(\.git|\.(venv|mypy|ruff|pytest).*|__pycache__|.*\.egg-info|build|dist|outputs)$")
        found = [p for p in ROOT.rglob("*") if not any(map(built.match, p.relative_to(ROOT).parts))]
    return tuple(sorted(path for path in found if path.is_file()))


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


CODE = [p for p in project_files() if p.suffix == ".py" and relative(p).startswith((f"{PACKAGE}/", "run_lens.py"))]
TEXT = [p for p in project_files() if p.suffix not in {".png", ".jpg", ".ico", ".parquet", ".arrow", ".safetensors"}]


@pytest.mark.parametrize("rule", CODE_RULES, ids=named)
def test_code_keeps(rule: Rule) -> None:
    assert [line for path in CODE for line in rule(relative(path), path.read_text("utf-8"))] == []


@pytest.mark.parametrize("rule", TEXT_RULES, ids=named)
def test_files_keep(rule: Rule) -> None:
    assert [line for path in TEXT for line in rule(relative(path), path.read_text("utf-8"))] == []


def circles(edges: dict[str, set[str]]) -> list[str]:
    """Files that lead back to themselves by what they import."""
    found = []
    for start in edges:
        seen, waiting = set[str](), list(edges[start])
        while waiting:
            here = waiting.pop()
            if here not in seen:
                seen.add(here)
                waiting += edges.get(here, ())
        if start in seen:
            found.append(start)
    return found


def at_the_top(tree: ast.Module, types: bool = False) -> Iterator[ast.stmt]:
    """The imports that run when a file is imported, and with `types` those that are there for type checkers alone."""
    for node in tree.body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node
        elif isinstance(node, ast.If) and (types or "TYPE_CHECKING" not in ast.unparse(node.test)):
            yield from (child for child in ast.walk(node) if isinstance(child, ast.Import | ast.ImportFrom))


@pytest.mark.parametrize("types", [False, True])
def test_no_file_leads_back_to_itself(types: bool) -> None:
    files = {relative(path).removesuffix(".py").replace("/", "."): path for path in CODE}
    edges: dict[str, set[str]] = {}
    for name, path in files.items():
        imported = "\n".join(map(ast.unparse, at_the_top(ast.parse(path.read_text("utf-8")), types)))
        named_here = {found for _, found in imports(relative(path), imported)}
        whole = {found.rpartition(".")[0] for found in named_here} | named_here
        edges[name] = {each for each in (*whole, *(f"{one}.__init__" for one in whole)) if each in files} - {name}
    if types:  # the public names, which everything of ours would lead back to
        del edges[f"{PACKAGE}.__init__"]
    assert circles(edges) == []
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == ["a", "b", "c"]


def crowded(paths: list[str]) -> list[str]:
    """Folders of more files than a person can keep in mind; what only describes a folder is no file of it."""
    count = Counter(Path(path).parent.as_posix() for path in paths if not path.endswith("__init__.py"))
    return [f"{folder}: {files} files; make rooms" for folder, files in sorted(count.items()) if files > MOST_FILES]


def test_no_folder_is_crowded() -> None:
    assert crowded([relative(path) for path in CODE]) == []
    assert crowded([f"a/{i}.py" for i in range(MOST_FILES)] + ["a/__init__.py"]) == []
    assert crowded([f"a/{i}.py" for i in range(MOST_FILES + 1)]) == [f"a: {MOST_FILES + 1} files; make rooms"]


def test_tests_mirror_the_package() -> None:
    folders = {folder.as_posix() for path in project_files() for folder in path.relative_to(ROOT).parents}
    tests = [name.removeprefix("tests/") for name in folders if name.startswith("tests/")]
    assert folders_mirror(sorted(tests), folders) == []


def test_the_walk_sees_the_package() -> None:
    assert {f"{PACKAGE}/__init__.py", f"{PACKAGE}/errors.py", f"{PACKAGE}/card/facts.py"} <= set(map(relative, CODE))
    assert {"pyproject.toml", ".ci/run", "tests/test_house.py"} <= set(map(relative, TEXT))


# (rule, path, source that must be refused, source that must pass), one row per way of breaking a rule.
IN = f"{PACKAGE}/"
CASES: list[tuple[Rule, str, str, str]] = [
    (imports_point_downwards, IN + "frozen/a.py", "from ..base import modeling", "from ..objectives import kl"),
    (imports_point_downwards, IN + "frozen/a.py", "from ..base.modeling import LensModel", "from . import sites"),
    (imports_point_downwards, IN + "frozen/a.py", "import consistency_lens.activations", "from .sites import Site"),
    (
        imports_point_downwards,
        IN + "frozen/a.py",
        "from consistency_lens import AutoLens",
        "from ..errors import BadInput",
    ),
    (imports_point_downwards, IN + "frozen/a.py", "def f():\n    from ..cli import main", "import torch"),
    (imports_point_downwards, IN + "text/a.py", "from ..sparse import modeling", "from ..base import modeling"),
    (
        imports_point_downwards,
        IN + "base/modeling.py",
        "from ..activations import dataset",
        "from ..frozen import sites",
    ),
    (
        imports_point_downwards,
        IN + "text/parts/decoder_encoder.py",  # which the model imports
        "from ...activations import dataset",
        "from ..base import trainer",
    ),
    (imports_point_downwards, IN + "base/data.py", "from ..activations import dataset", "import torch"),
    (imports_point_downwards, IN + "evaluation.py", "from .text import modeling", "from .base import modeling"),
    (imports_point_downwards, IN + "card/facts.py", "from ..frozen import sites", "from ..errors import BadInput"),
    (imports_point_downwards, IN + "objectives.py", "from . import schedules", "import torch"),
    (imports_point_downwards, IN + "errors.py", "from . import card", "import os"),
    (imports_point_downwards, IN + "auto.py", "from . import cli", "from .text import modeling"),
    (imports_point_downwards, IN + "attic/a.py", "x = 1", ""),
    (files_are_short, IN + "a.py", "x = 1\n" * 401, "x = 1\n" * 400),
    (files_are_short, "run_lens.py", "x = 1\n" * 141, "x = 1\n" * 140),
    (only_hooks_registers_hooks, IN + "a.py", "m.register_forward_hook(f)", "m.register_buffer('x', x)"),
    (only_hooks_registers_hooks, IN + "a.py", "f = m.register_forward_pre_hook", "hook = 1"),
    (only_hooks_registers_hooks, IN + "a.py", "from torch.nn.modules.module import register_module_forward_hook", ""),
    (only_anatomy_knows_blocks, IN + "a.py", "model.model.layers[3]", "layers = self._cache.layers"),
    (only_anatomy_knows_blocks, IN + "a.py", "lm.transformer.h", "'''Reads transformer.h.'''"),
    (only_anatomy_knows_blocks, IN + "a.py", "get('model.layers.3')", "f('resid_post.3')"),
    (only_adapters_imports_peft, IN + "base/modeling.py", "from peft import LoraConfig", "import torch"),
    (nothing_imports_gradio, IN + "cli/commands/command.py", "import gradio as gr", "import rich"),
    (
        only_frozen_loads,
        IN + "a.py",
        "from transformers import BitsAndBytesConfig",
        "x = load(quantization='8bit')",
    ),
    (
        only_frozen_loads,
        IN + "cli/parsing/arguments.py",
        "import transformers as t\nt.BitsAndBytesConfig()",
        "attn_implementation: str = 'auto'",
    ),
    (only_frozen_loads, IN + "a.py", "load(attn_implementation='eager')", "'''attn_implementation'''"),
    (only_frozen_loads, IN + "a.py", "load(**{'attn_implementation': 'eager'})", "load()"),
    (nothing_probes, IN + "a.py", "getattr(x, 'y')", "def __getattr__(name): ..."),
    (nothing_probes, IN + "a.py", "if hasattr(x, 'y'): pass", "if isinstance(x, int): pass"),
    (nothing_swallows, IN + "a.py", "try: f()\nexcept Exception: pass", "try: f()\nexcept OSError: pass"),
    (nothing_swallows, IN + "a.py", "try: f()\nexcept: pass", "try: f()\nexcept (OSError, ValueError): pass"),
    (nothing_swallows, IN + "a.py", "try: f()\nexcept (OSError, Exception): pass", "try: f()\nfinally: g()"),
    (nothing_is_postponed, "a.md", "# TO" + "DO: later", "# to do, or not to do"),
    (nothing_is_postponed, "a.py", "x = 1  # FIX" + "ME", "x = 1"),
    (nothing_names_a_machine, "a.toml", "url = 'https:" + "//pypi.corp.internal/simple'", "https://arxiv.org/abs/1"),
    (nothing_names_a_machine, "a.md", "cd /ho" + "me/me/x", "cd ~/x; ls ./home/x"),
    (nothing_names_a_machine, "a.md", "see (/ro" + "ot/x)", "https://github.com/home/x"),
    (nothing_names_a_machine, "a.sh", "pip install --find" + "-links /wheels x", "pip install -c constraints.txt x"),
]


@pytest.mark.parametrize(
    ("rule", "path", "bad", "good"), CASES, ids=lambda value: named(value) if callable(value) else ""
)
def test_rule_can_fail(rule: Rule, path: str, bad: str, good: str) -> None:
    assert rule(path, bad), "the offending source passed"
    if "attic" not in path:
        assert rule(path, good) == []


def test_every_rule_is_shown_able_to_fail() -> None:
    assert {rule for rule, *_ in CASES} == {*CODE_RULES, *TEXT_RULES}


def test_mirror_rule_can_fail() -> None:
    assert folders_mirror(["attic"], {f"{PACKAGE}/frozen"})
    assert folders_mirror(["frozen", "benchmarks"], {f"{PACKAGE}/frozen", "benchmarks"}) == []


def test_test_files_have_names_of_their_own() -> None:
    """pytest imports them by their base name: of two, one is not run."""
    names = [path.name for path in (ROOT / "tests").rglob("*.py") if path.name not in ("conftest.py", "__init__.py")]
    assert sorted(names) == sorted(set(names))
