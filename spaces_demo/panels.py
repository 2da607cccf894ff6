"""What can be changed about a row, as a form: plain inputs, which a keyboard, a phone and a screen reader know.

Its values come back as one object, by `panel.js`; what they may be is the family's to say.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import groupby
from typing import Any

from marking import safe


def panel(controls: Sequence[Any], act: str) -> str:
    """The form, its controls in their groups; nothing where there are none."""
    if not controls:
        return ""
    groups = []
    for title, group in groupby(controls, key=lambda control: control.group):
        inside = "".join(_DRAWN[control.kind](control) for control in group)
        legend = f"<legend>{safe(title)}</legend>" if title else ""
        groups.append(f"<fieldset>{legend}<div class='controls'>{inside}</div></fieldset>")
    buttons = f"<button type='submit'>{safe(act)}</button><button type='reset'>Reset</button>"
    return f"<form class='panel' autocomplete='off'>{''.join(groups)}<p class='act'>{buttons}</p></form>"


def _slider(control: Any) -> str:
    bounds = f"min='{control.low:g}' max='{control.high:g}' step='{control.step:g}' value='{control.value:g}'"
    field = f"<input type='range' {_named(control)} {bounds} aria-label='{safe(control.label)}'>"
    output = f"<output class='{'' if control.factor else 'plain'}'>{control.value:g}</output>"
    head = f"<span class='label'><b>{safe(control.label)}</b> {output}</span>"
    return _labelled(control, head + field)


def _choice(control: Any) -> str:
    options = "".join(
        f"<option value='{safe(value)}'{' selected' if value == control.value else ''}>{safe(label)}</option>"
        for value, label in control.options
    )
    return _labelled(
        control, f"<span class='label'><b>{safe(control.label)}</b></span><select {_named(control)}>{options}</select>"
    )


def _field(control: Any) -> str:
    field = f"<input type='text' {_named(control)} value='{safe(control.value)}' maxlength='{control.longest}'>"
    return _labelled(control, f"<span class='label'><b>{safe(control.label)}</b></span>{field}", "wide")


def _switches(control: Any) -> str:
    boxes = "".join(
        f"<label class='switch'><input type='checkbox' checked value='{safe(value)}'>"
        f"<span>{safe(label)}</span></label>"
        for value, label in control.options
    )
    hint = f"<small class='hint'>{safe(control.hint)}</small>" if control.hint else ""
    return (
        f"<div class='control wide switches' role='group' aria-label='{safe(control.label)}' {_named(control)}>"
        f"<span class='label'><b>{safe(control.label)}</b></span><div class='boxes'>{boxes}</div>{hint}</div>"
    )


def _named(control: Any) -> str:
    return f"data-name='{safe(control.name)}' data-kind='{control.kind}'"


def _labelled(control: Any, field: str, size: str = "") -> str:
    hint = f"<small class='hint'>{safe(control.hint)}</small>" if control.hint else ""
    return f"<label class='control {size}'>{field}{hint}</label>"


_DRAWN: dict[str, Callable[[Any], str]] = {
    "slider": _slider,
    "choice": _choice,
    "field": _field,
    "switches": _switches,
}
