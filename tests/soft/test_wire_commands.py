"""`run_lens.py compress`, `answer` and `serve`: a code goes from one process to another."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlencode
from urllib.request import Request, urlopen

import pytest
from wire_runs import NAMES, wire_lens, wire_models

from consistency_lens import cli
from consistency_lens.cli.parsing.request import own_commands
from consistency_lens.errors import BadInput
from consistency_lens.frozen import FrozenLM, FrozenModels
from consistency_lens.soft.modeling import LatentWire
from consistency_lens.soft.serving.wire_file import read_wires

ROOT = Path(__file__).parents[2]
TEXT = " ".join(f"w{i}" for i in range(20))


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A lens and its two models in folders of their own."""
    folder = tmp_path_factory.mktemp("wire")
    for name, model in wire_models().items():
        model.model.save_pretrained(folder / name)
        model.tokenizer.save_pretrained(folder / name)
    models = FrozenModels([FrozenLM.from_pretrained(folder / name, name=name) for name in NAMES])
    lens = LatentWire.from_models(models, ratio=2.0, bits=8)
    lens.save_pretrained(folder / "lens")
    (folder / "text.txt").write_text(TEXT)
    return folder


def options(places: Path) -> list[str]:
    models = ["--model_name_or_path", str(places / "words"), "--other_models", f"turned={places / 'turned'}"]
    return ["--lens", str(places / "lens"), *models, "--use_cpu"]


def run(words: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    capsys.readouterr()
    code = cli.main(words)
    said = capsys.readouterr()
    return code, said.out, said.err


def lens_of(places: Path) -> LatentWire:
    lens = LatentWire.from_pretrained(places / "lens")
    lens.models = wire_models()
    return lens


def test_a_text_is_compressed_and_asked(
    places: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    wire, sender = tmp_path / "F.wire", ["--lens", str(places / "lens"), "--use_cpu"]
    code, out, err = run(["compress", str(places / "text.txt"), *sender, "-o", str(wire)], capsys)
    assert (code, out) == (0, ""), err
    assert f"10 vectors of 32 numbers at 8 bits in 1 wire, {wire.stat().st_size} bytes" in err
    lens = lens_of(places)
    assert wire.read_bytes() == lens.to_bytes(TEXT)
    for name in NAMES:
        words = ["answer", str(wire), *options(places), "--receiver", name, "--max_new_tokens", "3", "w90"]
        code, out, err = run(words, capsys)
        assert (code, out) == (0, lens.answer(wire.read_bytes(), "w90", name, max_new_tokens=3) + "\n"), err
    words = ["answer", str(wire), *options(places), "--receiver", "words", "--preamble", "w7 w8", "w90"]
    code, out, err = run(words, capsys)
    assert (code, out) == (0, lens.answer(wire.read_bytes(), "w90", "words", preamble="w7 w8") + "\n"), err
    lines = tmp_path / "lines.txt"
    lines.write_text("w1 w2 w3\n\nw4 w5\n")
    rate = ["--code_length", "2", "--bits", "4", "--per_line"]
    code, out, err = run(["compress", str(lines), *rate, *sender, "-o", str(wire)], capsys)
    assert code == 0 and "2 texts of 13 bytes: 4 vectors of 32 numbers at 4 bits in 2 wires" in err
    assert [[(each.M, each.bits) for each in text] for text in read_wires(wire)] == [[(2, 4)], [(2, 4)]]
    code, out, err = run(["answer", str(wire), "w90", *options(places), "--receiver", "words"], capsys)
    assert code == 0 and len(out.splitlines()) == 2


@pytest.mark.distributed
def test_two_processes_exchange_a_code(places: Path, tmp_path: Path) -> None:
    """The sender's and the receiver's own processes; the sender has no model at hand."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)}
    base = [sys.executable, str(ROOT / "run_lens.py")]
    wire = tmp_path / "F.wire"
    words = ["compress", "-", "--lens", str(places / "lens"), "-o", str(wire), "--use_cpu"]
    done = subprocess.run([*base, *words], input=TEXT.encode(), env=environment, capture_output=True, timeout=300)
    assert done.returncode == 0, done.stderr.decode()
    words = ["serve", *options(places), "--receiver", "turned", "--port", "0", "--max_new_tokens", "4"]
    server = subprocess.Popen([*base, *words], env=environment, stderr=subprocess.PIPE, text=True)
    try:
        address = address_of(server)
        said = asked(address, wire.read_bytes(), question="w90")
        expected = lens_of(places).answer(wire.read_bytes(), "w90", "turned", max_new_tokens=4)
        assert said == {"answer": expected, "receiver": "turned", "vectors": 10, "bytes": wire.stat().st_size}
        other = wire_lens(ratio=2.0, layers=1).to_bytes(TEXT)
        for body, query, why in [
            (other, {"question": "w90"}, "another lens made this code"),
            (wire.read_bytes()[:-1], {"question": "w90"}, "cut off or changed"),
            (wire.read_bytes(), {"question": "w90", "receiver": "words"}, "Name one of turned"),
        ]:
            with pytest.raises(HTTPError) as refused:
                asked(address, body, **query)
            with refused.value as answer:
                assert answer.code == 400 and why in json.loads(answer.read())["error"]
        assert asked(address, wire.read_bytes(), question="w90") == said, "it goes on"
        server.send_signal(signal.SIGINT)
        assert server.wait(30) in (0, 130), "asked to end, it ends by itself"
    finally:
        server.kill()
        server.communicate()


def address_of(server: subprocess.Popen[str]) -> str:
    assert server.stderr is not None
    for line in server.stderr:
        if found := re.search(r"turned answers at (\S+)$", line):
            return found[1]
    raise AssertionError("it ended before it served")


def asked(address: str, body: bytes, **query: str) -> Any:
    headers = {"Content-Type": "application/octet-stream"}
    until = time.monotonic() + 30
    while True:
        try:
            with urlopen(Request(f"{address}/answer?{urlencode(query)}", body, headers), timeout=60) as answer:
                return json.loads(answer.read())
        except ConnectionError:
            assert time.monotonic() < until


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["compress", "--lens", "{lens}", "-o", "{out}"], "file=None. Name a text file"),
        (["compress", "{text}", "--lens", "{lens}"], "output=None. Say where to: -o F.wire"),
        (["compress", "{text}", "--lens", "{lens}", "-o", "{out}/in/nothing"], "output=.*folder that is there"),
        (["compress", "{nothing}", "--lens", "{lens}", "-o", "{out}"], "file=.*there is none"),
        (["compress", "{empty}", "--lens", "{lens}", "-o", "{out}"], "an empty one has no code"),
        (["compress", "{text}", "--lens", "{lens}", "-o", "{out}", "--code_length", "21"], "Use 1 to 20"),
        (["compress", "{text}", "--lens", "{lens}", "-o", "{out}", "--bits", "5"], "bits=5"),
        (["compress", "{text}", "more", "--lens", "{lens}", "-o", "{out}"], "option='more'"),
        (["answer", "{wire}", "--lens", "{lens}"], "question=None. Ask"),
        (["answer", "{nothing}", "q", "--lens", "{lens}", "--receiver", "words"], "wire=.*there is none"),
        (["answer", "{wire}", "q", "--lens", "{lens}"], "receiver=None: .* several. Name one of words, turned"),
        (["answer", "{wire}", "q", "--lens", "{lens}", "--receiver", "x"], "receiver='x'"),
        (["answer", "{cut}", "q", "--lens", "{lens}", "--receiver", "words"], "cut off or changed"),
        (["answer", "{text}", "q", "--lens", "{lens}", "--receiver", "words"], "not those of a wire"),
        (["answer", "{other}", "q", "--lens", "{lens}", "--receiver", "words"], "another lens made this code"),
        (["answer", "{wire}", "q", "--lens", "{lens}", "--receiver", "words", "--first_top_p", "2"], "top_p=2"),
        (["serve", "--lens", "{lens}", "--port", "99999"], "port=99999"),
        (["serve", "stray", "--lens", "{lens}"], "option='stray'"),
        (["compress", "{text}", "-o", "{out}"], "lens=None"),
        (["compress", "--family", "text"], "family text has no such command"),
        (["explian"], "Did you mean 'explain'"),
        (["anser"], "Did you mean 'answer'"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_one_line(
    words: list[str], said: str, places: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """And it is said before any frozen model is loaded: the lens finds none of its own here."""
    lens = lens_of(places)
    files = {"text": TEXT.encode(), "empty": b" \n", "wire": lens.to_bytes(TEXT), "cut": lens.to_bytes(TEXT)[:-3]}
    files["other"] = wire_lens(ratio=2.0, layers=1).to_bytes(TEXT)
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    named = {name: str(tmp_path / name) for name in (*files, "out", "nothing")} | {"lens": str(places / "lens")}
    given = [named.get(word[1:-1], word) if word.startswith("{") else word for word in words]
    given = [word.format(**named) for word in given]
    code, out, err = run(given, capsys)
    assert (code, out) == (2, "") and re.search(said, " ".join(err.split())), err
    assert not (tmp_path / "out").exists() and "Traceback" not in err


def test_commands_come_from_the_table_of_families() -> None:
    assert own_commands() == {"steer": "text", "compress": "soft", "answer": "soft", "serve": "soft"}
    with pytest.raises(BadInput, match=r"Use one of .*extract.*compress, answer, serve"):
        cli.parse(["nothing_like_it"])
