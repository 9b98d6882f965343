"""`ega-jax mine`."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from ega_jax.commands.common import DONE, OnBadRecord, require_positive, say, select, tell_skipped
from ega_jax.files import write_whole
from ega_jax.mining.choose import MiningSettings

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Float32

    from ega_jax.data.records import Side
    from ega_jax.embedder import Embedder
    from ega_jax.mining.mine import Encode
    from ega_jax.mining.write import MinedDirectory
    from ega_jax.training.progress import Progress

_SHOWN = 6  # rows of each subset on the page


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mine:
    """Give each training row hard negatives: targets of other rows that a model holds for nearly right.

    ega-jax mine runs/demo glyphs mined --subsets Name --settings.negatives 2

    ega-jax mine models/mine MMEB-train mined --settings.first-rank 10 --settings.last-rank 100

    Then train on the new directory, with data.negatives_per_query.
    """

    model: Annotated[Path, tyro.conf.Positional]
    """A run directory, or a model directory."""
    data: Annotated[str, tyro.conf.Positional]
    """A directory in MMEB's schema, prepared or not, or "glyphs"."""
    output: Annotated[Path, tyro.conf.Positional]
    """The new data directory; one that an interrupted mining left is gone on with."""
    subsets: tuple[str, ...] = ()
    """Names of the subsets; empty takes all."""
    settings: MiningSettings = dataclasses.field(default_factory=MiningSettings)
    """How negatives are chosen."""
    batch_size: int = 128
    """Items encoded at once."""
    on_bad_record: OnBadRecord = "error"
    """A row that cannot be used stops the command, or is counted, reported and left out."""


def run(arguments: Sequence[str]) -> int:
    """Mines negatives, writes the data and a page."""
    from ega_jax.data.directory import data_directory
    from ega_jax.data.mmeb import find_subsets, read_train
    from ega_jax.embedder import Embedder
    from ega_jax.mining.mine import mine_subset
    from ega_jax.mining.page import mining_page
    from ega_jax.mining.write import MinedDirectory
    from ega_jax.models.fingerprint import weights_fingerprint
    from ega_jax.training.progress import Progress

    chosen = tyro.cli(Mine, args=arguments, prog="ega-jax mine")
    require_positive(chosen, "batch_size")
    directory = data_directory(chosen.data)
    infos = find_subsets(directory, "train")
    names = select([info.name for info in infos], chosen.subsets, directory)
    embedder = Embedder.from_pretrained(chosen.model)
    written = {
        "model": str(chosen.model.resolve()),
        "weights": weights_fingerprint(embedder.parameters),
        "data": str(directory.resolve()),
        "settings": dataclasses.asdict(chosen.settings),
    }
    output = MinedDirectory(chosen.output, written, infos)
    progress = Progress()
    for name in names:
        if output.is_done(name):
            progress.note(f"{name}: is there already")
            continue
        rows = read_train(directory, name, on_bad_record=chosen.on_bad_record)
        tell_skipped(name, rows.skipped)
        _copy_evaluation(directory, name, output, chosen)
        encode = _encoder(embedder, chosen.batch_size, progress, name)
        mined, account = mine_subset(rows, encode, chosen.settings)
        output.write(name, mined, account, _SHOWN)
        progress.note(f"{name}: {account.mined:,} negatives for {account.rows:,} rows, {account.short:,} have fewer")
    accounts = {name: output.account(name) for name in names}
    mined_rows = [(read_train(chosen.output, name), accounts[name]) for name in names]
    page = chosen.output / "mined.html"
    write_whole(page, mining_page(f"negatives mined by {chosen.model.name}", mined_rows))
    for name, told in accounts.items():
        print(f"{name:<24} {told['rows']:>9,} rows  {told['mined']:>9,} negatives  {told['short']:>9,} rows have fewer")
    if sum(told["short"] for told in accounts.values()) * 2 > sum(told["rows"] for told in accounts.values()):
        say(
            "most rows have fewer negatives than asked for: their neighbours are nearer than the positive, or nearly. "
            "A better model, a larger --settings.last-rank or a smaller --settings.relative-margin finds more"
        )
    say(f"wrote {page}")
    return DONE


def _encoder(embedder: Embedder, batch_size: int, progress: Progress, name: str) -> Encode:
    def encode(sides: Sequence[Side]) -> Float32[np.ndarray, "n D"]:
        count = progress.counter(f"{name}: encoded", len(sides))
        return embedder.encode(sides, batch_size=batch_size, progress=count)

    return encode


def _copy_evaluation(directory: Path, name: str, output: MinedDirectory, chosen: Mine) -> None:
    """Validation and test rows go along, so that training on the new directory is scored as before."""
    from ega_jax.data.mmeb import find_subsets, read_eval

    for split in ("validation", "test"):
        if name in [info.name for info in find_subsets(directory, split)]:
            output.write_evaluation(read_eval(directory, name, split, on_bad_record=chosen.on_bad_record), split)
