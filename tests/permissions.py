"""Programs to which the permissions of files apply, also when root runs the tests."""

import os

# Of util-linux: without these capabilities root may write only where everybody in its place may.
_WITHOUT_OVERRIDE = (
    "setpriv",
    "--bounding-set=-dac_override,-dac_read_search",
    "--inh-caps=-dac_override,-dac_read_search",
)


def command(*arguments: str) -> list[str]:
    """The command, changed so that it may do no more than the permissions of files say."""
    return [*(_WITHOUT_OVERRIDE if os.geteuid() == 0 else ()), *arguments]
