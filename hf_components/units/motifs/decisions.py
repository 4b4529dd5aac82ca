"""What a linguist decided on a page of clips: names of motifs, and clips that are no instance of them."""

from dataclasses import dataclass, field
from pathlib import Path

from hf_components.runtime import read_record
from hf_components.units.table import check_same_units

CLIP = {"segment": str, "source_file": str, "start": (int, float), "end": (int, float), "verdict": (str, None)}
FORM = {"units": dict, "motifs": [{"motif": str, "units": [int], "name": (str, None), "clips": [CLIP]}]}


@dataclass
class Decisions:
    """Decisions about motifs, none by default.

    Args:
        names: the name given to a motif, by the motif's own.
        rejected: motif, segment and start (seconds in the recording, as `_key` rounds them) of each rejected clip.
    """

    names: dict[str, str] = field(default_factory=dict)
    rejected: set[tuple[str, str, float]] = field(default_factory=set)

    @classmethod
    def read(cls, file: str | Path, identity: dict, units_dir: str) -> "Decisions":
        """Read `decisions.json` of a page about these units.

        Raises:
            UserError: it is damaged, or about other units.
        """
        kept = read_record(Path(file), FORM, "save it again on the page")
        check_same_units(kept["units"], str(file), identity, units_dir)
        return cls(
            {motif["motif"]: motif["name"] for motif in kept["motifs"] if motif["name"]},
            {
                _key(motif["motif"], clip["segment"], clip["start"])
                for motif in kept["motifs"]
                for clip in motif["clips"]
                if clip["verdict"] == "no"
            },
        )

    def label(self, motif: str, segment: str, start: float) -> str | None:
        """What the tier says of an occurrence that starts at `start`; None if it was rejected."""
        return None if _key(motif, segment, start) in self.rejected else self.names.get(motif, motif)


def _key(motif: str, segment: str, start: float) -> tuple[str, str, float]:
    return motif, segment, round(start, 2)  # units start every 20 ms
