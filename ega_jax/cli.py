"""The command line: `ega-jax COMMAND ...`, also `python -m ega_jax`.

Exit codes: 0 done; 1 it failed; 2 bad usage or bad input, told in one line; 75 stopped in good order by a signal, to be
started again. Progress goes to stderr, results to stdout and to named files.
"""

from __future__ import annotations

import difflib
import errno
import importlib
import signal
import sys
from collections.abc import Sequence
from types import FrameType

try:
    import rich  # noqa: F401
    import tyro  # noqa: F401
except ModuleNotFoundError as error:  # the base install holds the losses alone
    print(
        f"ega-jax: the command line needs more than the losses ({error}): pip install 'ega-jax[train]'", file=sys.stderr
    )
    sys.exit(2)

from ega_jax.commands.common import BAD_INPUT, DONE, FAILED, STOPPED, say
from ega_jax.errors import BadInputError, NonFiniteEmbeddingError
from ega_jax.files import is_full_disk

COMMANDS = {
    "train": ("CONFIG [--run-dir DIR] [--FIELD VALUE ...]", "train an embedder, or go on with it"),
    "eval": ("RUN [--data DIR] [--suite mmeb]", "score it as MMEB does; writes results.json and report.html"),
    "embed": ("RUN SOURCE OUT", "vectors of texts and pictures, on disk"),
    "search": ("VECTORS TEXT [--image FILE]", "what is nearest among them"),
    "mine": ("RUN DATA OUT", "hard negatives for a training set"),
    "compare": ("RUN RUN", "test whether the second scores higher, query by query"),
    "convert": ("from-hf DIR OUT | to-hf RUN OUT | verify DIR FILE", "published weights in and out"),
    "data": ("prepare SRC OUT | verify DIR | show DIR", "write data once for fast reading, check it, look at it"),
    "plan": ("CONFIG --topology v5p:4x4x4 [...]", "what a step takes on hardware that is not there"),
    "report": ("RUN [RUN ...]", "write report.html again"),
}
"""Name -> (usage, what it does); `ega_jax.commands.NAME.run` carries it out."""


_OF_THE_USER = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG)
"""What stands in the way of a path that somebody gave."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs one command and exits with its code."""
    sys.exit(run(sys.argv[1:] if arguments is None else arguments))


def run(arguments: Sequence[str]) -> int:
    """Runs one command and returns its exit code."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(usage())
        return DONE if arguments else BAD_INPUT
    name, *rest = arguments
    if name not in COMMANDS:
        near = difflib.get_close_matches(name, COMMANDS, n=1)
        say(f"unknown command {name!r}" + (f"; did you mean {near[0]!r}?" if near else "; see ega-jax --help"))
        return BAD_INPUT
    previous = signal.signal(signal.SIGTERM, _interrupt)
    try:
        return importlib.import_module(f"ega_jax.commands.{name}").run(rest)
    except BadInputError as error:
        say(str(error))
        return BAD_INPUT
    except KeyboardInterrupt:
        say("interrupted; start the same command again to go on")
        return STOPPED
    except NonFiniteEmbeddingError as error:
        say(str(error))
        return FAILED
    except Exception as error:
        if is_full_disk(error):
            where = getattr(error, "filename", None) or "while writing"
            say(f"the disk is full ({where}); make room and start the same command again")
            return FAILED
        if isinstance(error, OSError) and error.filename and error.errno in _OF_THE_USER:
            say(f"{error.filename}: {error.strerror}")
            return BAD_INPUT
        raise
    finally:
        signal.signal(signal.SIGTERM, previous)


def usage() -> str:
    """What `ega-jax --help` prints."""
    calls = {f"{name} {arguments}": does for name, (arguments, does) in COMMANDS.items()}
    width = max(map(len, calls))
    lines = [f"  {call:<{width}}   {does}" for call, does in calls.items()]
    return "\n".join(["usage: ega-jax COMMAND ...", "", *lines, "", "ega-jax COMMAND --help tells the rest."])


def _interrupt(number: int, frame: FrameType | None) -> None:
    # Until the training loop takes over, which saves first: files are written whole or not at all, so leaving is safe.
    raise KeyboardInterrupt
