"""The Space, run for real on loopback."""

import socket
import sys
from pathlib import Path

import pytest
import torch
from tiny import tiny_lm

from consistency_lens import BadInput, Edit

gradio_client = pytest.importorskip("gradio_client", reason="the Space needs the extra 'space'")
sys.path.insert(0, str(Path(__file__).parents[1] / "spaces_demo"))
from app import LONGEST_TEXT, Swapper, build  # noqa: E402

TEXTS = ("w1 w2 w3 w4", "w9 w8 w7 w6 w5")


@pytest.fixture(scope="module")
def swapper() -> Swapper:
    return Swapper(tiny_lm("llama"), "resid_post.2/3")


def test_the_swap_is_the_slow_one(swapper: Swapper) -> None:
    frozen = swapper.frozen
    own, other = (frozen.tokenizer(text, return_tensors="pt") for text in TEXTS)
    activation = frozen.read(other, "resid_post.2")["resid_post.2"][:, -1]
    expected = frozen.logits(own, Edit("resid_post.2", activation), keep=1)[0, 0].softmax(-1)
    after = swapper(*TEXTS)[2]
    ids = frozen.tokenizer.convert_tokens_to_ids(list(after))
    torch.testing.assert_close(torch.tensor(list(after.values())), expected[ids], rtol=1e-4, atol=1e-6)
    assert next(iter(after)) == frozen.tokenizer.convert_ids_to_tokens(int(expected.argmax()))


def test_a_text_swapped_with_itself_stays(swapper: Swapper) -> None:
    before, donor, after, verdict = swapper(TEXTS[0], TEXTS[0])
    assert before == donor
    assert after == pytest.approx(before, abs=1e-6)
    assert "the same" in verdict


@pytest.mark.parametrize("text", ["", "  \n", "w1 " * LONGEST_TEXT, "w1 " * 200])
def test_unfit_texts_are_refused_by_name(swapper: Swapper, text: str) -> None:
    with pytest.raises(BadInput, match="donor"):
        swapper(TEXTS[0], text)


def test_the_page_answers_and_an_error_shows_no_trace(swapper: Swapper) -> None:
    page = build(swapper.frozen, swapper.site, TEXTS)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    _, url, _ = page.launch(server_name="127.0.0.1", server_port=port, prevent_thread_lock=True, quiet=True)
    try:
        client = gradio_client.Client(url, verbose=False)
        *labels, verdict = client.predict(*TEXTS, api_name="/swap")
        assert [len(label["confidences"]) for label in labels] == [5, 5, 5]
        assert verdict == swapper(*TEXTS)[3]
        with pytest.raises(Exception, match="donor=") as error:
            client.predict(TEXTS[0], "", api_name="/swap")
        assert "Traceback" not in str(error.value)
    finally:
        page.close()
