"""Where runs are made: so many at a time, on which CUDA devices, by which launcher; and the options that say so."""

import argparse
import os
import shlex
import shutil
from dataclasses import dataclass

from configs.schema import SettingsError
from experiments.jobs import positive


@dataclass(frozen=True)
class Machine:
    """at_once: runs at a time; devices: CUDA devices to deal them to; launcher: the words before train.py (none: this
    Python)."""

    at_once: int = 1
    devices: tuple[str, ...] = ()
    launcher: tuple[str, ...] = ()

    def check(self) -> None:
        """Raises SettingsError for CUDA devices and a launcher that this machine does not have."""
        if self.launcher and shutil.which(self.launcher[0]) is None:
            raise SettingsError(f"-l: there is no program {self.launcher[0]}")
        if self.devices:
            import torch

            visible = os.environ.get("CUDA_VISIBLE_DEVICES")
            known = visible.split(",") if visible else [str(index) for index in range(torch.cuda.device_count())]
            if unknown := [device for device in self.devices if device not in known]:
                raise SettingsError(f"-g: there is no CUDA device {unknown[0]}; there are {', '.join(known) or 'none'}")


def add_options(parser: argparse.ArgumentParser, *, launcher: bool = True) -> None:
    """-j, -g, -l and -n, of which `machine_of` reads the first three."""
    parser.add_argument("-j", dest="jobs", type=positive, metavar="JOBS")
    parser.add_argument("-g", dest="devices", default="", metavar="DEVICES")
    if launcher:
        parser.add_argument("-l", dest="launcher", default="", metavar="LAUNCHER")
    parser.add_argument("-n", dest="dry", action="store_true")


def machine_of(arguments: argparse.Namespace) -> Machine:
    """What the options say: without a number, one run at a time on each device. Raises SettingsError for a launcher
    with open quotes."""
    devices = tuple(device for device in arguments.devices.split(",") if device)
    launcher = getattr(arguments, "launcher", "")
    try:
        return Machine(arguments.jobs or len(devices) or 1, devices, tuple(shlex.split(launcher)))
    except ValueError as error:
        raise SettingsError(f"-l: {launcher!r} is no command ({error})") from error
