"""Ideas of your own: a Python file in ideas/, and `ideas/<file>.py:<function>` wherever a registered name may stand.

Conventions
-----------
name   : ideas/<file>.py:<function>@<digest>. The digest is that of the file: whoever types a name leaves it out, and
         `one_of` adds it. So it is part of every configuration, sidecar and cache key, and no result survives a change
         of its idea unnoticed.
kinds  : what a function is given, and gives back, is what the built-in ones of its kind do.
  augment  : f(x, in_db, generator) -> x           see `lib.training.augment`
  mix      : f(x, y, in_db, generator, alpha) -> x, y
  loss     : f(logits, targets) -> a number        targets may be NaN, not known; scores are sigmoids of the logits
  arch     : f(n_channels) -> torch.nn.Module that makes (n, n_features) of (n, n_channels, n_mels, n_frames)
  channels : f(settings, spectrum) -> (n_mels, n_frames)   see `lib.sound.features`
  readouts : f(scores, first) -> (n_clips, n_classes)      a pooling: float (n_windows, n_classes) sorted by clip, and
             where each clip begins, int (n_clips,)
A packed kernel holds the files of its ideas beside lib/.

Used in: `settings` (names), 00 (`save`), and where the built-in ones of a kind are registered.
"""

import itertools
import linecache
import re
import types
from collections.abc import Callable, Collection, Mapping
from functools import lru_cache
from importlib import resources
from pathlib import Path

from pydantic import AfterValidator

import lib
from lib.files import digest, whole_file

__all__ = ["Failed", "find", "is_idea", "named", "one_of", "save", "sources"]

NAME = re.compile(r"(ideas/[\w-]+\.py):([A-Za-z_]\w*)(?:@([0-9a-f]{12}))?")
CHECKOUT = Path(lib.__file__).resolve().parents[1]
SAVED: dict[Path, bytes] = {}  # by this kernel


class Failed(RuntimeError):
    """A training with an idea raised: this training has failed, others go on."""


def is_idea(name: object) -> bool:
    return isinstance(name, str) and name.startswith("ideas/")


def one_of(registered: Collection[str] | None) -> AfterValidator:
    """For a field of settings: one of the registered names (None: any), or an idea, whose digest is added.

    The validator raises ValueError, in words that follow "name=value should": no such name, no such file, or a function
    that is called as a registered one.
    """

    def check(value: str) -> str:
        if is_idea(value):
            return _with_digest(value, registered or ())
        if registered is not None and value not in registered:
            raise ValueError(f"be one of {', '.join(registered)}; or ideas/FILE.py:FUNCTION, a function of your own")
        return value

    return AfterValidator(check)


def find(registered: Mapping[str, object], name: str) -> object:
    """What is registered under a name; or the function of an idea.

    Raises
    ------
    ValueError
        The file of the idea is not there, fails when it is read, has no such function, or is another one than that of
        the digest.
    """
    return _function(name) if is_idea(name) else registered[name]


def named(values: object) -> list[str]:
    """The ideas named anywhere in values (nested lists and dicts), each once, in order."""
    return list(dict.fromkeys(match[0] for match in NAME.finditer(str(values))))


def sources(values: object) -> dict[str, bytes]:
    """File name (ideas/<file>.py) -> content, of the ideas named in values."""
    return {file: _source(file) for file in sorted({NAME.match(name)[1] for name in named(values)})}


def save(function: Callable) -> str:
    """Write the cell that defines `function` to ideas/mine_<function>.py of the checkout; the name of the idea.

    The whole cell is written, so its imports come along. A file that this kernel has not written, and that holds
    something else, stays as it is: then the idea goes to mine_<function>_2.py, and so on.

    Raises
    ------
    ValueError
        It is no function that a cell defines by `def`.
    """
    code = getattr(function, "__code__", None)
    source = "".join(linecache.getlines(code.co_filename)).encode() if code else b""
    if not source or not function.__name__.isidentifier():
        raise ValueError(f"{function!r} should be a function that a cell of this notebook defines by `def`.")
    for number in itertools.count(1):
        file = f"ideas/mine_{function.__name__}{f'_{number}' * (number > 1)}.py"
        path = CHECKOUT / file
        if not path.is_file() or path.read_bytes() in (source, SAVED.get(path)):
            break
    with whole_file(path) as partial:
        partial.write_bytes(source)
    SAVED[path] = source
    return _with_digest(f"{file}:{function.__name__}", ())


def _with_digest(value: str, registered: Collection[str]) -> str:
    match = NAME.fullmatch(value)
    if not match:
        raise ValueError("be written ideas/FILE.py:FUNCTION")
    if match[2] in registered:
        raise ValueError(f"have another name: {match[2]} is built in. Call your function otherwise")
    return value if match[3] else f"{value}@{digest(_source(match[1]))}"


def _source(file: str) -> bytes:
    """The content of ideas/<file>.py, of the checkout or of a packed kernel."""
    for place in (CHECKOUT / file, resources.files("lib") / file):
        if place.is_file():
            return place.read_bytes()
    there = sorted(path.name for path in (CHECKOUT / "ideas").glob("*.py"))
    raise ValueError(
        f"name a file in {CHECKOUT / 'ideas'}: {file} is not there. There are: {', '.join(there) or 'none'}"
    )


@lru_cache(maxsize=64)
def _function(name: str) -> Callable:
    file, function, expected = NAME.fullmatch(name).groups()
    source = _source(file)
    if expected and digest(source) != expected:
        raise ValueError(
            f"{file} has changed since: {expected} was used there, {digest(source)} is here now. Take the copy in the "
            f"folder ideas/ beside that result; or make the result again (-p overwrite True), or give it another name."
        )
    module = types.ModuleType(Path(file).stem)
    try:
        exec(compile(source, str(CHECKOUT / file), "exec"), module.__dict__)  # the path is for tracebacks
    except Exception as error:
        raise ValueError(
            f"{file} can't be read: {type(error).__name__}: {error}. Run `python {file}` to see."
        ) from error
    if not callable(found := getattr(module, function, None)):
        there = [key for key, value in vars(module).items() if isinstance(value, types.FunctionType)]
        raise ValueError(f"{file} has no function {function!r}. There are: {', '.join(there) or 'none'}.")
    return found
