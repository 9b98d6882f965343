"""Checkpoints: everything that a run needs to go on as if it had never stopped. The only file that knows orbax.

A checkpoint holds the parts of the state (dicts of arrays) and the validation score. Of the data it needs nothing but
the step, which is in the state: a batch is a pure function of it, at any number of processes and threads. Orbax writes
it under a temporary name and renames it, so one that bears its number is whole; a manifest of file hashes is then laid
beside it, because orbax itself restores a flipped byte without a word. A run goes on from the newest one that its
manifest finds whole.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
from orbax.checkpoint import v1 as ocp

from ega_jax.errors import BadInputError
from ega_jax.files import write_whole
from ega_jax.training.distributed import of_first

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from types import TracebackType

    from ega_jax.training.config import CheckpointSettings

_SCORE = "score"
_MANIFESTS = "manifests"
_DAMAGED = "damaged"


class Checkpoints:
    """The checkpoints of one run.

    Attributes:
      directory: where they lie, one folder a step.
    """

    def __init__(self, directory: Path, settings: CheckpointSettings, *, reading: bool = False) -> None:
        """
        Args:
          directory: where they lie.
          settings: what is kept.
          reading: nothing will be saved; what another process may be writing at this moment is left alone.
        """
        self.directory = directory.absolute()
        self._settings = settings
        self._whole: int | None = None  # found so, and not to be read twice
        policies = ocp.training.preservation_policies
        self._checkpointer = ocp.training.Checkpointer(
            self.directory,
            preservation_policy=policies.AnyPreservationPolicy(
                [
                    policies.LatestN(settings.keep_latest),
                    policies.BestN(
                        get_metric_fn=lambda metrics: metrics[_SCORE],
                        n=settings.keep_best,
                        keep_checkpoints_without_metrics=False,
                    ),
                ]
            ),
            cleanup_tmp_directories=not reading,  # what a killed process had begun
        )

    def save(self, step: int, state: dict[str, Any], score: float | None = None) -> None:
        """Writes the checkpoint of `step`, and drops those that the settings do not keep.

        Args:
          step: updates done.
          state: its parts by name, each a tree of arrays.
          score: the validation score, the higher the better.

        Raises:
          BadInputError: the disk has no room for it, or fails; nothing that was there is touched.
        """
        self.require_space(state)
        metrics = None if score is None else {_SCORE: score}
        try:
            self._checkpointer.save_checkpointables(
                step, _parts(state), metrics=metrics, force=True, overwrite=self.latest == step
            )
        except (OSError, ValueError) as error:  # the file system's own, and tensorstore's for the same
            raise BadInputError(
                f"{self.directory}: the checkpoint of step {step} could not be written: "
                f"{str(error).splitlines()[0]}. Those before it are as they were; make room, or mend the disk, and "
                "start again: the run goes on from the last of them"
            ) from error
        if jax.process_index() == 0:
            self._write_manifest(step)
            for manifest in (self.directory / _MANIFESTS).glob("*.json"):
                if not (self.directory / manifest.stem).exists():
                    manifest.unlink()

    def restore(self, abstract_state: dict[str, Any], step: int | None = None) -> dict[str, Any]:
        """Parts of the state of the checkpoint of `step` (the latest by default).

        Args:
          abstract_state: the parts wanted: trees of `jax.ShapeDtypeStruct` with the shardings to restore to, of which
            the checkpoint may know nothing.
          step: which checkpoint.

        Raises:
          BadInputError: there is no such checkpoint, or a file of it is missing or not what was written.
        """
        step = self._existing(step)
        if step != self._whole:
            self.verify(step)
        found = self._checkpointer.load_checkpointables(step, _parts(abstract_state))
        return {name: found.get(name, part) for name, part in abstract_state.items()}

    def newest_whole(self, note: Callable[[str], None]) -> int | None:
        """The step of the newest checkpoint that is as it was written, or None where there is none at all.

        Newer ones that are damaged are moved into the folder `damaged`, where nothing reads them: the run will save
        those steps again.

        Args:
          note: is told of each that is moved, and why.

        Raises:
          BadInputError: there are checkpoints, and all are damaged; none is moved.
        """
        steps = sorted((c.step for c in self._checkpointer.checkpoints), reverse=True)
        damages: dict[int, str] = {}
        for step in steps:
            damage = self._agreed_damage(step)
            if damage is None:
                break
            damages[step] = damage
        else:
            if damages:
                told = "; ".join(damages.values())
                raise BadInputError(
                    f"{self.directory}: all checkpoints are damaged ({told}). Put one back from a copy, or choose "
                    "another --run-dir to begin again"
                )
            return None
        for damaged, damage in damages.items():
            aside = self.directory / _DAMAGED / str(damaged)
            note(f"checkpoint {damaged} is damaged: {damage}; it is moved to {aside}, and the one before is used")
        of_first(lambda: self._set_aside(damages))
        self._checkpointer.reload()
        self._whole = step
        return step

    @property
    def latest(self) -> int | None:
        """The step of the newest checkpoint, or None."""
        return self._checkpointer.latest.step if self._checkpointer.latest else None

    @property
    def best(self) -> int | None:
        """The step of the checkpoint with the highest validation score; the newest where none was validated."""
        scored = [c for c in self._checkpointer.checkpoints if c.metrics and _SCORE in c.metrics]
        return max(scored, key=lambda c: (c.metrics[_SCORE], c.step)).step if scored else self.latest

    def scored(self, step: int) -> bool:
        """Whether the checkpoint of `step` has a validation score."""
        return any(c.step == step and c.metrics and _SCORE in c.metrics for c in self._checkpointer.checkpoints)

    def verify(self, step: int) -> None:
        """Compares the files of a checkpoint with the hashes taken when it was written.

        Raises:
          BadInputError: a file is missing or differs, for all processes alike; names it.
        """
        if damage := self._agreed_damage(step):
            raise BadInputError(
                f"checkpoint {step} is damaged: {damage}; delete {self.directory / str(step)} to go on from the "
                "checkpoint before it"
            )

    def require_space(self, state: dict[str, Any]) -> None:
        """Raises BadInputError if checkpoints of this state would pass the disk budget, or one the free space."""
        size = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
        kept = (self._settings.keep_latest + self._settings.keep_best + 1) * size  # one more while it is written
        budget = self._settings.disk_budget_gb
        if budget is not None and kept > budget * 1e9:
            raise BadInputError(
                f"checkpoints of {size / 1e9:.3g} GB need {kept / 1e9:.3g} GB with checkpoint.keep_latest="
                f"{self._settings.keep_latest} and keep_best={self._settings.keep_best}: more than "
                f"checkpoint.disk_budget_gb={budget:.3g}"
            )
        free = shutil.disk_usage(self.directory).free
        if size > free:
            raise BadInputError(
                f"{self.directory}: {free / 1e9:.3g} GB free, but a checkpoint needs {size / 1e9:.3g} GB; make room "
                "and start again: the run goes on from its last checkpoint"
            )

    def close(self) -> None:
        self._checkpointer.close()

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # Of a save that failed orbax tells once more when it is closed: the first time was enough.
        with contextlib.suppress(Exception) if error else contextlib.nullcontext():
            self.close()

    def _existing(self, step: int | None) -> int:
        steps = [c.step for c in self._checkpointer.checkpoints]
        if step is None and steps:
            return max(steps)
        if step not in steps or step is None:
            held = f"{step}; it has {steps}" if steps else "yet: train first"
            raise BadInputError(f"{self.directory} holds no checkpoint {held}")
        return step

    def _agreed_damage(self, step: int) -> str | None:
        """What is wrong with a checkpoint; process 0 reads it once for all."""
        return of_first(lambda: self._damage(step) or "") or None

    def _damage(self, step: int) -> str | None:
        folder, path = self.directory / str(step), self.directory / _MANIFESTS / f"{step}.json"
        if not path.exists():
            # Killed between orbax's rename and our hashing: it is whole, and is hashed now.
            self._write_manifest(step)
            return None
        try:
            expected = dict(json.loads(path.read_text()))
        except ValueError:
            return f"{path} is no manifest"
        for name, hashed in expected.items():
            if not (folder / name).is_file():
                return f"{folder / name} is missing"
            if _hash(folder / name) != hashed:
                return f"{folder / name} differs from what was written"
        return None

    def _set_aside(self, steps: Iterable[int]) -> str:
        for step in steps:
            aside = self.directory / _DAMAGED / str(step)
            aside.parent.mkdir(exist_ok=True)
            shutil.rmtree(aside, ignore_errors=True)
            os.replace(self.directory / str(step), aside)
            (self.directory / _MANIFESTS / f"{step}.json").unlink()
        return ""

    def _write_manifest(self, step: int) -> None:
        folder = self.directory / str(step)
        hashes = {str(file.relative_to(folder)): _hash(file) for file in sorted(folder.rglob("*")) if file.is_file()}
        target = self.directory / _MANIFESTS / f"{step}.json"
        target.parent.mkdir(exist_ok=True)
        write_whole(target, json.dumps(hashes, indent=1))


def _parts(state: dict[str, Any]) -> dict[str, Any]:
    """Those that hold anything: orbax writes no empty tree."""
    return {name: part for name, part in state.items() if jax.tree.leaves(part)}


def _hash(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
