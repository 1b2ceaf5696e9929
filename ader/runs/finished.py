"""A result that is there: whether it holds what is asked for, and showing it again without importing torch."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from ader.config.overrides import key_of
from ader.config.schema import RunConfig
from ader.data.reading import read_index
from ader.report.result import show
from ader.results import folder as workspace
from ader.results import record
from ader.results.identity import folder_name, identify
from ader.results.outputs import Outputs
from ader.system.console import Console
from ader.system.contents import Contents
from ader.system.launch import processes


def notice(folder: Path) -> str:
    """What is said in place of making a result that is there."""
    return f"This result exists already (force=true runs it again): {folder}\n"


def wanted(config: RunConfig) -> Outputs:
    """What a result of this configuration will hold."""
    return Outputs(config.save_maps, config.metric.by_defect, config.gallery)


def demanded(config: RunConfig) -> Outputs:
    """What a finished result must hold, not to be made again: a gallery only where someone asked for one. The default
    alone is no reason to predict again what earlier versions have left finished."""
    said = any(key_of(word) == "gallery" for word in config.composition.overrides)
    chosen = config.gallery != config.composition.defaults.get("gallery")
    return wanted(config) if said or chosen else replace(wanted(config), gallery="off")


def show_finished(config: RunConfig) -> bool:
    """Shows the result of a run that is finished, if that can be told without the method's code.

    Where it cannot (pretrained weights or textures may have changed, the folder is another configuration's or damaged,
    several processes were started) nothing is said, and the run finds out.

    Returns:
        Whether it was shown.

    Raises:
        Busy: another run is at work in the folder.
        UserError: the dataset cannot be read, or the folder's files are damaged.
    """
    if config.force or processes() > 1 or not _may_be_there(config):
        return False
    found = identify(config, read_index(config.dataset, config.composition.choices["dataset"]))
    if not (found.folder / "config.yaml").is_file():
        return False
    with workspace.exclusive(found.folder, ("ader", *config.composition.overrides)):
        earlier, owner = record.read(found.folder), workspace.owner_of(found.folder)
        mine = {**found.fingerprint, "contents": {}}
        if (
            owner.get("contents")
            or workspace.differences(owner, mine)
            or workspace.moved_files(owner, mine, Contents())
        ):
            return False
        if earlier is None or demanded(config) not in Outputs.of(earlier):
            return False
        with Console(found.folder / "run.log") as console:
            console.say(notice(found.folder))
            show(found.folder, console)
        return True


def _may_be_there(config: RunConfig) -> bool:
    """Whether a result of this name is there, of whatever data: a run that is new reads its dataset only once."""
    choices = config.composition.choices
    place = Path(choices["setting"], choices["method"], folder_name(config), record.FILE)
    try:
        return any((dataset / place).is_file() for dataset in config.paths.results.iterdir())
    except OSError:  # there are no results yet, or they cannot be looked at, which the run says
        return False
