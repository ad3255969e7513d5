"""Finds and loads the tokenizer of a checkpoint, of a folder or in a file, local or gs://."""

import os

from saxml.checkpoint.folder import Folder
from saxml.checkpoint.record import TOKENIZER_FOLDER, read_record
from saxml.common import errors
from saxml.tokenizer import bpe
from saxml.tokenizer.base import Tokenizer
from saxml.tokenizer.kinds import kind_of
from saxml.tokenizer.rank_file import RankTokenizer
from saxml.tokenizer.sentence_piece import SentencePieceTokenizer

HF_FILE = "tokenizer.json"
MODEL_FILE = "tokenizer.model"
GPT2_FILES = (("encoder.json", "vocab.bpe"), ("vocab.json", "merges.txt"))
# The largest known is 34 MB, Gemma 3's tokenizer.json.
MAX_BYTES = 256 << 20


def load_tokenizer(checkpoint: str) -> Tokenizer:
    """The tokenizer that the converter put into a checkpoint.

    Raises as read_record does, and NotFoundError when the checkpoint has no tokenizer.
    """
    folder, record = read_record(checkpoint)
    if record.tokenizer is None:
        raise errors.NotFoundError(
            f"checkpoint {folder.path} has no tokenizer; send comma-separated token ids to a "
            "Tokenized model, or set VOCABULARY_PATH"
        )
    files = record.tokenizer.files
    if len(files) != (2 if record.tokenizer.kind == "gpt2_bpe" else 1):
        raise errors.InvalidArgumentError(
            f"{folder.path}: a tokenizer of kind {record.tokenizer.kind!r} does not have the files"
            f" {list(files)}"
        )
    return _load(
        folder.child(TOKENIZER_FOLDER),
        files[0],
        files[1:],
        bos_id=record.sos_id,
        eos_id=record.eos_id,
    )


def load_vocabulary(
    path: str, *, bos_id: int | None = None, eos_id: int | None = None
) -> Tokenizer:
    """The tokenizer at `path`: a file, whatever its name, that is a tokenizer.json, a SentencePiece
    model, a file of token ranks or GPT-2's vocabulary; or a folder with tokenizer.json,
    tokenizer.model, encoder.json and vocab.bpe, or vocab.json and merges.txt.

    Raises NotFoundError when there is none, InvalidArgumentError for a file that is none,
    UnimplementedError for one that we cannot run.
    """
    parent, _, name = path.rpartition("/")
    if name and parent not in ("gs:/", "/gcs") and not os.path.isdir(path):
        folder = Folder(parent or ("/" if path.startswith("/") else "."))
        if _read(folder, name) is not None:
            merges = tuple(m for v, m in GPT2_FILES if v == name)
            return _load(folder, name, merges, bos_id=bos_id, eos_id=eos_id)
    folder = Folder(path)
    for name, *others in ((HF_FILE,), (MODEL_FILE,), *GPT2_FILES):
        if _read(folder, name) is not None:
            return _load(folder, name, tuple(others), bos_id=bos_id, eos_id=eos_id)
    raise errors.NotFoundError(
        f"no tokenizer in {path}: it is no file, and has neither {HF_FILE} nor {MODEL_FILE} nor "
        + " nor ".join(" with ".join(files) for files in GPT2_FILES)
    )


def _load(
    folder: Folder, name: str, merges: tuple[str, ...], *, bos_id: int | None, eos_id: int | None
) -> Tokenizer:
    data = _needed(folder, name)
    where = f"{folder.path}/{name}"
    match kind_of(data, where):
        case "hf_json":
            return bpe.hugging_face(data, where, bos_id=bos_id, eos_id=eos_id)
        case "sentencepiece":
            return SentencePieceTokenizer(data, where, bos_id=bos_id, eos_id=eos_id)
        case "tiktoken":
            return RankTokenizer(data, where, bos_id=bos_id, eos_id=eos_id)
        case "vocabulary":
            if not merges:
                raise errors.InvalidArgumentError(
                    f"{where} is a vocabulary without its merges; call the two "
                    + " or ".join(" and ".join(files) for files in GPT2_FILES)
                )
            return bpe.gpt2(data, _needed(folder, merges[0]), where, bos_id=bos_id, eos_id=eos_id)


def _needed(folder: Folder, name: str) -> bytes:
    data = _read(folder, name)
    if data is None:
        raise errors.NotFoundError(f"the tokenizer's file {folder.path}/{name} is missing")
    return data


def _read(folder: Folder, name: str) -> bytes | None:
    where = f"{folder.path}/{name}"
    if folder.is_local:
        _check_size(os.path.getsize(where) if os.path.isfile(where) else 0, where)
    data = folder.read(name)
    if data is not None:
        _check_size(len(data), where)
    return data


def _check_size(size: int, where: str) -> None:
    if size > MAX_BYTES:
        raise errors.InvalidArgumentError(
            f"{where} has {size:,} bytes; a tokenizer has at most {MAX_BYTES:,}"
        )
