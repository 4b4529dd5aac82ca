"""Print results to standard output; progress and log go to standard error."""

from accelerate import PartialState
from rich.console import Console, RenderableType


def show(*parts: RenderableType) -> None:
    """Print tables and lines, on the main process only."""
    if PartialState().is_main_process:
        console = Console(highlight=False, markup=False)
        for part in parts:
            console.print(part, soft_wrap=isinstance(part, str))
