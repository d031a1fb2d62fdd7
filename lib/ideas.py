"""Ideas: functions of your own in ideas/. A knob takes `ideas/<file>.py:<function>` in place of a built-in name.

Conventions
-----------
name   : ideas/<file>.py:<function>@<digest>. You type it without the digest of the file, which `one_of` adds. So the
         digest is part of every configuration, sidecar and cache key, and no result mixes two versions of an idea.
kinds  : a function takes and returns the same as the built-in functions of its kind.
  augment  : f(x, in_db, generator) -> x           see `lib.training.augment`
  mix      : f(x, y, in_db, generator, alpha) -> x, y
  loss     : f(logits, targets) -> a number        a target is NaN if not known; scores are sigmoids of the logits
  arch     : f(n_channels) -> torch.nn.Module, (n, n_channels, n_mels, n_frames) -> (n, n_features)
  channels : f(settings, spectrum) -> (n_mels, n_frames)   see `lib.sound.features`
  readouts : f(scores, first) -> (n_clips, n_classes)      a pooling: float (n_windows, n_classes) sorted by clip, and
             int (n_clips,), the row where each clip begins
A packed kernel holds the files of its ideas beside lib/.

Used in: `settings` (names), 00 (`save`), and the modules that register built-in functions.
"""

import ast
import itertools
import linecache
import re
import sys
import traceback
import types
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path

from pydantic import AfterValidator

import lib
from lib.files import digest, whole_file

__all__ = ["Failed", "expecting", "find", "is_idea", "named", "one_of", "save", "sources"]

NAME = re.compile(r"(ideas/[\w-]+\.py):([A-Za-z_]\w*)(?:@([0-9a-f]{12}))?")
CHECKOUT = Path(lib.__file__).resolve().parents[1]
SAVED: dict[Path, bytes] = {}  # files that `save` wrote in this kernel
READ: dict[str, bytes] = {}  # digest -> content, of all that this process has read: a file may be edited meanwhile


class Failed(RuntimeError):
    """An idea raised an error in a training. This training failed; others continue."""


def is_idea(name: object) -> bool:
    """Whether a name is that of an idea, with or without digest."""
    return isinstance(name, str) and name.startswith("ideas/")


def one_of(registered: Collection[str] | None) -> AfterValidator:
    """Validator of a knob: it takes a registered name (None: any name), or an idea, to which it adds the digest.

    It raises ValueError, with a text that follows "name=value should": no such name, no such file, or a function with
    the name of a registered one.
    """

    def check(value: str) -> str:
        if is_idea(value):
            return _with_digest(value, registered or ())
        if registered is not None and value not in registered:
            there = [path.name for path in CHECKOUT.glob("ideas/*.py") if f"def {value}(" in path.read_text("utf-8")]
            own = f"ideas/{there[0]}:{value}, which is there" if there else "ideas/FILE.py:FUNCTION, one of your own"
            raise ValueError(f"be one of {', '.join(registered)}; or {own}")
        return value

    return AfterValidator(check)


def find(registered: Mapping[str, object], name: str) -> object:
    """The function of an idea, or the entry of `registered` with that name.

    Raises
    ------
    ValueError
        The file of the idea is missing, raises an error when it runs, has no such function, or does not have the digest
        of the name.
    """
    return _function(name) if is_idea(name) else registered[name]


@contextmanager
def expecting(name: str, form: str, of: str = "three windows") -> Iterator[None]:
    """Say what an idea is expected to be where it raises an error; a ValueError tells what is wrong itself."""
    try:
        yield
    except ValueError:
        raise
    except Exception as error:
        raise ValueError(f"{name} fails on {of}: {type(error).__name__}: {error}. Expected: {form}.") from error


def named(values: object) -> list[str]:
    """The names of ideas anywhere in values (nested lists and dicts), each once, in order."""
    return list(dict.fromkeys(match[0] for match in NAME.finditer(str(values))))


def sources(values: object) -> dict[str, bytes]:
    """File name (ideas/<file>.py) -> content, for the ideas named in values.

    Of a file that was edited since this process read it, it is the content that its digest names. Raises ValueError if
    a file is missing, or is not the one that its digest names.
    """
    files = {match[1]: match[3] for match in map(NAME.match, sorted(named(values)))}
    return {file: READ.get(expected) or _of_digest(file, expected) for file, expected in files.items()}


def save(function: Callable) -> str:
    """Write the cell that defines `function` to ideas/mine_<function>.py of the checkout, and return the idea's name.

    The whole cell is written, with its imports. A file with other content that this kernel did not write is kept: then
    the idea is written to mine_<function>_2.py, and so on.

    Raises
    ------
    ValueError
        `function` was not defined by `def` in a cell.
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
    """The name of an idea with its digest. Raises as the validator of `one_of`."""
    match = NAME.fullmatch(value)
    if not match:
        raise ValueError("be written ideas/FILE.py:FUNCTION")
    if match[2] in registered:
        raise ValueError(f"have another name: {match[2]} is built in. Rename your function")
    if match[3]:
        return value
    source = _source(match[1])
    _check_alone(match[1], source)
    return f"{value}@{digest(source)}"


def _check_alone(file: str, source: bytes) -> None:
    """ValueError, as of the validator of `one_of`, if an idea imports another file of ideas/, which has no digest."""
    try:
        nodes = list(ast.walk(ast.parse(source)))
    except SyntaxError:
        return  # told where it runs
    modules = [node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)]
    modules += [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    for module in modules:
        if module.split(".")[0] == "ideas" or (CHECKOUT / "ideas" / f"{module.split('.')[0]}.py").is_file():
            raise ValueError(
                f"be one file: {file} imports {module}, whose changes would go unnoticed. Copy what it needs"
            )


def _source(file: str) -> bytes:
    """The content of ideas/<file>.py."""
    content = _place(file).read_bytes()
    READ[digest(content)] = content
    return content


def _place(file: str) -> Traversable:
    """Where ideas/<file>.py is: in the checkout or in a packed kernel."""
    for place in (CHECKOUT / file, resources.files("lib") / file):
        if place.is_file():
            return place
    there = sorted(path.name for path in (CHECKOUT / "ideas").glob("*.py"))
    raise ValueError(f"name a file in {CHECKOUT / 'ideas'}: {file} is missing. There are: {', '.join(there) or 'none'}")


def _of_digest(file: str, expected: str | None) -> bytes:
    """The content of a file; ValueError if it does not have the expected digest (None: any)."""
    source = _source(file)
    if expected and digest(source) != expected:
        raise ValueError(
            f"{file} has changed since: {expected} was used then, {digest(source)} is here now. Take the copy in the "
            f"folder ideas/ beside that result, make the result again (-p overwrite True), or give it another name."
        )
    return source


@lru_cache(maxsize=64)
def _function(name: str) -> Callable:
    """The function of an idea. Raises as `find`."""
    file, function, expected = NAME.fullmatch(name).groups()
    source, path = _of_digest(file, expected), str(_place(file))
    module = types.ModuleType(f"_{Path(file).stem}_{function}_{digest(source)}")
    module.__file__, sys.modules[module.__name__] = path, module  # dataclasses look their module up
    try:
        exec(compile(source, path, "exec"), module.__dict__)  # the path is for tracebacks
    except Exception as error:
        sys.modules.pop(module.__name__, None)
        lines = [n for frame, n in traceback.walk_tb(error.__traceback__) if frame.f_code.co_filename == path]
        where = f" (line {lines[-1]})" if lines else ""  # a SyntaxError tells it itself
        raise ValueError(f"{file} raises {type(error).__name__}: {error}{where}. Repair it there.") from error
    if not callable(idea := getattr(module, function, None)):
        there = [key for key, value in vars(module).items() if isinstance(value, types.FunctionType)]
        raise ValueError(f"{file} has no function {function!r}. There are: {', '.join(there) or 'none'}.")
    return idea
