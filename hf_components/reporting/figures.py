"""The format of figures in every table, card and page."""


def percent(share: float) -> str:
    """0.2514 -> "25.1"."""
    return f"{100 * share:.1f}"


def interval(bounds: list[float] | None) -> str:
    """[0.2, 0.3] -> "20.0 to 30.0"; None -> "-"."""
    return "-" if bounds is None else f"{percent(bounds[0])} to {percent(bounds[1])}"
