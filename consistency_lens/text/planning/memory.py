"""Peak memory of a process, item by item.

Some items are there all the time. Others come and go, so the peak is that of the worst moment: while texts are
written, when the last loss term has been made, at the start of the backward pass, or behind the encoder in it.
"""

from __future__ import annotations

from dataclasses import dataclass

from .work import BYTES, QUANTISED, Sizes, Work

FLOAT = 4.0
PART = 2**23  # logits that sums over the vocabulary look at together, in float32


@dataclass(frozen=True)
class Memory:
    """Bytes.

    Args:
        always: item -> what it takes from the first step to the last.
        moment: item -> what is there besides at the worst moment.
        when: that moment's name.
    """

    always: dict[str, float]
    moment: dict[str, float]
    when: str

    @property
    def items(self) -> dict[str, float]:
        return {name: size for name, size in (self.always | self.moment).items() if size}

    @property
    def peak(self) -> float:
        return sum(self.always.values()) + sum(self.moment.values())


def subject_bytes(sizes: Sizes, work: Work) -> float:
    """Weights of the frozen model, whole."""
    plain = BYTES[work.dtype]
    if work.quantization == "none":
        return sizes.weights * plain
    return (sizes.weights - sizes.linear) * plain + sizes.linear * QUANTISED[work.quantization]


def trained_of(sizes: Sizes, work: Work) -> dict[str, int]:
    """Part -> how many numbers are trained."""
    maps = work.sites * sizes.width * (sizes.width + 1)
    share = work.site_depth / sizes.depth
    match work.trainable:
        case "full":
            decoder, encoder = sizes.weights, sizes.table + round(share * sizes.in_blocks)
        case "lora":
            each = work.rank * sizes.sides
            decoder, encoder = each * sizes.depth, each * work.site_depth
        case _:
            decoder = encoder = 0
    return {"decoder": decoder + maps, "encoder": encoder + maps}


def memory_of(sizes: Sizes, work: Work) -> Memory:
    """What a process takes at most, without what the driver and the allocator keep for themselves."""
    always, trained = _always(sizes, work)
    moments = _moments(sizes, work, trained)
    when = max(moments, key=lambda name: sum(moments[name].values()))
    return Memory(always, moments[when], when)


def _always(sizes: Sizes, work: Work) -> tuple[dict[str, float], dict[str, float]]:
    """Items that stay, and how many numbers of each part are trained here."""
    parts, shards = trained_of(sizes, work), work.shards
    here = {part: count / shards for part, count in parts.items()}
    subject, trained = subject_bytes(sizes, work), sum(here.values())
    found = {"subject": subject / shards, "decoder": FLOAT * here["decoder"], "encoder": FLOAT * here["encoder"]}
    if work.trainable == "full":  # the encoder's copy of a head that it never uses is no part of what is trained
        found["encoder"] += FLOAT * sizes.head / shards
    found["Adam's moments"] = 2 * FLOAT * trained
    if work.remembered:
        found["decoder, as it was"] = FLOAT * here["decoder"]
    if work.average:
        found["moving average"] = FLOAT * trained
    if work.spread:  # what lies outside the blocks stays whole for a step; of the blocks, two at a time
        whole = sizes.weights - sizes.in_blocks + 2 * sizes.in_blocks / sizes.depth
        found["gathered weights"] = whole * BYTES[work.dtype] * (3 if work.trainable == "full" else 1)
    elif work.processes > 1:
        found["buckets of gradients"] = FLOAT * trained
    if work.autocast and work.trainable == "full":
        found["weights in bfloat16"] = 2.0 * trained
    return found, here


def _moments(sizes: Sizes, work: Work, trained: dict[str, float]) -> dict[str, dict[str, float]]:
    N, T, V = work.texts, work.length, sizes.words
    plain = BYTES[work.dtype]
    spoken = FLOAT if work.trainable == "full" and not work.autocast else plain  # of the decoder's logits
    above = sizes.depth - work.site_depth

    def cache(rows: int, tokens: int, blocks: int) -> float:
        return rows * tokens * blocks * sizes.keys * plain

    prefix = {"prefix": cache(N, work.context - 1, sizes.depth)}
    clean = work.rows * work.columns * V * plain
    edited, said = N * work.columns * V * plain, N * T * V * spoken
    part = 3 * FLOAT * min(PART, N * T * V)
    decoder, encoder, judge = _kept(sizes, work)
    graphs = {"decoder's activations": decoder, "encoder's activations": encoder, "judge's activations": judge}
    whole = work.context - 1 + work.columns
    # Below the site keys and values are let go when the pass is over.
    growing = cache(N, whole, sizes.depth - (0 if sizes.heads > sizes.keys else above))
    gradients = {part_: FLOAT * count for part_, count in trained.items()}
    held = {"gradients": sum(gradients.values()) if work.accumulation > 1 else 0.0}
    reference = N * T * V * spoken if work.policy and work.remembered else 0.0
    judged = N * (T + 1) * V * plain if work.language or work.grounded else 0.0
    back = said * (2 if work.policy and work.remembered else 1)
    return {
        "while texts are written": {
            **prefix, **held, "vocabulary": clean + 4 * FLOAT * N * V,
            "decoder's cache": cache(N, work.prompt + T, sizes.depth + 1),
        },
        "in the edited pass": {**graphs, **held, "prefix": prefix["prefix"] + growing,
                               "vocabulary": said + clean + edited},
        "when all terms are made": {**graphs, **held, **prefix,
                                    "vocabulary": said + clean + edited + max(judged, reference) + part},
        "at the start of the backward pass": {**graphs, **held,
                                              "vocabulary": said + clean + edited + reference + back + part},
        "behind the encoder": {"decoder's activations": decoder, "vocabulary": said,
                               "gradients": max(held["gradients"], gradients["encoder"])},
        "at the end of the backward pass": {"gradients": sum(gradients.values())},
    }  # fmt: skip


def _kept(sizes: Sizes, work: Work) -> tuple[float, float, float]:
    """What the backward pass needs of the decoder's, the encoder's and the judge's forward pass."""
    N, plain = work.texts, BYTES[work.dtype]
    above = sizes.depth - work.site_depth
    kind = "full" if work.trainable == "full" else "lora" if work.trainable == "lora" else "judge"
    each = sizes.kept[kind]
    own = FLOAT if work.trainable == "full" else plain

    def pass_of(tokens: int, blocks: int) -> float:
        if work.checkpointing:
            return N * tokens * (blocks * sizes.width * own + each)
        return N * tokens * blocks * each

    decoder, encoder = pass_of(work.prompt + work.length - 1, sizes.depth), pass_of(1 + work.length, work.site_depth)
    # Each edited row attends to its context: keys and values of all its columns are kept, for every query head.
    attended = N * (work.context - 1 + work.columns) * above * max(sizes.keys, sizes.heads) * plain
    return decoder, encoder, N * work.columns * above * sizes.kept["judge"] + attended
