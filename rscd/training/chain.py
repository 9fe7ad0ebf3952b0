"""Chains: several commands as one resumable run.

    set: {data: whu}
    folder: runs/kdmsi_{data}
    stages:
      kd:
        train:
          model: {method: kdmsi, ...}
          data: {...}
      masks:
        pseudolabel:
          args: ["data/{data}256"]
          checkpoint: "{kd}/best.ckpt"
          split: train
          output: "{masks}"
      detector:
        train: {...}
      test:
        evaluate:
          args: ["data/{data}256"]
          split: test
          model: "{detector}/best.ckpt"
          rows: "{folder}/rows.csv"
          row: KD-MSI

A stage is any command of ``rscd`` with its options, or a training with its configuration;
``{NAME}`` in a value is the folder of the stage of that name, ``{folder}`` that of the chain, and
the value of that name in ``set``, which ``--set.NAME VALUE`` changes; alone in a value it keeps its
type. Each stage has a folder of its own,
which it claims (`rscd.base.claim`); ``done.json`` there says that it is finished, and what is
finished is not done again.
"""

import hashlib
import json
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from rscd.base.arguments import check_names
from rscd.base.border import border, reason
from rscd.base.claim import Claim, Earlier, alone
from rscd.base.errors import UsageError
from rscd.base.files import read_value, write_whole
from rscd.base.types import Provenance

DONE = "done.json"
CONFIG = "stage.yaml"
LAST = "last.ckpt"
"""Checkpoint from which an interrupted training run resumes."""
TRAIN = "train"
SET, FOLDER = "set", "folder"
RANKS = ("RANK", "LOCAL_RANK", "NODE_RANK", "SLURM_PROCID")
"""Variables by which launchers number the processes of one training."""

log = logging.getLogger(__name__)

Run = Callable[[list[str]], None]
"""Runs a command line without the program's name; raises if it fails."""


@dataclass(frozen=True)
class Stage:
    """One command of a chain."""

    name: str
    folder: Path
    command: str
    """``train``, ``pseudolabel``, ..."""
    settings: Mapping[str, Any]
    """Configuration of a training run; for other commands, options by name and ``args``."""
    overrides: tuple[str, ...] = ()
    """Further arguments of a training run, from the command line."""

    @property
    def key(self) -> str:
        """SHA-256 of all settings of the stage."""
        asked = [self.command, self.settings, list(self.overrides)]
        text = json.dumps(asked, sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def claim(self) -> Claim:
        """What the stage says of its folder, beside what its command says."""
        asked = {
            "command": self.command,
            "settings": json.loads(json.dumps(self.settings, default=str)),  # YAML knows dates
            "overrides": list(self.overrides),
        }

        def earlier(note: Provenance) -> Provenance:
            return asked if note.get("key") == self.key else {}

        return Claim(
            self.folder,
            "stage",
            asked,
            self._made,
            f"give another --folder, or remove {self.folder} to do stage {self.name} again",
            Earlier("begun.json", earlier),
        )

    def _made(self, folder: Path) -> list[Path]:
        """What belongs to a stage of these settings alone."""
        checkpoints = list(folder.glob("*.ckpt")) if self.command == TRAIN else []
        done = folder / DONE
        return [*checkpoints, done] if done.exists() else checkpoints


def is_chain(path: str | Path) -> bool:
    """Whether a file is the configuration of a chain."""
    try:
        return "stages" in _read(Path(path))
    except UsageError:
        return False  # the reader of other configurations reports what is wrong


def read_chain(path: str | Path, overrides: Sequence[str] = ()) -> list[Stage]:
    """The stages of a file.

    Args:
        path: YAML.
        overrides: ``--folder DIR``; ``--set.NAME value``; ``--stages A,B`` for some of the stages;
            ``--STAGE.option value`` for one stage; any other dotted ``--option value`` for all its
            trainings.

    Raises:
        UsageError: for a file that is not a chain, or overrides that match no stage.
    """
    content = _read(Path(path))
    check_names(content, ("folder", "set", "stages"), str(path))
    stages = content.get("stages")
    if not isinstance(stages, dict) or not stages:
        raise UsageError(f"expected folder and stages (by name) in {path}, found no stages")
    for name in stages:
        _check_stage_name(name, path)
    given = _split(overrides, [*stages, SET])
    values = _values(content.get(SET) or {}, given.pop(SET, {}), path)
    own = given.pop("", {})
    folder = own.get("folder") or _filled(content.get("folder"), values) or "runs/chain"
    if not isinstance(folder, str) or "\0" in folder:
        raise UsageError(f"expected the name of a folder in {path}, found folder: {folder!r}")
    root = Path(folder)
    places = {name: str(root / name) for name in stages}
    _refuse_shadowed(values, places, path)
    known = values | places | {FOLDER: folder}
    return [
        _stage(name, root / name, known, stages[name], given.get(name, {}), given[TRAIN + ":"])
        for name in _chosen(own.get("stages"), list(stages), path)
    ]


def _values(declared: Any, given: Mapping[str, str], path: str | Path) -> dict[str, Any]:
    """The values of ``set``, each filled in with those before it."""
    if not isinstance(declared, dict) or not all(isinstance(name, str) for name in declared):
        raise UsageError(f"expected values by name under set in {path}, found {declared!r}")
    check_names(given, tuple(declared), f"--{SET} of {path}")
    values: dict[str, Any] = {}
    for name, value in declared.items():
        text = given.get(name)
        mine = value if text is None else read_value(f"{SET}.{name}", text)
        values[name] = _filled(mine, values)
    return values


def _refuse_shadowed(
    values: Mapping[str, Any], places: Mapping[str, str], path: str | Path
) -> None:
    twice = ({*values} & {*places}) | ({*values, *places} & {SET, FOLDER, "stages"})
    if twice:
        raise UsageError(
            f"expected stages and values of set of different names in {path}, and none called "
            f"{SET}, {FOLDER} or stages, found {min(twice)!r}; rename it"
        )


def _chosen(text: str | None, names: Sequence[str], path: str | Path) -> list[str]:
    """The stages to run, in the order of the file."""
    if text is None:
        return list(names)
    asked = text.split(",")
    check_names(asked, tuple(names), f"--stages of {path}")
    return [name for name in names if name in asked]


def run_chain(stages: Sequence[Stage], run: Run) -> None:
    """Run the unfinished stages in order.

    Args:
        stages: from `read_chain`.
        run: runs one command.

    Raises:
        OutputError: for a stage that was begun with other settings, or whose folder holds another
            run; or when another run has the chain's folder.
    """
    # a trainer of several processes starts this very command again in each of them
    follows = any(os.environ.get(name, "0") != "0" for name in RANKS)
    with nullcontext() if follows else alone(stages[0].folder.parent):
        _run_stages(stages, run)


def _run_stages(stages: Sequence[Stage], run: Run) -> None:
    again = False
    for number, stage in enumerate(stages, 1):
        title = f"stage {number} of {len(stages)}, {stage.name}"
        done = stage.folder / DONE
        claim = stage.claim
        stage.folder.mkdir(parents=True, exist_ok=True)
        # a folder of nobody's is refused even where the stages before it are done again
        begun = claim.take(overwrite=again and claim.begun)
        if begun and not again and done.exists():
            log.info("%s: finished before, in %s", title, stage.folder)
            continue
        if again:  # what it was made from is new
            (stage.folder / LAST).unlink(missing_ok=True)
        again = True
        done.unlink(missing_ok=True)
        log.info("%s: rscd %s, in %s", title, stage.command, stage.folder)
        run(arguments(stage))
        write_whole(done, json.dumps({"key": stage.key, "command": stage.command}) + "\n")


def arguments(stage: Stage) -> list[str]:
    """The command line of a stage; a training configuration is written to the stage's folder."""
    if stage.command != TRAIN:
        return [stage.command, *_options(stage.settings)]
    config = stage.folder / CONFIG
    write_whole(config, yaml.safe_dump(dict(stage.settings), sort_keys=False))
    line = [TRAIN, "-c", str(config), "--trainer.default_root_dir", str(stage.folder)]
    line += stage.overrides
    last = stage.folder / LAST
    # without it, the folder contains the same stage, interrupted or to be repeated
    return [*line, "--ckpt_path", str(last)] if last.exists() else [*line, "--overwrite"]


def _check_stage_name(name: Any, path: str | Path) -> None:
    if not isinstance(name, str) or Path(name).name != name or name in ("", "..") or "\0" in name:
        raise UsageError(
            f"expected stages in {path} whose names can be folders, found {name!r}; rename it"
        )


def _stage(
    name: str,
    folder: Path,
    known: Mapping[str, Any],
    given: Any,
    options: Mapping[str, str],
    shared: Mapping[str, str],
) -> Stage:
    if not isinstance(given, dict) or len(given) != 1:
        raise UsageError(f"expected one command for stage {name}, found {given!r}")
    [(command, settings)] = given.items()
    if not isinstance(settings, dict):
        raise UsageError(f"expected options of {command} in stage {name}, found {settings!r}")
    if not isinstance(command, str):
        raise UsageError(f"expected a command of rscd in stage {name}, found {command!r}")
    filled = _filled(settings, known)
    if command == TRAIN:
        _check_plain(name, command, filled)
        extra = {**shared, **options}
        line = tuple(part for key, value in extra.items() for part in (f"--{key}", value))
        return Stage(name, folder, command, filled, line)
    filled |= {key: read_value(f"{name}.{key}", value) for key, value in options.items()}
    _check_plain(name, command, filled)
    return Stage(name, folder, command, filled)


def _check_plain(name: str, command: str, settings: Mapping[Any, Any]) -> None:
    """Find out whether settings can be written down, and those of a command given to it.

    Raises:
        UsageError: otherwise.
    """

    def told(error: Exception) -> UsageError:
        return UsageError(
            f"expected settings of {command} in stage {name} that are plain data, found others "
            f"({reason(error)}); correct them"
        )

    with border(told):
        json.dumps(settings, sort_keys=True, default=str)
    if command == TRAIN:
        return
    for option, value in settings.items():
        values = value if isinstance(value, list) else [value]
        wanted = "a list of texts" if option == "args" else "text, a number, or a list of them"
        if not isinstance(option, str):
            raise UsageError(f"expected names of options in stage {name}, found {option!r}")
        if any(isinstance(one, dict | list) for one in values) or (
            option == "args" and (value is not values or None in values)
        ):
            raise UsageError(f"expected {wanted} for {option} in stage {name}, found {value!r}")


def _split(overrides: Sequence[str], names: Sequence[str]) -> dict[str, dict[str, str]]:
    """Options by stage; of the chain under ``""``, of all training runs under ``train:``."""
    found: dict[str, dict[str, str]] = {TRAIN + ":": {}}
    rest = list(overrides)
    while rest:
        key, _, value = rest.pop(0).partition("=")
        if not key.startswith("--") or (not value and not rest):
            raise UsageError(f"expected --NAME VALUE after the chain's file, found {key!r}")
        value = value or rest.pop(0)
        stage, _, option = key.removeprefix("--").partition(".")
        if stage in names and option:
            found.setdefault(stage, {})[option] = value
        elif option:
            found[TRAIN + ":"][f"{stage}.{option}"] = value
        elif stage in (FOLDER, "stages"):
            found.setdefault("", {})[stage] = value
        else:
            raise UsageError(
                f"expected --folder, --stages, or dotted options of {', '.join(names)} or of all "
                f"trainings, found {key}"
            )
    return found


def _filled(value: Any, known: Mapping[str, Any]) -> Any:
    """Replace ``{NAME}`` in a value, at any depth; alone in a text it keeps its type."""
    if isinstance(value, str):
        for name, own in known.items():
            if value == f"{{{name}}}":
                return own
            value = value.replace(f"{{{name}}}", str(own))
        return value
    if isinstance(value, dict):
        return {key: _filled(item, known) for key, item in value.items()}
    if isinstance(value, list):
        return [_filled(item, known) for item in value]
    return value


def _options(settings: Mapping[str, Any]) -> list[str]:
    """``args``, then ``--key value``: true is a flag, false and null are omitted, lists repeat."""
    line = [str(value) for value in settings.get("args", [])]
    for key, value in settings.items():
        if key == "args" or value is None or value is False:
            continue
        option = f"--{key.replace('_', '-')}"
        for item in value if isinstance(value, list) else [value]:
            line += [option] if item is True else [option, str(item)]
    return line


def _read(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise UsageError(f"expected a YAML file, found {path}: {reason}; check it") from error
    if not isinstance(content, dict):
        raise UsageError(f"expected settings by name in {path}, found {type(content).__name__}")
    return content
