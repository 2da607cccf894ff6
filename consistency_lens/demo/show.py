"""The demo world for people: one story with its truth, how good the model is, and where it keeps what it needs."""

from __future__ import annotations

from rich.console import Group
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from consistency_lens.demo.probe import SiteProbe
from consistency_lens.demo.reword import reword
from consistency_lens.demo.stories import Story
from consistency_lens.demo.training import SubjectReport

_STATED, _NEEDED = "bold cyan", "bold black on yellow"


def describe(story: Story) -> Panel:
    """One story: facts where they are stated and where they are needed, the list of them, and a rewording."""
    text = Text()
    stated = {fact.stated_at - 1 for fact in story.facts}
    needed = {spot.position for spot in story.fact_positions}  # the word after token `position` is words[position]
    for index, word in enumerate(story.words):
        style = _STATED if index in stated else _NEEDED if index in needed else ""
        text.append(word, style)
        text.append("\n" if word in (".", "!") else " ")
    table = Table(box=None, pad_edge=False, header_style="dim")
    for column in ("fact", "value", "said as", "stated at", "needed after"):
        table.add_column(column)
    for number, fact in enumerate(story.facts):
        said = story.words[fact.stated_at - 1]
        places = [str(spot.position) for spot in story.fact_positions if spot.fact == number]
        table.add_row(fact.kind, fact.value, said, str(fact.stated_at), ", ".join(places) or "-")
    legend = Text.assemble(("stated", _STATED), "  ", ("needed", _NEEDED), "  in other words:\n")
    legend.append(reword(story.text, seed=0), "dim")
    return Panel(Group(text, table, Text(), legend), title=f"story {story.doc_id}", title_align="left")


def accuracy_table(report: SubjectReport) -> Table:
    """How often the frozen model says the fact that comes next, by kind of fact."""
    table = Table(title="Needed facts said, new stories", title_justify="left")
    for column in ("fact", "n", "subject", "possible"):
        table.add_column(column, justify="left" if column == "fact" else "right")
    for kind, accuracy in report.by_kind.items():
        table.add_row(kind, str(report.count_by_kind[kind]), f"{accuracy:.2%}", f"{report.world_accuracy:.0%}")
    table.add_section()
    table.add_row("all", str(report.num_positions), f"[bold]{report.accuracy:.2%}[/]", f"{report.world_accuracy:.0%}")
    return table


def site_table(sites: list[SiteProbe], demo_site: str) -> Table:
    """Layer by layer: can a linear map read the fact that the next token needs, and what do the controls read?"""
    table = Table(title="Where a linear probe reads the needed fact (* the demo's site)", title_justify="left")
    for column in ("site", "accuracy", "95 % interval", "shuffled", "too early", "chance"):
        table.add_column(column, justify="left" if column == "site" else "right", no_wrap=True)
    for row in sites:
        table.add_row(
            f"{row.site} *" if row.site == demo_site else row.site,
            f"{row.accuracy:.1%}",
            f"{row.low:.1%} .. {row.high:.1%}",
            f"{row.shuffled:.1%}",
            f"{row.early:.1%}",
            f"{row.chance:.1%}",
            style="bold" if row.site == demo_site else None,
        )
    return table
