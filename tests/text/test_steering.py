"""Steering against the same thing by hand, and what it refuses."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from lens_runs import SITE, stirred, tiny_lens
from tiny import tiny_lm

from consistency_lens import Steered
from consistency_lens.errors import BadInput
from consistency_lens.frozen import Edit
from consistency_lens.objectives import kl_of
from consistency_lens.text.modeling import ConsistencyLens
from consistency_lens.text.use.steering import REACH, changed_tokens, difference, unrelated

TEXT = "w5 w9 w12 w7 w30 w22 w14 w9"
OLD, NEW = "w3 w8 w20", "w3 w41 w20"


@pytest.fixture(params=["full", "lora"])
def lens(request: pytest.FixtureRequest) -> ConsistencyLens:
    return stirred(tiny_lens(tiny_lm(), trainable=request.param))


def steer(lens: ConsistencyLens, position: int = 4, **changes: Any) -> Steered:
    given = {"new_explanation": NEW, "old_explanation": OLD, "continuation_length": 6} | changes
    return lens.steer(TEXT, position, **given)


def test_it_is_the_difference_added_by_hand(lens: ConsistencyLens) -> None:
    frozen = lens.subject
    assert frozen is not None
    found = steer(lens, strength=1.5)
    ids = frozen.tokenizer(TEXT, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        e_new, e_old = (lens.encoder(lens.reread([text])) for text in (NEW, OLD))
        added = 1.5 * (e_new - e_old)
        before = frozen.logits({"input_ids": ids})[0]
        after = frozen.logits({"input_ids": ids}, Edit(SITE, added, 4, "add"))[0]
        read = frozen.read({"input_ids": ids}, SITE)[SITE][0, 4]
    assert torch.equal(before[:4], after[:4]) and not torch.allclose(before[5:], after[5:])
    assert found.token == "w7" and found.position == 4
    assert found.kl == pytest.approx(float(kl_of(before[None, 4], after[None, 4])), rel=1e-3)
    assert found.size == pytest.approx(float(added.norm() / read.norm()), rel=1e-4)
    for logits, said in ((before[4], found.before), (after[4], found.after)):
        assert [word for word, _ in said] == [frozen.tokenizer.decode(i) for i in logits.topk(5).indices.tolist()]
    # Tokens 5 to 8 come after P; none that the frozen model expects there is a changed one, or it would not count.
    changed = {frozen.tokenizer.convert_tokens_to_ids(word) for word in ("w8", "w41")}
    free = [i for i in range(5, 9) if int(before[i].argmax()) not in changed]
    by_hand = kl_of(before[free], after[free]).mean()
    assert found.off_target_tokens == len(free)
    assert found.off_target == pytest.approx(float(by_hand), rel=1e-3)


@pytest.mark.parametrize("changes", [{"strength": 0.0}, {"new_explanation": OLD}], ids=["strength 0", "same words"])
@pytest.mark.parametrize("position", [4, -1])
def test_no_change_changes_nothing(lens: ConsistencyLens, changes: dict[str, Any], position: int) -> None:
    found = steer(lens, position, **changes)
    assert found.kl == found.off_target == found.size == 0.0
    assert found.before == found.after
    assert found.continuation_before == found.continuation_after
    frozen = lens.subject
    assert frozen is not None
    prefix = frozen.prefix(frozen.tokenizer(TEXT, return_tensors="pt"))
    added = changes.get("strength", 1.0) * difference(lens, [changes.get("new_explanation", NEW)], [OLD])
    with torch.no_grad():
        assert torch.equal(prefix.logits(), prefix.logits(Edit(SITE, added, mode="add")))


def test_the_old_words_are_the_lens_own_by_default(lens: ConsistencyLens) -> None:
    said = lens.explain(TEXT, positions=[4])[0]
    found = steer(lens, old_explanation=None)
    assert found.old_explanation == said["explanation"]
    assert found.before[0][0] == said["before"][0][0]
    assert found == steer(lens, old_explanation=said["explanation"])
    # What the lens says can be given back to it, however its words are cut.
    assert steer(lens, old_explanation=None, new_explanation=said["explanation"]).kl == 0.0


def test_continuations_hang_on_the_seed(lens: ConsistencyLens) -> None:
    first, again, other = steer(lens, seed=1), steer(lens, seed=1), steer(lens, seed=2)
    assert first == again
    assert first.continuation_before != other.continuation_before
    assert (first.kl, first.before) == (other.kl, other.before)


def test_at_temperature_zero_the_subject_says_its_likeliest_words(lens: ConsistencyLens) -> None:
    frozen = lens.subject
    assert frozen is not None
    found = steer(lens, -1, temperature=0.0)
    assert found == steer(lens, -1, temperature=0.0, seed=9)
    prefix = frozen.prefix(frozen.tokenizer(TEXT, return_tensors="pt"))
    edit = Edit(SITE, difference(lens, [NEW], [OLD]), mode="add")
    for edits, said in (([], found.continuation_before), ([edit], found.continuation_after)):
        ids = prefix.continue_greedily(6, edits)[0][0].tolist()
        own = ids[: ids.index(lens.config.stop_id)] if lens.config.stop_id in ids else ids
        assert said == frozen.tokenizer.decode(own)


def test_behind_the_end_of_the_text_its_own_continuation_is_read(lens: ConsistencyLens) -> None:
    frozen = lens.subject
    assert frozen is not None
    found = steer(lens, -1, temperature=0.0)
    ids = frozen.tokenizer(f"{TEXT} {found.continuation_before}", return_tensors="pt")["input_ids"]
    end = len(TEXT.split())
    added = difference(lens, [NEW], [OLD])
    with torch.no_grad():
        before = frozen.logits({"input_ids": ids})[:, end + 1 :]
        after = frozen.logits({"input_ids": ids}, Edit(SITE, added, end, "add"))[:, end + 1 :]
    counts = unrelated(before, changed_tokens(lens, [NEW], [OLD]))
    assert found.off_target_tokens == int(counts.sum()) <= 6
    assert found.off_target == pytest.approx(float(kl_of(before[counts], after[counts]).mean()), rel=1e-3)


def test_what_the_subject_expects_of_the_changed_words_does_not_count() -> None:
    lens = tiny_lens(tiny_lm())
    changed = changed_tokens(lens, [NEW, OLD], [OLD, OLD])
    ids = [lens.tokenizer.convert_tokens_to_ids(word) for word in ("w8", "w41", "w3", "w50")]
    assert changed.sum(1).tolist() == [2, 0]
    expected = torch.nn.functional.one_hot(torch.tensor([ids, ids]), changed.shape[1]).float()
    assert unrelated(expected, changed).tolist() == [[False, False, True, True], [True] * 4]


def test_side_effects_are_measured_so_far_and_no_further() -> None:
    lens = stirred(tiny_lens(tiny_lm()))
    text = " ".join(f"w{i % 80}" for i in range(100))
    found = lens.steer(text, 1, NEW, old_explanation=OLD, continuation_length=1)
    assert 0 < found.off_target_tokens <= REACH
    assert found.off_target is not None


def test_where_nothing_is_left_to_count_there_is_no_number() -> None:
    """The frozen model ends its text at once: nothing comes after P."""
    frozen = tiny_lm()
    lens = stirred(tiny_lens(frozen))
    words = [f"w{i}" for i in range(90)]
    batch = frozen.tokenizer([f"{a} {b}" for a in words[:9] for b in words], return_tensors="pt")
    last = frozen.prefix(batch).continue_greedily(1)[0][:, 0]
    text = frozen.tokenizer.decode(batch["input_ids"][last.tolist().index(lens.config.stop_id)][1:])
    found = lens.steer(text, -1, NEW, old_explanation=OLD, temperature=0.0)
    assert (found.off_target, found.off_target_tokens, found.continuation_before) == (None, 0, "")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"position": 9}, "The text has 9 tokens: use 0 to 8"),
        ({"position": -10}, "The text has 9 tokens"),
        ({"position": 1.5}, "Give an int"),
        ({"new_explanation": "  "}, "Write what the explanation should say"),
        ({"old_explanation": ""}, "old_explanation=''"),
        ({"new_explanation": "w3 elephants"}, "new_explanation='elephants': the tokenizer does not know it"),
        ({"text": "w3 elephants"}, "text='elephants'"),
        ({"text": ""}, "at least one word"),
        ({"new_explanation": "w3 <eos>"}, "new_explanation='<eos>'. Leave it out"),
        ({"new_explanation": "w1 " * 6}, "it has 6 tokens. This lens reads 5"),
        ({"strength": float("nan")}, "strength=nan"),
        ({"strength": float("inf")}, "strength=inf"),
        ({"strength": 1e38}, "so large an edit"),
        ({"temperature": -1.0}, "temperature=-1.0"),
        ({"continuation_length": 0}, "at least one token"),
        ({"continuation_length": 125}, "at most 128"),
        ({"text": "w1 " * 200}, "at most 128"),
    ],
    ids=str,
)
def test_what_cannot_work_is_refused(changes: dict[str, Any], message: str) -> None:
    lens = tiny_lens(tiny_lm())
    given = {"text": TEXT, "position": 4, "new_explanation": NEW} | changes
    with pytest.raises(BadInput) as caught:
        lens.steer(**given)
    assert message in str(caught.value)


def test_without_a_subject_nothing_can_be_steered() -> None:
    lens = tiny_lens(tiny_lm())
    lens.subject = None
    with pytest.raises(BadInput, match="subject="):
        lens.steer(TEXT, 4, NEW)
