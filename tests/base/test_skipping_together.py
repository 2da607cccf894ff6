"""Two processes of which one has a bad batch: both leave the step out, and both stop where there are too many."""

from __future__ import annotations

import json
import multiprocessing
import os
import socket
from pathlib import Path

import pytest
from lens_runs import SITE, rows_folder
from safetensors.torch import load_file

pytestmark = pytest.mark.distributed


def _train(rank: int, port: int, rows: Path, folder: Path) -> None:
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    import torch
    from lens_runs import arguments, tiny_lens
    from test_lens_trainer import Spoiled
    from tiny import tiny_lm

    from consistency_lens.activations import Activations
    from consistency_lens.errors import BadInput

    torch.set_num_threads(1)
    frozen = tiny_lm()
    args = arguments(folder, max_steps=5, ema_decay=0.9, max_skipped_steps=1)
    trainer = Spoiled(tiny_lens(frozen), frozen, args, Activations.load(rows))
    trainer.bad_steps = (1, 3) if rank == 1 else ()
    said = ""
    try:
        trainer.train()
    except BadInput as error:
        said = str(error)
    sums = {name: float(p.double().sum()) for name, p in trainer.trainable.items()}
    record = {"said": said, "step": trainer.state.global_step, "sums": sums, "skipped": trainer.skipped_steps}
    (folder / f"record-{rank}.json").write_text(json.dumps(record))
    torch.distributed.destroy_process_group()


def test_a_step_that_is_bad_in_one_process_is_left_out_in_both(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    context, rows = multiprocessing.get_context("spawn"), rows_folder("llama")
    processes = [context.Process(target=_train, args=(rank, port, rows, tmp_path)) for rank in (0, 1)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(300)
        assert process.exitcode is not None, "it hangs"
    one, other = (json.loads((tmp_path / f"record-{rank}.json").read_text()) for rank in (0, 1))
    assert one["step"] == other["step"] == 3 and one["skipped"] == other["skipped"] == 2
    assert one["sums"] == other["sums"] and all(abs(value) < 1e6 for value in one["sums"].values())
    for rank, record in enumerate((one, other)):
        assert f"bad_batch-3-{rank}.safetensors" in record["said"] and "of the other processes" in record["said"]
    batches = [load_file(tmp_path / f"bad_batch-3-{rank}.safetensors") for rank in (0, 1)]
    assert not batches[0][SITE].equal(batches[1][SITE])
