"""The command line: ``videoeff`` convert, calibrate, run, verify, inspect, serve, bench, tune, demo, doctor.

Each command is a module of ``videoeff.cli.commands``. Those import PyTorch, numpy and rich inside their
functions, so that ``--help`` answers at once.
"""

from __future__ import annotations

import click

from videoeff.cli.commands.bench import bench
from videoeff.cli.commands.calibrate import calibrate
from videoeff.cli.commands.convert import convert
from videoeff.cli.commands.demo import demo
from videoeff.cli.commands.doctor import doctor
from videoeff.cli.commands.inspect import inspect
from videoeff.cli.commands.run import run
from videoeff.cli.commands.serve import serve
from videoeff.cli.commands.tune import tune
from videoeff.cli.commands.verify import verify
from videoeff.cli.shared.output import Group


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="videoeff")
def main() -> None:
    r"""Turn a trained CNN into a streaming module that recomputes, frame by frame, only what changed.

    \b
    videoeff convert model.pt2 -o model.veff --input-size 352 480
    videoeff run model.veff clip.mp4 --compare -o overlay.mp4

    Exit status: 0 done; 1 a law is broken, or the clip ended early; 2 the input cannot be used.
    """


for _command in (convert, calibrate, run, verify, inspect, serve, bench, tune, demo, doctor):
    main.add_command(_command)
