"""`python -m consistency_lens.demo`: train or load the offline model, and show it and its world."""

from __future__ import annotations

from rich.console import Console

from consistency_lens.demo.probe import DEMO_SITE
from consistency_lens.demo.show import accuracy_table, describe, site_table
from consistency_lens.demo.stories import story
from consistency_lens.demo.subject import load_card, subject_path


def main() -> None:
    """Print one story, the frozen model's accuracy, and the probe table."""
    console = Console()
    folder = subject_path()
    card = load_card(folder)
    config, report = card.config, card.report
    console.print(describe(story(config.seed, 0)))
    console.print(
        f"\nThe subject: a Llama of {config.num_layers} layers, hidden size {config.hidden_size}, seed {config.seed}, "
        f"trained in {report.train_seconds:.0f} s. It lives in\n{folder}\n",
        highlight=False,
        soft_wrap=True,
    )
    console.print(accuracy_table(report))
    console.print()
    console.print(site_table(card.sites, DEMO_SITE))


if __name__ == "__main__":
    main()
