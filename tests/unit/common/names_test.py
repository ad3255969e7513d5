import re

import pytest

from saxml.common import names
from saxml.common.errors import InvalidArgumentError
from saxml.common.names import CellId, ModelId


def test_names_are_taken_apart() -> None:
    assert names.parse_cell("/sax/test") == CellId("test")
    model = names.parse_model("/sax/test/a_b-9")
    assert model == ModelId(CellId("test"), "a_b-9")
    assert (model.full, model.cell, model.model) == ("/sax/test/a_b-9", "test", "a_b-9")
    assert str(model) == "/sax/test/a_b-9"
    assert names.parse_cell("/sax/test").full == "/sax/test"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", 'cell full name "" should have the form /sax/<cell name>'),
        ("/bad", 'cell full name "/bad" should have the form /sax/<cell name>'),
        ("/Sax/test", 'cell full name "/Sax/test" should have the form /sax/<cell name>'),
        ("/sax/test/", 'cell full name "/sax/test/" should have the form /sax/<cell name>'),
        ("/sax/Test", 'cell name "Test" must match "^[a-z]+[a-z0-9-_]*$"'),
        ("/sax/test\n", 'cell name "test\\n" must match "^[a-z]+[a-z0-9-_]*$"'),
    ],
)
def test_bad_cell_names_are_told(text: str, message: str) -> None:
    with pytest.raises(InvalidArgumentError, match=f"^{re.escape(message)}$"):
        names.parse_cell(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", 'model full name "" should have the form /sax/<cell name>/<model name>'),
        ("bad", 'model full name "bad" should have the form /sax/<cell name>/<model name>'),
        (
            "/sax/test",
            'model full name "/sax/test" should have the form /sax/<cell name>/<model name>',
        ),
        ("/sax/test/Lm", 'model name "Lm" must match "^[a-z]+[a-z0-9-_]*$"'),
        ("/sax/test/lm/x", 'cell full name "/sax/test/lm" should have the form /sax/<cell name>'),
        ("/sax/test/lm\n", 'model name "lm\\n" must match "^[a-z]+[a-z0-9-_]*$"'),
        ("/sax/test/é", 'model name "é" must match "^[a-z]+[a-z0-9-_]*$"'),
    ],
)
def test_bad_model_names_are_told(text: str, message: str) -> None:
    with pytest.raises(InvalidArgumentError, match=f"^{re.escape(message)}$"):
        names.parse_model(text)


@pytest.mark.parametrize("text", ["", "a/b", "1abc", "a b", "a.B\n"])
def test_bad_model_paths_are_told(text: str) -> None:
    message = f'model path {names.quote(text)} must match "^[a-zA-Z]+[a-zA-Z0-9_.-]*$"'
    with pytest.raises(InvalidArgumentError, match=f"^{re.escape(message)}$"):
        names.check_model_path(text)


@pytest.mark.parametrize("text", ["", "a b", "ckpt,1", "é"])
def test_bad_checkpoints_are_told(text: str) -> None:
    message = (
        f'checkpoint path "{text}" must match '
        r'"^(/|\\d|\\w|_|\\.|-|%|:|=|\\||\\+)+$"'
    )
    with pytest.raises(InvalidArgumentError, match=f"^{re.escape(message)}$"):
        names.check_checkpoint(text)


@pytest.mark.parametrize("text", ["None", "gs://b/x+y", "/a/b=c|d%20:1"])
def test_good_checkpoints_pass(text: str) -> None:
    names.check_checkpoint(text)


def test_fs_roots() -> None:
    names.check_fs_root("gs://test_sax_admin/sax-fs-root")
    names.check_fs_root("/tmp/x=1/y.z")
    with pytest.raises(InvalidArgumentError, match=r'^fs_root "/my folder" must match'):
        names.check_fs_root("/my folder")


def test_quotes_are_escaped() -> None:
    assert names.quote('a"b\\c\t\x01é\u2028') == '"a\\"b\\\\c\\t\\x01é\\u2028"'
