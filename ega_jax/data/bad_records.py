"""The account of a reading: what was left out, and what was mended."""

from __future__ import annotations

import collections
import dataclasses

from ega_jax.data.records import BadRecordError


@dataclasses.dataclass
class BadRecords:
    """What a reader left out, and what it mended.

    Attributes:
      keep: how many errors are kept whole; None keeps all.
      rows: rows seen, good and bad.
      skipped: of these, left out.
      reasons: how many of them by column and kind of reason.
      first: the first errors, whole.
      mended: how often each rule of mending was used.
    """

    keep: int | None = 5
    rows: int = 0
    skipped: int = 0
    reasons: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    first: list[BadRecordError] = dataclasses.field(default_factory=list)
    mended: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)

    def add(self, error: BadRecordError) -> None:
        """Counts one row that is left out."""
        self.skipped += 1
        kind = error.reason.partition(":")[0]  # what follows a colon names the case
        self.reasons[f"{error.field}: {kind}"] += 1
        if self.keep is None or len(self.first) < self.keep:
            self.first.append(error)

    def __bool__(self) -> bool:
        """Whether there is anything to tell."""
        return bool(self.skipped or self.mended)

    def __str__(self) -> str:
        """Lines for the terminal; empty when nothing was left out or mended."""
        lines = [f"mended, {count} times: {what}" for what, count in self.mended.most_common()]
        if self.skipped:
            lines.append(f"left out {self.skipped} of {self.rows} rows:")
            lines += [f"  {count} x {reason}" for reason, count in self.reasons.most_common()]
            lines += [f"  for instance {error}" for error in self.first]
        return "\n".join(lines)
