"""The -extra flag: per-request inputs as key:value pairs."""

from saxml.common.errors import InvalidArgumentError
from saxml.proto import common_pb2
from saxml.saxutil.go_flags import parse_float32

HELP = (
    'in format "key0:value0,key1:value1,...". For example "temperature:0.2,nlayers:32". '
    "A value that is no number, or stands in quotes, is a string."
)


def parse_extra_inputs(text: str) -> common_pb2.ExtraInputs:
    """The inputs in "a:0.5,b:'text'"; InvalidArgumentError for a pair without exactly one ":".

    The last of several values of a key counts.
    """
    extra = common_pb2.ExtraInputs()
    for pair in text.split(",") if text else []:
        key, colon, value = pair.partition(":")
        if not colon or ":" in value:
            raise InvalidArgumentError(
                f"key-value pair for an extra input must be separated by ':', but found '{pair}'"
            )
        for others in (extra.items, extra.strings):
            if key in others:
                del others[key]
        if len(value) >= 2 and value[0] in "\"'" and value[0] == value[-1]:
            extra.strings[key] = value[1:-1]
        elif (number := parse_float32(value)) is not None:
            extra.items[key] = number
        else:
            extra.strings[key] = value
    return extra
