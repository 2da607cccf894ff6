"""What is said of activations that are no numbers leads to what is wrong."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset
from lens_runs import SITE, arguments, tiny_lens
from tiny import tiny_lm

from consistency_lens.activations.precision import not_finite
from consistency_lens.errors import BadInput
from consistency_lens.text.trainer import ConsistencyLensTrainer


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_a_wider_dtype_is_proposed_where_there_is_one(dtype: torch.dtype) -> None:
    said = str(not_finite("resid_post.1", 7, dtype, "a-model"))
    assert "of a-model at resid_post.1 in document 7 is infinite or not a number" in said
    assert ("--dtype bfloat16 or float32" in said) == (dtype.itemsize == 2)
    assert ("Check the weights of the model" in said) == (dtype.itemsize > 2)


def test_activations_that_are_always_the_same_are_refused_before_a_step(tmp_path: Path) -> None:
    """Divided by no variance, every loss would be no number, and learning rates would be blamed."""
    frozen, rows = tiny_lm(), 16
    dataset = Dataset.from_dict(
        {
            "input_ids": [[1, 5, 6, 7]] * rows,
            "position": [3] * rows,
            "doc_id": list(range(rows)),
            "continuation_ids": [[8, 9, 10, 11]] * rows,
            SITE: np.ones((rows, frozen.hidden_size), np.float32).tolist(),
        }
    )
    with pytest.raises(BadInput, match="all activations of the training rows are equal") as caught:
        ConsistencyLensTrainer(tiny_lens(frozen), arguments(tmp_path), dataset, frozen=frozen)
    assert (caught.value.field, caught.value.value) == ("train_dataset", SITE)
