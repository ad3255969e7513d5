import pathlib

from tools.stubs import gen_native_stubs


def test_stub_is_what_the_module_says() -> None:
    committed = pathlib.Path("saxml/native.pyi").read_text()
    assert gen_native_stubs.generate() == committed, (
        "saxml/native.pyi is out of date: ./bazelw run //tools/stubs:gen_native_stubs"
    )
