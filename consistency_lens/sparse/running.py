"""`TranscoderRun`: what a run of the command line does for a transcoder, and for no other lens."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar

from torch.utils.data import DataLoader

from ..activations.blocks import BlockArguments, BlockExtraction, Blocks, BySite
from ..base.engines.engine import Engine
from ..base.explaining import Positions
from ..base.family_run import FamilyRun, Run
from ..base.modeling import LensModel
from ..errors import BadInput
from ..frozen import FrozenLM
from .configuration import CrosslayerTranscoderConfig, parse_layers
from .features.describing import describe_features
from .measuring.twins import PER_LAYER, SHIPPED, TwinOptions, keep_per_layer, keep_shipped
from .modeling import CrosslayerTranscoder
from .options import FeatureOptions, TranscoderOptions
from .training.data import StreamedBlocks, Texts, collator_of
from .use.circuit_tracer import export
from .use.explaining import explain_tokens

CIRCUIT_TRACER = "circuit-tracer"
CALIBRATED, AT_ONCE = 8, 8  # batches that thresholds are calibrated on; documents that are read together


class TranscoderRun(FamilyRun):
    lens_options = TranscoderOptions
    data_options = BlockArguments
    extraction = BlockExtraction
    data = Blocks
    data_title = "the tokens"
    unused: ClassVar = {"report_horizon": "whole documents are compared, at all positions"}
    more_options: ClassVar[Mapping[str, type]] = {
        "features": FeatureOptions,
        "lenses that are made beside it": TwinOptions,
    }
    explain_options = ("ablate", "amplify", "inside")
    read_by: ClassVar = {
        "features": ("run", "evaluate"),
        "per_device_train_batch_size": ("run", "train", "export"),
        **dict.fromkeys(explain_options, ("explain",)),
    }
    companions = (PER_LAYER, SHIPPED)
    commands = ("export",)
    exports = (CIRCUIT_TRACER,)
    memory_advice = (
        "lower --per_device_train_batch_size and raise --gradient_accumulation_steps",
        "lower --features",
        "choose fewer layers: --layers 8:18",
        "--crosslayer false",
    )

    @property
    def tag(self) -> str:
        kind = self.values["nonlinearity"]
        return f"_{kind}{self.values['k'] or ''}_{self.values['features']}"

    def sites(self, offered: Sequence[str]) -> list[str]:
        """What the chosen layers read and write."""
        layers = [int(site.partition(".")[2]) for site in offered if "." in site]
        config = self.configuration(1 + max(layers, default=0), 1)
        missing = [site for site in config.all_sites if site not in offered]
        if missing:
            fix = f"Extract with --sites {config.read_stage}.* {config.write_stage}.*, or choose other --layers."
            raise BadInput("sites", list(offered), fix, why=f"the lens reads and writes {missing[0]}")
        return config.all_sites

    def configuration(self, depth: int, hidden_size: int) -> CrosslayerTranscoderConfig:
        """What the options describe, for a model of this depth; raises where they contradict each other."""
        options: TranscoderOptions = self.part(TranscoderOptions)
        chosen = parse_layers(self.values["layers"], depth)
        return CrosslayerTranscoderConfig(
            depth=depth, chosen_layers=chosen, hidden_size=hidden_size, **options.settings()
        )

    def require_options(self, whole_run: bool) -> None:
        self.shown.factors  # noqa: B018  raises where a feature is written wrongly
        options: TwinOptions = self.part(TwinOptions)
        kind = self.values["nonlinearity"]
        if options.ship_jumprelu and kind not in ("topk", "batchtopk"):
            fix = "Leave it out."
            raise BadInput("ship_jumprelu", True, fix, why=f"a {kind} has no k to be given thresholds by")

    def require_engine(self, engine: Engine) -> None:
        for name in (PER_LAYER, "ship_jumprelu"):
            if engine.spreads_weights and self.values[name]:
                why = f"under {engine.name} no process holds the weights when the training is over"
                raise BadInput(name, True, "Leave it out.", why=why)

    def report_options(self, companions: Mapping[str, LensModel]) -> dict[str, Any]:
        return {"beside": companions} if companions else {}

    def after_training(self, run: Run, lens: LensModel, data: Any, steps: int) -> None:
        options: TwinOptions = self.part(TwinOptions)
        assert isinstance(lens, CrosslayerTranscoder)
        if options.per_layer:
            keep_per_layer(run, lens, data, steps)
        if options.ship_jumprelu:
            keep_shipped(run, lens, data)

    def require_model(self, config: Any, tokenizer: Any) -> None:
        text = config.get_text_config()
        self.configuration(text.num_hidden_layers, text.hidden_size)

    def require_data(self, data: Blocks) -> None:
        self.sites(data.sites)

    def new_lens(self, frozen: FrozenLM, data: Blocks, sites: Sequence[str]) -> CrosslayerTranscoder:
        """The trainer standardises it, by the statistics of the data."""
        options: TranscoderOptions = self.part(TranscoderOptions)
        return CrosslayerTranscoder.from_subject(
            frozen, self.values["layers"], self.values["seed"], **options.settings()
        )

    def streamed(
        self,
        extraction: BlockExtraction,
        data: Blocks,
        frozen: FrozenLM,
        within: Callable[[Callable[[], Any]], Any],
        buffer: int,
    ) -> StreamedBlocks:
        """Blocks are shuffled as stored ones are: `blocks_per_window` says how many together."""
        return StreamedBlocks(data, extraction.stream(frozen, within))

    # ---- in use

    @property
    def shown(self) -> FeatureOptions:
        options: FeatureOptions = self.part(FeatureOptions)
        return options

    def explain(self, lens: Any, text: str, positions: Positions) -> list[dict[str, Any]]:
        """With labels; where features are changed, what that does in the place of what the lens does."""
        return explain_tokens(lens, text, positions, factors=self.shown.factors, inside=self.shown.inside)

    def cell_of(self, row: Mapping[str, Any]) -> str:
        """A feature on each line: layer/number, value, and its label with how well that predicts it."""
        lines = []
        for (layer, number, value), label, score in zip(row["features"], row["labels"], row["scores"], strict=True):
            known = f" {label} ({score:.2f})" if label else ""
            lines.append(f"{layer}/{number} {value:.2f}{known}")
        return "\n".join([*lines, f"{row['active']} active"])

    def beside(self, lens: Any, data: Blocks, folder: Path) -> None:
        """The contexts of its features."""
        count, split = self.shown.context_documents, self.shown.context_split
        if not count or split not in data.splits:
            return
        documents, collate = Texts(data.source(split)), collator_of(lens.subject)
        chosen = range(min(count, len(documents)))
        parts = [chosen[i : i + AT_ONCE] for i in range(0, len(chosen), AT_ONCE)]
        batches = (collate.padded([documents[number] for number in part]) for part in parts)
        describe_features(lens, batches, split)
        lens.contexts.save(folder)

    def export(self, lens: Any, to: str, folder: Path, data: Callable[[], Any]) -> Path:
        """A (Batch)TopK gets thresholds, calibrated on training tokens in batches of the training's size."""
        batches = None
        if lens.config.k is not None:
            blocks = data()
            blocks.require_model(lens.subject)
            size = self.values["per_device_train_batch_size"]
            by_site: Any = BySite(blocks.sites)
            loader = DataLoader(blocks.tokens("train"), batch_size=size, collate_fn=by_site)
            batches = [lens.read_of(batch) for batch in islice(loader, CALIBRATED)]
        return export(lens, folder, batches)

    def first_of(self, data: Blocks, tokenizer: Any) -> list[str]:
        document = data.documents("train")[0]
        lines = [f"first document: {int(document['doc_id'])}", tokenizer.decode(document["input_ids"])]
        for number, site in enumerate(data.sites):
            vector = document["activations"][0, number].float()
            shown = " ".join(f"{x:+.2f}" for x in vector[:6].tolist())
            lines.append(f"{site} [{shown} ...] {data.dtype}, norm {float(vector.norm()):.2f}")
        return lines
