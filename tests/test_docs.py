"""README and docs do what they say: every snippet runs, every command is one, every link leads somewhere."""

from __future__ import annotations

import ast
import json
import math
import os
import re
import runpy
import shlex
import subprocess
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import yaml
from block_runs import extract_blocks
from datasets import Dataset
from extracting import extract_to, random_texts
from huggingface_hub import constants
from lens_runs import tiny_lens, tiny_rows
from passage_models import passage_models
from rich.console import Console
from snippets import PAGES, ROOT, Snippet, blocks, commands, snippets
from tiny import shared_lm, tiny_model, tiny_tokenizer

from consistency_lens import (
    ConsistencyLens,
    CrosslayerTranscoder,
    FrozenLM,
    LatentWire,
    Passages,
    cli,
    evaluate_lens,
)
from consistency_lens.cli.commands import plan
from consistency_lens.demo.reading import readers
from consistency_lens.errors import BadInput

SNIPPETS = snippets()
SHELLS = [(page.name, line) for page in PAGES for block in blocks(page, "bash") for line in commands(block)]
NOTEBOOK = ROOT / "docs/tour.ipynb"


@pytest.fixture
def lens_folder(subject_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the snippets look for the demo's lens lies an untrained one: tokens and form are the same for any."""
    lens = ConsistencyLens.from_subject(FrozenLM.from_pretrained(subject_folder), "resid_post.1")
    lens.save_pretrained(tmp_path / "outputs/demo/lens")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def tiny_gpt2(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Under the names that the README uses: a random model of a few thousand weights, and its rows."""
    monkeypatch.chdir(tmp_path)
    tiny_model("gpt2").save_pretrained("gpt2")
    tiny_tokenizer().save_pretrained("gpt2")
    frozen = FrozenLM.from_pretrained("gpt2")
    texts = random_texts(60, shortest=20, longest=40)
    extract_to(Path("outputs/gpt2-stories"), texts, frozen, sites=["resid_post.2/3"], continuation_length=8)
    return tmp_path


@pytest.fixture
def tiny_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two random models under the names that the pages use, and texts."""
    monkeypatch.chdir(tmp_path)
    tiny_model("gpt2").save_pretrained("gpt2")
    tiny_tokenizer().save_pretrained("gpt2")
    other = passage_models()["pieces"]
    other.model.save_pretrained("Qwen/Qwen3-0.6B")
    other.tokenizer.save_pretrained("Qwen/Qwen3-0.6B")
    Path("my.txt").write_text("".join(f"{text}\n" for text in random_texts(50, shortest=12, longest=24)))
    return tmp_path


@pytest.fixture
def sparse_demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run of a transcoder that was never trained, beside its model and its blocks: the form is the same for any."""
    monkeypatch.chdir(tmp_path)
    tiny_model("llama").save_pretrained("tiny-llama")
    tiny_tokenizer().save_pretrained("tiny-llama")
    frozen = FrozenLM.from_pretrained("tiny-llama")
    extract_blocks(Path("outputs/sparse-demo-blocks"), random_texts(60, shortest=6), frozen, sites=TRANSCODED)
    lens = CrosslayerTranscoder.from_subject(frozen, features=48, nonlinearity="topk", k=4)
    lens.save_pretrained(tmp_path / "outputs/sparse-demo/lens")
    return tmp_path


@pytest.fixture
def wire_demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run of a wire that was never trained, beside its two models and a third one: the form is the same for any."""
    monkeypatch.chdir(tmp_path)
    for name, kind in (("left", "llama"), ("right", "gemma3"), ("gpt2", "gpt2")):
        tiny_model(kind).save_pretrained(name)
        tiny_tokenizer().save_pretrained(name)
    models = [FrozenLM.from_pretrained(place, name=name) for place, name in (("left", "base"), ("right", "right"))]
    LatentWire.from_models(models, ratio=2, bits=4, group=16).save_pretrained("outputs/wire-demo/lens")
    return tmp_path


QWEN = {
    "model_type": "qwen3",
    "vocab_size": 151_936,
    "hidden_size": 1024,
    "intermediate_size": 3072,
    "num_hidden_layers": 28,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "tie_word_embeddings": True,
}
TRANSCODED = ["resid_mid.*", "mlp_out.*"]
ON_A_TINY_ONE = {"subject_path()": '"gpt2"'}


def form(printed: str) -> str:
    """What is printed, without what differs between models: numbers and words in quotes."""
    return re.sub(r"'[^']*'|-?\d+(\.\d+)?", "*", printed)


OF_THE_DOOR = [SNIPPETS["sites"], SNIPPETS["computed"], SNIPPETS["generate"]]


@pytest.mark.parametrize("snippet", OF_THE_DOOR, ids=lambda snippet: snippet.name)
def test_a_frozen_model_is_read_edited_and_goes_on(snippet: Snippet, tiny_models: Path) -> None:
    printed = snippet.run(ON_A_TINY_ONE)
    assert len(printed.splitlines()) == len(snippet.shown.splitlines()) > 1
    if snippet.name != "generate":  # a random model may stop at once
        assert form(printed) == form(snippet.shown)


@pytest.mark.slow
def test_the_offline_model_is_read_edited_and_goes_on_as_shown(subject_folder: Path) -> None:
    assert SNIPPETS["sites"].run() == SNIPPETS["sites"].shown
    computed = SNIPPETS["computed"]  # what is left without any MLP hangs on the last digits of the training
    assert computed.run().splitlines()[:2] == computed.shown.splitlines()[:2]
    snippet, name = SNIPPETS["generate"], re.compile(r"\['(\w+) \.")
    assert name.findall(snippet.run()) == name.findall(snippet.shown) == ["finn", "clara", "clara"]


def test_models_take_their_edits_by_name(tiny_models: Path) -> None:
    lines = SNIPPETS["models"].run().splitlines()
    assert [line.split(",")[0] for line in lines] == ["small 1 edit", "large 1 edit"]


def test_a_transcoder_is_trained_in_a_few_lines(tiny_models: Path) -> None:
    frozen = FrozenLM.from_pretrained("gpt2")
    extract_blocks(Path("outputs/gpt2-blocks"), random_texts(60, shortest=6), frozen, sites=TRANSCODED)
    small = {"features=6144": "features=48", "k=32": "k=4", "max_steps=2000": "max_steps=2", "size=4000": "size=64"}
    assert "train_runtime" in SNIPPETS["train_transcoder"].run(small)
    again = CrosslayerTranscoder.from_pretrained("outputs/gpt2-transcoder/lens", subject=frozen)
    assert len(again.features("w1 w2 w3")) == 3


def test_features_are_listed_and_switched_off(sparse_demo: Path) -> None:
    snippet = SNIPPETS["features"]
    first, *others = snippet.run().splitlines()
    assert re.search(r"\| (\d/\d+ \d+\.\d\d(, )?){4} \| 16 active in all layers$", first)
    for line, shown in zip(others, snippet.shown.splitlines()[1:], strict=True):
        kind = re.compile(r"^without|^all MLPs replaced|KL \d\.\d{4}$")
        assert len(kind.findall(line)) == len(kind.findall(shown)) == 2


def test_the_front_page_uses_every_family(sparse_demo: Path, wire_demo: Path) -> None:
    """From the places where recipes leave their runs."""
    snippet = SNIPPETS["families"]
    printed = snippet.run({f"outputs/{name}_demo": f"outputs/{name}-demo" for name in ("sparse", "wire")})
    form = re.compile(
        r"^\d/\d+ \d+\.\d\d, \d/\d+ \d+\.\d\d \| without the first: .+ [01]\.\d\d\n\d+ bytes: \['.*', '.*'\]$"
    )
    assert form.match(printed.rstrip()) and form.match(snippet.shown.rstrip())


@pytest.mark.parametrize("name", ["words_of_feature", "features_kept"])
def test_words_and_features_read_each_other(sparse_demo: Path, name: str) -> None:
    frozen = FrozenLM.from_pretrained("tiny-llama")
    ConsistencyLens.from_subject(frozen, "resid_post.1").save_pretrained("outputs/demo/lens")
    snippet = {"words_of_feature": SNIPPETS["words_of_feature"], "features_kept": SNIPPETS["features_kept"]}[name]
    small = {"layer=2, feature=275": "layer=0, feature=7"} if name == "words_of_feature" else {}
    lines = snippet.run(small).splitlines()
    if name == "words_of_feature":
        assert re.fullmatch(r"writes: '.+', cosine -?[01]\.\d\d; turned round: '.+'", lines[0])
    else:
        assert len(lines) == 2
        assert all(
            re.search(r"kept [01]\.\d\d, by another token's words [01]\.\d\d \| lost \[", line) for line in lines
        )


def test_features_get_contexts_and_labels(sparse_demo: Path) -> None:
    lines = SNIPPETS["contexts"].run().splitlines()
    assert len(lines) == 3 and all(
        re.match(r"\d/\d+: (after |before )?“.+”, F1 \d\.\d\d \.\.\. .", line) for line in lines
    )


def test_a_transcoder_is_opened_in_the_format_of_others(sparse_demo: Path) -> None:
    snippet = SNIPPETS["circuit_tracer"]
    printed = snippet.run()
    assert form(printed) == form(snippet.shown)
    assert [float(n) for n in re.findall(r"\d\.\d", printed)] == pytest.approx([4.0] * 4, rel=0.05)


def test_a_wire_is_trained_in_a_few_lines(tiny_models: Path) -> None:
    rows = [{"passage": text, "prompt": "w1 w2", "answer": text.split()[0]} for text in random_texts(30, longest=8)]
    Passages.from_dataset(Dataset.from_list(rows), validation_fraction=0.2, test_fraction=0.2).save("outputs/passages")
    assert "train_runtime" in SNIPPETS["train_wire"].run({"max_steps=4000": "max_steps=2, use_cpu=True"})
    assert LatentWire.from_pretrained("outputs/wire/lens").config.names == ["small", "large"]


def test_a_compressor_starts_from_a_model_that_reads_nothing(tiny_models: Path) -> None:
    other = passage_models()["bytes"]
    other.model.save_pretrained("HuggingFaceTB/SmolLM2-135M")
    other.tokenizer.save_pretrained("HuggingFaceTB/SmolLM2-135M")
    assert SNIPPETS["other_compressor"].run() == "SmolLM2-135M\n"


def test_a_text_goes_over_a_wire(wire_demo: Path) -> None:
    snippet = SNIPPETS["wire"]
    first, *said = snippet.run().splitlines()
    assert form(first) == form(snippet.shown.splitlines()[0])
    assert [line.split(" |")[0] for line in said] == ["base", "right"]
    assert [line.split(" |")[0] for line in snippet.shown.splitlines()[1:]] == ["base", "right"]
    assert len(SNIPPETS["add_receiver"].run().splitlines()) == 1


def test_soft_tokens_are_read_in_words(wire_demo: Path) -> None:
    frozen = FrozenLM.from_pretrained("left")
    ConsistencyLens.from_subject(frozen, "resid_post.1").save_pretrained("outputs/words-of-left/lens")
    lines = SNIPPETS["words_of_slots"].run().splitlines()
    assert [line.split()[0] for line in lines] == [str(slot) for slot in range(len(lines))] and len(lines) >= 2


def test_a_code_is_sent_to_another_server(wire_demo: Path) -> None:
    asked: list[dict[str, Any]] = []

    class Server(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))) | {"path": self.path})
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps({"choices": [{"text": "what it says"}]}).encode())

        def log_message(self, *words: Any) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Server) as server:
        threading.Thread(target=server.handle_request, daemon=True).start()
        printed = SNIPPETS["vllm"].run({"localhost:8000": f"127.0.0.1:{server.server_port}"})
    assert printed == "what it says\n"
    (body,) = asked
    assert body.keys() == {"path", "model", "prompt_embeds", "max_tokens", "temperature"}
    assert body["path"] == "/v1/completions"


def test_rows_of_your_own_are_trained_on(tiny_models: Path) -> None:
    short = {"max_steps=6000": "max_steps=2", "warm_steps=4000": "warm_steps=1"} | {
        f"{name}_steps=500": f"{name}_steps=1" for name in ("eval", "save")
    }
    pushed = {'push_to_hub("me/gpt2-lens", private=True)': 'save_pretrained("outputs/pushed")'}  # `tests/test_hub.py`
    *_, last = SNIPPETS["own_rows"].run(short | pushed).splitlines()
    same, recovered = map(float, last.split())
    assert 0 <= same <= 1 and math.isfinite(recovered) and Path("outputs/pushed/config.json").is_file()


def test_blocks_are_made_and_opened(tiny_models: Path) -> None:
    *_, shape, document, own = SNIPPETS["blocks"].run().splitlines()
    assert shape == "[512, 8, 32] for 8 sites"
    assert document == "['activations', 'doc_id', 'input_ids', 'position'] torch.Size([8, 32])"
    assert int(own) > 512


def test_passages_are_read_by_two_models(tiny_models: Path) -> None:
    lines = SNIPPETS["passages"].run().splitlines()
    assert [line.split()[:3] for line in lines] == [
        [name, sequence, "2"] for name in ("small", "large") for sequence in ("full", "bare", "bare")
    ]


@pytest.mark.slow
def test_a_thought_is_put_in_another_place(subject_folder: Path) -> None:
    snippet = SNIPPETS["frozen"]
    said, shown = (re.findall(r"'(\w+) ([\d.]+)'", text) for text in (snippet.run(), snippet.shown))
    # The likeliest name of each line, sure of itself; the runner-up hangs on the last digits of the training.
    assert [said[0][0], said[2][0]] == [shown[0][0], shown[2][0]] == ["finn", "clara"]
    assert min(float(said[0][1]), float(said[2][1])) > 0.9


@pytest.mark.slow
def test_a_lens_explains(lens_folder: Path) -> None:
    snippet = SNIPPETS["lens"]
    line = re.compile(r"^(\w+) \| [^|]+ \| KL \d+\.\d+$", re.MULTILINE)
    assert line.findall(snippet.run()) == line.findall(snippet.shown) == ["name", "is"]
    said = SNIPPETS["quickstart"].run()
    assert re.findall(r"^(\d+) (\w+) \| [^|]+ \| \S+ \S+$", said, re.MULTILINE) == [("21", "name"), ("22", "is")]


@pytest.mark.slow
def test_a_lens_steers(lens_folder: Path) -> None:
    snippet = SNIPPETS["steer"]
    form = re.compile(r"^(\w[\w -]*):", re.MULTILINE)
    assert form.findall(snippet.run()) == form.findall(snippet.shown) != []


def test_a_lens_is_trained_in_a_few_lines(tiny_gpt2: Path) -> None:
    printed = SNIPPETS["train"].run({"max_steps=6000": "max_steps=2", "warm_steps=4000": "warm_steps=1"})
    assert "loss/start" in printed and "train_runtime" in printed


def test_rows_are_a_dataset(tiny_gpt2: Path) -> None:
    snippet = SNIPPETS["rows"]
    columns = re.findall(
        r"^\| `(\w+)", (ROOT / "docs" / snippet.page).read_text("utf-8").partition(snippet.code)[2], re.MULTILINE
    )
    shown = replace(snippet, code=snippet.code + "print(*rows['train'].column_names)").run().split()
    assert {"doc_id", "input_ids"} < set(shown) and "resid_post.2" in shown
    assert set(shown) - {"resid_post.2"} <= set(columns)


def test_a_report_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    frozen = shared_lm("llama")
    report = evaluate_lens(tiny_lens(frozen), frozen, tiny_rows(), max_rows=24, horizon=4, progress=False)
    report.save(tmp_path / "outputs/demo/report")
    monkeypatch.chdir(tmp_path)
    lines = SNIPPETS["report"].run().splitlines()
    assert lines[0] == report.verdict
    assert lines[1] == str(report.number("kl_recovered"))
    assert [line.split()[0] for line in lines[2:]] == report.groups["text"] != []


def test_the_arithmetic_is_what_is_shown() -> None:
    assert SNIPPETS["seventy"].run() == SNIPPETS["seventy"].shown


def test_the_plan_of_your_own_model_is_what_is_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The model's shapes lie where its id leads, so that nothing is asked for on the Hub."""
    page = (ROOT / "docs/your_own_model.md").read_text("utf-8")
    form = re.compile(r"```bash\n([^\n]+)\n```\n\n<!-- shown: plan -->\n```\n(.*?)```", re.DOTALL)
    ((command, shown),) = form.findall(page)
    monkeypatch.chdir(tmp_path)
    Path("Qwen/Qwen3-0.6B").mkdir(parents=True)
    Path("Qwen/Qwen3-0.6B/config.json").write_text(json.dumps(QWEN))
    monkeypatch.setattr(plan, "console", Console(width=100))
    assert cli.main(shlex.split(command)[2:]) == 0
    said = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
    assert said[: len(shown.splitlines())] == shown.splitlines()


def test_the_metric_of_the_report_page() -> None:
    snippet = SNIPPETS["metric"]
    assert snippet.run() == snippet.shown


def test_every_python_block_is_a_snippet_that_is_run_here() -> None:
    standing = [code for page in PAGES for code in blocks(page, "python")]
    assert sorted(standing) == sorted(snippet.code for snippet in SNIPPETS.values())
    run_here = set(re.findall(r'SNIPPETS\["(\w+)"\]', Path(__file__).read_text("utf-8")))
    assert run_here == set(SNIPPETS)


def test_blocks_say_what_they_are() -> None:
    known = {"python", "bash", "yaml", "text", ""}
    for page in PAGES:
        fences = re.findall(r"^```(\w*)$", page.read_text("utf-8"), re.MULTILINE)
        assert len(fences) % 2 == 0 and set(fences) <= known, page.name


@pytest.mark.parametrize("block", [block for page in PAGES for block in blocks(page, "yaml")])
def test_a_recipe_is_one(block: str, tmp_path: Path) -> None:
    path = tmp_path / "my.yaml"
    path.write_text(block)
    every_part_of(cli.parse(["--config", str(path)]))


@pytest.mark.parametrize(("page", "line"), SHELLS)
def test_a_command_is_one(page: str, line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The real parser takes each command; what it launches is there, and so are its options."""
    monkeypatch.chdir(tmp_path)
    (recipe,) = (block for page in PAGES for block in blocks(page, "yaml"))
    Path("my.yaml").write_text(recipe)
    subprocess.run(["bash", "-n", "-c", line], check=True)
    for part in line.split(" && "):
        require_command(shlex.split(part, comments=True))


def require_command(words: list[str]) -> None:
    """Raise unless these words can be run."""
    while "=" in words[0]:  # a variable for the command
        words = words[1:]
    program = Path(words[0]).name
    if program in ("accelerate", "torchrun"):
        first, script = (2 if program == "accelerate" else 1), words.index("run_lens.py")
        assert program == "torchrun" or words[1] == "launch"
        for option, value in zip(words[first:script:2], words[first + 1 : script : 2], strict=True):
            if option == "--config_file":
                assert program == "accelerate" and (ROOT / value).is_file()
            else:
                assert option == ("--num_processes" if program == "accelerate" else "--nproc_per_node")
                assert value.isdigit()
        request = cli.parse(words[script + 1 :])
        if (config := request.values["deepspeed"]) is not None:
            assert (ROOT / config).is_file()
            request.values["deepspeed"] = None  # it would start an engine
        every_part_of(request)
    elif program == "consistency-lens":
        every_part_of(cli.parse(words[1:]))
    elif program.startswith("python"):
        require_script(words[1:])
    elif words[0].startswith(".ci/"):
        assert os.access(ROOT / words[0], os.X_OK)
    else:
        assert program in ("pip", "pytest", "hf", "ruff", "mypy"), f"what is {program}?"


def require_script(words: list[str]) -> None:
    match words:
        case ["-m", "venv", _] | ["-m", "consistency_lens.demo"]:
            return
        case ["-m", "tests.hostile", *rest]:
            known = set(options_of(ROOT / "tests/hostile/__main__.py"))
            assert {word for word in rest if word.startswith("--")} <= known
        case ["run_lens.py", *rest]:
            every_part_of(cli.parse(rest))
        case [script, *rest]:
            assert (ROOT / script).is_file()
            sources = [ROOT / script, ROOT / "benchmarks/harness.py"]
            known = {option for source in sources for option in options_of(source)}
            assert {word for word in rest if word.startswith("--")} <= known


def options_of(source: Path) -> list[str]:
    """What a script's `add_argument` calls name."""
    calls = [node for node in ast.walk(ast.parse(source.read_text("utf-8"))) if isinstance(node, ast.Call)]
    adding = [call for call in calls if isinstance(call.func, ast.Attribute) and call.func.attr == "add_argument"]
    names = [argument for call in adding for argument in call.args]
    return [str(name.value) for name in names if isinstance(name, ast.Constant)]


def every_part_of(request: cli.Request) -> None:
    """Raise what the command line finds without opening anything."""
    for title, group in request.options.groups.items():
        if title != "training":
            request.part(group)
    request.training(output_dir="outputs/here", bf16=False, use_cpu=True)


def test_what_is_no_command_is_noticed() -> None:
    for words in ("accelerate launch run_lens.py --max_stps 3", "python run_lens.py explian --lens x"):
        with pytest.raises(BadInput):
            require_command(shlex.split(words))
    for words in (
        "python benchmarks/nothing.py",
        "python benchmarks/steer.py --strngth 1",
        ".ci/walk",
        "conda install torch",
    ):
        with pytest.raises(AssertionError):
            require_command(shlex.split(words))


def test_the_front_page_is_short() -> None:
    assert len((ROOT / "README.md").read_text("utf-8").split()) <= 1200


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text("utf-8")):
        if "://" in target:
            continue
        name, _, anchor = target.partition("#")
        file = (page.parent / name).resolve() if name else page
        assert file.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.+)$", file.read_text("utf-8"), re.MULTILINE)
            slugs = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
            assert anchor in slugs, target


def test_every_test_that_a_page_names_is_there() -> None:
    named = {found for page in PAGES for found in re.findall(r"`([\w/]+\.py)::(test_\w+)`", page.read_text("utf-8"))}
    assert len(named) > 40
    sources = {file: "".join(path.read_text("utf-8") for path in ROOT.glob(f"tests/**/{file}")) for file, _ in named}
    assert {(file, name) for file, name in named if f"def {name}(" not in sources[file]} == set()


def test_every_picture_is_shown_and_small() -> None:
    """That those which are shown are there, the test of links says."""
    there = {path for path in (ROOT / "docs").rglob("*") if path.suffix in (".png", ".svg", ".jpg", ".gif")}
    shown = {
        page.parent / target
        for page in PAGES
        for target in re.findall(r"!\[[^\]]*\]\((\S+)\)", page.read_text("utf-8"))
    }
    assert there and there <= shown, there - shown
    assert {path.name for path in there if path.stat().st_size > 600_000} == set()


def test_every_page_is_in_the_index_and_on_the_site() -> None:
    """`mkdocs build --strict`, which `.ci/run` calls, says the rest: it needs the extra `docs`."""
    pages = sorted(page.name for page in (ROOT / "docs").glob("*.md"))
    index = (ROOT / "docs/README.md").read_text("utf-8")
    assert set(pages) - {"README.md"} <= set(re.findall(r"\((\w+\.md)", index))
    nav = yaml.safe_load((ROOT / "mkdocs.yml").read_text("utf-8"))["nav"]
    assert sorted(page for part in nav for page in next(iter(part.values()))) == pages


def test_links_out_of_the_docs_are_words_on_the_site() -> None:
    leave: Callable[[str], str] = runpy.run_path(str(ROOT / "docs/leave_links.py"))["on_page_markdown"]
    assert leave("[a](../A.md), [b](b.md#c), ![d](d.png)") == "a, [b](b.md#c), ![d](d.png)"


def test_a_skill_says_what_it_is_and_what_it_says_runs(tiny_models: Path) -> None:
    """Its commands and links are tested as those of every page."""
    front = yaml.safe_load((ROOT / "consistency_lens/SKILL.md").read_text("utf-8").split("---\n")[1])
    assert re.fullmatch(r"[a-z-]{1,64}", front["name"]) and 50 < len(front["description"]) <= 1024
    assert re.fullmatch(r"\[1, (\d), 32\] \[1, \1, \d+\]\n", SNIPPETS["skill_frozen"].run())
    lens = ConsistencyLens.from_subject(FrozenLM.from_pretrained("gpt2"), "resid_post.1", code_length=4)
    lens.save_pretrained("outputs/demo/lens")
    assert len(SNIPPETS["skill_words"].run().splitlines()) == 2


def test_the_figure_has_words_for_who_cannot_see_it() -> None:
    root = ElementTree.parse(ROOT / "docs/idea.svg").getroot()
    named = {child.tag.rpartition("}")[2]: child.text or "" for child in root}
    assert len(named["title"]) > 10 and len(named["desc"]) > 100
    classes = {name for node in root.iter() for name in (node.get("class") or "").split()}
    style = named["style"]
    light, dark = style.split("@media")
    # Every colour of text has its own on dark paper, but white on the coloured boxes.
    on_paper = {"ink", "soft", "paper", "card", "layer"}
    assert on_paper <= classes
    for name in on_paper:
        assert f".{name} {{" in light and f".{name} {{" in dark, name


def test_the_reference_is_what_the_docstrings_say() -> None:
    build: Callable[[], str] = runpy.run_path(str(ROOT / "docs/build_api.py"))["build"]
    assert (ROOT / "docs/api.md").read_text("utf-8") == build(), "run python docs/build_api.py"


def require_a_whole_tour(cells: Sequence[Mapping[str, Any]]) -> None:
    """What its cells printed: a verdict, words that change the answer at strength 1, answers of two receivers."""
    printed = "".join(str(each.get("text", "")) for cell in cells for each in cell.get("outputs", []))
    new = re.search(r"' -> '.*\nstrength 0.0: before the edit (\w+) \S+, after the edit (\w+) ", printed)
    at_one = re.search(r"strength 1\.0: before the edit (\w+) \S+, after the edit (\w+) ", printed)
    assert new and at_one and new[1] == new[2] == at_one[1] != at_one[2], "an edit of the words is one of the answer"
    assert at_one[2] in printed.partition("' -> '")[2].partition("\n")[0], "and the answer is the new word"
    assert "kl_recovered  lens" in printed and "thing | left: grey lantern | right: lantern grey" in printed


def test_the_notebook_ships_with_what_it_printed() -> None:
    cells = json.loads(NOTEBOOK.read_text("utf-8"))["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1)) and len(code) >= 6
    outputs = [each for cell in code for each in cell["outputs"]]
    assert all(each["output_type"] == "stream" and each["name"] == "stdout" for each in outputs)
    for cell in code:
        ast.parse("".join(cell["source"]))
    require_a_whole_tour([{"outputs": [{"text": "".join(each["text"])} for each in outputs]}])


def test_the_wire_of_the_notebook_is_asked_by_both_receivers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With readers that were never trained: what they say is noise, and the form is the same."""

    def untrained(config: readers.ReaderConfig, progress: bool) -> Any:
        tokenizer = readers.reader_tokenizer(config)
        return readers.new_reader(config, tokenizer), tokenizer, 0.0

    monkeypatch.setattr(constants, "HF_HOME", str(tmp_path))
    monkeypatch.setattr(readers, "train_reader", untrained)
    cells = json.loads(NOTEBOOK.read_text("utf-8"))["cells"]
    (code,) = (source for cell in cells if "LatentWire.from_models" in (source := "".join(cell["source"])))
    exec(compile(code, "the notebook", "exec"), {"FrozenLM": FrozenLM})
    passage, *lines = capsys.readouterr().out.splitlines()[-11:]
    assert len(passage.split()) == 8 and lines[0].startswith("words per vector: 1; ")
    sizes = [int(line.split()[-4]) for line in lines[::5]]
    assert sizes[1] < sizes[0] < 2 * sizes[1], "half as many vectors"
    assert all("| left: " in line and "| right: " in line for line in (*lines[1:5], *lines[6:]))


@pytest.mark.slow
def test_the_notebook_runs_from_top_to_bottom(
    subject_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a kernel of its own, in an empty folder."""
    import nbformat
    from nbclient import NotebookClient

    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    NotebookClient(notebook, timeout=1200, resources={"metadata": {"path": str(tmp_path)}}).execute()
    require_a_whole_tour(notebook.cells)
