"""The program around the commands: global flags, help, exit codes, errors on stderr."""

import os
import sys
from collections.abc import Sequence

from saxml.common.errors import SaxError
from saxml.saxutil.cmd_cell import CreateCommand, DeleteCommand, GetAclCommand, SetAclCommand
from saxml.saxutil.cmd_list import ListCommand
from saxml.saxutil.cmd_lm import EmbedCommand, GenerateCommand, GradientCommand, ScoreCommand
from saxml.saxutil.cmd_model import (
    PublishCommand,
    UnpublishCommand,
    UpdateCheckpointCommand,
    UpdateCommand,
    WatchCommand,
)
from saxml.saxutil.cmd_other import (
    ClassifyCommand,
    DetectCommand,
    EmbedImageCommand,
    GenerateImageCommand,
    RecognizeCommand,
)
from saxml.saxutil.cmd_status import StatsCommand, StatusCommand, WaitCommand
from saxml.saxutil.cmd_write import ExportCommand, SaveCommand
from saxml.saxutil.command import (
    FAILURE,
    SUCCESS,
    USAGE,
    Command,
    CommandError,
    Context,
    status_text,
)
from saxml.saxutil.go_flags import FlagSet, HelpRequested, UsageError
from saxml.saxutil.output import FORMATS, TABLE

_COMMANDS: dict[str, type[Command]] = {
    command.name: command
    for command in (
        CreateCommand,
        DeleteCommand,
        ListCommand,
        PublishCommand,
        UpdateCommand,
        UpdateCheckpointCommand,
        UnpublishCommand,
        GetAclCommand,
        SetAclCommand,
        WatchCommand,
        StatusCommand,
        StatsCommand,
        WaitCommand,
        SaveCommand,
        ExportCommand,
        GenerateCommand,
        ScoreCommand,
        EmbedCommand,
        GradientCommand,
        ClassifyCommand,
        DetectCommand,
        EmbedImageCommand,
        GenerateImageCommand,
        RecognizeCommand,
    )
}
_BUILT_IN = {
    "commands": "List all command names.",
    "flags": "Describe all known top-level flags, or those of a command.",
    "help": "Describe commands and their syntax.",
}


def main(args: Sequence[str]) -> int:
    """Runs the command line without the program's name; gives the exit code."""
    flags = _global_flags()
    try:
        rest = flags.parse(args)
        context = Context(flags["sax_root"], flags["sax_timeout"], flags["format"])
        if context.format not in FORMATS:
            raise UsageError(f"-format must be one of {', '.join(FORMATS)}, not {context.format}")
        if context.total_s <= 0:
            raise UsageError("-sax_timeout must be positive")
    except HelpRequested:
        sys.stderr.write(_overview(flags))
        return SUCCESS
    except UsageError as error:
        sys.stderr.write(f"{error}\n{_overview(flags)}")
        return USAGE
    if not rest:
        sys.stderr.write(_overview(flags))
        return USAGE
    name, *arguments = rest
    if name in _BUILT_IN:
        return _built_in(name, arguments, flags)
    if name not in _COMMANDS:
        sys.stderr.write(f"Unknown command {name}.\n{_overview(flags)}")
        return USAGE
    return _run(_make(name), context, arguments)


def _run(command: Command, context: Context, arguments: Sequence[str]) -> int:
    try:
        command.run(context, command.flags.parse(arguments))
        sys.stdout.flush()
        return SUCCESS
    except HelpRequested:
        sys.stderr.write(command.help())
        return USAGE
    except UsageError as error:
        sys.stderr.write(f"{error}\n{command.help()}")
        return USAGE
    except CommandError as error:
        text = str(error)
    except SaxError as error:
        text = status_text(error)
    except BrokenPipeError:
        # Whoever read our output has gone (`saxutil ... | head`).
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILURE
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        return FAILURE
    except UnicodeError as error:
        text = f"arguments and standard input must be UTF-8: {error}"
    except OSError as error:
        text = str(error)
    sys.stdout.flush()
    sys.stderr.write(f"Error: {text}\n{_hint(context)}")
    return FAILURE


def _global_flags() -> FlagSet:
    flags = FlagSet()
    flags.string(
        "sax_root", "", "Where the cells are: a folder or gs://bucket/prefix; else SAX_ROOT."
    )
    flags.duration("sax_timeout", "60s", "Time for the whole command, such as 90s or 5m.")
    flags.string("format", TABLE, "How results are printed: table, json or csv.")
    for name in ("logtostderr", "alsologtostderr"):
        flags.boolean(name, False, "Accepted for old scripts; errors always go to stderr.")
    for name in ("stderrthreshold", "log_dir", "vmodule", "log_backtrace_at"):
        flags.string(name, "", "Accepted for old scripts; no log files are written.")
    flags.integer("v", 0, "Accepted for old scripts.")
    return flags


def _make(name: str) -> Command:
    command = _COMMANDS[name]()
    command.declare()
    return command


def _overview(flags: FlagSet) -> str:
    lines = ["Usage: saxutil <flags> <command> <command flags> <command args>", "", "Commands:"]
    synopses = {**_BUILT_IN, **{name: c.synopsis for name, c in _COMMANDS.items()}}
    lines += [f"\t{name:<17}  {text}" for name, text in synopses.items()]
    lines += ["", "Flags:"]
    return "\n".join(lines) + "\n" + flags.usage()


def _built_in(name: str, arguments: Sequence[str], flags: FlagSet) -> int:
    if name == "commands":
        print("\n".join([*_BUILT_IN, *_COMMANDS]))
        return SUCCESS
    if not arguments:
        if name == "help":
            sys.stdout.write(_overview(flags))
        else:
            sys.stderr.write(flags.usage())
        return SUCCESS
    if len(arguments) > 1:
        sys.stderr.write(f"Usage: saxutil {name} [<command>]\n")
        return USAGE
    topic = arguments[0]
    if topic in _BUILT_IN:
        print(f"{topic}:\n\t{_BUILT_IN[topic]}")
    elif topic in _COMMANDS:
        command = _make(topic)
        sys.stdout.write(command.help() if name == "help" else command.flags.usage())
    else:
        sys.stderr.write(f"Subcommand {topic} not understood\n")
        return USAGE
    return SUCCESS


def _hint(context: Context) -> str:
    try:
        root = f"the cells are looked for in {context.root()}"
    except SaxError:
        root = "no root is set"
    return (
        "Hint: check that\n"
        f"  - --sax_root or SAX_ROOT is right: {root}; `saxutil ls /sax` lists its cells;\n"
        "  - an admin server runs for the cell: `saxutil ls /sax/<cell>` lists its models;\n"
        "  - the model has a server that loaded it: `saxutil ls /sax/<cell>/<model>`.\n"
    )
