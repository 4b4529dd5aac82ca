"""Print results to standard output; progress and log go to standard error."""

from accelerate import PartialState
from rich.console import Console, RenderableType

from hf_components.runtime import write_to_file


def show(*parts: RenderableType) -> None:
    """Print tables and lines, on the main process only, and write them to the log file."""
    if PartialState().is_main_process:
        console = Console(highlight=False, markup=False)
        for part in parts:
            console.print(part, soft_wrap=isinstance(part, str))
            with console.capture() as text:
                console.print(part, soft_wrap=isinstance(part, str))
            write_to_file(text.get().rstrip())
