"""The end of each conversion: weights, record and tokenizer into one committed checkpoint."""

from collections.abc import Callable, Mapping

from saxml.checkpoint.record import RECORD, TOKENIZER_FOLDER, ModelRecord
from saxml.checkpoint.writer import CheckpointWriter
from tools.convert import mapping


def write(
    pax: str,
    record: ModelRecord,
    rules: Mapping[str, mapping.Rule],
    tensors: mapping.Tensors,
    tokenizer_files: Mapping[str, bytes],
    *,
    overwrite: bool,
    compression: str,
    ignored: Callable[[str], bool] = lambda name: False,
    progress: mapping.Progress | None = None,
) -> str:
    """Writes `pax`/checkpoint_00000000 and returns its path. Left by an exception, nothing of it
    stays."""
    with CheckpointWriter(pax, overwrite=overwrite, compression=compression) as writer:
        mapping.convert(record.config, rules, tensors, writer, ignored=ignored, progress=progress)
        for name, data in tokenizer_files.items():
            writer.file(f"{TOKENIZER_FOLDER}/{name}", data)
        writer.file(RECORD, record.to_bytes())
        writer.commit()
        return writer.folder.path
