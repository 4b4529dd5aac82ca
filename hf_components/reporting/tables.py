"""Print results to standard output; progress and log go to standard error."""

from accelerate import PartialState
from rich.console import Console, RenderableType
from rich.table import Table

from hf_components.runtime import visible


def show(*parts: RenderableType) -> None:
    """Print tables and lines, on the main process only; names in them are made `visible`."""
    if PartialState().is_main_process:
        console = Console(highlight=False, markup=False)
        for part in parts:
            console.print(_visible(part), soft_wrap=isinstance(part, str))


def _visible(part: RenderableType) -> RenderableType:
    if isinstance(part, str):
        return visible(part, keep="\n")
    if isinstance(part, Table):
        for column in part.columns:
            column.header = visible(column.header) if isinstance(column.header, str) else column.header
            column._cells = [visible(cell) if isinstance(cell, str) else cell for cell in column._cells]
    return part
