"""Swap explorer: put what an LLM thought in one text in the place of what it thought in another, and see what it says.

python spaces_demo/app.py                          # the offline demo subject
python spaces_demo/app.py --model gpt2 --site resid_post.2/3
"""

from __future__ import annotations

import argparse
from pathlib import Path

import gradio as gr
import torch

from consistency_lens import BadInput, Edit, FrozenLM

LONGEST_TEXT = 4000  # characters
TOP = 5
STORY = (
    "a child called finn woke up early one morning . the wagon of the child was {} . the clock struck three and the "
    "afternoon grew warm . nobody knew why the dark wall was so tall . somebody pushed the wagon , which was"
)
EXAMPLES = {
    "demo": (STORY.format("red"), STORY.format("blue")),
    "other": ("The capital of France is", "The capital of Italy is"),
}


class Swapper:
    """One model, one site, and the two distributions around a swap."""

    def __init__(self, frozen: FrozenLM, site: str) -> None:
        self.frozen, self.site = frozen, str(frozen.site(site))

    def __call__(self, text: str, donor: str) -> tuple[dict[str, float], dict[str, float], dict[str, float], str]:
        """Top next tokens of `text`, of `donor`, and of `text` with the donor's last activation; and a sentence."""
        own, other = self._batch(text, "text"), self._batch(donor, "donor")
        prefix = self.frozen.prefix(own)
        given = self.frozen.prefix(other)
        activation = given.read(self.site)[self.site]
        with torch.no_grad():
            before, donors = prefix.logits()[0, 0].float(), given.logits()[0, 0].float()
            after = prefix.logits(Edit(self.site, activation))[0, 0].float()
        log_p, log_q = before.log_softmax(-1), after.log_softmax(-1)
        kl = float((log_p.exp() * (log_p - log_q)).sum())
        moved = "now says what the donor says" if after.argmax() == donors.argmax() else "does not follow the donor"
        if before.argmax() == after.argmax():
            moved = "goes on saying the same"
        return *(self._top(x) for x in (before, donors, after)), f"At {self.site} the model {moved}. KL {kl:.3f} nats."

    def _batch(self, text: str, field: str) -> dict[str, torch.Tensor]:
        if not text.strip():
            raise BadInput(field, text, "Write a few words.")
        if len(text) > LONGEST_TEXT:
            raise BadInput(field, f"{len(text)} characters", f"Use at most {LONGEST_TEXT}.")
        ids = self.frozen.tokenizer(text, return_tensors="pt")["input_ids"]
        if ids.shape[1] > self.frozen.max_length:
            raise BadInput(field, f"{ids.shape[1]} tokens", f"The model takes at most {self.frozen.max_length}.")
        return {"input_ids": ids}

    def _top(self, logits: torch.Tensor) -> dict[str, float]:
        top = logits.softmax(-1).topk(TOP)
        words = self.frozen.tokenizer.convert_ids_to_tokens(top.indices.tolist())
        return dict(zip(words, top.values.tolist(), strict=True))


def build(frozen: FrozenLM, site: str, example: tuple[str, str]) -> gr.Blocks:
    """The page."""
    swapper = Swapper(frozen, site)

    def swap(text: str, donor: str) -> tuple[dict[str, float], dict[str, float], dict[str, float], str]:
        try:
            return swapper(text, donor)
        except BadInput as error:
            raise gr.Error(str(error), print_exception=False) from error

    with gr.Blocks(title="Swap explorer", analytics_enabled=False) as page:
        gr.Markdown(
            f"# Swap explorer\nWhat **{frozen.model_id}** thought at the last word of the donor, at `{swapper.site}`, "
            "takes the place of what it thought at the last word of the text. Everything before stays as it was."
        )
        with gr.Row():
            text = gr.Textbox(example[0], label="Text", lines=4, elem_id="text")
            donor = gr.Textbox(example[1], label="Donor", lines=4, elem_id="donor")
        button = gr.Button("Swap", variant="primary")
        verdict = gr.Markdown(elem_id="verdict")
        with gr.Row():
            labels = [
                gr.Label(label=name, num_top_classes=TOP, elem_id=name)
                for name in ("text", "donor", "text after the swap")
            ]
        button.click(swap, [text, donor], [*labels, verdict], api_name="swap")
        page.load(swap, [text, donor], [*labels, verdict], api_name=False)
    return page


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="demo", help="Hub id, local folder, or 'demo' for the offline subject.")
    parser.add_argument("--site", default="resid_post.1")
    parser.add_argument("--port", type=int, default=7860)
    options = parser.parse_args()
    path: str | Path = options.model
    if options.model == "demo":
        from consistency_lens.demo.subject import subject_path

        path = subject_path()
    frozen = FrozenLM.from_pretrained(path)
    page = build(frozen, options.site, EXAMPLES["demo" if options.model == "demo" else "other"])
    page.queue(default_concurrency_limit=1).launch(server_port=options.port)


if __name__ == "__main__":
    main()
