"""The flags of a launch line, each used once, and what became of each.

Frameworks read flags with argparse or tyro: the last of several wins, ``--name value`` and ``--name=value`` are one.
"""

import difflib
import fnmatch
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from perfmodel.errors import SpecError
from perfmodel.spec.messages import shown

WHERE = "--from-command"
ENDS = ("|", "||", "&&", "&", "<<", "2>&1")
"""Words at which a shell's command is over."""
MOST = 10**12


def one_line(text: str) -> str:
    """A text without line ends and control characters, so that a message that quotes it is one line."""
    return re.sub(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]", " ", text)


def commands_of(text: str) -> list[list[str]]:
    """The words of each command of a line as a shell takes them, redirections left out.

    Raises:
        SpecError: a quotation that does not end.
    """
    try:
        words = shlex.split(text.replace("\\\n", " "), comments=True)
        words = [one_line(word) for word in words]
    except ValueError as error:
        raise SpecError(f"{WHERE}: {error}: quote it as a shell would take it") from error
    found: list[list[str]] = [[]]
    over = False  # behind a redirection
    for word in words:
        if word.rstrip(";") in ENDS or word == ";":
            found.append([])
            over = False
        elif word.startswith((">", "2>", "&>")):
            over = True
        elif not over:
            found[-1].append(word.removesuffix(";"))
            if word.endswith(";"):
                found.append([])
    return [one for one in found if one]


def is_flag(word: str) -> bool:
    """Whether a word is a flag's name, no negative number."""
    return (
        word.startswith("-")
        and not word.lstrip("-").replace(".", "").replace("e", "").isdigit()
        and word != "-"
    )


def flags_of(words: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Names without dashes -> values.

    Raises:
        SpecError: a variable of the shell in a flag's place.
    """
    found: dict[str, tuple[str, ...]] = {}
    name = None
    for word in words:
        if is_flag(word):
            name, equals, value = word.lstrip("-").partition("=")
            found[name] = (value,) if equals else ()
        elif name is None:
            if word.startswith("$"):
                raise SpecError(
                    f"{WHERE}: {word}: a variable of the shell: put what it holds (bash -x prints the line as it runs)"
                )
        else:
            if word.startswith("${") and "[@]" in word:
                raise SpecError(
                    f"{WHERE}: {word}: a variable of the shell: put what it holds (bash -x prints the line as it runs)"
                )
            found[name] = (*found[name], word)
    return found


@dataclass(slots=True)
class Line:
    """Flags that were given and not yet used."""

    left: dict[str, tuple[str, ...]]
    dashes: str = "--"
    """What stands before a name in messages."""
    all: dict[str, tuple[str, ...]] = field(init=False)
    """Flags that were given."""

    def __post_init__(self) -> None:
        self.all = dict(self.left)

    def given(self, name: str) -> bool:
        """Whether it was given and not used yet."""
        return name in self.left

    def written(self, name: str, values: Iterable[Any] = ()) -> str:
        """A flag as it is written."""
        return " ".join((f"{self.dashes}{name}", *map(str, values)))

    def texts(self, name: str) -> tuple[str, ...] | None:
        """A flag's values; None: it was not given.

        Raises:
            SpecError: it has none, or a variable of the shell.
        """
        values = self.left.pop(name, None)
        if values is None:
            return None
        if not values or values == ("",):
            raise SpecError(f"{WHERE}: {self.written(name)}: a value is missing")
        for value in values:
            if value.startswith("$"):
                raise SpecError(
                    f"{WHERE}: {self.written(name)} {value}: a variable of the shell: put what it holds"
                )
        return values

    def text(self, name: str, allowed: Iterable[str] = ()) -> str | None:
        """A flag's one value; None: it was not given.

        Raises:
            SpecError: none, several, or one that is not allowed.
        """
        values = self.texts(name)
        if values is None:
            return None
        if len(values) > 1:
            raise SpecError(
                f"{WHERE}: {self.written(name, values)[:80]}: takes one value, here are {len(values)}"
            )
        allowed = tuple(allowed)
        if allowed and values[0] not in allowed:
            raise SpecError(
                f"{WHERE}: {self.written(name)} {shown(values[0])}: must be one of {', '.join(allowed)}"
            )
        return values[0]

    def whole(self, name: str, least: int = 1) -> int | None:
        """A flag's whole number; None: it was not given.

        Raises:
            SpecError: something else, or below ``least``.
        """
        text = self.text(name)
        return None if text is None else self.as_whole(name, text, least)

    def as_whole(self, name: str, text: str, least: int = 1) -> int:
        """A text as a whole number.

        Raises:
            SpecError: it is none, or too small.
        """
        try:
            number = int(text.replace("_", ""))
        except ValueError:
            number = least - 1
        if not least <= number < MOST:
            raise SpecError(
                f"{WHERE}: {self.written(name)} {shown(text)}: must be a whole number from {least}"
            )
        return number

    def number(self, name: str, least: float = 0.0, most: float = 1e15) -> float | None:
        """A flag's number; None: it was not given.

        Raises:
            SpecError: something else, or outside the range.
        """
        text = self.text(name)
        if text is None:
            return None
        try:
            number = float(text)
        except ValueError:
            number = float("nan")
        if not least <= number <= most:
            raise SpecError(
                f"{WHERE}: {self.written(name)} {shown(text)}: must be a number from {least:g} to {most:g}"
            )
        return number

    def switch(self, name: str) -> bool:
        """Whether a flag without value was given.

        Raises:
            SpecError: it has a value.
        """
        values = self.left.pop(name, None)
        if values:
            raise SpecError(f"{WHERE}: {self.written(name, values)[:80]}: takes no value")
        return values is not None


@dataclass(slots=True)
class Trainer:
    """What a launch line says of a training step and run."""

    framework: str
    """With the version whose flags were read."""
    keys: dict[str, Any] = field(default_factory=dict)
    """Key below ``training`` -> value."""
    why: dict[str, str] = field(default_factory=dict)
    """Key -> the flag that says it, or whose default it is."""
    notes: list[str] = field(default_factory=list)
    """What is not modelled, not known, or without effect."""

    def set(self, key: str, value: Any, why: str) -> None:
        """Set a key, and remember why."""
        self.keys[key], self.why[key] = value, why

    def default(self, key: str, value: Any, flag: str) -> None:
        """Set a key to what the framework does where a flag is not given."""
        if key not in self.keys:
            self.set(key, value, f"not on the line: {flag}")


def tell_rest(line: Line, trainer: Trainer, document: Mapping[str, Any], used: Iterable[str]) -> None:
    """Says of every flag that is left what it means here: not modelled, without effect, or not known.

    Args:
        line: flags that set nothing.
        trainer: told in ``notes``.
        document: ``unmodelled`` (flag -> words) and ``without_effect`` (what of -> flags or patterns of them).
        used: flags that set something, for near names.
    """
    unmodelled, quiet = document["unmodelled"], document["without_effect"]
    silent: dict[str, list[str]] = {}
    for name, values in line.left.items():
        plain = name.replace("_", "-") if line.dashes == "--" else name
        of = next((what for what, flags in quiet.items() if _among(plain, flags)), None)
        if plain in unmodelled:
            trainer.notes.append(f"not modelled: {line.written(name, values)}: {unmodelled[plain]}")
        elif of is not None:
            silent.setdefault(of, []).append(line.written(name))
        else:
            near = difflib.get_close_matches(plain, [*used, *unmodelled], n=1, cutoff=0.8)
            hint = f" (did you mean {line.dashes}{near[0]}?)" if near else ""
            trainer.notes.append(
                f"not known: {line.written(name, values)[:120]}: perfmodel does not know it, and it may change time "
                f"or memory{hint}"
            )
    trainer.notes += [f"without effect here ({of}): {', '.join(names)}" for of, names in silent.items()]
    said = " ".join((*trainer.why.values(), *trainer.notes)).replace(",", " ").replace(":", " ").split()
    anyway = [
        line.written(name, values) for name, values in line.all.items() if line.written(name) not in said
    ]
    if anyway:
        trainer.notes.append(f"as it is taken anyway, or decided by other flags: {', '.join(anyway)}")


def _among(name: str, flags: Iterable[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, flag) if "*" in flag else name == flag for flag in flags)


def launched(words: Sequence[str], variables: Mapping[str, str]) -> int | None:
    """Processes that torchrun or srun starts, of the words before the program; None: not said, or by a variable."""
    flags = {name.replace("_", "-"): values for name, values in flags_of(words).items()}
    if "ntasks" in flags or (words[:1] == ["srun"] and "n" in flags):
        return _counted((flags.get("ntasks") or flags["n"])[:1], variables)
    per_node = next((flags[name] for name in ("nproc-per-node", "ntasks-per-node") if name in flags), ())
    nodes = next((flags[name] for name in ("nnodes", "nodes", "N") if name in flags), ("1",))
    counts = _counted(per_node[:1], variables), _counted(nodes[:1], variables)
    return None if None in counts else counts[0] * counts[1]  # type: ignore[operator]


def _counted(values: Sequence[str], variables: Mapping[str, str]) -> int | None:
    text = values[0] if values else ""
    text = variables.get(text.strip("${}"), text) if text.startswith("$") else text
    return int(text) if text.isdigit() and 0 < int(text) < 10**6 else None
