"""Explorer: what an LLM was thinking, token by token: in words that can be edited, in features, or in soft tokens.

python spaces_demo/app.py                               # the newest demo run under outputs/
python spaces_demo/app.py --lens outputs/my-run         # a run and its checkpoints, or the folder of a lens
python spaces_demo/app.py --lens someone/a-lens another/one
python spaces_demo/app.py --lens me/a-lens me/a-lens@v1 # two revisions of one, side by side under Compare
python spaces_demo/app.py --gallery                     # and whatever other lens a visitor opens

Without --lens, the environment variable LENS and then a file lens.txt beside this one say which.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import arriving
import gallery
import gradio as gr
from desk import Desk, Follower, Scans
from drawing import notice
from fairness import MOST_WAITING, fair
from lenses import HERE, Lenses, chosen_places, run_of, subject_of
from links import ORDERS, TABS, Choice
from marking import unmarked
from texts import examples
from views import compare, edit, rate, read, report, scan

from consistency_lens import BadInput, LensModel, view_of

TITLE = "Consistency Lens"
STYLE = (HERE / "style.css").read_text(encoding="utf-8")
PLAIN = ["system-ui", "sans-serif"]
THEME = gr.themes.Default(primary_hue="blue", font=PLAIN, font_mono=["ui-monospace", "monospace"])
MOST_VISITORS = 100  # of whom it is remembered what they read
FORGET = 3600  # seconds after which what Gradio has put on the disk goes


def build(lenses: Lenses, roots: Sequence[Path] | None = None) -> gr.Blocks:
    """The page; with folders of runs, a gallery is on it."""
    name = lenses.default
    lens, folder = lenses.get(name), lenses.folders[name]
    assert lens.subject is not None
    texts, damage = examples(lens.subject, [folder, run_of(folder)])
    with gr.Blocks(title=TITLE, analytics_enabled=False, delete_cache=(FORGET, FORGET)) as page:
        gr.HTML(notice(damage, "error"), visible=bool(damage), elem_id="damage")
        head = gr.Markdown(headline(lens))
        desk, example, act, stop = top(lenses, texts)
        if roots is not None:
            gallery.build(gallery.Gallery(lenses, roots), desk)
        with gr.Tabs(elem_id="tabs") as tabs:
            opened = {key: gr.Tab(key.capitalize(), id=key) for key in TABS}
            opened["edit"].visible = view_of(lens).speaks
        several = roots is not None or len(lenses.kinds) > 1
        with opened["scan"]:
            scanned = scan.build(desk)
        with opened["edit"]:
            edited = edit.build(desk)
        with opened["read"]:
            beside = [edited, *([dressing(desk, head, opened["edit"])] if several else [])]
            shown, result = read.build(desk, beside)
        with opened["compare"]:
            compare.build(desk, opened["compare"])
        with opened["rate"]:
            rate.build(desk, opened["rate"])
        with opened["report"]:
            report.build(desk, opened["report"])
        outputs, followers = [desk.choice, desk.rows, *shown, desk.notice], [scanned, *beside]
        work = [read.on_demand(desk, event, outputs, followers) for event in (act.click, desk.text.submit)]
        anew = [act.click, desk.text.submit, example.input]
        gr.on(anew, lambda: "", None, result, queue=False, api_visibility="private")
        example.input(str, example, desk.text, queue=False, api_visibility="private")
        work.append(read.on_demand(desk, example.input, outputs, followers, example))
        work.append(arriving.build(desk, page, tabs, texts[0], outputs, followers))
        desk.stop(stop, work, followers)
        for key, tab in opened.items():
            arriving.remember(desk, tab, key)
    return page


def headline(lens: LensModel) -> str:
    """What is seen here, in Markdown."""
    assert lens.models is not None
    names = " and ".join(model.model_id for model in lens.models.values())
    where = unmarked(", ".join(lens.config.sites or []))
    return f"# {TITLE}\n**{unmarked(names)}**, read at {where}. {unmarked(view_of(lens).about())}"


def dressing(desk: Desk, head: gr.Markdown, edit_tab: gr.Tab) -> Follower:
    """Where a page has lenses of several families: the headline and the tabs of the one that has read."""

    def dress(choice: Choice, _rows: Any, _order: str) -> tuple[Any, ...]:
        lens = desk.lenses.get(choice.lens)
        return headline(lens), gr.Tab(visible=view_of(lens).speaks)

    return dress, [head, edit_tab]


def top(lenses: Lenses, texts: Sequence[str]) -> tuple[Desk, gr.Dropdown, gr.Button, gr.Button]:
    """What stands above the tabs: the text, the lens, the buttons, and a place for messages.

    Dropdowns take any value, here and in the tabs, and we refuse what is not offered: Gradio would log it whole.
    """
    with gr.Row():
        text = gr.Textbox(texts[0], label="Text", lines=4, max_lines=8, elem_id="text", scale=4, min_width=280)
        with gr.Column(scale=2, min_width=240):
            open_to_all: dict[str, Any] = {"allow_custom_value": True}
            example = gr.Dropdown(list(texts), value=None, label="or one of these", elem_id="example", **open_to_all)
            name = gr.Dropdown(lenses.names, value=lenses.default, label="Lens", elem_id="lens", **open_to_all)
    with gr.Row():
        act = gr.Button("Read", variant="primary", elem_id="act", min_width=160)
        stop = gr.Button("Stop", elem_id="stop", scale=0, min_width=110)
    message = gr.HTML(notice(), elem_id="notice")
    query = gr.Textbox(visible="hidden", elem_id="query", label="link")
    choice = gr.State(Choice(lenses.default))
    tab, order = gr.State(TABS[0]), gr.State(ORDERS[0])
    desk = Desk(lenses, Scans(lenses), name, text, choice, gr.State([]), message, query, tab, order)
    return desk, example, act, stop


def serve(page: gr.Blocks, **options: Any) -> Any:
    """Launch it as it is meant to look, with one line for all who wait, in which nobody takes too many places. Clients
    of the API stand in it too: requests to a function itself, which would pass it by, are refused."""
    queued = page.queue(default_concurrency_limit=None, max_size=MOST_WAITING, api_open=False)
    given = {"app_kwargs": fair(page), "max_file_size": 1, "state_session_capacity": MOST_VISITORS}
    return queued.launch(theme=THEME, css=STYLE, **given, **options)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lens", nargs="+", default=(), help="Folders or Hub ids; the first one is shown first.")
    where = "The model that they read, if it lies in a folder of yours; NAME=FOLDER for each of several."
    parser.add_argument("--subject", nargs="+", default=(), help=where)
    about = "Let visitors open lenses of runs under outputs/ of these folders, by default of this one, and of the Hub."
    parser.add_argument("--gallery", nargs="*", default=None, metavar="FOLDER", help=about)
    parser.add_argument("--host", default=None, help="Address to listen on; default this machine alone.")
    parser.add_argument("--port", type=int, default=None, help="Default: the first free one from 7860 on.")
    options = parser.parse_args()
    try:
        roots = None if options.gallery is None else gallery.chosen_roots(options.gallery)
        page = build(Lenses(chosen_places(options.lens), subject_of(options.subject)), roots)
    except BadInput as error:
        sys.exit(f"error: {error}")
    serve(page, server_name=options.host, server_port=options.port)


if __name__ == "__main__":
    main()
