"""A model in one GGUF file is the model of its folder, and what is none is refused in one line."""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hub_client import HubClient
from tiny import padded_batch, tiny_model
from transformers import PreTrainedModel

from consistency_lens import hub
from consistency_lens.cli.opening import config_of, model_path, open_model
from consistency_lens.cli.parsing.arguments import SubjectArguments
from consistency_lens.errors import BadInput
from consistency_lens.finding import find_subject
from consistency_lens.frozen import FrozenLM, Provenance

pytestmark = pytest.mark.skipif(importlib.util.find_spec("gguf") is None, reason="gguf is not installed")
NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}
WHOLE = {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight"}


def paired(weight: torch.Tensor, heads: int) -> torch.Tensor:
    """Rows of queries or keys in the order of llama.cpp, which rotates neighbours."""
    return weight.view(heads, 2, -1, weight.shape[1]).transpose(1, 2).reshape(weight.shape)


def write_gguf(model: PreTrainedModel, path: Path, architecture: str = "llama", parts: int = 0) -> Path:
    from gguf import GGUFWriter, TokenType

    config, writer = model.config, GGUFWriter(path, architecture)
    if parts:
        writer.add_uint16("split.count", parts)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(config.head_dim)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    special = ["<unk>", "<s>", "</s>"]
    tokens = [*special, "▁", *(chr(ord("!") + i) for i in range(config.vocab_size - 4))]
    writer.add_tokenizer_model("llama")
    writer.add_token_list(tokens)
    writer.add_token_scores([0.0] * len(tokens))
    writer.add_token_types([TokenType.CONTROL] * 3 + [TokenType.NORMAL] * (len(tokens) - 3))
    writer.add_unk_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    for name, tensor in model.state_dict().items():
        if ".q_proj" in name or ".k_proj" in name:
            tensor = paired(tensor, config.num_attention_heads if ".q_" in name else config.num_key_value_heads)
        if name.startswith("model.layers."):
            layer, _, rest = name.removeprefix("model.layers.").partition(".")
            name = f"blk.{layer}.{NAMES[rest.removesuffix('.weight')]}.weight"
        writer.add_tensor(WHOLE.get(name, name.replace("lm_head", "output")), tensor.numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture(scope="module")
def model() -> PreTrainedModel:
    return tiny_model("llama").eval()


@pytest.fixture(scope="module")
def file(model: PreTrainedModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_gguf(model, tmp_path_factory.mktemp("gguf") / "tiny.gguf")


@pytest.fixture(scope="module")
def lm(file: Path) -> FrozenLM:
    return FrozenLM.from_pretrained(file)


def test_its_logits_are_those_of_the_folder(lm: FrozenLM, file: Path, model: PreTrainedModel, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path)
    lm.tokenizer.save_pretrained(tmp_path)
    folder = FrozenLM.from_pretrained(tmp_path)
    assert torch.equal(lm.logits(padded_batch()), folder.logits(padded_batch()))
    ours, theirs = lm.provenance("embed"), folder.provenance("embed")
    assert (ours.model_id, ours.dtype, ours.quantization) == ("tiny.gguf", "float32", "none")
    assert ours.weights.startswith("sha256:") and ours.weights != theirs.weights


def test_folder_and_file_name_the_same_model(lm: FrozenLM, file: Path) -> None:
    again = FrozenLM.from_pretrained(file.parent, gguf_file=file.name)
    assert again.provenance("embed") == lm.provenance("embed")


def test_it_is_saved_like_any_other(lm: FrozenLM, tmp_path: Path) -> None:
    lm.model.save_pretrained(tmp_path)
    lm.tokenizer.save_pretrained(tmp_path)
    assert torch.equal(FrozenLM.from_pretrained(tmp_path).logits(padded_batch()), lm.logits(padded_batch()))


def test_a_lens_finds_it_where_it_is_named(lm: FrozenLM, file: Path) -> None:
    origin = lm.provenance("embed")
    assert find_subject(origin, file).provenance("embed") == origin
    with pytest.raises(BadInput, match="came from a local folder"):
        find_subject(replace(origin, model_id="elsewhere.gguf"))


def test_the_command_line_reads_what_it_is(file: Path, model: PreTrainedModel) -> None:
    subject = SubjectArguments(model_name_or_path=str(file.parent), gguf_file=file.name)
    assert model_path(subject) == str(file)
    assert config_of(subject).hidden_size == model.config.hidden_size
    assert open_model(str(file), None)[1].bos_token == "<s>"


@pytest.mark.parametrize("kept", [8, 40, 0.5, 0.999])
def test_a_file_that_is_cut_off_is_refused(file: Path, tmp_path: Path, kept: float) -> None:
    content = file.read_bytes()
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(content[: int(kept if kept > 1 else kept * len(content))])
    with pytest.raises(BadInput, match="cut off or damaged") as caught:
        FrozenLM.from_pretrained(cut)
    assert (caught.value.field, caught.value.value) == ("gguf_file", "cut.gguf")


def test_a_part_of_a_split_file_is_refused_by_its_name(model: PreTrainedModel, tmp_path: Path) -> None:
    for place in (tmp_path / "big-00001-of-00003.gguf", "owner/name/big-00002-of-00003.gguf"):  # before a download
        with pytest.raises(BadInput, match=r"one of 3 parts.*llama-gguf-split --merge") as caught:
            FrozenLM.from_pretrained(place)
        assert (caught.value.field, caught.value.value) == ("gguf_file", Path(place).name)
    with pytest.raises(BadInput, match="one of 2 parts"):
        FrozenLM.from_pretrained(write_gguf(model, tmp_path / "renamed.gguf", parts=2))
    whole = write_gguf(model, tmp_path / "tiny-00001-of-00001.gguf", parts=1)
    assert FrozenLM.from_pretrained(whole).num_layers == 4


def push_gguf(file: str) -> tuple[str, str, Provenance]:
    """What is told of a file on the Hub, by two ways to name it, and of one that is not there."""
    hub.create("me/tiny-gguf", private=False)
    hub.upload(Path(file).parent, "me/tiny-gguf", "a model in one file")
    one = FrozenLM.from_pretrained(f"me/tiny-gguf/{Path(file).name}")
    other = FrozenLM.from_pretrained("me/tiny-gguf", gguf_file=Path(file).name)
    assert one.provenance("embed") == other.provenance("embed")
    with pytest.raises(BadInput) as caught:
        FrozenLM.from_pretrained("me/tiny-gguf/nowhere.gguf")
    return one.model_id, str(caught.value), one.provenance("embed")


def test_a_file_on_the_hub_is_named_by_its_repository(online: tuple[Any, HubClient], lm: FrozenLM, file: Path) -> None:
    _, client = online
    name, missing, origin = client(push_gguf, str(file))
    assert name == origin.model_id == "me/tiny-gguf/tiny.gguf"
    assert origin.weights == lm.provenance("embed").weights, "the hash of the file, wherever it lies"
    assert missing.startswith("gguf_file='me/tiny-gguf/nowhere.gguf': ") and len(missing.splitlines()) == 1


def test_what_is_no_gguf_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.gguf").write_bytes(b"PK\x03\x04 something else")
    with pytest.raises(BadInput, match="this is no GGUF"):
        FrozenLM.from_pretrained(tmp_path / "x.gguf")
    with pytest.raises(BadInput, match="no such file"):
        FrozenLM.from_pretrained(tmp_path / "y.gguf")


def test_an_architecture_that_transformers_does_not_read_is_refused(model: PreTrainedModel, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="transformers cannot read it"):
        FrozenLM.from_pretrained(write_gguf(model, tmp_path / "odd.gguf", "rwkv9"))


def test_it_is_not_quantised_again(file: Path) -> None:
    with pytest.raises(BadInput, match="is a GGUF"):
        FrozenLM.from_pretrained(file, quantization="8bit")


def test_a_missing_package_names_the_extra(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(BadInput, match=r"consistency-lens\[gguf\]"):
        FrozenLM.from_pretrained(file)
