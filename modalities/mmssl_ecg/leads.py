"""Names of ECG leads and their standard order."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

LEADS = (
    "I",
    "II",
    "III",
    "aVR",
    "aVL",
    "aVF",
    "V1",
    "V2",
    "V3",
    "V4",
    "V5",
    "V6",
    "V3R",
    "V4R",
    "V7",
    "V8",
    "V9",
    "X",
    "Y",
    "Z",
)
"""The standard order: a lead's place in it is its coordinate. Right-sided, posterior and Frank's leads follow."""
TWELVE = LEADS[:12]

_KNOWN = {lead.upper(): lead for lead in LEADS}
# DI: French and Portuguese; L1: of some recorders; MLII: modified, on the torso, which looks as the limb lead does
_KNOWN |= {f"{prefix}{roman}": roman for prefix in ("D", "ML", "L") for roman in ("I", "II", "III")}
_KNOWN |= {f"{prefix}{number}": roman for prefix in ("D", "L") for number, roman in enumerate(("I", "II", "III"), 1)}
_KNOWN |= {f"C{number}": f"V{number}" for number in range(1, 10)}
_KNOWN |= {f"V{axis}": axis for axis in "XYZ"}
_PREFIX = re.compile(r"^(ECG|EKG|LEAD)[\s_:.-]*(?=\S)", re.IGNORECASE)

DERIVED: Mapping[str, tuple[float, float]] = {
    "III": (-1.0, 1.0),
    "aVR": (-0.5, -0.5),
    "aVL": (1.0, -0.5),
    "aVF": (-0.5, 1.0),
}
"""Limb leads as sums of I and II (Einthoven, Goldberger)."""


def lead_of(name: str) -> tuple[str, float] | None:
    """(lead, factor) that a channel's name means, or None. A leading minus turns it over (Cabrera's -aVR)."""
    name = name.strip()
    factor = 1.0
    if name.startswith("-"):
        name, factor = name[1:].strip(), -1.0
    lead = _KNOWN.get(name.upper()) or _KNOWN.get(_PREFIX.sub("", name).upper())
    return None if lead is None else (lead, factor)


def in_standard_order(leads: Sequence[str]) -> list[str]:
    """The leads (names of `LEADS`) sorted by their place there."""
    return sorted(leads, key=LEADS.index)
