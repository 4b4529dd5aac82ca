"""Print results to standard output; progress and log go to standard error."""

from accelerate import PartialState
from rich.console import Console, RenderableType
from rich.table import Table

from hf_components.runtime import visible, write_to_file


def show(*parts: RenderableType) -> None:
    """Print tables and lines, on the main process only, and write them to the log file; names are made `visible`."""
    if PartialState().is_main_process:
        console = Console(highlight=False, markup=False)
        for part in map(_visible, parts):
            console.print(part, soft_wrap=isinstance(part, str))
            with console.capture() as text:
                console.print(part, soft_wrap=isinstance(part, str))
            write_to_file(text.get().rstrip())


def _visible(part: RenderableType) -> RenderableType:
    if isinstance(part, str):
        return visible(part, keep="\n")
    if isinstance(part, Table):
        for column in part.columns:
            column.header = visible(column.header) if isinstance(column.header, str) else column.header
            column._cells = [visible(cell) if isinstance(cell, str) else cell for cell in column._cells]
    return part
