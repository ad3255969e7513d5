"""Finds and loads the tokenizer of a checkpoint or of a folder, local or gs://."""

from saxml.checkpoint.folder import Folder
from saxml.checkpoint.record import TOKENIZER_FOLDER, read_record
from saxml.common import errors
from saxml.tokenizer import bpe
from saxml.tokenizer.base import Tokenizer

HF_FILE = "tokenizer.json"
GPT2_FILES = (("encoder.json", "vocab.bpe"), ("vocab.json", "merges.txt"))


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
    return _load(
        folder.child(TOKENIZER_FOLDER),
        record.tokenizer.kind,
        record.tokenizer.files,
        bos_id=record.sos_id,
        eos_id=record.eos_id,
    )


def load_vocabulary(
    path: str, *, bos_id: int | None = None, eos_id: int | None = None
) -> Tokenizer:
    """The tokenizer at `path`: a folder with tokenizer.json, or with encoder.json and vocab.bpe
    (or vocab.json and merges.txt); or a .json file that is a tokenizer.json.

    Raises NotFoundError when there is none.
    """
    if path.endswith(".json"):
        folder, _, name = path.rpartition("/")
        return _load(Folder(folder or "."), "hf_json", (name,), bos_id=bos_id, eos_id=eos_id)
    folder_ = Folder(path)
    if folder_.read(HF_FILE) is not None:
        return _load(folder_, "hf_json", (HF_FILE,), bos_id=bos_id, eos_id=eos_id)
    for files in GPT2_FILES:
        if folder_.read(files[0]) is not None:
            return _load(folder_, "gpt2_bpe", files, bos_id=bos_id, eos_id=eos_id)
    raise errors.NotFoundError(
        f"no tokenizer in {path}: it has neither {HF_FILE} nor "
        + " nor ".join(" with ".join(files) for files in GPT2_FILES)
    )


def _load(
    folder: Folder, kind: str, files: tuple[str, ...], *, bos_id: int | None, eos_id: int | None
) -> Tokenizer:
    data = []
    for name in files:
        found = folder.read(name)
        if found is None:
            raise errors.NotFoundError(f"the tokenizer's file {folder.path}/{name} is missing")
        data.append(found)
    where = f"{folder.path}/{files[0]}"
    if kind == "hf_json" and len(data) == 1:
        return bpe.hugging_face(data[0], where, bos_id=bos_id, eos_id=eos_id)
    if kind == "gpt2_bpe" and len(data) == 2:
        return bpe.gpt2(data[0], data[1], where, bos_id=bos_id, eos_id=eos_id)
    raise errors.InvalidArgumentError(
        f"{folder.path}: a tokenizer of kind {kind!r} does not have the files {list(files)}"
    )
