"""A text and its code on their way to an answer, and a training step of a wire beside its bare parts."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from harness import Timing, interleaved
from sizes import SIZES, random_lm
from torch.nn.functional import cross_entropy

from consistency_lens.activations.passages import PassageTokenizer, context_of
from consistency_lens.frozen import FrozenLM
from consistency_lens.frozen.generation.stepping import growing_cache
from consistency_lens.soft.data import collator_of
from consistency_lens.soft.modeling import LatentWire
from consistency_lens.soft.serving.answering import prepared
from consistency_lens.soft.serving.wire_file import split

QUESTION = "what does it say?"
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
_WORDS = 4096  # of a vocabulary, from which texts are drawn


def lens_of(options: Any, longest: int) -> LatentWire:
    """Untrained, with one receiver: time does not depend on what it has learned."""
    if options.lm in SIZES:
        frozen = random_lm(options.lm, longest + 64, device=options.device)
        frozen.tokenizer.add_special_tokens({"eos_token": "w1"})
    else:
        frozen = FrozenLM.from_pretrained(options.lm, dtype="float32", device_map={"": options.device})
    layers = min(options.layers, frozen.num_layers)
    return LatentWire.from_models(frozen, layers=layers, ratio=options.ratio, bits=options.bits).eval()


def text_of(lens: LatentWire, tokens: int) -> str:
    """Random words of the vocabulary, of so many tokens."""
    model = only(lens)
    reader, generator = PassageTokenizer("it", model.tokenizer), torch.Generator().manual_seed(0)
    known = [model.tokenizer.decode([i]).strip() for i in range(min(_WORDS, model.vocab_size))]
    words = [word for word in known if word.isalnum() and word.isascii()]
    found: list[str] = []
    while len(reader.encode(" ".join(found))) < tokens:
        found += [words[i] for i in torch.randint(len(words), (64,), generator=generator).tolist()]
    return model.tokenizer.decode(reader.encode(" ".join(found))[:tokens])


def only(lens: LatentWire) -> FrozenLM:
    assert lens.models is not None
    return lens.models.only


def from_text(lens: LatentWire, text: str, count: int) -> Callable[[], object]:
    """The model reads the text and the question, and says so many tokens."""
    model = only(lens)

    def act() -> object:
        rows = [{"passage": text, "prompt": QUESTION, "answers": ["."], "task": "answer", "ends": True}]
        tokens = collator_of(lens.config, lens.models)(rows)["tokens"][model.name]
        return model.generate(context_of(tokens, "full"), max_new_tokens=count, stop_ids=[])

    return act


def from_wire(lens: LatentWire, data: bytes, count: int) -> Callable[[], object]:
    """It reads a code in the text's place: all checks, its bytes to vectors, the adapter."""

    def act() -> object:
        model, edit, batch = prepared(lens, split(data), [QUESTION])
        return model.generate(context_of(batch["tokens"][model.name]), edit, max_new_tokens=count, stop_ids=[])

    return act


def first_tokens(options: Any) -> list[dict[str, Any]]:
    """Seconds until the first token stands there, and bytes of the cache that it leaves."""
    lens = lens_of(options, options.tokens)
    text = text_of(lens, options.tokens)
    data = lens.to_bytes(text, window=options.window)
    ways = {
        "from the text": from_text(lens, text, 1),
        "from the code": from_wire(lens, data, 1),
        "compress": lambda: lens.to_bytes(text, window=options.window),
    }
    timings = interleaved(ways, options.repeats, 1, options.device, options.budget, CLOCKS[options.clock])
    vectors = sum(wire.M for wires in split(data) for wire in wires)
    memory = {"from the text": cache_bytes(lens, options.tokens), "from the code": cache_bytes(lens, vectors)}
    base = timings["from the text"].median
    return [
        {
            "way": way,
            "ms": 1e3 * timing.median,
            "spread": timing.spread,
            "times faster than the text": base / timing.median,
            "cache MB": memory[way] / 1e6 if way in memory else None,
            "of the text's": memory[way] / memory["from the text"] if way in memory else None,
        }
        for way, timing in timings.items()
    ]


@torch.no_grad()
def cache_bytes(lens: LatentWire, tokens: int) -> int:
    """Keys and values of so many tokens, measured."""
    model = only(lens)
    cache = growing_cache(model)
    assert cache is not None
    ids = torch.ones(1, tokens, dtype=torch.long, device=model.device)
    model.model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
    return sum(t.numel() * t.element_size() for layer in cache.layers for t in (layer.keys, layer.values))


def journeys(options: Any) -> list[dict[str, Any]]:
    """End to end at several lengths: a text as UTF-8 and read, against compressed, sent and read as a code."""
    rows = []
    for tokens in options.lengths:
        lens = lens_of(options, tokens)
        text = text_of(lens, tokens)
        data = lens.to_bytes(text, window=options.window)

        def whole(lens: LatentWire = lens, text: str = text) -> object:
            return from_wire(lens, lens.to_bytes(text, window=options.window), options.answer)()

        ways = {
            "text": from_text(lens, text, options.answer),
            "code": whole,
            "kept code": from_wire(lens, data, options.answer),
        }
        timings = interleaved(ways, options.repeats, 1, options.device, options.budget, CLOCKS[options.clock])
        sizes = {"text": len(text.encode()), "code": len(data), "kept code": 0}
        seconds = {way: t.median + sizes[way] / (1e6 * options.bandwidth) for way, t in timings.items()}
        rows.append(
            {"tokens": tokens, "text bytes": sizes["text"], "wire bytes": sizes["code"]}
            | {f"{way} ms": 1e3 * value for way, value in seconds.items()}
            | {"text/code": seconds["text"] / seconds["code"]}
            | {"text/kept code": seconds["text"] / seconds["kept code"]}
        )
    return rows


def break_even(rows: Sequence[dict[str, Any]], way: str) -> str:
    """From which length on the code is the faster way, among those that were measured."""
    faster = [row["text/" + way] > 1 for row in rows]
    for i, row in enumerate(rows):
        if all(faster[i:]):
            return f"from {row['tokens']} tokens on" + (
                ", or fewer" if i == 0 else f", or a little above {rows[i - 1]['tokens']}"
            )
    return f"at none up to {rows[-1]['tokens']} tokens"


def steps(options: Any) -> list[dict[str, Any]]:
    """Forward and backward pass of a training step, and the passes of plain models that it cannot do without."""
    lens = lens_of(options, options.passage)
    model, text = only(lens), text_of(lens, options.passage)
    answer = text_of(lens, options.answer)
    rows = [{"passage": text, "prompt": QUESTION, "answers": [answer], "task": "answer", "ends": True}] * options.rows
    assert lens.models is not None
    batch = collator_of(lens.config, lens.models)(rows)
    tokens = batch["tokens"][model.name]
    ids, _ = lens.read_of(batch)
    answers = tokens["answer_ids"].to(model.device)
    with torch.no_grad():  # what the receiver reads in our step, as embeddings
        edit = lens.soft_tokens(lens.encode(batch), batch, model.name)
        own = model.model.get_input_embeddings()(tokens["bare"]["input_ids"].to(model.device))
        read = torch.cat([own[:, : tokens["bos"]], edit.tensor.to(own), own[:, tokens["bos"] :]], 1)

    def ours() -> None:
        lens.zero_grad(set_to_none=True)
        assert lens.models is not None
        found = lens(batch, lens.models, model.name)
        found.terms["ce"].mean().backward()

    def compressor() -> None:
        lens.compressor.lm.zero_grad(set_to_none=True)
        lens.compressor.lm(input_ids=ids, use_cache=False).last_hidden_state.square().mean().backward()

    def receiver() -> None:
        embedded = read.clone().requires_grad_()
        logits = model.model(inputs_embeds=embedded, use_cache=False, logits_to_keep=answers.shape[1]).logits
        cross_entropy(logits.float().flatten(0, 1), answers.flatten()).backward()

    parts = {"compressor's layers": compressor, "receiver": receiver}
    timings = interleaved(
        {"step": ours, **parts}, options.repeats, 1, options.device, options.budget, CLOCKS[options.clock]
    )
    bare = sum(timings[name].median for name in parts)
    return [_shown("step", timings["step"], bare), *(_shown(name, timings[name], bare) for name in parts)]


def _shown(name: str, timing: Timing, bare: float) -> dict[str, Any]:
    return {"part": name, "ms": 1e3 * timing.median, "spread": timing.spread, "over bare parts": timing.median / bare}
