"""`TranscoderRun`: what a run of the command line does for a transcoder, and for no other lens."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ..activations.blocks import BlockArguments, BlockExtraction, Blocks
from ..base.family_run import FamilyRun
from ..errors import BadInput
from ..frozen import FrozenLM
from .configuration import CrosslayerTranscoderConfig, parse_layers
from .modeling import CrosslayerTranscoder
from .options import TranscoderOptions
from .training.data import StreamedBlocks


class TranscoderRun(FamilyRun):
    lens_options = TranscoderOptions
    data_options = BlockArguments
    extraction = BlockExtraction
    data = Blocks
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

    def first_of(self, data: Blocks, tokenizer: Any) -> list[str]:
        document = data.documents("train")[0]
        lines = [f"first document: {int(document['doc_id'])}", tokenizer.decode(document["input_ids"])]
        for number, site in enumerate(data.sites):
            vector = document["activations"][0, number].float()
            shown = " ".join(f"{x:+.2f}" for x in vector[:6].tolist())
            lines.append(f"{site} [{shown} ...] {data.dtype}, norm {float(vector.norm()):.2f}")
        return lines
