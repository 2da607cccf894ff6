"""What a page shows of a lens, as plain data: `LensView` is what the explorer asks of a family."""

from .controls import Choice, Control, Field, Slider, Switches, settled
from .parts import Amounts, Bars, Figures, Grid, Near, Part, Spelled, nats
from .view import LensView

__all__ = [
    "Amounts",
    "Bars",
    "Choice",
    "Control",
    "Field",
    "Figures",
    "Grid",
    "LensView",
    "Near",
    "Part",
    "Slider",
    "Spelled",
    "Switches",
    "nats",
    "settled",
]
