"""What active features buy: transcoders over a range of L0, crosslayer and per-layer, on the same tokens.

    python run_lens.py extract --config sparse_demo --output_dir outputs/sparse-demo-blocks
    python benchmarks/frontier_transcoder.py --blocks outputs/sparse-demo-blocks --out outputs/frontier      # an hour
    python benchmarks/frontier_transcoder.py --blocks ... --out ... --l0 8 16 --scale 0.2 --rows 60          # minutes
    python benchmarks/frontier_transcoder.py --blocks ... --out ... --recipe transcoder_smollm2 --kinds crosslayer \
        --layers 10:20 --model_name_or_path models/smollm2          # options of run_lens.py train change the recipe

Everything but kind and L0 is as the recipe says; `--scale` shortens the training. Per-layer transcoders have as many
weights as the crosslayer ones beside them. A BatchTopK or TopK lens is measured as it was trained, and as it is
shipped: with one threshold per layer, calibrated on validation tokens. Each row is written when it is there and is not
made again. The picture has explained variance and replacement KL over L0, with 95 % intervals over documents; seeds
are not in them, so that small gaps want `--seed` and another folder.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from accelerate import PartialState
from harness import arguments, report, show
from torch.utils.data import DataLoader
from transformers import PrinterCallback, ProgressCallback

from consistency_lens import FrozenLM, Report, evaluate_lens
from consistency_lens.activations.blocks import Blocks, BySite
from consistency_lens.cli.allocating import keep_freed_memory
from consistency_lens.cli.opening import load_model, model_path
from consistency_lens.cli.parsing.request import Request, parse
from consistency_lens.files import write_whole
from consistency_lens.sparse.measuring.twins import SHIPPED, equal_features
from consistency_lens.sparse.modeling import CrosslayerTranscoder
from consistency_lens.sparse.trainer import CrosslayerTranscoderTrainer

KINDS = ("crosslayer", "per-layer")
NUMBERS = ("l0", "ev", "kl", "kl_recovered", "ce_loss_score", "kl_div_score", "top1", "dead", "rate")
COLOURS = {"crosslayer": "#0072B2", "per-layer": "#D55E00"}  # as Okabe and Ito chose them
QUIET: dict[str, Any] = {
    **dict.fromkeys(["eval_strategy", "save_strategy"], "no"),
    **dict.fromkeys(["load_best_model_at_end", "push_to_hub"], False),
    **{"report_to": "none", "sample_steps": 0, "resume_from_checkpoint": None, "use_cpu": True, "disable_tqdm": True},
}


def main(words: Sequence[str] | None = None) -> None:
    options, more = options_of(words)
    more += ["--layers", options.layers] if options.layers else []
    PartialState(cpu=True)
    keep_freed_memory(os.environ)
    recipe = changed(parse(["train", "--config", options.recipe, *more]), seed=options.seed)
    frozen, blocks = load_model(model_path(recipe.subject), recipe.subject), Blocks.load(options.blocks, verify=False)
    rows = [row_of(options, recipe, frozen, blocks, kind, l0) for l0 in options.l0 for kind in options.kinds]
    show("EV and replacement KL over L0", ("", "as", *NUMBERS), lines_of(rows), "intervals are in the files")
    draw(rows, options.out / "frontier.png")
    report(options.json, "cpu", {**vars(options)}, rows)


def options_of(words: Sequence[str] | None) -> tuple[argparse.Namespace, list[str]]:
    parser = arguments(__doc__)
    parser.add_argument("--blocks", type=Path, required=True, help="folder of blocks, made by run_lens.py extract")
    parser.add_argument("--out", type=Path, required=True, help="folder of the rows and the picture")
    parser.add_argument("--recipe", default="sparse_demo", help="recipe that says the rest (default: sparse_demo)")
    parser.add_argument("--l0", type=int, nargs="+", default=[8, 16, 32], help="active features per token and layer")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS), help="(default: both)")
    words_of_it = "per-layer transcoders have as many features, instead of as many weights"
    parser.add_argument("--equal_features", action="store_true", help=words_of_it)
    parser.add_argument("--layers", help="all, or a window such as 10:20 (default: as the recipe says)")
    parser.add_argument("--scale", type=float, default=1.0, help="share of the recipe's steps (default: 1)")
    parser.add_argument("--rows", type=int, help="test documents of each report (default: as the recipe says)")
    parser.add_argument("--seed", type=int, default=0, help="of weights and order (default: 0)")
    return parser.parse_known_args(words)


def changed(request: Request, **values: Any) -> Request:
    """The same with other options."""
    return replace(request, values={**request.values, **values})


def row_of(
    options: argparse.Namespace, recipe: Request, frozen: FrozenLM, blocks: Blocks, kind: str, l0: int
) -> dict[str, Any]:
    """One transcoder: found, or trained and measured."""
    place = options.out / f"{kind}-{l0}"
    if (place / "row.json").is_file():
        return dict(json.loads((place / "row.json").read_text("utf-8")))
    steps = max(1, round(options.scale * int(recipe.values["max_steps"])))
    request = changed(recipe, k=l0, crosslayer=kind == "crosslayer")
    if kind == "per-layer" and not options.equal_features:
        family: Any = changed(request, crosslayer=True).family
        config = family.configuration(frozen.num_layers, frozen.hidden_size)
        request = changed(request, features=equal_features(config))
    if (place / "lens").is_dir():  # its report was interrupted
        lens = CrosslayerTranscoder.from_pretrained(place / "lens", frozen)
    else:
        lens = trained(request, frozen, blocks, place, steps)
        lens.save_pretrained(place / "lens")
    read = DataLoader(blocks.tokens("validation"), batch_size=512, collate_fn=BySite(blocks.sites))  # type: ignore[arg-type]
    shipped = lens.calibrated(lens.read_of(batch) for batch in read)
    found = evaluate_lens(
        lens,
        frozen,
        blocks,
        max_rows=options.rows or recipe.values["report_rows"],
        batch_size=recipe.values["report_batch_size"],
        horizon=0,
        progress=False,
        beside={SHIPPED: shipped},
        alone=False,
    )
    found.save(place / "report")
    row = {"kind": kind, "l0": l0, "steps": steps, "features": lens.config.features}
    row |= {name: numbers_of(found, code) for name, code in (("trained", "lens"), ("shipped", SHIPPED))}
    write_whole(place / "row.json", json.dumps(row, indent=1).encode())
    return row


def trained(request: Request, frozen: FrozenLM, blocks: Blocks, place: Path, steps: int) -> CrosslayerTranscoder:
    lens: Any = request.family.new_lens(frozen, blocks, request.family.sites(blocks.sites))
    given = request.training(output_dir=str(place / "run"), max_steps=steps, **QUIET)
    trainer = CrosslayerTranscoderTrainer(lens, given, blocks, frozen=frozen)
    for callback in (PrinterCallback, ProgressCallback):
        trainer.remove_callback(callback)
    trainer.train()
    lens.eval()
    return lens  # type: ignore[no-any-return]


def numbers_of(found: Report, code: str) -> dict[str, Any]:
    """Name -> value, low, high."""
    numbers = found.parts["all"].numbers[code]
    return {name: [n.value, n.low, n.high] for name, n in numbers.items() if name in NUMBERS}


def lines_of(rows: Sequence[Mapping[str, Any]]) -> list[list[Any]]:
    """A line for each lens as it was trained, and one as it is shipped."""
    return [
        [f"{row['kind']} {row['l0']}", how, *(row[how].get(name, [None])[0] for name in NUMBERS)]
        for row in rows
        for how in ("trained", "shipped")
    ]


def draw(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4.2), dpi=150, layout="constrained")
    for axes, name, label in zip(
        figure.subplots(1, 2),
        ("ev", "kl"),
        ("explained variance", "replacement KL in nats (lower is better)"),
        strict=True,
    ):
        for kind in dict.fromkeys(row["kind"] for row in rows):
            for how, style, marker in (("trained", "-", "o"), ("shipped", "--", "s")):
                line = [row[how] for row in rows if row["kind"] == kind]
                x, y = ([each[n][0] for each in line] for n in ("l0", name))
                reach = [
                    [each[name][0] - each[name][1] for each in line],
                    [each[name][2] - each[name][0] for each in line],
                ]
                of = {"color": COLOURS[kind], "linestyle": style, "marker": marker, "markersize": 5, "capsize": 3}
                axes.errorbar(
                    x, y, yerr=reach, label=f"{kind}, {'as trained' if how == 'trained' else 'jumprelu'}", **of
                )
        axes.set_xscale("log", base=2)
        l0s = sorted({row["l0"] for row in rows})
        axes.set_xticks(l0s, [str(l0) for l0 in l0s])
        axes.set_xlabel("active features per token and layer (L0)")
        axes.set_ylabel(label)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(color="#e6e6e6")
        if name == "kl":
            axes.set_yscale("log")
        else:
            axes.legend(frameon=False, fontsize=9)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


if __name__ == "__main__":
    main()
