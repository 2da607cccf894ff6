"""The two parts of the lens: `LensDecoder` writes words from an activation, `LensEncoder` reads them back.

Shapes: N rows, S prompt length, T tokens of a text, V vocabulary, d hidden size.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import copy
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import DynamicCache, PreTrainedModel

from ...base.adapters import adapter_file, adapter_parameters, enable_checkpointing, remove_adapter, speaking
from ...base.saving.lens_files import (
    HEADS,
    SavedModel,
    config_in,
    fetch_beside,
    heads_beside,
    load_files,
    open_folder,
    save_files,
)
from ...errors import BadInput
from ...frozen import FrozenLM, Site
from ...frozen.columns import last_columns
from ...frozen.hooks import Write, editing, reading
from ...hub import Reach
from ..configuration import ConsistencyLensConfig
from .backbone import backbone, require_weights
from .generation import Noise, Words, roll_out, straight_through_embed
from .sites import At, SiteMaps, chosen, maps_of, of_row

_RESIDUAL_SITE = Site("resid_post", 1)


class LensPart(SavedModel):
    """A language model and a map between it and the frozen model's activations.

    Saved alone, it lies as in a whole lens: the other part may be saved beside it.

    Args:
        config: of the lens.
        lm: the language model; its own clone, or the frozen model itself.
        trainable: `full`, `lora` or `projections`; default as the configuration says.
        adapter: with `lora`, what this part's adapter on the model is called; default as the part.
    """

    config_class = ConsistencyLensConfig
    config: ConsistencyLensConfig
    supports_gradient_checkpointing = True
    name: ClassVar[str]

    def __init__(
        self,
        config: ConsistencyLensConfig,
        lm: PreTrainedModel,
        trainable: str | None = None,
        adapter: str | None = None,
    ) -> None:
        super().__init__(config)
        self.lm, self.trainable = lm, trainable or config.kind_of(self.name)
        self.adapter = (adapter or self.name) if self.trainable == "lora" else None
        self.checkpointing = False
        self.map = maps_of(len(config.sites or []), config.hidden_size)
        if self.trainable == "full":  # otherwise it is the model, frozen, maybe with the other part's adapter on it
            lm.requires_grad_(True)

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls,
        lens_id_or_path: str | os.PathLike[str],
        subject: FrozenLM | None = None,
        revision: str | None = None,
        token: str | None = None,
        *,
        cache_dir: str | Path | None = None,
        local_files_only: bool = False,
        subfolder: str = "",
        ignore: Sequence[str] = (),
    ) -> Self:
        """This part alone, from a lens or from where it was saved by itself; the arguments are those of a lens."""
        reach = Reach(cache_dir=cache_dir, local_files_only=local_files_only)
        folder = open_folder(lens_id_or_path, cls.config_class, revision, token, subfolder, **reach)
        config = config_in(folder, cls.config_class)
        if subject is not None:
            config.require_subject(subject, tuple(ignore))
        require_weights(config, folder, subject is None, [cls.name])
        lm, adapter = backbone(config, subject, cls.name)
        part = cls(config, lm, adapter=adapter)
        part = part.to(subject.device) if subject else part
        other = next(name for name in ("decoder", "encoder") if name != cls.name)
        load_files(part.files(), folder, beside=f"{other}.")
        return part.eval()

    def save_pretrained(  # type: ignore[override]
        self,
        save_directory: str | os.PathLike[str],
        push_to_hub: bool = False,
        repo_id: str | None = None,
        **kwargs: Any,
    ) -> None:
        """As a lens's. What lies there of the other part of the same lens stays."""
        folder = Path(save_directory)
        beside = heads_beside(folder, self.config, f"{self.name}.")
        super().save_pretrained(folder)
        if beside:
            save_files({HEADS: self.files()[HEADS] | beside}, folder)
        if push_to_hub:
            self.push_to_hub(repo_id or folder.resolve().name, **kwargs)

    def prepare_upload(self, folder: Path, repo: str, revision: str | None, token: str | None) -> None:
        fetch_beside(folder, repo, revision, token)

    @property
    def folders(self) -> tuple[str, ...]:
        return (self.name,)

    def files(self) -> dict[str, dict[str, nn.Parameter]]:
        """Its map at the root; its language model, or its adapter, in a folder of its own."""
        found = {HEADS: {f"{self.name}.map.{name}": p for name, p in self.map.named_parameters()}}
        match self.trainable:
            case "full":
                found[f"{self.name}/model.safetensors"] = dict(self.lm.named_parameters())
            case "lora":
                found[f"{self.name}/adapter_model.safetensors"] = adapter_file(self.lm, self._on_model)
        return found

    def save_parts(self, folder: Path) -> None:
        """A configuration beside the weights, as anybody's loader wants it."""
        match self.trainable:
            case "full":
                self.lm.config.save_pretrained(folder / self.name)
            case "lora":
                # peft names the folder that the frozen model was loaded from.
                adapter = copy(self.lm.peft_config[self._on_model])
                adapter.base_model_name_or_path = self.config.origin.model_id
                adapter.save_pretrained(str(folder / self.name))

    @property
    def _on_model(self) -> str:
        """What its adapter is called on the model; raise where it was taken off."""
        if self.adapter is None:
            raise BadInput("lens", self.name, "Load it again.", why="it was taken off its frozen model (unload)")
        return self.adapter

    def unload(self) -> None:
        """Take its adapter off the frozen model; of one without, nothing lies there."""
        if self.adapter is not None:
            remove_adapter(self.lm, self.adapter)
            self.adapter = None

    @contextmanager
    def working(self, learning: bool = False) -> Iterator[None]:
        """The state in which this part's language model runs; `learning` where a backward pass will follow."""
        with speaking(
            self.lm,
            self._on_model if self.trainable == "lora" else None,
            self.checkpointing and learning and torch.is_grad_enabled(),
        ):
            yield

    def checkpoint_activations(self) -> None:
        """Recompute blocks in the backward pass instead of keeping what they made."""
        enable_checkpointing(self.lm)
        self.checkpointing = True

    def own_parameters(self) -> dict[str, nn.Parameter]:
        """What belongs to this part of the language model, by name; frozen ones too."""
        match self.trainable:
            case "full":
                return dict(self.lm.named_parameters())
            case "lora":
                return adapter_parameters(self.lm, self._on_model)
            case _:
                return {}

    def train(self, mode: bool = True) -> LensPart:
        """Train mode would turn off the key-value cache and turn on dropout; the language model never needs it."""
        self.training = mode
        self.map.train(mode)
        return self

    def mapped(self, vectors: Tensor, at: At) -> Tensor:
        """`[N, d]` through the map, of several the one of each row's site."""
        vectors = vectors.to(self.map.weight.dtype)
        return self.map(vectors, at) if isinstance(self.map, SiteMaps) else self.map(vectors)

    @property
    def table(self) -> Tensor:
        """Embeddings of the tokens, `[V, d]`."""
        return self.lm.get_input_embeddings().weight

    def embed(self, ids: Tensor) -> Tensor:
        return self.lm.get_input_embeddings()(ids)

    def embed_choice(self, logits: Tensor, ids: Tensor, noise: Noise) -> Tensor:
        """The same `[N, S + T, d]`, with the straight-through gradient to the logits `[N, T, V]` that the last T were
        chosen from."""
        embedded = straight_through_embed(logits, ids, self.table, noise)
        # Some embeddings (Gemma's) give out their table times a constant.
        with torch.no_grad():
            scale = self.embed(ids[:1, :1]).norm() / embedded[:1, :1].norm().clamp_min(1e-12)
        return embedded * scale


class LensDecoder(LensPart):
    """Activation -> words: the language model goes on after a prompt in which the activation stands."""

    name = "decoder"

    def __init__(
        self,
        config: ConsistencyLensConfig,
        lm: PreTrainedModel,
        trainable: str | None = None,
        adapter: str | None = None,
    ) -> None:
        super().__init__(config, lm, trainable, adapter)
        self._constants: dict[tuple[tuple[int, ...], torch.device], Tensor] = {}

    def _prompt(self, activations: Tensor, text: Tensor | None = None, at: At = -1) -> tuple[Tensor, list[Write]]:
        """Embeddings `[N, S, d]` of the prompt with the activation in it, and what to write further up.

        With the ids `[N, k]` of a text, its embeddings are behind them. They are looked up together: each look-up has
        a gradient of the size of the whole table.
        """
        prompt = self.config.prompt_ids or []
        if prompt.count(self.config.placeholder_id) != 1:  # of the list, which does not wait for the device
            raise BadInput("prompt_ids", prompt, "The placeholder has to occur exactly once per row.")
        ids = self._constant(prompt, activations.device).expand(len(activations), -1)
        here = ids == self.config.placeholder_id
        if text is not None:
            ids, here = torch.cat([ids, text], dim=1), F.pad(here, (0, text.shape[1]))
        norm = of_row(self.config.norms, at, activations)
        norm = norm.unsqueeze(1) if isinstance(norm, Tensor) else norm
        vector = self.mapped(activations.to(self.map.weight.dtype) / norm, at)
        embedded = self.embed(ids)
        if self.config.injection == "residual":
            columns = here.long().argmax(1, keepdim=True)
            return embedded, [Write(_RESIDUAL_SITE, vector.unsqueeze(1), columns, add=True, match=True)]
        vector = F.normalize(vector, dim=-1) * self.config.embedding_norm
        return torch.where(here.unsqueeze(-1), vector.unsqueeze(1).to(embedded.dtype), embedded), []

    def _allowed(self, logits: Tensor, first: int = 0) -> Tensor:
        """The same `[N, T, V]`, in their own dtype, changed in their place: special tokens are never written, and no
        text ends before its first word."""
        lowest = torch.finfo(logits.dtype).min  # not infinite: what has no probability shall have no NaN either
        logits.index_fill_(-1, self._constant(self.config.never_ids or [], logits.device), lowest)
        if first == 0:
            logits[:, 0, self.config.stop_id].fill_(lowest)
        return logits

    def _constant(self, ids: Sequence[int], device: torch.device) -> Tensor:
        """Ids as a tensor that is made once: making it of a list waits for the device."""
        key = (tuple(ids), device)
        if key not in self._constants:
            with torch.inference_mode(False):  # a gradient may be asked for later
                self._constants[key] = torch.tensor(key[0], dtype=torch.long, device=device)
        return self._constants[key]

    def _steps(self, activations: Tensor, at: At = -1) -> Callable[[Tensor | None], Tensor]:
        """A function from the embeddings of the last choice (None at first) to the next logits `[N, V]`."""
        cache = DynamicCache(config=self.lm.config.get_text_config())
        count = 0

        def step(embedded: Tensor | None) -> Tensor:
            nonlocal count
            inputs, writes = self._prompt(activations, at=at) if embedded is None else (embedded.unsqueeze(1), [])
            asked = {"logits_to_keep": last_columns(1, inputs.shape[1], inputs.device)} if embedded is None else {}
            with self.working(), editing(self.lm, writes):
                logits = self.lm(inputs_embeds=inputs, past_key_values=cache, use_cache=True, **asked).logits
            count += 1
            return self._allowed(logits, count - 1)[:, 0]

        return step

    @torch.no_grad()
    def write(self, activations: Tensor, noise: Noise, at: At = -1) -> Words:
        """A rollout without gradient.

        Args:
            activations: `[N, d]`.
            noise: of the choices.
            at: of which site they are, of a lens that reads several.
        """
        step = self._steps(activations, at)
        with self.working():  # once, not at each step: with adapters that costs as much as a small step itself
            ids = roll_out(
                lambda last: step(None if last is None else self.embed(last)), self.config.code_length, noise
            )
        return Words.ended_by(ids, self.config.stop_id, self.config.pad_id)

    def write_with_gradient(self, activations: Tensor, noise: Noise, at: At = -1) -> tuple[Words, Tensor]:
        """The slow twin of `write` and `score`: the graph is kept through time. Words and logits `[N, T, V]`."""
        step = self._steps(activations, at)
        logits: list[Tensor] = []

        def next_logits(last: Tensor | None) -> Tensor:
            if last is None:
                logits.append(step(None))
            else:
                here = noise.ahead(len(logits) - 1)
                logits.append(step(self.embed_choice(logits[-1].unsqueeze(1), last.unsqueeze(1), here)[:, 0]))
            return logits[-1]

        with self.working():
            ids = roll_out(next_logits, self.config.code_length, noise)
        return Words.ended_by(ids, self.config.stop_id, self.config.pad_id), torch.stack(logits, dim=1)

    def score(self, activations: Tensor, words: Words, at: At = -1) -> Tensor:
        """Logits `[N, T, V]` that the tokens of a text (and its end) were chosen from, in one pass with gradient."""
        ids, _ = words.written(self.config.stop_id)
        inputs, writes = self._prompt(activations, ids[:, :-1], at)
        kept = last_columns(ids.shape[1], inputs.shape[1], inputs.device)
        with self.working(learning=True), editing(self.lm, writes):
            logits = self.lm(inputs_embeds=inputs, use_cache=False, logits_to_keep=kept).logits
        return self._allowed(logits)


class LensEncoder(LensPart):
    """Words -> activation: the model's layers up to the site read the text; the last token's state is mapped."""

    name = "encoder"

    @property
    def site(self) -> Site:
        """The deepest one that it reaches."""
        return Site.parse(self.config.origin_site)

    def started(self, ids: Tensor) -> Tensor:
        """`[N, 1 + T]`: the ids of texts as they are read."""
        return F.pad(ids, (1, 0), value=self.config.start_id)

    def forward(self, words: Words, embedded: Tensor | None = None, at: At = -1) -> Tensor:
        """`[N, d]`.

        Args:
            words: texts.
            embedded: `[N, 1 + T, d]`: what is read, as embeddings that carry a gradient to the choice of words.
            at: of which site an activation is restored, of a lens that reads several.
        """
        # In one look-up: each has a gradient of the size of the whole table.
        inputs = self.embed(self.started(words.ids)) if embedded is None else embedded.to(self.table.dtype)
        return self.restored(inputs, words.lengths, at)

    def restored(self, inputs: Tensor, last: Tensor, at: At = -1) -> Tensor:
        """What stands at the site at the columns `last [N]` of embeddings `[N, S, d]`, through the map."""
        sites = [Site.parse(site) for site in self.config.sites or []]
        wanted = [sites[at]] if isinstance(at, int) else sites
        with self.working(learning=True), reading(self.lm, wanted, last.unsqueeze(1), cut=True) as found:
            self.lm(inputs_embeds=inputs, use_cache=False)
        states = [found[str(site)][:, 0] for site in wanted]
        return self.mapped(states[0] if isinstance(at, int) else chosen(states, at), at)
